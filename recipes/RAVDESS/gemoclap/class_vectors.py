#!/usr/bin/env python3
"""What a text tower costs: the same training with a free vector for each class in its place.

    python class_vectors.py hparams/ravdess_scratch.yaml --data_folder RAVDESS [--key value ...]

Runs all folds, as cross_validate.py does. A comparison, no model to use: it knows only the
classes that it was trained on, and has no export.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ravdess_prepare import prepare_ravdess
from torch import Tensor, nn

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.models.gemoclap import GEmoCLAP
from gemoclap_sb.training import cross_validation, experiment
from gemoclap_sb.training.endings import exit_status
from gemoclap_sb.training.resources import told_resources
from gemoclap_sb.training.runs import without
from gemoclap_sb.training.settings import ExperimentError


class ClassVectors(nn.Module):
    """A free vector for each sentence of the classes: ``(N sentences) -> [N, size]``.

    KeyError for a sentence that no class has.
    """

    def __init__(self, sentences: Sequence[str], size: int) -> None:
        super().__init__()
        self.rows = {sentence: row for row, sentence in enumerate(sentences)}
        self.vectors = nn.Embedding(len(self.rows), size)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """Look up N sentences, ``[N, size]``."""
        return self.vectors.weight[[self.rows[sentence] for sentence in sentences]]


def replace_text_tower(clap: GEmoCLAP, prompts: Prompts) -> None:
    """Put free vectors in the common space in place of the text encoder and its projection."""
    classes = (sentences for head in clap.heads for sentences in prompts.class_sentences(head))
    every = dict.fromkeys(sentence for sentences in classes for sentence in sentences)
    clap.text_encoder = ClassVectors(list(every), clap.embedding_size)
    clap.text_projection = nn.Identity()


def train(argv: Sequence[str]) -> None:
    """Train and test one fold."""
    with closing(experiment.open_run(argv)) as run:
        train_run(run)


def train_run(run: experiment.Run) -> None:
    """Train and test an experiment that may begin."""
    clap = run.hparams["modules"]["clap"]
    if not isinstance(clap, GEmoCLAP):
        raise ExperimentError(
            f"{run.hparams_file}: expected a model with a text tower, found {type(clap).__name__}. "
            "Give ravdess_scratch.yaml or ravdess_ml.yaml."
        )
    replace_text_tower(clap, run.hparams["prompts"])
    with told_resources(run.hparams, run.folder):
        splits = experiment.load_splits(run, prepare_ravdess)
        brain = experiment.build_brain(run)
        experiment.write_result(run, splits, brain, *experiment.fit_and_test(brain, splits))


def main(argv: Sequence[str]) -> int:
    """Run all folds, each of which is this file with ``--fold``; the exit status."""
    # A name of its own, since all other settings are those of the experiment with the tower.
    argv = [*without(argv, {"experiment"}), "--experiment", "class_vectors"]
    if not any(argument.partition("=")[0] == "--fold" for argument in argv):
        return cross_validation.main(Path(__file__), argv)
    return exit_status(lambda: train(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
