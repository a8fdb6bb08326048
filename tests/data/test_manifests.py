import csv
import re

import numpy as np
import pandas
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.dataio.dataset import DynamicItemDataset

from gemoclap_sb.data.manifests import (
    COLUMNS,
    LabelError,
    ManifestError,
    clean_text,
    read_cells,
    read_manifest,
    write_manifest,
)

CLASSES = {"emotion": ("ang", "hap", "neu", "sad"), "gender": ("F", "M")}


def make_row(name, **changes):
    row = {
        "ID": name,
        "duration": 0.5,
        "wav": f"$data_root/{name}.wav",
        "spk_id": "s1",
        "gender": "F",
        "emotion": "neu",
        "session": "1",
        "transcript": 'Well, "yes".',
    }
    return row | changes


@pytest.fixture
def corpus(tmp_path):
    """Four utterances of half a second with their manifest, ``all.csv``."""
    for name in "abcd":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(8000), 16000)
    write_manifest(tmp_path / "all.csv", [make_row(name) for name in "abcd"])
    return tmp_path


def edit(corpus, old, new):
    path = corpus / "all.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_rows_come_back_in_order_and_ready_for_speechbrain(corpus):
    rows = read_manifest(corpus / "all.csv", corpus, CLASSES)
    assert list(rows) == list("abcd")
    assert rows["c"] == {
        "duration": 0.5,
        "wav": str(corpus / "c.wav"),
        "spk_id": "s1",
        "gender": "F",
        "emotion": "neu",
        "session": "1",
        "transcript": 'Well, "yes".',
    }
    dataset = DynamicItemDataset(rows, output_keys=["id", "wav", "duration"])
    assert dataset[2] == {"id": "c", "wav": str(corpus / "c.wav"), "duration": 0.5}


def test_stock_speechbrain_and_pandas_read_the_same(corpus):
    ours = read_manifest(corpus / "all.csv", corpus)
    stock = DynamicItemDataset.from_csv(corpus / "all.csv", {"data_root": str(corpus)})
    assert stock.data == ours
    frame = pandas.read_csv(corpus / "all.csv")
    assert tuple(frame.columns) == COLUMNS
    assert frame["transcript"].tolist() == ['Well, "yes".'] * 4
    assert frame["duration"].dtype == float


