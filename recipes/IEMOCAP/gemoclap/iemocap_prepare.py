#!/usr/bin/env python3
"""Manifests of IEMOCAP's four-class task; `gemoclap_sb.data.corpora.iemocap` makes them.

python iemocap_prepare.py /corpora/IEMOCAP_full_release results/fold1 --fold 1
"""

from gemoclap_sb.data.corpora.iemocap import FOLDS, VALIDATIONS, main, prepare_iemocap

__all__ = ["FOLDS", "VALIDATIONS", "prepare_iemocap"]

if __name__ == "__main__":
    main()
