#!/usr/bin/env python3
"""What pretraining over clusters is worth on RAVDESS, with few labels and with all of them.

    python learning_curves.py --data_folder RAVDESS --nemo_folder nEMO [--key value ...]

What the rows begin from is made first: pretraining over the clusters of nEMO and of the training
actors of each fold, both without their emotions, and supervised training on nEMO's emotions. Then
all folds of all rows are fine-tuned as SL-GEmo-CLAP; a share has the same utterances in all rows of
a seed.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from whole_manifest import write_manifest

from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.data.corpora.ravdess import prepare_ravdess
from gemoclap_sb.data.preparation import SPLITS
from gemoclap_sb.data.speaker_folds import prepare_speakers
from gemoclap_sb.evaluation.learning_curves import draw_learning_curves
from gemoclap_sb.export import export_encoder
from gemoclap_sb.lobes.run_encoders import ENCODER
from gemoclap_sb.training import comparisons
from gemoclap_sb.training.comparisons import Comparisons, Group, Row
from gemoclap_sb.training.fold_processes import Fold, run_folds
from gemoclap_sb.training.runs import listed_seeds, overrides, without
from gemoclap_sb.training.settings import read_settings

HERE = Path(__file__).resolve().parent
RAVDESS, NEMO = (HERE.parents[1] / corpus / "gemoclap" for corpus in ("RAVDESS", "nEMO"))
YAML, RESULTS = "ravdess_scratch", "results/learning_curves"
SEEDS, FOLDS = (1, 2, 3), (1, 2, 3, 4, 5)
# Epochs of fine-tuning: fewer utterances are heard more often, and still fewer times in all.
SHARES = {"10 %": (0.1, 24), "25 %": (0.25, 16), "100 %": (1.0, 8)}
# Of the classifier of speakers, and of what follows it; about as many clusters as emotions.
SPEAKER_EPOCHS = {"nemo": 3, "ravdess": 6}
EPOCHS = 10
CLUSTERS = 6

# Seen from the folder of a fold of a row.
EMOTIONS = "nemo_emotions"
START = "!ref <output_folder>/../../../starts"
ROWS = {
    "from nothing": {},
    "clusters of nEMO": {"audio_source": f"{START}/nemo_clusters/seed_<seed>"},
    "clusters of the training actors": {
        "audio_source": f"{START}/ravdess_clusters/seed_<seed>/fold_<fold>"
    },
    "emotions of nEMO": {"audio_source": f"{START}/{EMOTIONS}/seed_<seed>"},
}
COMPARISONS = Comparisons(
    name="learning_curves",
    title="Fine-tuning on RAVDESS after pretraining",
    groups=[
        Group(
            title,
            SEEDS,
            [
                Row(label, YAML, {"train_share": share, "number_of_epochs": epochs, **start})
                for label, start in ROWS.items()
            ],
        )
        for title, (share, epochs) in SHARES.items()
    ],
    draw=draw_learning_curves,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Make what is missing of the starts and of the rows, then table and picture; the status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--nemo_folder", help="the corpus nEMO; not needed with --tables_only")
    parser.add_argument("--data_folder", default="")
    parser.add_argument("--output_folder", default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=listed_seeds, default=SEEDS)
    parser.add_argument("--only")
    for flag in ("--tables_only", "--list"):
        parser.add_argument(flag, action="store_true")
    options, passed = parser.parse_known_args(argv)
    rest = without(argv, {"nemo_folder"})
    if not (options.tables_only or options.list):
        if not (options.nemo_folder and options.data_folder):
            parser.error("expected --data_folder RAVDESS and --nemo_folder nEMO")
        # What is wrong with the rows' options is told before the hours of the starts.
        with redirect_stdout(StringIO()):
            status = comparisons.main(RAVDESS / "train.py", COMPARISONS, [*rest, "--list"])
        if status:
            return status
        try:
            missing = starts(options, passed)
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if failed := run_folds(missing, options.jobs, leave_encoder):
            print(f"{len(failed)} of the starts failed.", file=sys.stderr)
            return 1
    return comparisons.main(RAVDESS / "train.py", COMPARISONS, rest)


def leave_encoder(fold: Fold) -> None:
    """Leave the encoder of a supervised training for others, as a pretraining does by itself."""
    if fold.run.startswith(EMOTIONS):
        export_encoder(fold.folder, fold.folder / ENCODER)


def starts(options: Namespace, passed: Sequence[str]) -> list[Fold]:
    """Give what is missing of the pretrainings, one process each."""
    folder = Path(options.output_folder) / "starts"
    manifests = folder / "manifests"
    given = set(overrides(passed))
    known = {
        name: set(read_settings(path))
        for name, path in (
            ("clusters", HERE / "hparams/clusters_scratch.yaml"),
            ("speakers", HERE / "hparams/speakers_scratch.yaml"),
            ("nemo", NEMO / "hparams/nemo_scratch.yaml"),
        )
    }

    def passing(*names: str) -> list[str]:
        return without(passed, given - set().union(*(known[name] for name in names)))

    def clusters(corpus: str, csv: Path, root: str, seed: int, out: Path) -> tuple[Path, list[str]]:
        own = ["--data_folder", root, "--seed", str(seed), "--clusters", str(CLUSTERS)]
        own += ["--speaker_epochs", str(SPEAKER_EPOCHS[corpus]), "--number_of_epochs", str(EPOCHS)]
        script = str(HERE / "pretrain.py")
        return out, [script, str(csv), str(out), *own, *passing("clusters", "speakers")]

    def emotions(csv: Path, root: str, seed: int, out: Path) -> tuple[Path, list[str]]:
        # Split within each speaker, so that all nine are learnt from, by four fifths of each.
        of = manifests / f"nemo_seed_{seed}"
        found = prepare_speakers(root, of, 1, manifest=csv, seed=seed)
        own = [part for split in SPLITS for part in (f"--{split}_csv", found[f"{split}_csv"])]
        own += ["--data_folder", root, "--seed", str(seed), "--output_folder", str(out)]
        # As RAVDESS's experiment has it: the encoders must be alike.
        own += ["--number_of_epochs", str(EPOCHS), "--center_utterances", "False"]
        yaml = str(NEMO / "hparams/nemo_scratch.yaml")
        return out, [str(NEMO / "train.py"), yaml, *passing("nemo"), *own]

    commands = []
    csv = manifests / "nemo.csv"
    if not csv.is_file():
        write_manifest("nemo", options.nemo_folder, csv)
    for seed in options.seeds:
        out = folder / "nemo_clusters" / f"seed_{seed}"
        commands.append(clusters("nemo", csv, options.nemo_folder, seed, out))
        out = folder / EMOTIONS / f"seed_{seed}"
        commands.append(emotions(csv, options.nemo_folder, seed, out))
        for fold in FOLDS:
            of = manifests / f"ravdess_seed_{seed}_fold_{fold}"
            found = prepare_ravdess(options.data_folder, of, fold, validation="speaker", seed=seed)
            out = folder / "ravdess_clusters" / f"seed_{seed}" / f"fold_{fold}"
            commands.append(
                clusters("ravdess", Path(found["train_csv"]), options.data_folder, seed, out)
            )
    missing = [one for one in commands if not (one[0] / ENCODER / "config.json").is_file()]
    return [
        Fold(number, len(missing), out, (sys.executable, *command), str(out.relative_to(folder)))
        for number, (out, command) in enumerate(missing, start=1)
    ]


if __name__ == "__main__":
    sys.exit(main())