words = st.text(st.characters(codec="utf-8"), max_size=30).map(clean_text)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_any_text_survives_all_three_readers(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("text") / "all.csv"
    soundfile.write(path.with_name("a.wav"), np.zeros(8000), 16000)
    rows = [
        make_row(str(number), wav="$data_root/a.wav", transcript=transcript, note=note)
        for number, (transcript, note) in enumerate(texts)
    ]
    write_manifest(path, rows)
    ours = read_manifest(path, path.parent)
    stock = DynamicItemDataset.from_csv(path, {"data_root": str(path.parent)}).data
    frame = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    for number, (transcript, note) in enumerate(texts):
        for read in (ours[str(number)], stock[str(number)], frame.iloc[number]):
            assert (read["transcript"], read["note"]) == (transcript, note)


def test_clean_text_by_hand():
    assert clean_text(" a\n\tb\x00 $x $ 5\u2028 caf\u00e9 ") == "a b $ x $ 5 caf\u00e9"


def test_extra_columns_are_kept_and_data_root_is_replaced_in_them(corpus):
    rows = [make_row("a", label="exc", face="$data_root/a.png")]
    write_manifest(corpus / "extra.csv", rows)
    read = read_manifest(corpus / "extra.csv", corpus)
    assert read["a"]["label"] == "exc"
    assert read["a"]["face"] == f"{corpus}/a.png"


def test_spreadsheet_habits_are_read(corpus):
    path = corpus / "all.csv"
    text = path.read_text().replace("Well", "Überall").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    rows = read_manifest(path, corpus, CLASSES)
    assert list(rows) == list("abcd")
    assert rows["a"]["transcript"] == 'Überall, "yes".'


def test_dollar_signs_in_a_users_text_are_left_alone(corpus):
    path = edit(corpus, '"Well, ""yes""."', "It costs $50")
    assert read_manifest(path, corpus)["a"]["transcript"] == "It costs $50"


def test_without_data_root_in_the_paths_none_is_needed(corpus):
    path = edit(corpus, "$data_root", str(corpus))
    assert read_manifest(path)["a"]["wav"] == str(corpus / "a.wav")


@pytest.mark.parametrize(("data_root", "said"), [(None, "no data root"), ("nowhere", "no folder")])
def test_data_root_is_asked_for(corpus, data_root, said):
    with pytest.raises(ManifestError, match=said) as caught:
        read_manifest(corpus / "all.csv", data_root)
    for part in ("all.csv", "4 rows", "row 1", "--data_folder"):
        assert part in str(caught.value)


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column(corpus, column):
    frame = pandas.read_csv(corpus / "all.csv").drop(columns=column)
    frame.to_csv(corpus / "all.csv", index=False)
    with pytest.raises(ManifestError, match=rf"all\.csv: missing column {column}\.") as caught:
        read_manifest(corpus / "all.csv", corpus)
    present = str(caught.value).split("Found the columns")[1]
    assert re.findall(r"\w+", present) == [name for name in COLUMNS if name != column]


def test_columns_can_be_left_out_where_they_are_not_required(corpus):
    frame = pandas.read_csv(corpus / "all.csv")[["ID", "wav", "emotion"]]
    frame.to_csv(corpus / "all.csv", index=False)
    rows = read_manifest(corpus / "all.csv", corpus, required=())
    assert rows["b"] == {"duration": 0.5, "wav": str(corpus / "b.wav"), "emotion": "neu"}
    with pytest.raises(ManifestError, match="missing column gender"):
        read_manifest(corpus / "all.csv", corpus, {"gender": "FM"}, required=())


def test_semicolons_are_hinted_at(corpus):
    path = corpus / "all.csv"
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(ManifestError, match="separated by commas"):
        read_manifest(path, corpus)


def test_reserved_and_repeated_columns(corpus):
    first = ",".join(COLUMNS)
    with pytest.raises(ManifestError, match="reserves the column name 'id'"):
        read_manifest(edit(corpus, first, first.replace("transcript", "transcript,id")), corpus)
    with pytest.raises(ManifestError, match="emotion appears more than once"):
        read_manifest(edit(corpus, "transcript,id", "transcript,emotion"), corpus)


def test_unknown_class_names_value_row_and_what_is_allowed(corpus):
    path = edit(corpus, "c.wav,s1,F,neu", "c.wav,s1,F,Neutral")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, corpus, CLASSES)
    assert str(caught.value) == (
        f"{path}, row 3 (line 4), ID 'c': emotion is 'Neutral', expected one of ang, hap, neu, sad"
    )


def test_only_the_attributes_given_are_checked(corpus):
    path = edit(corpus, ",F,", ",,")
    assert read_manifest(path, corpus, {"emotion": ("neu",)})["a"]["gender"] == ""
    with pytest.raises(ManifestError, match="gender is ''"):
        read_manifest(path, corpus, CLASSES)


def test_duplicate_id_names_both_rows(corpus):
    path = edit(corpus, "\nd,", "\nb,")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, corpus)
    assert "row 4 (line 5), ID 'b': duplicate ID, first used in row 2 (line 3)" in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "-1", "0", "inf", "1,5", "half"])
def test_duration_that_is_no_number_of_seconds(corpus, value):
    quoted = f'"{value}"' if "," in value else value
    path = edit(corpus, "b,0.5", f"b,{quoted}")
    with pytest.raises(ManifestError, match=r"row 2 \(line 3\), ID 'b': duration is"):
        read_manifest(path, corpus)


def test_false_duration_is_told_and_put_right(corpus, caplog):
    path = edit(corpus, "b,0.5", "b,500")
    assert read_manifest(path, corpus)["b"]["duration"] == 0.5
    assert len(caplog.records) == 1
    assert "row 2 (line 3), ID 'b': 500 s stated, 0.5 s in the audio" in caplog.text


def test_row_with_too_many_cells(corpus):
    path = edit(corpus, '"Well, ""yes""."\nc', "Well, yes.\nc")
    with pytest.raises(ManifestError, match=r"row 2 \(line 3\).*expected 8 cells.*found 9"):
        read_manifest(path, corpus)


def test_line_and_row_differ_after_a_line_break_in_quotes(corpus):
    path = edit(corpus, '"Well, ""yes""."\nb', '"one\ntwo"\nb')
    path = edit(corpus, "c.wav,s1,F,neu", "c.wav,s1,F,x")
    with pytest.raises(ManifestError, match=r"row 3 \(line 5\), ID 'c'"):
        read_manifest(path, corpus, CLASSES)


