"""The model that a command is given: a folder, one of the hub, or a run that was trained."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gemoclap_sb.cli.destinations import writing
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import say

if TYPE_CHECKING:
    from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
    from gemoclap_sb.inference.speaker_encoder import SpeakerEncoder


def add_model(parser: ArgumentParser) -> None:
    """Add the options that `load_classifier` reads."""
    add = parser.add_argument
    help = (
        "exported model: a folder, or owner/name on the Hugging Face hub; or the folder of a run "
        "(default: the small model in this package, told on standard error)"
    )
    add("--model", metavar="FOLDER", help=help)
    help = "what to recognise, for a model with several heads (default: its first)"
    add("--attribute", metavar="NAME", help=help)
    add("--device", help="cpu, cuda:0, ... (default: a GPU where there is one)")


@contextlib.contextmanager
def model_folder(source: str | None, speakers: bool = False) -> Iterator[Path]:
    """Find the folder of a model; that of a run is exported into one that is removed again.

    With ``speakers`` it may be a speaker encoder of SpeechBrain. UsageError if it is no model.
    """
    if source == "":
        raise UsageError("--model: expected a folder, found ''.")
    path = Path(source or "")
    if source is not None and os.path.lexists(source) and not path.is_dir():
        raise UsageError(f"--model: expected a folder, found another: {source}.")
    # Not before: `info no/such/folder` need not wait for it.
    from gemoclap_sb.inference.loading import DEFAULT_MODEL, local_folder
    from gemoclap_sb.models.weights import WEIGHTS

    if source not in (None, DEFAULT_MODEL) and not os.path.lexists(path / WEIGHTS):
        # Of os.path, for which a folder that may not be looked into has none.
        if os.path.isdir(path / "save"):
            with tempfile.TemporaryDirectory(prefix="gemoclap-") as temporary:
                exported = _exported(path, Path(temporary))
                try:
                    yield exported
                except UsageError as error:
                    raise UsageError(str(error).replace(str(exported), str(path))) from error
            return
        if path.name == "save":
            raise UsageError(f"--model: {source} holds checkpoints; name the run, {path.parent}.")
        inside = ("*/save", "*/*/save") if os.path.isdir(path) else ()
        runs = (found.parent for deep in inside for found in path.glob(deep))
        if found := sorted(run for run in runs if os.path.isdir(run / "save")):
            raise UsageError(
                f"--model: {source} holds {len(found)} runs; name one of them, such as {found[0]}."
            )
    name = DEFAULT_MODEL if source is None else source
    with usage_errors():
        folder = _encoder_folder(name) if speakers else local_folder(name)
    # Absolute: a folder `./default` is not the model of that name.
    yield folder.absolute()


def _exported(run: Path, folder: Path) -> Path:
    from gemoclap_sb.export.folder import export
    from gemoclap_sb.export.trained import ExportError

    say(f"model: the best of the run {run}. `gemoclap export {run} OUT` keeps it as a folder.")
    try:
        with usage_errors(), writing(f"--model: {run}, exported into {folder},"):
            return export(run, folder / (run.name or "model"))
    except ExportError as error:
        raise UsageError(f"--model: {error}") from error


def _encoder_folder(source: str) -> Path:
    from gemoclap_sb.inference.speaker_encoder import encoder_folder

    return encoder_folder(source)


def load_classifier(options: Namespace) -> GEmoCLAPClassifier:
    """Load the model that ``--model``, ``--device`` and ``--attribute`` ask for, or UsageError."""
    with _without_garbage(), model_folder(options.model) as folder:
        from gemoclap_sb.inference.classifier import GEmoCLAPClassifier

        check_device(options.device)
        with usage_errors():
            return GEmoCLAPClassifier.from_pretrained(
                folder, device=options.device, attribute=options.attribute
            )


def load_encoder(options: Namespace, folder: Path) -> GEmoCLAPClassifier | SpeakerEncoder:
    """Load the model of a `model_folder` to embed with; UsageError as `load_classifier` has it."""
    with _without_garbage():
        from gemoclap_sb.inference import speaker_encoder

        check_device(options.device)
        with usage_errors():
            return speaker_encoder.load_encoder(folder, options.device, options.attribute)


@contextlib.contextmanager
def _without_garbage() -> Iterator[None]:
    """Collect no garbage among what imports leave, which lives to the end.

    Looking through it again and again, and once more at the exit, takes a quarter of a short
    command's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def check_device(device: str | None) -> None:
    """Compute something on a device; UsageError if that cannot be."""
    import torch

    if device is None:
        return
    if device.partition(":")[0] == "meta":
        raise UsageError("--device meta cannot be used: it computes nothing. Give cpu or cuda:0.")
    try:
        torch.ones(1, device=device).sum().item()
    # A build of torch without CUDA asserts, one without others lacks modules.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise UsageError(f"--device {device} cannot be used: {reason}.") from error


def model_digest(folder: Path) -> str:
    """Digest of what decides a model's embeddings: its weights, and what they are weights of."""
    from gemoclap_sb.models import digest

    with usage_errors():
        return digest.model_digest(folder)
