"""What a run's folder holds beside checkpoints, and whether it may be gone on with.

settings.json    the resolved settings, processes, precision, and digests of the data; a resumed
                 run must have the same
config.json      the model without its weights, for export; tokenizer/ beside it
manifests/       train.csv, valid.csv, test.csv
save/            checkpoints: the best, the newest, and the one before it
warm_up/  pseudo_labels/  stage_one/  what GMP-TL does first, each with a record written last
predictions.csv  confusion.png  training.png
metrics.json     the result, written last: a folder that has it is finished
run.json         seconds, versions and machine; not part of the result
.lock            held by the process that is at work in the folder
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from speechbrain.utils.run_opts import RunOptions

from gemoclap_sb.data.contents import rows_digest
from gemoclap_sb.data.manifests import read_cells
from gemoclap_sb.data.preparation import RECORD, SPLITS
from gemoclap_sb.data.speaker_clusters import ClustersError, utterances_of
from gemoclap_sb.files import file_digest, read_json, write_json
from gemoclap_sb.training.differing import roots, spelled_out
from gemoclap_sb.training.settings import ExperimentError, is_object

SETTINGS, METRICS, RUN = "settings.json", "metrics.json", "run.json"
MANIFESTS = "manifests"
# Trainings before the one whose result the run is, in folders of their own.
EARLIER_STAGES = ("warm_up", "stage_one")
STAGE_RECORD = "stage.json"

# Keys that say where and how fast, not what: they are not recorded.
UNRECORDED = frozenset(
    {"output_folder", "run_folder", "num_workers", "cache_gib", "pretrained_folder", "make_corpus"}
    | {"valid_batch_size"}
    # Objects whose arguments stand at top level too, or hold paths.
    | {"epoch_counter", "train_logger", "checkpointer", "model", "clap", "modules"}
    | {"audio_encoder"}
    # Stands in the prompts.
    | {"emotion_templates"}
    # What of a run is done now.
    | {"stage"}
)

# Options of SpeechBrain's that change what is learnt, beside the precision.
_LEARNING = (
    "data_parallel_backend", "eval_precision", "grad_accumulation_factor", "max_grad_norm",
    "nonfinite_patience", "optimizer_step_limit", "remove_vector_weight_decay",
    "skip_nonfinite_grads",
)  # fmt: skip
_ITS_ROWS = "SHA-256 of its rows"
_OPTIONS = frozenset({"processes", "precision", *_LEARNING})


def learning_options(run_opts: RunOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give the precision, and what SpeechBrain's other options change of what is learnt."""

    def chosen(name: str) -> Any:
        of_yaml = settings.get(name, run_opts[name])
        return run_opts[name] if name in run_opts.overridden_args else of_yaml

    default = RunOptions()
    half = "bf16" if chosen("bfloat16_mix_prec") else "fp16" if chosen("auto_mix_prec") else None
    others = {name: of for name in _LEARNING if (of := chosen(name)) != default[name]}
    return {"precision": half or chosen("precision"), **others}


