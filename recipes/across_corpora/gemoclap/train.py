#!/usr/bin/env python3
"""Train and test one fold of an experiment on RAVDESS and nEMO.

python train.py hparams/across_scratch.yaml --ravdess_folder FOLDER --nemo_folder FOLDER
"""

import sys

from across_prepare import prepare_across, with_number_of_folds

from gemoclap_sb.training.experiment import main

if __name__ == "__main__":
    sys.exit(main(prepare_across, with_number_of_folds(sys.argv[1:])))
