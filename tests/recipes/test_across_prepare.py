"""Both corpora in one manifest: who is trained on, who is tested, and nobody twice."""

import json

import pandas
import pytest

from gemoclap_sb.data.manifests import COLUMNS, read_manifest
from tests.conftest import load_script
from tests.recipes.corpora import ACROSS, ACTORS, SPEAKERS, write_corpora

across = load_script(ACROSS / "across_prepare.py")

RAVDESS_PEOPLE = {f"RAVDESS_Actor_{actor:02d}" for actor in ACTORS}
NEMO_PEOPLE = {f"nEMO_{name}" for name in SPEAKERS}
EIGHT = {"neu", "cal", "hap", "sad", "ang", "fea", "dis", "sur"}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return write_corpora(tmp_path_factory.mktemp("corpora"))


def prepare(corpora, folder, fold, **options):
    return across.prepare_across(corpora["ravdess_folder"], folder, fold, **corpora, **options)


def read(result):
    return {
        part: pandas.read_csv(result[f"{part}_csv"], dtype=str, keep_default_na=False)
        for part in ("train", "valid", "test")
    }


def people(frames):
    return {part: set(frame["spk_id"]) for part, frame in frames.items()}


@pytest.mark.parametrize("fold, tested, trained", [(1, "RAVDESS", "nEMO"), (2, "nEMO", "RAVDESS")])
def test_transfer_tests_one_corpus_and_trains_on_the_other(
    corpora, tmp_path, fold, tested, trained
):
    everybody = {"RAVDESS": RAVDESS_PEOPLE, "nEMO": NEMO_PEOPLE}
    result = prepare(corpora, tmp_path, fold, protocol="transfer")
    frames = read(result)
    assert set(frames["test"]["corpus"]) == {tested}
    assert people(frames)["test"] == everybody[tested]
    known = people(frames)["train"] | people(frames)["valid"]
    assert known == everybody[trained]
    assert len(people(frames)["valid"]) == 2
    assert not people(frames)["train"] & people(frames)["valid"]
    # Of the corpora's own folds, not of these two.
    assert set(frames["test"]["session"]) == set("12345" if fold == 1 else "1234")
    lacking = "train.csv" if fold == 1 else "test.csv"
    assert f"{lacking} has no utterance of the class cal, dis." in result["notes"]


@pytest.mark.parametrize("fold", [1, 4])
def test_both_tests_the_same_fold_of_each_corpus(corpora, tmp_path, fold):
    own = {
        1: {"RAVDESS_Actor_02", "RAVDESS_Actor_05", "nEMO_EB0", "nEMO_KS0"},
        4: {"RAVDESS_Actor_08", "RAVDESS_Actor_17", "nEMO_MK0", "nEMO_WR0"},
    }
    result = prepare(corpora, tmp_path, fold, protocol="both")
    frames, found = read(result), people(read(result))
    assert found["test"] == own[fold]
    assert set(frames["test"]["session"]) == {str(fold)}
    assert set.union(*found.values()) == RAVDESS_PEOPLE | NEMO_PEOPLE
    assert sum(map(len, found.values())) == len(RAVDESS_PEOPLE | NEMO_PEOPLE)
    for part in ("train", "valid"):
        assert set(frames[part]["corpus"]) == {"RAVDESS", "nEMO"}
    # The two actors here of the fifth fold, whom nobody tests.
    assert {"RAVDESS_Actor_01", "RAVDESS_Actor_04"} <= found["train"] | found["valid"]
    [note] = [note for note in result["notes"] if "five folds" in note]
    assert "Actor_01, Actor_04, Actor_09, Actor_22" in note


def test_all_leaves_nobody_to_test(corpora, tmp_path):
    result = prepare(corpora, tmp_path, 1, protocol="all")
    frames, found = read(result), people(read(result))
    assert found["train"] | found["valid"] == RAVDESS_PEOPLE | NEMO_PEOPLE
    assert not found["train"] & found["valid"]
    assert len(found["valid"] & RAVDESS_PEOPLE) == len(found["valid"] & NEMO_PEOPLE) == 2
    assert frames["test"].equals(frames["valid"])
    assert result["validation"] == "untested"


