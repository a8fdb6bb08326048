#!/usr/bin/env python3
"""Train and test one fold of GMP-TL on IEMOCAP: all stages that are missing, or one.

python train.py hparams/gmp_tl_hubert.yaml --data_folder IEMOCAP_full_release [--stage warm_up]
"""

import sys

from gemoclap_sb.data.corpora.iemocap import prepare_iemocap
from gemoclap_sb.training.gmp_tl import main

if __name__ == "__main__":
    sys.exit(main(prepare_iemocap))
