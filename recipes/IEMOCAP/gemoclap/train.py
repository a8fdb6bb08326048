#!/usr/bin/env python3
"""Train and test one fold of an IEMOCAP experiment.

    python train.py hparams/sl_wavlm.yaml --data_folder /path/to/IEMOCAP_full_release

Any corpus with a manifest trains too: ``--manifest corpus.csv --fold_column spk_id``.
"""

import sys

from iemocap_prepare import prepare_iemocap

from gemoclap_sb.training.experiment import main

if __name__ == "__main__":
    sys.exit(main(prepare_iemocap))
