import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemoclap_sb.files import atomic_folder, atomic_path, write_json, write_text


def test_old_content_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("halfway")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    script = (
        "import sys, time\n"
        "from gemoclap_sb.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('ne')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    assert path.read_text() == "old"


def test_temporary_keeps_folder_and_ending(tmp_path):
    path = tmp_path / "new" / "confusion.png"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"")
    assert path.exists()


def test_writing_nothing_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.txt"), atomic_path(tmp_path / "a.txt"):
        time.sleep(0)
    assert list(tmp_path.iterdir()) == []


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / content).touch()
            assert names(folder) == ([] if content == "old" else ["old"])
    assert names(tmp_path) == ["deep/model/new"]


@pytest.mark.parametrize("failure", ["writing", "renaming"])
def test_error_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, failure):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").touch()
    replace = os.replace

    def refuse_new(source, target):
        if failure == "renaming" and str(target) == str(folder) and (Path(source) / "new").exists():
            raise OSError("disk gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_new)
    with pytest.raises(OSError, match="disk"), atomic_folder(folder) as temporary:
        (temporary / "new").touch()
        if failure == "writing":
            raise OSError("disk full")
    assert names(tmp_path) == ["model/old"]


def test_write_text_is_utf8_with_line_feeds(tmp_path):
    write_text(tmp_path / "a.md", "grün\nπ\n")
    assert (tmp_path / "a.md").read_bytes() == b"gr\xc3\xbcn\n\xcf\x80\n"


def test_write_json_reads_back_in_order(tmp_path):
    value = {"war": 1 / 3, "labels": ["ä", None], "fold": 1}
    write_json(tmp_path / "a.json", value)
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert read == value
    assert list(read) == ["war", "labels", "fold"]


@pytest.mark.parametrize(
    ("value", "error"), [({"uar": float("nan")}, ValueError), ({"path": object()}, TypeError)]
)
def test_write_json_refuses_what_json_lacks_and_keeps_the_old_file(tmp_path, value, error):
    path = tmp_path / "a.json"
    path.write_text("{}")
    with pytest.raises(error, match="a.json"):
        write_json(path, value)
    assert path.read_text() == "{}"
