#!/usr/bin/env python3
"""All that is missing of one manifest: an encoder of speakers, embeddings, clusters, training.

    python pretrain.py corpus.csv results/corpus [--data_folder FOLDER] [--key value ...]

Without --speaker_encoder a classifier of the corpus's own speakers is trained first. Other options
are keys of the two YAMLs, and go to those that have them.
"""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from gemoclap_sb.cli.inputs import count
from gemoclap_sb.cli.parser import main as gemoclap
from gemoclap_sb.data.arguments import OneLineParser
from gemoclap_sb.training import cluster_pretraining, experiment
from gemoclap_sb.training.runs import check_keys, resolved, without
from gemoclap_sb.training.settings import ExperimentError, read_settings

HPARAMS = Path(__file__).with_name("hparams")
SPEAKERS = "speakers_scratch"
# What this itself says to the steps.
OWN_KEYS = {
    "speakers_csv": "the manifest",
    "clusters_folder": "the step that clusters",
    "output_folder": "the second argument",
}
# Of `gemoclap embed`, if it has left out recordings that it could not read.
SOME_FAILED = 1
AUTO_OR_NUMBER = "auto, or 2 and more"
# Each of the two trainings has its own.
EPOCHS = {"number_of_epochs"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; the exit status of the first that fails, or 0."""
    options, passed = _parser().parse_known_args(sys.argv[1:] if argv is None else argv)
    try:
        steps = plan(options, passed)
    except ExperimentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for step in steps:
        if status := step():
            return status
    return 0


def plan(options: Namespace, passed: Sequence[str]) -> list[Callable[[], int]]:
    """Give the steps in their order; ExperimentError if an option is a key of no YAML, or wrong."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ExperimentError(
            "pretrain.py is one process: give its steps one by one to torchrun, as README.md "
            "has them."
        )
    out = Path(options.out)
    device = ["--device", options.device] if options.device else []
    root = ["--data_folder", options.data_folder] if options.data_folder else []
    seed = ["--seed", str(options.seed)]
    speakers, clusters = (HPARAMS / f"{name}.yaml" for name in (SPEAKERS, options.yaml))
    trained = [path for path in (speakers, clusters) if path == clusters or not options.encoder]
    keys = {path.stem: set(read_settings(path)) for path in trained}
    given = set(check_keys(passed, keys, OWN_KEYS))

    def command(path: Path, *own: str) -> list[str]:
        return [str(path), *without(passed, given - keys[path.stem]), *device, *root, *seed, *own]

    # The last step's too, before the others take hours. The first tells of its own at once.
    resolved(clusters, command(clusters)[1:])

    def train_speakers() -> int:
        epochs = ["--number_of_epochs", str(options.speaker_epochs)]
        own = ["--speakers_csv", options.manifest, "--output_folder", str(out / "speakers")]
        return experiment.main(None, [*without(command(speakers, *own), EPOCHS), *epochs])

    def embed() -> int:
        model = options.encoder or str(out / "speakers")
        found = ["--data-root", options.data_folder] if options.data_folder else []
        to = ["--output", str(out / "embeddings"), *found, *device]
        status = gemoclap(["embed", options.manifest, "--model", model, *to])
        return 0 if status == SOME_FAILED else status

    def cluster() -> int:
        number = ["--clusters", options.clusters, *seed]
        to = ["--embeddings", str(out / "embeddings"), "--output", str(out / "clusters")]
        return gemoclap(["cluster", options.manifest, *to, *number])

    def pretrain() -> int:
        own = ["--clusters_folder", str(out / "clusters"), "--output_folder", str(out)]
        return cluster_pretraining.main(command(clusters, *own))

    return [*([] if options.encoder else [train_speakers]), embed, cluster, pretrain]


def _parser() -> ArgumentParser:
    # Abbreviations would take keys of the YAMLs for options.
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("manifest", help="a .csv file with the columns ID, wav and spk_id")
    add("out", help="folder of the run, from which others begin as their audio_source")
    add("--data_folder", default="", help="what $data_root in the manifest's wavs stands for")
    add("--yaml", default="clusters_scratch", help="of the pretraining (clusters_scratch)")
    help = "SpeechBrain's or this package's: a folder or a hub id; none: one is trained"
    add("--speaker_encoder", dest="encoder", metavar="NAME", help=help)
    add("--speaker_epochs", type=count, default=20, help="of the one that is trained (20)")
    help = "of each speaker: a number, or auto (by silhouette)"
    add("--clusters", type=_clusters, default="auto", help=help)
    add("--device", help="cpu, cuda:0, ... (a GPU where there is one)")
    add("--seed", type=int, default=1, help="of all steps (1)")
    return parser


def _clusters(text: str) -> str:
    if text == "auto" or count(text, AUTO_OR_NUMBER) > 1:
        return text
    raise ArgumentTypeError(f"expected {AUTO_OR_NUMBER}, found {text}")


if __name__ == "__main__":
    sys.exit(main())
