#!/usr/bin/env python3
"""Train and test one fold of GMP-TL on RAVDESS: all stages that are missing, or one.

python train.py hparams/ravdess_gmp_tl.yaml --data_folder /path/to/RAVDESS [--stage warm_up]
"""

import sys

from gemoclap_sb.data.corpora.ravdess import prepare_ravdess
from gemoclap_sb.training.gmp_tl import main

if __name__ == "__main__":
    sys.exit(main(prepare_ravdess))
