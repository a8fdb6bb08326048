"""``gemoclap plot``: the pictures of a finished run, or of a cross-validation."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from gemoclap_sb.cli import output
from gemoclap_sb.cli.destinations import check_folder, writing
from gemoclap_sb.cli.errors import UsageError
from gemoclap_sb.cli.terminal import say

SUMMARY = "pictures of a finished run"
DESCRIPTION = (
    "Draw a finished run: confusion.png, recall.png (with intervals over speakers), "
    "reliability.png (before and after the temperature was fitted), training.png and "
    "embeddings.png (the test's utterances and the classes' texts). Of a cross-validation, the "
    "first three, pooled. training.png needs the run's checkpoints, embeddings.png its recordings "
    "too. What cannot be drawn is said, and the rest is drawn."
)
EXAMPLES = """\
  gemoclap plot results/sl_wavlm/seed_1/fold_1
  gemoclap plot results/sl_wavlm/seed_1 --output pictures/"""
CV_METRICS = "cv_metrics.json"
MOST_UTTERANCES = 2000
"""On a map; of more, so many are drawn by lot."""
# What a file of another content than expected raises.
_DAMAGED = (AttributeError, IndexError, KeyError, TypeError)


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    help = "output folder of a finished run, or of a cross-validation"
    parser.add_argument("run_folder", metavar="RUN", help=help)
    parser.add_argument("--output", metavar="FOLDER", help="where to draw (default: RUN)")


def run(options: Namespace, out: TextIO) -> int:
    """Draw what can be drawn, and print where it is."""
    folder = Path(options.run_folder)
    target = Path(options.output or folder)
    option = "RUN" if options.output is None else "--output"
    try:
        pictures = _pictures(folder)
    except UsageError:
        raise
    except (ValueError, *_DAMAGED) as error:
        raise UsageError(f"{folder}: its figures are damaged: {_told(error)}.") from error
    check_folder(option, target, pictures)
    from gemoclap_sb.export.trained import ExportError
    from gemoclap_sb.training.settings import ExperimentError

    status = 0
    for name, draw in pictures.items():
        try:
            path = draw(target / name)
        except (ExportError, ExperimentError, ValueError, FileNotFoundError, *_DAMAGED) as error:
            say(f"{name} is not drawn: {_told(error)}")
            status = 1
        except OSError as error:
            with writing(target / name):
                raise error
        else:
            output.print_lines([str(path)], out)
    return status


def _told(error: Exception) -> str:
    """Give an error's message, and what it is where that alone says little."""
    return f"{type(error).__name__}: {error}" if isinstance(error, _DAMAGED) else str(error)


def _pictures(folder: Path) -> dict[str, Callable[[Path], Path]]:
    """Name the pictures of a folder, and say how each is drawn."""
    from gemoclap_sb.evaluation.figures import draw_confusion
    from gemoclap_sb.evaluation.metrics import ClassificationMetrics
    from gemoclap_sb.evaluation.uncertainty_figures import draw_recall
    from gemoclap_sb.files import read_json
    from gemoclap_sb.training.run_folder import METRICS

    is_run = (folder / METRICS).is_file()
    if not is_run and not (folder / CV_METRICS).is_file():
        raise UsageError(
            f"{folder}: expected the folder of a finished run or of a cross-validation, with "
            f"{METRICS} or {CV_METRICS}, found neither."
        )
    record = read_json(folder / (METRICS if is_run else CV_METRICS))
    metrics = ClassificationMetrics.from_dict(record if is_run else record["pooled"])
    of = record if is_run else record["folds"][0]
    title = f"{of.get('experiment', folder.name)}, "
    title += f"fold {of.get('fold')}" if is_run else "cross-validation"
    intervals = record.get("confidence_intervals")
    pictures = {
        "confusion.png": lambda path: draw_confusion(metrics, path, title),
        "recall.png": lambda path: draw_recall(metrics, intervals, path, title),
        "reliability.png": lambda path: _reliability(folder, record, path, title),
    }
    if is_run:
        pictures["training.png"] = lambda path: _training(folder, record, path)
        if not _without_texts(folder):
            pictures["embeddings.png"] = lambda path: _embeddings(folder, path, title)
    return pictures


