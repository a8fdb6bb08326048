"""The README's worked example says what the code takes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

from gemoclap_sb.training.overrides import completed
from gemoclap_sb.training.settings import read_settings
from tests.run_folders import ROOT

SPEAKERS = ("EB0", "IC0", "KD0", "KS0", "MK0", "TP0")
EMOTIONS = ("anger", "fear", "happiness", "neutral", "sadness", "surprised")


def test_your_own_corpus(tmp_path, monkeypatch):
    """Its files are written, and its command becomes an experiment on them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("### Your own corpus")[2].partition("\n### ")[0]
    _, script, words, commands = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
    for speaker in SPEAKERS:
        for emotion in EMOTIONS:
            path = tmp_path / "recordings" / speaker / f"{speaker}_{emotion}_1.ogg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "words.yaml").write_text(words, encoding="utf-8")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)

    commands = commands.replace("\\\n", " ").replace("$GEMOCLAP", str(ROOT)).splitlines()
    [cross_validation] = [line for line in commands if "cross_validate.py" in line]
    _, program, experiment, *options = shlex.split(cross_validation)
    assert (ROOT / program).is_file()
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert int(given.pop("--jobs")) > 1
    given = {name.removeprefix("--"): int(v) if v.isdecimal() else v for name, v in given.items()}
    settings = read_settings(experiment, completed(experiment, given))
    assert settings["number_of_folds"] == 3
    assert f"export {settings['output_folder']} " in "\n".join(commands)
    [prompts] = settings["prompts"].values()
    assert prompts["only"]["emotion"] == list(EMOTIONS)
    assert prompts["words"]["emotion"]["fear"] == "afraid"
