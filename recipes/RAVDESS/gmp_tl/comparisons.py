#!/usr/bin/env python3
"""GMP-TL and its parts on RAVDESS, against cross-entropy and SL-GEmo-CLAP: all folds.

    python comparisons.py --data_folder RAVDESS [--only system_gmp_tl] [--key value ...]

Each row has the same number of updates, those of the stages together: what is left out of one is
given to another. The rows after GMP-TL begin with those of its stages that they share, of the same
seed and fold, so that these are trained once.
"""

import sys
from pathlib import Path

from gemoclap_sb.training.comparisons import Comparisons, Group, Row, main

# Epochs of the stages.
WARM_UP, STAGE_ONE, STAGE_TWO = 2, 3, 5
ALL = WARM_UP + STAGE_ONE + STAGE_TWO

GMP_TL = "ravdess_gmp_tl"
CROSS_ENTROPY, SL = (
    f"../../gemoclap/hparams/{name}" for name in ("ravdess_cross_entropy", "ravdess_scratch")
)
EPOCHS = {
    "warm_up_epochs": WARM_UP,
    "stage_one_epochs": STAGE_ONE,
    "number_of_epochs": STAGE_TWO,
}
# Of the row GMP-TL, seen from the folder of a fold of another row.
WHOLE = "!ref <output_folder>/../../../system_gmp_tl/seed_<seed>/fold_<fold>"
FROM_WARM_UP = {**EPOCHS, "warm_up_folder": f"{WHOLE}/warm_up"}
FROM_STAGE_ONE = {
    **FROM_WARM_UP,
    "labels_folder": f"{WHOLE}/pseudo_labels",
    "stage_one_folder": f"{WHOLE}/stage_one",
}

ROWS = [
    Row("cross-entropy", CROSS_ENTROPY, {"number_of_epochs": ALL}),
    Row("GMP-TL", GMP_TL, EPOCHS),
    Row("one scale", GMP_TL, {**FROM_WARM_UP, "clusters": [32]}),
    Row("no gender in the labels", GMP_TL, {**FROM_WARM_UP, "label_attributes": []}),
    Row("no AM-Softmax", GMP_TL, {**FROM_STAGE_ONE, "scale": None}),
    Row(
        "no stage one",
        GMP_TL,
        {**FROM_WARM_UP, "stage_one_epochs": 0, "number_of_epochs": STAGE_ONE + STAGE_TWO},
    ),
    Row("SL-GEmo-CLAP", SL, {"number_of_epochs": ALL}),
    Row(
        "SL-GEmo-CLAP from stage one",
        SL,
        {"number_of_epochs": STAGE_TWO, "audio_source": WHOLE},
    ),
]
SEEDS = (1, 2, 3)

COMPARISONS = Comparisons(
    name="gmp_tl",
    title="GMP-TL and its parts on RAVDESS",
    groups=[
        Group("system", SEEDS, ROWS),
        # The same runs, against GMP-TL and SL-GEmo-CLAP in place of cross-entropy.
        Group("parts", SEEDS, [row for row in ROWS if row.yaml == GMP_TL]),
        Group("start", SEEDS, ROWS[-2:]),
    ],
)

if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("train.py"), COMPARISONS))