def check_settings(
    folder: str | os.PathLike,
    settings: dict,
    options: Mapping[str, Any] | None = None,
    resolve: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Refuse to go on with a run that was begun with other settings.

    Writes ``settings.json`` where nothing has been trained yet. More epochs may be asked of
    an unfinished run, unless its learning rate follows a schedule over them. Where a class
    of the package, or the corpus, lies does not matter (`bind_data` sees to what is in it), nor
    does a key that is null. ``options`` are those of `learning_options`, and ``processes``, without
    which their number is not compared. ``resolve`` gives the settings that follow from further
    overrides; with it, a key that differs because another does is not told. Returns what is
    recorded; ExperimentError names the keys that differ.
    """
    path = Path(folder) / SETTINGS
    kept = _recordable(settings, options)
    if not _is_begun(folder):
        write_json(path, kept)
        return kept
    if not path.exists():
        raise ExperimentError(
            f"{folder} holds a run, but not the {SETTINGS} that says what it was begun with: put "
            f"it back from a copy, or delete {folder}."
        )
    recorded = read_record(path)
    now = dict(kept)
    manifest = settings.get("manifest")
    if manifest and not str(recorded.get("manifest")).startswith(_ITS_ROWS):
        # As it was recorded then.
        now["manifest"] = f"{Path(manifest).name}, SHA-256 {file_digest(manifest)[:12]}"
    uncompared = {"data"}
    if options is None or "processes" not in recorded:
        uncompared |= _OPTIONS
    elif "processes" not in options:
        uncompared |= {"processes"}
    if not is_finished(folder) and "lr_schedule" not in kept:
        uncompared |= {"number_of_epochs"}
    by_content = "data" in recorded
    before = _comparable(_with_real_folders(recorded), by_content)
    now = _comparable(now, by_content)
    differing = {
        key for key in (before.keys() | now.keys()) - uncompared if before.get(key) != now.get(key)
    }
    if differing and resolve:

        def as_if(given: Mapping[str, Any]) -> dict[str, object]:
            if any(map(is_object, given.values())):
                # Merged into that of the YAML, it would be neither.
                return {}
            try:
                return _comparable(_recordable(resolve(given), options), by_content)
            except ExperimentError:
                return {}

        differing = roots(differing, before, as_if)
    if differing:
        told = [spelled_out(key, before.get(key), now.get(key)) for key in sorted(differing)]
        raise ExperimentError(
            f"{folder} holds a run begun with other settings: {'; '.join(told)}. "
            "Give another --output_folder, the same settings, or delete the folder."
        )
    return kept


def bind_data(
    folder: str | os.PathLike, settings: Mapping[str, Any], data: Mapping[str, Mapping]
) -> None:
    """Refuse to go on with a run that was begun on other data, and record where they are now.

    ``settings`` is what `check_settings` returned; ``data`` has the number of ``rows`` and their
    ``sha256`` by split. ExperimentError says which splits differ.
    """
    path = Path(folder) / SETTINGS
    recorded = read_record(path)
    before = recorded.get("data") if _is_begun(folder) else data
    if before is None and is_finished(folder):
        # Finished before data were recorded: nobody knows whether they are these.
        return
    if before is not None and before != data:
        raise ExperimentError(
            f"{folder} holds a run begun on other data: {_other_data(before, data)}. Give the data "
            "as they were, or another --output_folder for these."
        )
    write_json(path, {**settings, "data": data})


def _other_data(before: Mapping[str, Mapping], data: Mapping[str, Mapping]) -> str:
    """Say which splits differ, and how."""
    found = []
    for split in data:
        was, now = before[split], data[split]
        if was["rows"] != now["rows"]:
            found.append(f"{split} (had {was['rows']} rows, now {now['rows']})")
        elif was != now:
            found.append(f"{split} (the cells of its rows, or their order, are others)")
    return ", ".join(found)


def _recordable(settings: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give what is recorded of settings and options: what they say, not where it lies."""
    kept = _with_real_folders({k: of for k, of in settings.items() if k not in UNRECORDED})
    manifest = kept.get("manifest")
    if manifest:
        cells = {row["ID"]: row for row in read_cells(manifest, ("ID",))}
        kept["manifest"] = f"{_ITS_ROWS} {rows_digest(cells)[:12]}"
        # What that file says stands in the prompts.
        kept.pop("words", None)
    else:
        # A run begun before there were these keys goes on.
        kept = {key: of for key, of in kept.items() if key not in ("manifest", "fold_column")}
    if kept.get("train_share") == 1:
        # All of it, as before there was that key.
        del kept["train_share"]
    for stage in EARLIER_STAGES:
        if isinstance(section := kept.get(stage), dict):
            inner = {key: of for key, of in section.items() if key not in ("modules", "pretrainer")}
            kept[stage] = inner
    if kept.get("pretrainer"):
        kept["pretrainer"] = _sources(kept["pretrainer"], settings["output_folder"])
    # As JSON gives it back, so that equal settings compare equal.
    return json.loads(json.dumps(kept | dict(options or {})))


def _is_begun(folder: str | os.PathLike) -> bool:
    stages = [Path(folder) / stage for stage in EARLIER_STAGES]
    return (
        is_finished(folder)
        or any(any(of.glob("save/CKPT*")) for of in [Path(folder), *stages])
        or any((of / STAGE_RECORD).is_file() for of in stages)
    )


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run; ExperimentError if it is damaged."""
    try:
        return read_json(path)
    except ValueError as error:
        # Without its settings a run cannot be gone on with; all else is found again.
        gone = path.parent if path.name == SETTINGS else "it, and give the run's command again"
        raise ExperimentError(
            f"{path} is damaged ({error}): put it back from a copy, or delete {gone}."
        ) from error


def recorded_processes(folder: str | os.PathLike) -> int | None:
    """How many processes have trained a run, if it is begun and says so."""
    path = Path(folder) / SETTINGS
    return read_record(path).get("processes") if _is_begun(folder) and path.exists() else None


def is_finished(folder: str | os.PathLike) -> bool:
    """Whether a run's folder holds its result."""
    return (Path(folder) / METRICS).is_file()


def recorded_manifest(folder: str | os.PathLike, split: str = "test") -> dict[str, dict[str, str]]:
    """Read again, by ID, the rows that a run has used, without a look at their audio.

    Of a pretraining over clusters all that it may have drawn, under ``wav`` and ``spk_id``.
    ExperimentError if the manifest is gone.
    """
    recorded = Path(folder) / SETTINGS
    settings = read_json(recorded) if recorded.is_file() else {}
    if clusters := settings.get("clusters_folder"):
        try:
            return utterances_of(clusters)
        except ClustersError as error:
            raise ExperimentError(f"the run's clusters cannot be read: {error}") from error
    path = Path(settings.get(f"{split}_csv") or Path(folder) / "manifests" / f"{split}.csv")
    try:
        # As SpeechBrain reads it.
        rows = pd.read_csv(
            path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig"
        )
        root = settings.get("data_folder") or _prepared_root(path.with_name(RECORD))
        rows["wav"] = [wav.replace("$data_root", root) for wav in rows["wav"]]
        return rows.set_index("ID").to_dict("index")
    except (OSError, ValueError, KeyError) as error:
        raise ExperimentError(f"the run's manifest {path} cannot be read: {error}") from error


def _prepared_root(record: Path) -> str:
    """Find what a preparation put in place of ``$data_root``; where there was none, that."""
    arguments = read_json(record)["arguments"] if record.is_file() else {}
    return str(arguments.get("data_folder") or "$data_root")


def _sources(pretrainer: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Say what a pretrainer loads, without the description of what it loads into.

    What lies in the run's own folder moves with it.
    """
    [arguments] = pretrainer.values()

    def told(path: str) -> str:
        if Path(path).is_relative_to(folder):
            return Path(path).relative_to(folder).as_posix()
        return os.path.realpath(path) if os.path.exists(path) else path

    return {name: told(of) for name, of in (arguments.get("paths") or {}).items()}


def _with_real_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the folders of data, arguments of a preparation among them, in one way."""

    def spelled(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _with_real_folders(value)
        is_folder = str(key).endswith("_folder") and isinstance(value, str) and value
        return os.path.realpath(value) if is_folder else value

    return {key: spelled(key, value) for key, value in settings.items()}


def _comparable(settings: Mapping[str, object], by_content: bool) -> dict[str, object]:
    """Leave of settings what two runs must share; of data ``by_content`` not where they lie."""

    def without_paths(value: object) -> object:
        if isinstance(value, list):
            return [without_paths(item) for item in value]
        if isinstance(value, dict):
            return {
                _without_module(key): without_paths(item)
                for key, item in value.items()
                if not (by_content and str(key).endswith("_folder"))
            }
        return value

    kept = {key: of for key, of in settings.items() if key not in UNRECORDED and of is not None}
    if by_content:
        named = kept.keys() & {"speakers_csv", *(f"{split}_csv" for split in SPLITS)}
        kept |= {key: "given" if kept[key] else "" for key in named}
    return without_paths(kept)


def _without_module(key: str) -> str:
    """``!new:a.b.C`` becomes ``!new:C``: classes of this package may move."""
    tag, colon, name = key.partition(":gemoclap_sb.")
    return f"{tag}:{name.rpartition('.')[2]}" if colon else key
