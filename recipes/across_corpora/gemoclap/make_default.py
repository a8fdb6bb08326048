#!/usr/bin/env python3
"""The model in the package, from the two corpora to its folder, in one command.

    python make_default.py --ravdess_folder FOLDER --nemo_folder FOLDER [--key value ...]

Trains `hparams/across_scratch.yaml` on all speakers, exports, and writes the folder that
`GEmoCLAPClassifier.from_pretrained("default")` reads: configuration, weights, the embeddings of
its classes, a card and a licence notice. The figures of the card are those of `across.py`, where
it has run, and so is the temperature of the probabilities (`across_calibration`). What is finished
is not done again.
"""

from __future__ import annotations

import csv
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from across import FIGURES, HERE, HPARAMS, TABLES, checked, protocol_argv
from across_calibration import THRESHOLDS, AcrossCorpora, calibrate_across
from across_prepare import CORPORA, NEMO, RAVDESS
from across_tables import is_lossy
from huggingface_hub import ModelCardData

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.preparation import RECORD
from gemoclap_sb.evaluation.report import markdown_table
from gemoclap_sb.export import ExportError, export
from gemoclap_sb.export.card_texts import tags
from gemoclap_sb.files import atomic_folder, read_json, write_json, write_text
from gemoclap_sb.inference.loading import DEFAULT_FOLDER
from gemoclap_sb.models.building import CONFIG, encoder_names, heard_speeds, members_of
from gemoclap_sb.models.configuration import build_prompts
from gemoclap_sb.models.stored_classes import CLASSIFIER
from gemoclap_sb.models.weights import WEIGHTS, weights_size
from gemoclap_sb.training import cross_validation
from gemoclap_sb.training.run_folder import SETTINGS, recorded_manifest
from gemoclap_sb.training.runs import listed_seeds
from gemoclap_sb.training.settings import ExperimentError

