#!/usr/bin/env python3
"""Table 1 of the paper: every objective with every encoder, all folds, several seeds.

    python table1.py --data_folder IEMOCAP_full_release [--seeds 1,2,3] [--key value ...]

Ours beside the figures of Pan et al., arXiv 2306.07848, Table 1. Of each pair the first
number is WAR (accuracy), the second UAR (mean of the per-class recalls), as the table's
columns have them; the paper's abstracts exchange the two names.
"""

import sys
from pathlib import Path

from gemoclap_sb.evaluation.comparison import Published
from gemoclap_sb.training.grid import Table, main

PAPER = Published(
    "Table 1 of Pan et al., arXiv 2306.07848",
    {
        ("emo", "wavlm"): (79.28, 81.12),
        ("emo", "hubert"): (79.57, 80.64),
        ("emo", "wav2vec2"): (77.91, 80.78),
        ("emo", "data2vec"): (75.86, 77.71),
        ("ml", "wavlm"): (80.94, 82.30),
        ("ml", "hubert"): (80.94, 82.30),
        ("ml", "wav2vec2"): (79.96, 82.94),
        ("ml", "data2vec"): (77.52, 80.19),
        ("sl", "wavlm"): (81.43, 83.16),
        ("sl", "hubert"): (80.94, 82.15),
        ("sl", "wav2vec2"): (80.25, 81.80),
        ("sl", "data2vec"): (77.03, 79.72),
    },
)
TABLE = Table(
    name="table1",
    title="Emo-CLAP, ML-GEmo-CLAP and SL-GEmo-CLAP on IEMOCAP",
    objectives=("emo", "ml", "sl"),
    encoders=("wavlm", "hubert", "wav2vec2", "data2vec"),
    names={
        "emo": "Emo-CLAP",
        "ml": "ML-GEmo-CLAP",
        "sl": "SL-GEmo-CLAP",
        "wavlm": "WavLM",
        "hubert": "HuBERT",
        "wav2vec2": "wav2vec 2.0",
    },
    published=PAPER,
)

if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("train.py"), TABLE))
