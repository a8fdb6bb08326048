#!/usr/bin/env python3
"""Train and test one fold of a RAVDESS experiment.

python train.py hparams/ravdess_scratch.yaml --data_folder /path/to/RAVDESS
"""

import sys

from ravdess_prepare import prepare_ravdess

from gemoclap_sb.training.experiment import main

if __name__ == "__main__":
    sys.exit(main(prepare_ravdess))
