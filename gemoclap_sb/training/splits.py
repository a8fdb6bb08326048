"""The rows and datasets that an experiment trains, validates and tests on, checked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from speechbrain.dataio.dataset import DynamicItemDataset

from gemoclap_sb.data.contents import (
    check_overlaps,
    left_out_rows,
    rows_digest,
    same_rows,
    unlearnt_classes,
)
from gemoclap_sb.data.datasets import AudioCache, build_dataset
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.preparation import SPLITS
from gemoclap_sb.data.splits import share_of_each_class
from gemoclap_sb.files import kept_on_error
from gemoclap_sb.training.audio_source import source_notes
from gemoclap_sb.training.gemoclap_brain import needed_labels
from gemoclap_sb.training.opening import Run
from gemoclap_sb.training.processes import on_main
from gemoclap_sb.training.run_folder import MANIFESTS, bind_data
from gemoclap_sb.training.split_manifests import Prepare, find_manifests, read_splits

# Ways to validate by which it is meant that validation and test are the same.
TESTED_TOO = ("test", "development", "untested")


@dataclass(frozen=True)
class Splits:
    """Rows and datasets by split; how validation was chosen, and what a report must say.

    ``left_out`` has the IDs of rows whose audio cannot be used, ``contents`` the digests of rows.
    """

    rows: dict[str, dict[str, dict]]
    datasets: dict[str, DynamicItemDataset]
    validation: str | None
    notes: list[str]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_splits(run: Run, prepare: Prepare | None = None, labels: Sequence[str] = ()) -> Splits:
    """Find or prepare the manifests, check them, and make the datasets and label encoders.

    ``labels`` are wanted beside those that the model, the objective and the prompts read.
    """
    hparams = run.hparams
    columns = needed_labels(hparams["modules"]["clap"], hparams["objective"], hparams["prompts"])
    columns = list(dict.fromkeys([*columns, *labels]))
    # By one process: the others would read the header of every recording again.
    found, paths = on_main(_find_splits, run, prepare, columns)
    rows = found["rows"]
    hparams["label_encoders"] = label_encoders(columns, hparams["prompts"].words, rows.values())
    limit = hparams.get("cache_gib")
    cache = AudioCache(limit) if limit else None
    datasets = {
        split: build_dataset(
            rows[split], hparams["label_encoders"], manifest=paths[split], cache=cache
        )
        for split in SPLITS
    }
    return Splits(datasets=datasets, **found)


def _find_splits(
    run: Run, prepare: Prepare | None, columns: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Give what `Splits` has beside datasets, checked, and the manifests' paths."""
    hparams = run.hparams
    with kept_on_error(run.folder / MANIFESTS):
        manifests = find_manifests(hparams, prepare, columns)
        rows = read_splits(manifests, hparams, columns)
        paths = {split: str(manifests[f"{split}_csv"]) for split in SPLITS}
        # Of all rows: those that the share leaves out can be used.
        left_out = left_out_rows(paths, rows, manifests.get("left_out", {}))
        share, whole = hparams.get("train_share", 1.0), len(rows["train"])
        if share < 1:
            target = hparams["modules"]["clap"].heads[0]
            rows["train"] = share_of_each_class(rows["train"], share, target, hparams["seed"])
        contents = {
            split: {"rows": len(of), "sha256": rows_digest(of, manifests["data_root"])}
            for split, of in rows.items()
        }
        bind_data(run.folder, run.settings, contents)
    validation, notes = manifests["validation"], list(manifests["notes"])
    if validation not in TESTED_TOO and same_rows(rows["valid"], rows["test"]):
        validation = "test"
    notes += check_overlaps(rows, paths, validation, notes)
    notes += source_notes(hparams, rows)
    if share < 1:
        notes.append(f"Learnt from {len(rows['train'])} of {whole} training utterances.")
    if manifests["validation"] is None:
        # Of manifests that were prepared, the preparation says so.
        notes += unlearnt_classes(rows, hparams["modules"]["clap"].heads[0])
    notes += [
        f"Left out of {split}, their audio being unusable: {len(ids)}, first {ids[0]}."
        for split, ids in left_out.items()
    ]
    return {
        "rows": rows,
        "validation": validation,
        "notes": notes,
        "left_out": left_out,
        "contents": contents,
    }, paths
