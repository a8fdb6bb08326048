"""The command as a whole: help, usage errors, a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from gemoclap_sb.inference import GEmoCLAPClassifier
from tests.cli.printed import names, parsed
from tests.conftest import ROOT


def in_a_shell(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "gemoclap_sb.cli", *map(str, arguments)],
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
        **options,
    )


def test_help_and_version_load_no_torch():
    script = (
        "import sys\nfrom gemoclap_sb.cli.parser import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\n    print('heavy:', {'torch', 'numpy'} & set(sys.modules))"
    )
    for arguments in (["--help"], ["--version"], ["classify", "--help"]):
        printed = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout  # fmt: skip
        assert printed.endswith("heavy: set()\n")
        assert "gemoclap" in printed


def test_every_command_has_help_with_an_example(command):
    status, out, _ = command("--help")
    assert status == 0
    for name in ("classify", "timeline", "embed", "evaluate", "export", "info", "plot"):
        assert f"gemoclap {name}" in out
        status, help_text, _ = command(name, "--help")
        assert status == 0
        assert "example" in help_text and f"  gemoclap {name} " in help_text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["classfy", "a.wav"], "invalid choice"),
        (["classify", "a.wav", "--model", "m", "--format", "xml"], "invalid choice"),
        (["classify", "a.wav", "--model", "m", "--batch-size", "0"], "expected auto, or 1"),
        (["classify", "a.wav", "--model", "no/such/folder"], "no folder no/such/folder"),
        (["classify", "a.wav", "--model", "{empty}"], "no file {empty}/config.json"),
        (["classify", "{empty}", "--model", "{model}"], "{empty}: expected recordings"),
        (["classify", "a.wav", "--model", "{model}", "--attribute", "age"], "found 'age'"),
        (["classify", "a.wav", "--model", "{model}", "--device", "cuda:99"], "--device cuda:99"),
        (["classify", "a.wav", "--model", "{model}", "--labels", "sad"], "two classes or more"),
        (["classify", "a.wav", "--model", "{model}", "--labels", "a", "a=b"], "each label once"),
        (["classify", "a.wav", "--model", "{model}", "--labels", "a=", "b"], "LABEL=WORD"),
        (["classify", "a.wav", "--model", "{model}", "--templates", "so"], "where the word goes"),
        (["classify", "a.wav", "--model", "m", "--abstain-below", "1.1"], "from 0 to 1, found 1.1"),
        (["classify", "a.wav", "--model", "m", "--abstain-below", "nan"], "from 0 to 1, found nan"),
        (["classify", "a.wav", "--model", "m", "--abstain-below", "half"], "found half"),
        (
            ["classify", "a.wav", "--model", "{model}", "--abstain-below", "0", "--labels"]
            + ["unsure", "sure"],
            "a class is called unsure",
        ),
        (["timeline", "a.wav", "--model", "m", "--hop", "0"], "positive number of seconds"),
        (["timeline", "a.wav", "--model", "m", "--output", "a.jpg"], "ends in .png"),
        (["embed", "a.wav", "--model", "m"], "--output"),
        (["embed", "a.wav", "--model", "m", "--output", "a.txt"], "ends in .npy or .parquet"),
        (["evaluate", "{empty}/none.csv", "--model", "{model}"], "none.csv is missing"),
        (["export", "{empty}", "{empty}/out"], "cannot be exported"),
        (["export", "{empty}", "{empty}/out", "--private"], "--push-to-hub"),
        (["export", "{empty}", "{empty}/out", "--push-to-hub", "a/b/c"], "a/b/c"),
        (["info", "{empty}"], "config.json"),
        (["info", "{empty}/" + "a" * 300], "File name too long"),
    ],
)
def test_usage_error_is_2_and_says_what_to_change(arguments, message, model, tmp_path, command):
    places = {"{empty}": str(tmp_path), "{model}": model}
    for key, value in places.items():
        arguments = [argument.replace(key, value) for argument in arguments]
        message = message.replace(key, value)
    status, out, err = command(*arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_what_libraries_print_stays_out_of_the_data(model, audio, command, monkeypatch):
    original = GEmoCLAPClassifier.from_pretrained

    def noisy(*arguments, **options):
        print("a library's chatter")
        return original(*arguments, **options)

    monkeypatch.setattr(GEmoCLAPClassifier, "from_pretrained", noisy)
    status, out, err = command("classify", audio, "--model", model, "--format", "json")
    assert status == 0
    assert len(json.loads(out)) == 3
    assert "a library's chatter" in err


@pytest.mark.slow
def test_in_a_shell_data_and_messages_are_apart(model, audio, broken):
    done = in_a_shell(
        "classify", audio, broken, "--model", model, "--format", "csv", capture_output=True
    )
    assert done.returncode == 1
    rows = parsed(done.stdout)
    assert [row["path"] for row in rows] == [*names(audio), broken]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    assert "broken.wav" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(model):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = in_a_shell("info", model, stdout=closed, stderr=subprocess.PIPE)
    assert done.returncode == 141
    assert "BrokenPipe" not in done.stderr and "Traceback" not in done.stderr
