#!/usr/bin/env python3
"""Manifests of the RAVDESS speech files; `gemoclap_sb.data.corpora.ravdess` makes them.

python ravdess_prepare.py /corpora/RAVDESS results/fold1 --fold 1
"""

from gemoclap_sb.data.corpora.ravdess import FOLDS, VALIDATIONS, main, prepare_ravdess

__all__ = ["FOLDS", "VALIDATIONS", "prepare_ravdess"]

if __name__ == "__main__":
    main()
