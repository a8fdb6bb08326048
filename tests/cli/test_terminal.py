"""Nothing in a name reaches a terminal raw, and data stay what they are."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gemoclap_sb.cli.output import csv_lines
from gemoclap_sb.cli.terminal import Screen, for_terminal, spelled, visible
from gemoclap_sb.files import harmless_cell, plain_cell
from tests.cli.printed import names, parsed

EVIL = "\x1b]0;title\x07\x1b[31m\u202e\r\nx.wav"


def acted_on(text: str) -> set[str]:
    """Characters that a terminal acts on, line ends aside."""
    return {c for c in text if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066"} - {"\n"}


@settings(max_examples=30)
@given(st.text())
def test_visible_leaves_what_is_printable(text):
    shown = visible(text)
    assert not acted_on(shown) and "\n" not in shown
    if text.isprintable():
        assert shown == text
    for_terminal(text).encode()


def test_a_screen_lets_bars_through():
    stream = io.StringIO()
    screen = Screen(stream)
    for text in ("\r 50%|##\x1b[31m", "\n", "\x1b[A", "\r", "told\x1b[2J\r\n"):
        screen.write(text)
    assert stream.getvalue() == "\r 50%|##\\x1b[31m\n\x1b[A\rtold\\x1b[2J\\r\n"


def test_a_screen_that_cannot_be_written_stops_nothing():
    full = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    screen = Screen(full)
    print("nobody reads this", file=screen, flush=True)
    with pytest.raises(OSError):
        full.close()


@pytest.fixture
def evil(audio, tmp_path):
    """A recording, and a file that is none, whose names hold escape sequences."""
    shutil.copy(audio / "b.wav", tmp_path / EVIL)
    (tmp_path / f"broken{EVIL}").write_bytes(b"nothing")
    return [str(tmp_path / EVIL), str(tmp_path / f"broken{EVIL}")]


def test_names_in_tables_and_messages(evil, model, command):
    status, out, err = command("classify", *evil, "--model", model)
    assert status == 1
    assert not acted_on(out + err)
    assert (len(out.splitlines()), len(err.splitlines())) == (3, 1)
    assert visible(EVIL) in out and visible(EVIL) in err


def test_names_in_pipes_are_exact_in_json_and_without_controls_in_csv(evil, model, command):
    out = command("classify", *evil, "--model", model, "--format", "csv")[1]
    shown = [row["path"] for row in csv.DictReader(io.StringIO(out, newline=""))]
    # Line ends stay, quoted, and what is none of a terminal's controls.
    expected = EVIL.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    assert shown == [name.replace(EVIL, expected) for name in evil]
    out = command("classify", *evil, "--model", model, "--format", "json")[1]
    assert [row["path"] for row in json.loads(out)] == evil


def test_data_on_a_terminal_are_visible(evil, model, command, monkeypatch):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    out = command("classify", *evil, "--model", model, "--format", "csv")[1]
    assert not acted_on(out)
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments", [["evaluate", EVIL], ["info", EVIL], [EVIL], ["classify", "a", f"--{EVIL}"]]
)
def test_arguments_in_messages(arguments, command):
    status, _, err = command(*arguments)
    assert status == 2
    assert not acted_on(err)
    assert "Traceback" not in err


def test_a_model_that_draws_on_the_terminal(model, tmp_path, command):
    folder = shutil.copytree(model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["templates"]["emotion"] = [f"so {EVIL} {{}}"]
    config["words"]["emotion"]["ang"] = EVIL
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    status, out, err = command("info", folder)
    assert not acted_on(out + err)
    assert status == 0 and visible(EVIL) in out


@example(["+0.", "\x1b[31m", "=1"])
@given(st.lists(st.text(max_size=5), min_size=1, max_size=3))
def test_cells_are_harmless_and_come_back(texts):
    _, line = csv_lines(["note"] * len(texts), [texts])
    # A line end in a cell stays in it.
    (cells,) = csv.reader(io.StringIO(line, newline="")) if line else [[""]]
    for cell, text in zip(cells, texts, strict=True):
        # A number may begin with its sign.
        assert cell[:1] not in set("=+@\t\r") or cell == text and math.isfinite(float(text))
        assert plain_cell(cell) == spelled(text)
        assert not {c for c in cell if unicodedata.category(c) == "Cc"} - set("\t\r\n")


def test_numbers_stay_numbers_and_paths_paths():
    _, line = csv_lines(["path", "note", "score"], [["=x.wav", "-1.5e-3", -0.25]])
    assert line == "./=x.wav,-1.5e-3,-0.25"
    assert harmless_cell("-cmd") == "'-cmd"


def test_a_path_like_a_formula_means_the_same_file(audio, model, tmp_path, command, monkeypatch):
    shutil.copy(names(audio)[1], tmp_path / "=1+2.wav")
    monkeypatch.chdir(tmp_path)
    out = command("classify", "=1+2.wav", "--model", model, "--format", "csv")[1]
    assert [row["path"] for row in parsed(out)] == ["./=1+2.wav"]
    assert command("embed", "=1+2.wav", "--model", model, "--output", "x.npy")[0] == 0
    assert (tmp_path / "x.ids.csv").read_text().startswith("ID,model\n./=1+2.wav,")
