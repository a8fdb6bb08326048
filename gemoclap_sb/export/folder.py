"""A finished run, or several averaged, as a folder that anyone can load and that moves freely.

    config.json           the model's description, its prompts, its metrics
    model.safetensors     all weights
    tokenizer/            where the text tower has one
    hyperparams.yaml      for stock SpeechBrain, with these three:
    embedding_model.ckpt    model.safetensors under the name that SpeechBrain asks for
    classifier.ckpt         embeddings of the classes' texts, or a plain classifier's linear layer,
                            and the fitted temperature; with them `from_pretrained` needs no text
                            tower for these classes
    label_encoder.ckpt      the labels
    README.md             the model card

Nothing in it is a pickle, and no path in it is absolute, unless a lobe from elsewhere was given
one in the run's YAML. ``embedding_model.ckpt`` is a
hard link where the file system has them, and the hub keeps equal files once.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from speechbrain.utils.logger import get_logger

from gemoclap_sb.data.labels import label_encoder
from gemoclap_sb.export.averaging import averaged
from gemoclap_sb.export.model_card import model_card, template
from gemoclap_sb.export.trained import ExportError, Model, load_trained
from gemoclap_sb.files import atomic_folder, read_json, write_json, write_text
from gemoclap_sb.lobes.encoder_folders import write_encoder
from gemoclap_sb.models.building import CONFIG, members_of
from gemoclap_sb.models.class_layer import class_rows
from gemoclap_sb.models.configuration import (
    LONGEST_SECONDS,
    TOKENIZER,
    averaged_run,
    build_prompts,
)
from gemoclap_sb.models.ensemble import GEmoCLAPEnsemble
from gemoclap_sb.models.foreign import composed, foreign_parts, foreign_paths, is_foreign
from gemoclap_sb.models.plain_description import is_plain
from gemoclap_sb.models.stored_classes import CLASSIFIER, save_classes
from gemoclap_sb.models.tokenizer_files import SUFFIXES as TOKENIZER_SUFFIXES
from gemoclap_sb.models.weights import WEIGHTS, save_weights
from gemoclap_sb.training.run_folder import METRICS

logger = get_logger(__name__)

HYPERPARAMS, CARD = "hyperparams.yaml", "README.md"
EMBEDDING, LABELS = "embedding_model.ckpt", "label_encoder.ckpt"
FILES = (CONFIG, WEIGHTS, HYPERPARAMS, EMBEDDING, CLASSIFIER, LABELS, CARD)

# Of metrics.json: results and how they came about, not where the files lay.
_METRICS = (
    "war", "uar", "per_class_recall", "confusion", "labels", "n_test", "fold", "seed",
    "experiment", "validation", "epoch", "valid_uar",
    "confidence_intervals", "uar_by_gender", "calibration",
)  # fmt: skip


def export(
    run_folder: str | os.PathLike | Sequence[str | os.PathLike],
    out_folder: str | os.PathLike,
    *,
    overwrite: bool = False,
    name: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    language: str | None = None,
) -> Path:
    """Write a run's best model into a self-contained folder, whole or not at all.

    Several runs of the same classes, prompts and heads, such as those of other seeds, become one
    model: its cosines, or a plain classifier's logits, are the mean of theirs, and its temperature
    is the mean of their fitted ones, since what one run held out for fitting its own, another may
    have learnt from.

    Parameters
    ----------
    run_folder : str or os.PathLike, or a sequence of them
        A run's output folder, with ``config.json`` and ``save/``; or those of several.
    out_folder : str or os.PathLike
        The folder to write.
    overwrite : bool
        Replace ``out_folder`` if it is an export already, and holds nothing else.
    name : str, optional
        The model's name in its card; by default the folder's.
    license : str, optional
        SPDX identifier in lower case (``apache-2.0``), for the card.
    datasets : Sequence[str]
        Data that it was trained on, as the hub calls them, for the card.
    language : str, optional
        Language code of the data (``en``), for the card.

    Returns
    -------
    Path
        ``out_folder``.

    Raises
    ------
    ExportError
        If a run has no description or no checkpoint, its model cannot be described, its
        weights are not finite, runs cannot be averaged, or ``out_folder`` is in the way.
    """
    is_one = isinstance(run_folder, str | os.PathLike)
    runs = [Path(run) for run in ([run_folder] if is_one else run_folder)]
    if not runs:
        raise ExportError("run_folder: expected a run's folder or several, found none.")
    out_folder = Path(out_folder)
    _check_out_folder(out_folder, overwrite)
    configs, models, checkpoints = zip(*map(load_trained, runs), strict=True)
    metrics = [_read_metrics(run) for run in runs]
    config, model = averaged(runs, configs, models) if runs[1:] else (configs[0], models[0])
    config |= {
        "longest_seconds": LONGEST_SECONDS,
        "temperatures": None if is_plain(config["model"]) else _temperatures(models),
        "metrics": None if runs[1:] else metrics[0],
    }
    calibrations = [(of or {}).get("calibration") for of in metrics]
    if all(calibrations):
        config["calibration"] = {model.heads[0]: fmean(of["scale"] for of in calibrations)}
    if runs[1:]:
        config["runs"] = [averaged_run(of or {}) for of in metrics]
    with atomic_folder(out_folder) as folder:
        write_json(folder / CONFIG, config)
        for run in runs:
            if (run / TOKENIZER).is_dir():
                shutil.copytree(run / TOKENIZER, folder / TOKENIZER, dirs_exist_ok=True)
        save_weights(model.state_dict(), folder / WEIGHTS)
        _write_for_speechbrain(folder, config, model)
        card = model_card(
            config, name or out_folder.name, license=license, datasets=datasets, language=language
        )
        write_text(folder / CARD, card)
        # Somebody may have put something there in the meantime.
        _check_out_folder(out_folder, overwrite)
    for path in dict.fromkeys(sum(map(foreign_paths, members_of(config["model"])), [])):
        logger.warning("Loading %s needs %s, which stays on this machine.", out_folder, path)
    logger.info("Exported %s to %s", ", ".join(map(str, checkpoints)), out_folder)
    return out_folder


def export_encoder(run_folder: str | os.PathLike, out_folder: str | os.PathLike) -> Path:
    """Write the audio encoder of a run's best model, for others to name as their ``audio_source``.

    In ``encoder/`` of the run's folder it is found by the name of the run, and tells those who
    begin from it what it has heard. Stock transformers reads an encoder of its own kinds.

    Parameters
    ----------
    run_folder : str or os.PathLike
        As of `export`.
    out_folder : str or os.PathLike
        The folder to write; it must not be there.

    Returns
    -------
    Path
        ``out_folder``.

    Raises
    ------
    ExportError
        As of `export`; or if the encoder has an adapter, or is another package's.
    """
    out_folder = Path(out_folder)
    _check_out_folder(out_folder, overwrite=False)
    _, model, _ = load_trained(run_folder)
    try:
        write_encoder(model.audio_encoder, out_folder)
    except ValueError as error:
        raise ExportError(f"{run_folder} cannot be exported: {error}.") from error
    return out_folder


def _check_out_folder(out_folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is in the way; no file that an export did not write is ever removed."""
    if out_folder.is_symlink():
        raise ExportError(
            f"{out_folder} is a link to {os.path.realpath(out_folder)}, which would be replaced by "
            "a folder. Name the folder that it points to, or another."
        )
    if Path.cwd().is_relative_to(out_folder.resolve()):
        raise ExportError(
            f"{out_folder} is the folder that this command runs in, which cannot be replaced. Name "
            "another folder to write; on the command line it is the last one."
        )
    if not out_folder.exists() or (out_folder.is_dir() and not any(out_folder.iterdir())):
        return
    is_export = (out_folder / HYPERPARAMS).is_file() and (out_folder / WEIGHTS).is_file()
    if not is_export:
        raise ExportError(
            f"{out_folder} exists and is not an export, so it is not replaced. Name another folder "
            "to write; on the command line it is the last one."
        )
    if not overwrite:
        raise ExportError(
            f"{out_folder} exists. Name another folder, or say that it may be overwritten "
            "(--overwrite, overwrite=True)."
        )
    if foreign := _foreign(out_folder):
        more = f" and {len(foreign) - 3} more" * (len(foreign) > 3)
        raise ExportError(
            f"{out_folder} holds what no export has written: {', '.join(foreign[:3])}{more}. It "
            "would be lost, so nothing is replaced. Move it away, or name another folder."
        )


