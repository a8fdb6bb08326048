"""``gemoclap info``: what an exported model is, told without loading its weights."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from gemoclap_sb.cli import models, output
from gemoclap_sb.cli.errors import UsageError, usage_errors
from gemoclap_sb.cli.terminal import visible_data

SUMMARY = "what an exported model is"
DESCRIPTION = (
    "Print a model's labels, prompts, encoders, parameters, metrics and sizes. No weight is "
    "loaded, but the file of weights is checked."
)
EXAMPLES = "  gemoclap info exported"


def add_arguments(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "model", metavar="FOLDER", help="exported folder, owner/name of the hub, or default"
    )
    output.add_format(parser, "table", "json")


def run(options: Namespace, out: TextIO) -> int:
    """Print what an exported model is."""
    with models.model_folder(options.model) as folder:
        try:
            with usage_errors():
                found = model_info(folder)
            if os.path.isdir(options.model):
                # Not where a run was exported into for this.
                found["folder"] = options.model
            is_json = options.format == "json"
            lines = [output.json_text(found)] if is_json else _lines(visible_data(found))
            lines = [part for line in lines for part in line.split("\n")]
        except UsageError:
            raise
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise UsageError(
                f"{options.model}: expected what an export wrote, found damaged figures "
                f"({type(error).__name__}: {error}). Export the run again."
            ) from error
    output.print_lines(lines, out)
    return 0


def model_info(folder: Path) -> dict[str, Any]:
    """Describe the model of an exported folder in plain JSON types.

    Labels with their words, and templates, of each attribute that can be classified; how
    many parameters each part has; classes of others that loading it imports, each with its package
    or None; the speeds in % at which an utterance is heard; the run's metrics, or None; of an
    average of several runs, what each is; sizes of the files in bytes. ConfigurationError or
    WeightsError if the folder is not what an export wrote.
    """
    import torch

    from gemoclap_sb.inference.loading import open_model
    from gemoclap_sb.models.building import encoder_names, heard_speeds, members_of
    from gemoclap_sb.models.configuration import LONGEST_SECONDS
    from gemoclap_sb.models.foreign import Held, foreign_parts
    from gemoclap_sb.models.plain_description import is_plain
    from gemoclap_sb.models.weights import WEIGHTS, check_weights, weights_size

    # On this device a model takes no memory.
    with torch.device("meta"):
        config, model = open_model(folder)
    description = config["model"]
    members = members_of(description)
    imported = {name: of for one in members for name, of in foreign_parts(one).items()}
    # Which weights a class from elsewhere has, only that class knows.
    check_weights(model, folder / WEIGHTS, others=bool(imported))
    parts: Counter[str] = Counter()
    for one in getattr(model, "members", [model]):
        for name, part in one.named_children():
            parts[name] += sum(parameter.numel() for parameter in part.parameters())
    for name, part in model.named_modules():
        if isinstance(part, Held):
            parts[name.rpartition(".")[2]] += weights_size(folder / WEIGHTS, f"{name}.").numbers
    return {
        "folder": str(folder),
        "attributes": {
            name: {
                "labels": config["words"][name],
                "templates": config["templates"].get(name, []),
            }
            for name in members[0]["heads"]
            if name in config["templates"] or is_plain(description)
        },
        "encoders": encoder_names(description),
        "imported": imported,
        "parameters": {name: count for name, count in parts.items() if count},
        "embedding_size": sum(one["embedding_size"] for one in members),
        "sample_rate": config["sample_rate"],
        "heard_speeds": heard_speeds(description),
        "longest_seconds": config.get("longest_seconds", LONGEST_SECONDS),
        "temperatures": config.get("temperatures"),
        "calibration": config.get("calibration"),
        "metrics": config.get("metrics"),
        "runs": config.get("runs"),
        "files": {
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }


def _lines(info: Mapping[str, Any]) -> Iterator[str]:
    """Lay out for the terminal what `model_info` returned."""
    from gemoclap_sb.evaluation.metrics import ClassificationMetrics
    from gemoclap_sb.evaluation.report import VALIDATION_NOTES, metrics_table, uncertainty_lines
    from gemoclap_sb.export.model_card import runs_lines

    yield str(info["folder"])
    for name, attribute in info["attributes"].items():
        yield f"\n{name}: {len(attribute['labels'])} classes"
        yield from _columns(attribute["labels"])
        if attribute["templates"]:
            yield "  in the sentences"
        yield from (f"    {template}" for template in attribute["templates"])
    encoders = (f"{name} ({part})" for part, name in info["encoders"].items())
    yield f"\nencoders: {', '.join(encoders)}"
    if imported := info["imported"]:
        named = (f"{name} (of {of or 'no installed package'})" for name, of in imported.items())
        yield f"not of gemoclap_sb: {', '.join(named)}"
        yield "  SpeechBrain's EncoderClassifier.from_hparams(source=FOLDER) imports and runs that,"
        yield "  for folders whose author you trust; from_pretrained and the other commands refuse"
    yield f"embeddings of size {info['embedding_size']}, audio at {info['sample_rate']} Hz"
    yield f"heard at {', '.join(map(str, info['heard_speeds']))} % of an utterance's speed"
    yield f"parameters: {sum(info['parameters'].values()):,}"
    yield from _columns({name: f"{count:>13,}" for name, count in info["parameters"].items()})
    if info["runs"]:
        yield ""
        yield from runs_lines(info["runs"])
    elif info["metrics"]:
        measured = info["metrics"]
        yield f"\nmeasured on the run's test set (fold {measured.get('fold')}):"
        table = metrics_table(ClassificationMetrics.from_dict(measured))
        yield from (f"  {line}" for line in [*table.splitlines(), *uncertainty_lines(measured)])
        if note := VALIDATION_NOTES.get(measured.get("validation")):
            yield f"  {note}"
    else:
        yield "\nnot measured: the run was exported before it was tested"
    yield "\nfiles:"
    yield from _columns({name: f"{_size(size):>9}" for name, size in info["files"].items()})


def _columns(cells: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, cells))
    return (f"  {name:<{width}}  {cell}" for name, cell in cells.items())


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