def _without_texts(folder: Path) -> bool:
    """Whether the run's model has no embeddings of texts to draw, and say so."""
    from gemoclap_sb.files import read_json
    from gemoclap_sb.models.building import CONFIG
    from gemoclap_sb.models.foreign import is_foreign

    path = folder / CONFIG
    config = read_json(path) if path.is_file() else {}
    reason, model = config.get("unsupported"), config.get("model", {})
    if "num_classes" in model:
        reason = "its model is a plain classifier, which has no text tower"
    elif any(is_foreign(part) for part in model.values()):
        reason = "its model has a part of another package, which only training imports"
    if reason is not None:
        say(f"embeddings.png is not among the pictures of this run: {reason}.")
    return reason is not None


def _reliability(folder: Path, record: Mapping[str, Any], path: Path, title: str) -> Path:
    from gemoclap_sb.evaluation.assessment import uncalibrated
    from gemoclap_sb.evaluation.predictions import PREDICTIONS, Predictions, pooled_predictions
    from gemoclap_sb.evaluation.uncertainty_figures import draw_reliability

    tested = {folder: record}
    if "folds" in record:
        tested = {folder / f"fold_{fold['fold']}": fold for fold in record["folds"]}
    for part, of in tested.items():
        if not ((part / PREDICTIONS).is_file() and of.get("calibration")):
            raise FileNotFoundError(
                f"{part} was tested before predictions were kept: expected {PREDICTIONS} and a "
                "`calibration`. The run's own command, given again, tests it again."
            )
    after = [Predictions.read(part / PREDICTIONS) for part in tested]
    calibrations = [of["calibration"] for of in tested.values()]
    before = [uncalibrated(*pair) for pair in zip(after, calibrations, strict=True)]
    return draw_reliability(pooled_predictions(before), pooled_predictions(after), path, title)


def _training(folder: Path, record: Mapping[str, Any], path: Path) -> Path:
    from gemoclap_sb.evaluation.figures import draw_training_curves
    from gemoclap_sb.training.checkpoints import recorded_history

    return draw_training_curves(recorded_history(folder / "save"), path, record.get("epoch"))


def _embeddings(folder: Path, path: Path, title: str) -> Path:
    import numpy as np
    import torch

    from gemoclap_sb.evaluation.embedding_map import draw_embedding_map, map_embeddings
    from gemoclap_sb.export.trained import load_trained
    from gemoclap_sb.inference.bulk import embed_files
    from gemoclap_sb.models.configuration import build_prompts
    from gemoclap_sb.models.towers import AudioTower
    from gemoclap_sb.training.run_folder import recorded_manifest

    config, model, _ = load_trained(folder)
    head = model.heads[0]
    words = config["words"][head]
    rows = [row for row in recorded_manifest(folder).values() if row.get(head) in words]
    if len(rows) > MOST_UTTERANCES:
        say(f"Drawn by lot: {MOST_UTTERANCES} of {len(rows)} utterances.")
        kept = np.random.default_rng(0).choice(len(rows), MOST_UTTERANCES, replace=False)
        rows = [rows[i] for i in sorted(kept)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    with torch.inference_mode():
        texts = model.encode_classes(build_prompts(config).class_sentences(head)).cpu().numpy()
    tower = AudioTower.of(model, head, sample_rate=config["sample_rate"])
    found = embed_files(tower, [row["wav"] for row in rows], device)
    heard = [
        (embedded.embedding.numpy(), row[head], row.get("gender", ""))
        for row, embedded in zip(rows, output.Failures().watch(found), strict=True)
        if embedded.embedding is not None
    ]
    if not heard:
        raise FileNotFoundError("no recording of the test manifest can be read.")
    audio, emotions, genders = zip(*heard, strict=True)
    places = map_embeddings(np.concatenate([np.stack(audio), texts]))
    spoken, written = places[: len(audio)], places[len(audio) :]
    return draw_embedding_map(spoken, emotions, genders, written, words, path, title)
