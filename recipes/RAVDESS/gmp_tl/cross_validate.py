#!/usr/bin/env python3
"""Train and test all folds of an experiment, one process each, and sum them up.

python cross_validate.py hparams/FILE.yaml --data_folder FOLDER [--key value ...]
"""

import sys
from pathlib import Path

from gemoclap_sb.training.cross_validation import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("train.py")))
