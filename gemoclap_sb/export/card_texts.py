"""What a model card says of one kind of model and not of the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemoclap_sb.models.building import members_of
from gemoclap_sb.models.foreign import foreign_parts, foreign_paths
from gemoclap_sb.models.plain_description import is_plain

_IMPLEMENTATION = """the implementation is `gemoclap_sb`,
a plugin for [SpeechBrain](https://speechbrain.github.io)."""
_CONTRASTIVE = f"""\
Emotion recognition from speech by contrast of audio and language: an utterance and a
sentence about its speaker are embedded in one space, and an utterance belongs to the
class whose sentence is closest. The method is GEmo-CLAP (Pan et al., ICASSP 2024,
[arXiv 2306.07848](https://arxiv.org/abs/2306.07848)); {_IMPLEMENTATION}"""
_PLAIN = f"""\
Emotion recognition from speech by a plain classifier: it knows the classes below and no other
words, and compares no sentences; {_IMPLEMENTATION}"""
_OTHER_WORDS = """
# Any other words, without training:
classifier.classify_file("speech.wav", labels=["bored", "afraid", "calm"])"""
_OWN_CLASS = """\
With the package `gemoclap_sb` installed. Its own class reads {files}, which are data, and runs no
code from this folder:

```python
from gemoclap_sb.inference import GEmoCLAPClassifier

classifier = GEmoCLAPClassifier.from_pretrained("path/or/hub-id")
log_posteriors, score, index, label = classifier.classify_file("speech.wav"){words}
```

SpeechBrain's class runs what `hyperparams.yaml` says; use it with folders that you trust:
"""
_FOREIGN = """\
**Loading this folder imports and runs classes that are not part of `gemoclap_sb`:**

{classes}

They must be importable where the folder is loaded, and so must the package `gemoclap_sb`.
`GEmoCLAPClassifier.from_pretrained` imports nobody's classes and refuses the folder. SpeechBrain's
class imports them: use it with folders that you trust.
"""
_ZERO_SHOT = (
    "- Words outside of training (zero-shot) are a guess of unknown accuracy until measured.\n"
)
TAGS = ["speech-emotion-recognition", "audio-classification"]
CONTRASTIVE_TAGS = ["zero-shot-audio-classification", "contrastive-learning", "gemo-clap"]


def texts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the fields of a card that depend on the kind of model which ``config.json`` tells."""
    plain, imported = is_plain(config["model"]), _imported_lines(config["model"])
    files = ["`config.json`", "`model.safetensors`"] + ([] if plain else ["`tokenizer/`"])
    loading = _FOREIGN.format(classes="\n".join(imported))
    if not imported:
        words = "" if plain else _OTHER_WORDS
        loading = _OWN_CLASS.format(files=_listed(files), words=words)
    return {
        "about": _PLAIN if plain else _CONTRASTIVE,
        "classes_title": "Classes" if plain else "Classes and prompts",
        "loading": loading,
        "zero_shot": "" if plain else _ZERO_SHOT,
    }


def tags(config: Mapping[str, Any]) -> list[str]:
    """List what the hub finds a model by."""
    return [*TAGS, *([] if is_plain(config["model"]) else CONTRASTIVE_TAGS), "speechbrain"]


def _imported_lines(config: Mapping[str, Any]) -> list[str]:
    parts: dict[str, str | None] = {}
    paths: dict[str, None] = {}
    for one in members_of(config):
        parts |= foreign_parts(one)
        paths |= dict.fromkeys(foreign_paths(one))
    return [
        f"- `{name}`, of {package or 'no installed package: ask the author for the module'}"
        for name, package in parts.items()
    ] + [f"- they read `{path}`, which must be there too" for path in paths]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
