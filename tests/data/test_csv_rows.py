"""A table that is none is one line that names file and line, and nothing of it acts."""

from __future__ import annotations

import os

import pytest

from gemoclap_sb.data.csv_rows import ManifestError, printable, read_records

HEADER = "ID,wav,emotion\n"


def refused(path) -> str:
    with pytest.raises(ManifestError) as raised:
        read_records(path, ("ID", "wav", "emotion"))
    message = str(raised.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            (HEADER + "a,a.wav,ang\nb,b.wav," + "x" * 200_000 + "\n").encode(),
            "line 3: field larger",
        ),
        ((HEADER + 'a,"a.wav,ang\n' + "b,b.wav,ang\n" * 20_000).encode(), "quotation mark"),
        ((HEADER + "a,a.wav,ang\nb,b\0.wav,ang\n").encode(), "line 3: has a NUL byte"),
        ((HEADER + "a,\xe4.wav,ang\n").encode("latin-1"), "not UTF-8 (byte 17)"),
        (b"", "missing column ID"),
        (b"\n", "missing column ID"),
    ],
)
def test_what_is_no_table(tmp_path, content, said):
    path = tmp_path / "all.csv"
    path.write_bytes(content)
    assert said in refused(path)


def test_what_is_no_file(tmp_path):
    assert "is missing" in refused(tmp_path / "none.csv")
    assert "is a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is no regular file" in refused(tmp_path / "pipe.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(HEADER)
    path.chmod(0)
    assert "cannot be read: Permission denied" in refused(path)


def test_control_characters_are_a_problem_of_their_row(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(HEADER + 'a,a.wav,ang\nb,b.wav,"\x1b]0;owned\x07ang"\n')
    records, problems = read_records(path, ("ID", "wav", "emotion"))
    assert len(records) == 2
    assert problems == [
        "row 2 (line 3), ID 'b': emotion has a control character: '\\x1b]0;owned\\x07ang'"
    ]
    # Of a column that nobody asked for, a line break is a line break.
    path.write_text('ID,wav,emotion,transcript\na,a.wav,ang,"two\nlines"\n')
    assert read_records(path, ("ID", "wav", "emotion"))[1] == []


def test_printable():
    assert printable("a\x1b[31m\rb\nĄ\t😀\u2028") == "a\\x1b[31m\\rb\nĄ\t😀\\u2028"


def test_columns_without_a_name(tmp_path):
    (tmp_path / "x.csv").write_text("ID,wav,,\na,a.wav,,\n")
    with pytest.raises(ManifestError, match="x.csv: 2 columns have no name"):
        read_records(tmp_path / "x.csv", ["ID", "wav"])