def test_other_variables_in_wav(corpus):
    path = edit(corpus, "$data_root/b", "$corpus/b")
    with pytest.raises(ManifestError, match=r"row 2 \(line 3\).*\$corpus; only \$data_root"):
        read_manifest(path, corpus)


def test_empty_id_and_empty_wav(corpus):
    path = edit(corpus, "\nb,0.5,$data_root/b.wav", "\n,0.5,")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, corpus)
    assert "row 2 (line 3), ID '': the ID is empty" in str(caught.value)
    assert "row 2 (line 3), ID '': the wav is empty" in str(caught.value)


def test_relative_paths_start_from_the_manifest_or_else_from_here(corpus, monkeypatch):
    path = edit(corpus, "$data_root/", "")
    monkeypatch.chdir("/")
    wavs = [row["wav"] for row in read_manifest(path).values()]
    assert wavs == [str(corpus / f"{name}.wav") for name in "abcd"]
    (corpus / "below").mkdir()
    moved = path.rename(corpus / "below/all.csv")
    with pytest.raises(ManifestError, match=r"Looked for in .*below and /\.\)"):
        read_manifest(moved)
    monkeypatch.chdir(corpus)
    assert [row["wav"] for row in read_manifest(moved).values()] == [f"{n}.wav" for n in "abcd"]


def test_white_space_around_a_value_is_not_kept(corpus):
    path = edit(corpus, ",neu,", ', "neu ",')
    assert read_manifest(path, corpus, CLASSES)["a"]["emotion"] == "neu"


def test_manifest_that_is_missing_empty_or_not_utf8(tmp_path):
    path = tmp_path / "all.csv"
    with pytest.raises(ManifestError, match=r"all\.csv is missing"):
        read_manifest(path)
    path.write_text("")
    with pytest.raises(ManifestError, match="missing column ID.*none"):
        read_manifest(path)
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(ManifestError, match="no rows"):
        read_manifest(path)
    path.write_bytes(b"ID,caf\xe9\n")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(path)


