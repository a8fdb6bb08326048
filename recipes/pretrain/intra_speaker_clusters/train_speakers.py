#!/usr/bin/env python3
"""Train a classifier of a corpus's own speakers, for embeddings where no other encoder is at hand.

python train_speakers.py hparams/speakers_scratch.yaml --speakers_csv corpus.csv [--key value ...]
"""

import sys

from gemoclap_sb.training.experiment import main

if __name__ == "__main__":
    sys.exit(main())
