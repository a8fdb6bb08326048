#!/usr/bin/env python3
"""Pretrain an audio encoder over the clusters of each speaker, without labels of emotion.

python train.py hparams/clusters_scratch.yaml --clusters_folder CLUSTERS [--key value ...]
"""

import sys

from gemoclap_sb.training.cluster_pretraining import main

if __name__ == "__main__":
    sys.exit(main())