def test_development_leaves_the_test_speakers_out(corpora, tmp_path):
    found = people(read(prepare(corpora, tmp_path, 1, protocol="both", validation="development")))
    left_out = {"RAVDESS_Actor_02", "RAVDESS_Actor_05", "nEMO_EB0", "nEMO_KS0"}
    assert found["test"] == found["valid"]
    assert not left_out & set.union(*found.values())


def test_named_speakers_are_held_out(corpora, tmp_path):
    named = ["RAVDESS_Actor_03", "nEMO_KD0", "nEMO_TP0"]
    found = people(read(prepare(corpora, tmp_path, 1, protocol="both", valid_speakers=named)))
    assert found["valid"] == set(named)


def test_rows_and_their_audio(corpora, tmp_path):
    result = prepare(corpora, tmp_path, 1, protocol="both")
    frame = pandas.concat(read(result).values()).set_index("ID")
    assert ("ID", *frame.columns) == (*COLUMNS, "label", "intensity", "age", "sentence", "corpus")
    assert len(frame) == len(set(frame.index)) == 10 * 8 + 8 * 6 - 1
    actor = frame.loc["RAVDESS_03-01-05-01-01-01-08"]
    assert actor["wav"] == "$data_root/Actor_08/03-01-05-01-01-01-08.wav"
    assert (actor["emotion"], actor["session"], actor["age"]) == ("ang", "4", "")
    speaker = frame.loc["nEMO_WR0_surprised_1"]
    assert speaker["wav"] == str(corpora["nemo_folder"] / "samples/WR0_surprised_1.wav")
    assert (speaker["emotion"], speaker["session"], speaker["label"]) == ("sur", "4", "")
    rows = read_manifest(result["test_csv"], result["data_root"])
    assert len(rows) == 2 * 8 + 2 * 6


def test_shared_classes_are_those_of_both(corpora, tmp_path):
    shared = sorted(set(across.SHARED))
    assert shared == ["ang", "fea", "hap", "neu", "sad", "sur"]
    assert set(across.CLASSES) == EIGHT
    frames = read(prepare(corpora, tmp_path, 1, protocol="both", classes=",".join(shared)))
    assert set(frames["train"]["emotion"]) == set(shared)


def test_counts_are_compared_with_those_published(corpora, tmp_path):
    [note] = [n for n in prepare(corpora, tmp_path, 1)["notes"] if "expected" in n]
    assert "RAVDESS: expected 1440 utterances" in note
    assert "nEMO: expected 4481 utterances" in note
    record = json.loads((tmp_path / "prepare.json").read_text())
    assert record["counts"]["test"]["utterances"] == 28


def test_the_same_is_not_done_twice(corpora, tmp_path):
    first = prepare(corpora, tmp_path, 1, protocol="all")
    before = (tmp_path / "train.csv").stat().st_mtime_ns
    assert prepare(corpora, tmp_path, 1, protocol="all") == first
    assert (tmp_path / "train.csv").stat().st_mtime_ns == before
    prepare(corpora, tmp_path, 1, protocol="both")
    assert (tmp_path / "train.csv").stat().st_mtime_ns > before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"protocol": "within"}, "protocol must be one of transfer, both, all"),
        ({"protocol": "transfer", "fold": 3}, "fold must be one of 1, 2 where protocol"),
        ({"protocol": "all", "validation": "development"}, "validation must be one of speaker"),
        ({"classes": ["cal", "dis"]}, "classes has none of nEMO"),
        ({"nemo_folder": ""}, "no folder of nEMO is given"),
        (
            {"valid_speakers": ["nEMO_KD0", "nemo_WR0"]},
            "nemo_WR0 is of neither corpus; .* RAVDESS_",
        ),
    ],
)
def test_what_does_not_fit_is_told(corpora, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare({**corpora, **{k: options.pop(k) for k in ("nemo_folder",) if k in options}},
                tmp_path, **{"fold": 1, **options})  # fmt: skip


@pytest.mark.parametrize(
    "argv, added",
    [
        (["--protocol", "transfer"], ["--number_of_folds", "2"]),
        (["--protocol=all"], ["--number_of_folds", "1"]),
        (["--protocol", "transfer", "--number_of_folds", "1"], []),
        ([], []),
    ],
)
def test_number_of_folds_follows_from_the_protocol(argv, added):
    assert across.with_number_of_folds(argv) == [*argv, *added]