CARD, LICENSE = "README.md", "LICENSE"
MOST_BYTES = 8 * 2**20
PROTOCOL = "all"
# Settings in which a run on everything differs from one that is tested, and places.
_OF_THE_PROTOCOL = {"protocol", "number_of_folds", "fold", "seed", "prepare_options", "experiment"}
_RUNS = f"seed_*/fold_*/{SETTINGS}"
_PLACES = {"data_folder", "ravdess_folder", "nemo_folder", "data"}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder; exit status 0, 2 if it could not be made as asked, or the training's."""
    parser = OneLineParser(
        description=f"{__doc__.splitlines()[0]} Any other option is a key of {HPARAMS.name}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--seeds", type=listed_seeds, default=[1], help="of the models, such as 1 (the default)")
    for corpus in CORPORA:
        add(f"--{corpus.lower()}_folder", required=True, help=f"the folder of {corpus}")
    add("--output_folder", default="results/default_model", help="of the training")
    add("--figures", default=f"results/{TABLES}", help="output folder of across.py")
    add("--model_folder", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    options, passed = parser.parse_known_args(argv)
    root = Path(options.output_folder)
    corpora = ["--ravdess_folder", options.ravdess_folder, "--nemo_folder", options.nemo_folder]
    # As it would be given elsewhere: without the places of this machine.
    told = ["python", Path(__file__).name, "--ravdess_folder", RAVDESS, "--nemo_folder", NEMO]
    command = shlex.join([*told, "--seeds", ",".join(map(str, options.seeds)), *passed])
    runs = []
    try:
        _check_model_folder(options.model_folder)
        checked([*corpora, *passed])
        for seed in options.seeds:
            folder = root / f"seed_{seed}"
            given = protocol_argv([*corpora, *passed], PROTOCOL, seed, folder)
            if status := cross_validation.main(HERE / "train.py", given):
                return status
            runs.append(folder / "fold_1")
        make_folder(runs, root / "exported", options.model_folder, Path(options.figures), command)
    except (ExperimentError, ExportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.model_folder)
    return 0


def make_folder(
    runs: Sequence[Path], exported: Path, model_folder: Path, figures: Path, command: str
) -> None:
    """Write the model's folder, whole or not at all; ExportError if it would be too large."""
    export(runs, exported, overwrite=True)
    config = read_json(exported / CONFIG)
    weights = (exported / WEIGHTS).stat().st_size
    if weights > MOST_BYTES:
        raise ExportError(
            f"{exported / WEIGHTS} has {weights:,} bytes; a model in the package has at most "
            f"{MOST_BYTES:,}. Train a smaller one."
        )
    if across := calibrate_across(figures):
        config["calibration"] = dict.fromkeys(config["calibration"], across.scale)
    parameters = weights_size(exported / WEIGHTS).numbers
    card = default_card(config, parameters, runs, figures, across, command)
    with atomic_folder(model_folder) as folder:
        write_json(folder / CONFIG, config)
        for name in (WEIGHTS, CLASSIFIER):
            shutil.copyfile(exported / name, folder / name)
        write_text(folder / CARD, card)
        shutil.copyfile(HERE / "default_license.txt", folder / LICENSE)


def _check_model_folder(folder: Path) -> None:
    """Refuse to replace what is no such model; an empty folder is nothing."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    is_free = not folder.exists() or (folder.is_dir() and not names)
    if not is_free and not names >= {CONFIG, WEIGHTS, CARD, LICENSE}:
        raise ExportError(
            f"--model_folder {folder} exists and is no model made by this script, so it is not "
            "replaced. Name another folder."
        )


def default_card(
    config: Mapping[str, Any],
    parameters: int,
    runs: Sequence[Path],
    figures: Path,
    across: AcrossCorpora | None,
    command: str,
) -> str:
    """Write the card: what was trained on, the measured figures, limits and licence."""
    front_matter = ModelCardData(
        library_name="speechbrain",
        license="cc-by-nc-sa-4.0",
        language=["en", "pl"],
        tags=tags(config),
        datasets=["RAVDESS", "nEMO"],
        pipeline_tag="audio-classification",
    )
    members = members_of(config["model"])
    head = members[0]["heads"][0]
    prompts = build_prompts(config)
    classes = zip(prompts.words[head].items(), prompts.class_sentences(head), strict=True)
    rows = [[f"`{label}`", word, "; ".join(of)] for (label, word), of in classes]
    parts = encoder_names(config["model"]).items()
    return (
        (HERE / "default_card.md")
        .read_text(encoding="utf-8")
        .format(
            front_matter=front_matter.to_yaml(),
            encoders=", ".join(f"{name} ({part})" for part, name in parts),
            parameters=parameters,
            embedding_size=sum(one["embedding_size"] for one in members),
            sample_rate=config["sample_rate"],
            speeds=", ".join(map(str, heard_speeds(config["model"]))),
            classes="\n".join(markdown_table(["label", "word", "sentences"], rows)),
            training=_training_text(runs),
            command=command,
            figures=_figures_text(figures, runs[0]),
            answered=_answered_text(across),
            calibration=_calibration_text(across, len(_speakers(runs, "valid")), len(runs)),
        )
    )


def _training_text(runs: Sequence[Path]) -> str:
    """Say what was trained on, by the records of the runs."""
    settings = read_json(runs[0] / SETTINGS)
    counts = [read_json(run / "manifests" / RECORD)["counts"] for run in runs]
    trained = " and ".join(
        f"{of['train']['utterances']:,} recordings ({of['train']['seconds'] / 3600:.2f} h)"
        for of in counts
    )
    lossy = {
        name
        for run in runs
        for name, row in recorded_manifest(run, "train").items()
        if is_lossy(row)
    }
    several = f"{len(runs)} models of other seeds, whose cosines are averaged: "
    text = (
        f"{several * bool(runs[1:])}{trained} of both corpora, epochs: "
        f"{settings['number_of_epochs']}. {_held_out(settings['valid_speakers'])} were held out"
        f"{' for each model' * bool(runs[1:])}."
    )
    if lossy:
        text += f" {len(lossy):,} recordings were lossy copies (Ogg or MP3) of the published ones."
    return text


def _held_out(speakers: int | Sequence) -> str:
    if isinstance(speakers, int):
        return f"{speakers} speakers of each corpus"
    return f"The speakers {', '.join(map(str, speakers))}"


def _calibration_text(across: AcrossCorpora | None, held_out: int, members: int) -> str:
    """Say on what the temperature was fitted, and what that is worth."""
    if across is None:
        return f"They were calibrated on {held_out} speakers of these corpora only."
    found = "; ".join(
        f"{100 * of_other:.1f} % on {tested} ({100 * own:.1f} % with the temperature of held-out "
        "speakers of the training's corpus)"
        for tested, (own, of_other) in across.errors.items()
    )
    text = (
        "Their temperature was fitted across corpora, on what models of one corpus answered to the "
        "other, since it is other people's recordings that this model will hear. Fitted on one "
        "such transfer, it leaves in the other, among the classes that both corpora have, an "
        f"expected calibration error of {found}."
    )
    if across.within:
        own, of_others = across.within
        text += (
            " Of speech like the training data the model is therefore too unsure: models of both "
            "corpora, asked about unheard speakers of both, have an error of "
            f"{100 * of_others:.1f} % with it ({100 * own:.1f} % with their own)."
        )
    if members > 1:
        text += (
            " Temperature and errors are those of single models; of the mean of "
            f"{members} models, which this is, they were not measured."
        )
    return text


def _answered_text(across: AcrossCorpora | None) -> str:
    """Lay out how much is answered, and how much of that rightly, by probability."""
    if across is None:
        return "Not measured."
    rows = [
        [
            f"{threshold:g}",
            *(
                f"{100 * share:.1f}" + ("" if right is None else f" ({100 * right:.1f} right)")
                for share, right in (of[i] for of in across.answered.values())
            ),
        ]
        for i, threshold in enumerate(THRESHOLDS)
    ]
    return "\n".join(markdown_table(["P", *across.answered], rows))


def _speakers(runs: Sequence[Path], split: str) -> set[str]:
    """Name the speakers of a split, of all runs."""
    return {row["spk_id"] for run in runs for row in recorded_manifest(run, split).values()}


def _figures_text(folder: Path, run: Path) -> str:
    """Lay out the figures of ``across.csv``, or say that there are none."""
    path = folder / f"{TABLES}.csv"
    if not path.is_file():
        return "Not measured."
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["measure"] in FIGURES]
    if not any(row["mean_percent"] for row in rows):
        return "Not measured."
    heading = ["trained on", "tested on", "classes", "figure", "%", "95 % interval", "chance"]
    cells = [
        [
            row["trained_on"],
            row["tested_on"],
            row["classes"],
            row["measure"].upper(),
            _spread(row),
            f"{row['low_percent']} to {row['high_percent']}" if row["low_percent"] else "–",
            row["chance_percent"],
        ]
        for row in rows
        if row["mean_percent"]
    ]
    lines = markdown_table(heading, cells)
    lines += [
        "",
        f"Number of seeds: {rows[0]['seeds']}. Mean ± standard deviation over seeds, if there are "
        "several; interval over speakers. UAR is the mean of the per-class recalls, WAR the "
        "accuracy; chance for WAR is the share of the most frequent class. The tables of the "
        "recipe's `across.py` have each class.",
    ]
    if not any(row["trained_on"] == "both" and row["mean_percent"] for row in rows):
        lines += ["", "Models that were trained on both corpora were not measured."]
    if differing := _differing(folder, run):
        lines += ["", f"They were measured with other settings than this model's: {differing}."]
    return "\n".join(lines)


def _spread(row: Mapping[str, str]) -> str:
    return " ± ".join(filter(None, (row["mean_percent"], row["std_percent"])))


def _differing(figures: Path, run: Path) -> str:
    """Say in which settings the measured runs differ from the one that was exported."""
    own, found = read_json(run / SETTINGS), {}
    # The transfers give the temperature.
    for path in sorted([*figures.glob(f"transfer/{_RUNS}"), *figures.glob(f"both/{_RUNS}")]):
        measured = read_json(path)
        for key in (own.keys() | measured.keys()) - _OF_THE_PROTOCOL - _PLACES:
            if own.get(key) != measured.get(key):
                found[key] = f"{key} {measured.get(key)!r} (here {own.get(key)!r})"
    return "; ".join(found[key] for key in sorted(found))


if __name__ == "__main__":
    sys.exit(main())