def spoil(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "unreadable":
        path.write_text("no audio")
    elif kind == "zero-length":
        soundfile.write(path, np.zeros(0), 16000)
    elif kind == "NaN":
        wave = np.zeros(8000)
        wave[4000] = np.nan
        soundfile.write(path, wave, 16000, subtype="DOUBLE")


BAD_AUDIO = ("missing", "unreadable", "zero-length", "NaN")


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_names_file_and_row(corpus, kind):
    spoil(corpus / "c.wav", kind)
    with pytest.raises(ManifestError, match=kind) as caught:
        read_manifest(corpus / "all.csv", corpus)
    for part in (str(corpus / "all.csv"), "row 3 (line 4), ID 'c'", str(corpus / "c.wav")):
        assert part in str(caught.value)


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_can_be_left_out(corpus, caplog, kind):
    spoil(corpus / "c.wav", kind)
    # Whoever wrote the manifest of an empty file may well have stated its length.
    path = edit(corpus, "c,0.5", "c,0.0")
    rows = read_manifest(path, corpus, CLASSES, skip_bad_audio=True)
    assert list(rows) == list("abd")
    assert len(caplog.records) == 1
    for part in ("WARNING", kind, "row 3 (line 4), ID 'c'", str(corpus / "c.wav")):
        assert part in caplog.text


def test_damage_behind_the_header_is_left_out(corpus, caplog):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(corpus / "c.flac", noise, 16000)
    data = (corpus / "c.flac").read_bytes()
    (corpus / "c.flac").write_bytes(data[: len(data) // 2])
    path = edit(corpus, "c.wav", "c.flac")
    assert list(read_manifest(path, corpus, skip_bad_audio=True)) == list("abd")
    assert "c.flac is unreadable" in caplog.text


def test_skipping_is_for_audio_only(corpus):
    spoil(corpus / "c.wav", "missing")
    path = edit(corpus, "d.wav,s1,F,neu", "d.wav,s1,F,x")
    with pytest.raises(ManifestError, match="emotion is 'x'") as caught:
        read_manifest(path, corpus, CLASSES, skip_bad_audio=True)
    assert "c.wav" not in str(caught.value)


def test_nothing_left(corpus):
    for name in "abcd":
        spoil(corpus / f"{name}.wav", "unreadable")
    with pytest.raises(ManifestError, match="no row is left, the audio of all 4"):
        read_manifest(corpus / "all.csv", corpus, skip_bad_audio=True)


def test_of_many_left_out_some_are_told(tmp_path, caplog):
    lines = ["ID,wav", *(f"x{i},gone/{i}.wav" for i in range(1000)), "a,a.wav"]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16000)
    assert list(read_manifest(tmp_path / "all.csv", required=(), skip_bad_audio=True)) == ["a"]
    *first, last = caplog.messages
    assert len(first) < 50 and "ID 'x0'" in first[0]
    assert last.endswith(f": {1000 - len(first)} more rows left out, their audio being unusable.")
    # Where all are, the error says so, and nothing else does.
    caplog.clear()
    (tmp_path / "all.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ManifestError, match="the audio of all 1000 is unusable; first: .*'x0'"):
        read_manifest(tmp_path / "all.csv", required=(), skip_bad_audio=True)
    assert caplog.messages == []


def test_all_problems_are_told_at_once(corpus):
    spoil(corpus / "a.wav", "missing")
    spoil(corpus / "b.wav", "zero-length")
    path = edit(corpus, "c.wav,s1,F,neu", "c.wav,s1,X,x")
    with pytest.raises(ManifestError, match="has 4 problems") as caught:
        read_manifest(path, corpus, CLASSES)
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert [len(re.findall(r"row \d \(line \d\), ID '[abc]'", line)) for line in lines[1:]] == [
        1
    ] * 4


def test_many_problems_are_cut_short(corpus):
    write_manifest(corpus / "many.csv", [make_row(f"x{number}") for number in range(50)])
    with pytest.raises(ManifestError, match="has 50 problems") as caught:
        read_manifest(corpus / "many.csv", corpus)
    assert str(caught.value).endswith("and 30 more")


def test_written_file_is_plain_csv(tmp_path):
    write_manifest(tmp_path / "a.csv", [make_row("a", extra=1), make_row("b", extra=2)])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert table[0] == [*COLUMNS, "extra"]
    assert table[2][0] == "b"
    assert table[2][-1] == "2"
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no rows"),
        ([{"ID": "a"}], r"row 1 \(ID 'a'\) has no duration, wav"),
        ([make_row("a"), make_row("b", label="x")], r"row 2 \(ID 'b'\) has label"),
        ([make_row("a", label="x"), make_row("b")], r"row 2 \(ID 'b'\) has no label"),
        ([make_row("a"), make_row("b"), make_row("a")], r"row 3 .* same ID as row 1"),
        ([make_row("a", transcript="one\ntwo")], "transcript has a line break"),
        ([make_row("a", transcript="for $50")], r"\$50 in transcript"),
    ],
)
def test_rows_that_cannot_be_written_leave_the_old_file(tmp_path, rows, said):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(ManifestError, match=said):
        write_manifest(path, rows)
    assert path.read_text() == "old"


def test_a_duration_that_is_missing_is_measured(corpus):
    path = edit(corpus, "b,0.5", "b,")
    assert read_manifest(path, corpus)["b"]["duration"] == 0.5


def test_a_label_is_refused_once_however_many_rows_have_it(corpus):
    path = edit(corpus, "neu", "neutral")
    with pytest.raises(LabelError) as raised:
        read_manifest(path, corpus, CLASSES)
    assert str(raised.value) == (
        f"{path}, row 1 (line 2), ID 'a' and 3 more rows: emotion is 'neutral', expected one of "
        "ang, hap, neu, sad"
    )


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_ids_that_are_formulas_come_back_as_they_are(corpus, caplog, name):
    path = edit(corpus, "b,0.5", f"{name},0.5")
    rows = read_manifest(path, corpus)
    assert name in rows
    [warning] = [record.getMessage() for record in caplog.records]
    assert f"1 IDs or labels begin with one of = + - @, first {name!r}" in warning
    again = corpus / "again.csv"
    write_manifest(again, [{"ID": key, **row} for key, row in rows.items()])
    assert name in read_manifest(again, corpus)
    assert name in set(pandas.read_csv(again)["ID"])


def test_what_many_rows_lack_is_one_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("ID,emotion\n" + "".join(f"u{i},\n" for i in range(30)))
    with pytest.raises(ManifestError) as caught:
        read_cells(path, ("ID", "emotion"))
    assert str(caught.value) == (
        f"{path}, row 1 (line 2), ID 'u0' and 29 more rows: the emotion is empty"
    )
