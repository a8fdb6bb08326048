#!/usr/bin/env python3
r"""Train and test all folds of a protocol, one process each, and sum them up.

python cross_validate.py hparams/FILE.yaml --ravdess_folder FOLDER --nemo_folder FOLDER \
    [--protocol transfer] [--key value ...]
"""

import sys
from pathlib import Path

from across_prepare import with_number_of_folds

from gemoclap_sb.training.cross_validation import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("train.py"), with_number_of_folds(sys.argv[1:])))
