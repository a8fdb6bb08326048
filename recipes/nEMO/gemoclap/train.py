#!/usr/bin/env python3
"""Train and test one fold of a nEMO experiment.

python train.py hparams/nemo_scratch.yaml --data_folder /path/to/nEMO
"""

import sys

from nemo_prepare import prepare_nemo

from gemoclap_sb.training.experiment import main

if __name__ == "__main__":
    sys.exit(main(prepare_nemo))
