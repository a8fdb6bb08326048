#!/usr/bin/env python3
"""Objectives and their settings on RAVDESS, one against the other: all folds, several seeds.

    python comparisons.py --data_folder RAVDESS [--only objective,target] [--key value ...]

Each row changes one thing of hparams/ravdess_scratch.yaml, or is another YAML with the same audio
encoder, data and training.
"""

import sys
from pathlib import Path

from gemoclap_sb.training.comparisons import Comparisons, Group, Row, main

SMALL = "ravdess_scratch"
WITH_GENDER = {
    "emotion_templates": ["a {gender} who sounds {}"],
    "prompts": {"words": {"gender": {"F": "woman", "M": "man"}}},
}
COMPARISONS = Comparisons(
    name="comparisons",
    title="Objectives and their settings on RAVDESS",
    groups=[
        Group(
            "objective",
            (1, 2, 3),
            [
                Row("cross-entropy", "ravdess_cross_entropy"),
                # SL-GEmo-CLAP without gender is Emo-CLAP.
                Row("Emo-CLAP", SMALL, {"alpha_e": 1.0, "cross_entropy_weight": 0.0}),
                Row("ML-GEmo-CLAP", "ravdess_ml", {"alpha_e": 0.9, "cross_entropy_weight": 0.0}),
                Row("SL-GEmo-CLAP", SMALL, {"alpha_e": 0.9, "cross_entropy_weight": 0.0}),
                Row("joint", SMALL, {"alpha_e": 0.9, "cross_entropy_weight": 0.5}),
            ],
        ),
        Group(
            "target",
            (1, 2),
            [
                Row("normalized", SMALL, {"target": "normalized", "logit_scale": 10.0}),
                Row("softmax", SMALL, {"target": "softmax", "logit_scale": 1.0}),
            ],
        ),
        Group(
            "similarity",
            (1, 2),
            [
                Row("both", SMALL, {"similarity": "both"}),
                Row("cross", SMALL, {"similarity": "cross"}),
            ],
        ),
        Group(
            "alpha_e",
            (1, 2),
            [Row(f"{alpha:.1f}", SMALL, {"alpha_e": alpha}) for alpha in (0.9, 0.5, 0.8, 1.0)],
        ),
        Group(
            "prompts",
            (1, 2),
            [Row("without gender", SMALL), Row("with gender", SMALL, WITH_GENDER)],
        ),
        Group(
            "temperature",
            (1, 2),
            [
                Row("learnt", SMALL, {"learn_logit_scale": True}),
                Row("fixed", SMALL, {"learn_logit_scale": False}),
            ],
        ),
        Group(
            "training",
            (1,),
            [
                Row("as it is", SMALL),
                Row("windows of 25 ms, 64 bands", SMALL, {"window_ms": 25, "n_mels": 64}),
                Row("silence kept", SMALL, {"trim_db": None}),
                Row("whole utterances", SMALL, {"crop_seconds": None}),
                Row("one speed", SMALL, {"speeds": [100]}),
                Row("tested at one speed", SMALL, {"tta_speeds": None}),
                Row("weight decay 0.01", SMALL, {"weight_decay": 0.01}),
                Row("mixup", SMALL, {"mixup": 0.2}),
                Row("utterances centred", SMALL, {"center_utterances": True}),
            ],
        ),
    ],
)

if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name("train.py"), COMPARISONS))