def _foreign(folder: Path) -> list[str]:
    """List what lies in an export's folder that is none of its files, links among it."""
    paths = sorted(folder.iterdir())
    if (folder / TOKENIZER).is_dir() and not (folder / TOKENIZER).is_symlink():
        paths.remove(folder / TOKENIZER)
        paths += sorted((folder / TOKENIZER).iterdir())
    return [
        str(path.relative_to(folder))
        for path in paths
        if not (path.parent == folder and path.name in FILES)
        and not (path.parent != folder and path.suffix in TOKENIZER_SUFFIXES)
        or path.is_symlink()
        or not path.is_file()
    ]


def _temperatures(models: Sequence[Model]) -> dict[str, dict[str, float]]:
    """Give ``eps_a`` and ``eps_t`` of each head; of several models, their mean."""
    return {
        head: {
            "audio": fmean(model.audio_scales[head]().item() for model in models),
            "text": fmean(model.text_scales[head]().item() for model in models),
        }
        for head in models[0].heads
    }


def _read_metrics(run_folder: Path) -> dict[str, Any] | None:
    path = run_folder / METRICS
    if not path.is_file():
        logger.warning(
            "%s has no %s: the run is not finished, and the card will hold no figures.",
            run_folder,
            METRICS,
        )
        return None
    metrics = read_json(path)
    return {key: metrics[key] for key in _METRICS if key in metrics}


