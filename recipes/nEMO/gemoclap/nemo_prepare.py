#!/usr/bin/env python3
"""Manifests of nEMO; `gemoclap_sb.data.corpora.nemo` makes them.

python nemo_prepare.py /corpora/nEMO results/fold1 --fold 1
"""

from gemoclap_sb.data.corpora.nemo import FOLDS, VALIDATIONS, main, prepare_nemo

__all__ = ["FOLDS", "VALIDATIONS", "prepare_nemo"]

if __name__ == "__main__":
    main()
