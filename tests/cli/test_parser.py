"""The command as a whole: help, usage errors, a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gemoclap_sb.inference import GEmoCLAPClassifier
from tests.cli.printed import names, one_line, parsed
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
    names = (
        "classify",
        "timeline",
        "embed",
        "cluster",
        "agreement",
        "search",
        "evaluate",
        "export",
        "info",
        "plot",
    )
    for name in names:
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
        (["classify", "a.wav", "--model", "m", "--batch-size", "1e9"], "found 1e9"),
        (["classify", "a.wav", "--model", "m", "--batch-size", "9" * 5000], "expected auto, or 1"),
        (["classify", "a.wav", "--model", "m", "--batch-size", "²"], "expected auto, or 1"),
        (["classify", "a.wav", "--model", ""], "--model: expected a folder, found ''"),
        (
            ["classify", "a.wav", "--model", "{model}", "--attribute", "age"],
            "--attribute: expected",
        ),
        (
            ["classify", "a.wav", "--model", "{model}", "--labels", "", "b"],
            "--labels: expected wor",
        ),
        (["classify", "a.wav", "--model", "{model}", "--labels", " =a", "b"], "--labels: "),
        (
            ["classify", "a.wav", "--model", "{model}", "--labels", "a=x", "b=x"],
            "--labels: two lab",
        ),
        (
            ["classify", "a.wav", "--model", "{model}", "--labels", "\udcff", "b"],
            "--labels: expected",
        ),
        (["classify", "a.wav", "--model", "{model}", "--templates", ""], "--templates: expected"),
        (["classify", "a.wav", "--model", "{model}", "--templates", "so"], "--templates"),
        (["classify", "a.wav", "--model", "{model}", "--templates", "{ {}"], "--templates"),
        (["classify", "a.wav", "--model", "{model}", "--templates", "{age} {}"], "--templates"),
        (["timeline", "a.wav", "--model", "m", "--window", "nan"], "found nan"),
        (["timeline", "a.wav", "--model", "m", "--window", "1e308"], "found 1e308"),
        (["timeline", "a.wav", "--model", "m", "--hop", "1e-300"], "found 1e-300"),
        (["timeline", "{empty}", "--model", "m"], "{empty}: expected a recording, found a folder"),
        (["evaluate", "{empty}/none.csv", "--model", "{model}"], "none.csv is missing"),
        (["export", "{empty}", "{empty}/out"], "cannot be exported"),
        (["export", "{empty}", "{empty}/out", "--private"], "--push-to-hub"),
        (["export", "{empty}", "{empty}/out", "--push-to-hub", "a/b/c"], "a/b/c"),
        (["info", "{empty}"], "config.json"),
        (["info", "{empty}/" + "a" * 300], "no folder {empty}/aaa"),
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
    assert message in one_line(err)


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


@pytest.mark.parametrize(
    ("name", "advice"),
    [("classify", "Lower --batch-size (now 7)"), ("timeline", "Lower --window (now 2)")],
)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried 2 GiB")])
def test_memory_that_does_not_suffice(name, advice, error, model, audio, command, monkeypatch):
    def fail(*_, **__):
        raise error

    for method in ("classify_files", "timeline"):
        monkeypatch.setattr(GEmoCLAPClassifier, method, fail)
    size = ["--batch-size", 7] if name == "classify" else []
    status, out, err = command(name, audio / "b.wav", "--model", model, *size)
    assert (status, out) == (2, "")
    assert advice in one_line(err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_and_leaves_what_was_printed(
    number, model, audio, command, monkeypatch
):
    original = GEmoCLAPClassifier.classify_files

    def stopped(*arguments, **options):
        for i, row in enumerate(original(*arguments, **options)):
            if i == 2:
                os.kill(os.getpid(), number)
            yield row

    monkeypatch.setattr(GEmoCLAPClassifier, "classify_files", stopped)
    before = signal.getsignal(number)
    status, out, err = command("classify", audio, "--model", model, "--format", "csv")
    assert (status, err) == (128 + number, "")
    assert [row["path"] for row in parsed(out)] == names(audio)[:2]
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_a_signal_in_a_shell(model, audio, tmp_path):
    """A recording that never ends, in a pipe."""
    spool = {**os.environ, "TMPDIR": str(tmp_path)}
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-m", "gemoclap_sb.cli", "classify", "-", "--model", model],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=ROOT, env=spool,
        )  # fmt: skip
        process.stdin.write(bytes(10**6))
        process.stdin.flush()
        while not list(tmp_path.glob("*/*")):
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (128 + number, b"", b"")
        assert not list(tmp_path.iterdir())


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