def _write_for_speechbrain(
    folder: Path, config: Mapping[str, Any], model: Model | GEmoCLAPEnsemble
) -> None:
    head = model.heads[0]
    if is_plain(config["model"]):
        classes = class_rows(model)
    else:
        with torch.inference_mode():
            classes = model.encode_classes(build_prompts(config).class_sentences(head))
    # Without one that was fitted, the model's own.
    scale = config.get("calibration", {}).get(head, model.class_scale())
    if is_plain(config["model"]):
        save_weights({"classes": classes, "scale": torch.tensor(scale)}, folder / CLASSIFIER)
    else:
        save_classes(folder, config, head, classes, scale)
    try:
        os.link(folder / WEIGHTS, folder / EMBEDDING)
    except OSError:
        shutil.copyfile(folder / WEIGHTS, folder / EMBEDDING)
    label_encoder(config["labels"][head]).save(folder / LABELS)
    write_text(folder / HYPERPARAMS, hyperparams(config))


def hyperparams(config: Mapping[str, Any]) -> str:
    """Write the YAML by which stock ``EncoderClassifier.from_hparams`` loads an export.

    All values of its ``config.json`` stand in it, so that no path is needed.
    """
    members = members_of(config["model"])
    head = members[0]["heads"][0]
    audio = [{key: of for key, of in one.items() if key != "text_encoder"} for one in members]
    imported = {name: None for one in members for name in foreign_parts(one)}
    return template(HYPERPARAMS).format(
        imported="".join(f" and {name}, which is imported and run" for name in imported),
        classifier="ClassLayer" if is_plain(config["model"]) else "ClassTexts",
        sample_rate=config["sample_rate"],
        longest_seconds=config["longest_seconds"],
        num_classes=len(config["labels"][head]),
        embedding_size=sum(one["embedding_size"] for one in members),
        head=_yaml(head, 0),
        words=_yaml(config["words"], 4),
        templates=_yaml(config["templates"], 4),
        config=_yaml({"members": audio} if audio[1:] else audio[0], 8),
    )


class _Dumper(yaml.SafeDumper):
    """Writes what readers of YAML 1.1 and of 1.2 take alike: `1e5` is a word to one of them."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: Any = None) -> yaml.Node:
        if is_foreign(mapping):
            return composed(mapping)
        return super().represent_mapping(tag, mapping, flow_style)

    def represent_word(self, value: str) -> yaml.ScalarNode:
        style = None if _PLAIN_WORD.fullmatch(value) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]*")
_Dumper.add_representer(str, _Dumper.represent_word)


def _yaml(value: Any, indent: int) -> str:
    """Plain data as a block of YAML, indented from its second line on."""
    text = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").rstrip("\n").replace("\n", "\n" + " " * indent)
