"""What the commands' tests share: recordings, a model, and running a command in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gemoclap_sb.cli.parser import main
from gemoclap_sb.inference import GEmoCLAPClassifier
from tests.run_folders import write_tone


@pytest.fixture(scope="session")
def model(exported) -> str:
    return str(exported["scratch"])


@pytest.fixture(scope="session")
def run(runs) -> Path:
    return runs["scratch"]


@pytest.fixture(scope="session")
def classifier(model) -> GEmoCLAPClassifier:
    return GEmoCLAPClassifier.from_pretrained(model, device="cpu")


@pytest.fixture(scope="session")
def audio(tmp_path_factory):
    """Three recordings, and what must not be taken for one."""
    folder = tmp_path_factory.mktemp("audio")
    for i, name in enumerate(("b.wav", "a, b.FLAC", "deep/er/c.ogg")):
        write_tone(folder / name, 0.5 + 0.4 * i, 100 + 170 * i)
    for name in (".hidden.wav", ".folder/d.wav", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no audio")
    return folder


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF of nothing")
    return str(path)


@pytest.fixture
def command(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run it in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
