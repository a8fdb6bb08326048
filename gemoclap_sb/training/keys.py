"""What each key of an experiment's YAML may be: one table, looked through before anything starts.

Keys that a YAML adds for itself are left alone, and so is what a class checks of several of its
arguments together.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gemoclap_sb.lobes.speeds import FASTEST, SLOWEST
from gemoclap_sb.lobes.ssl_options import ATTENTIONS
from gemoclap_sb.models.cluster_encoder import SPEAKER_TASKS
from gemoclap_sb.objectives.cluster_contrastive import FORMS, NEGATIVES
from gemoclap_sb.objectives.divergences import REDUCTIONS, SIMILARITIES
from gemoclap_sb.objectives.label_matrices import TARGETS
from gemoclap_sb.objectives.margin_softmax import KINDS
from gemoclap_sb.training.audio_source import is_argument
from gemoclap_sb.training.gemoclap_brain import SELECTING
from gemoclap_sb.training.run_folder import EARLIER_STAGES
from gemoclap_sb.training.settings import ExperimentError, is_object

STAGES = ("warm_up", "pseudo_labels", "stage_one", "stage_two")
"""Of GMP-TL, in their order."""
_LONGEST_SHOWN = 80
_INTEGER_SEEDS = 2**32


@dataclass(frozen=True)
class Kind:
    """What values a key takes, and in words what is expected."""

    expected: str
    takes: Callable[[Any], bool]


def whole(least: int, most: int | None = None) -> Kind:
    """Take whole numbers in a range, both ends included.

    >>> whole(1).takes(True), whole(1).takes(3), whole(1).expected
    (False, True, 'a whole number, 1 or more')
    """
    limits = f"{least} or more" if most is None else f"{least} to {most}"

    def takes(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and least <= value and (most is None or value <= most)

    return Kind(f"a whole number, {limits}", takes)


def number(
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Kind:
    """Take finite numbers in a range; ``above`` and ``below`` are not in it themselves.

    >>> number(0, below=1).expected
    'a number, 0 or more and below 1'
    """
    lower = f"{least:g} or more" if above is None else f"above {above:g}"
    upper = "" if most is None and below is None else f" and below {below}"
    upper = upper if most is None else f" and {most:g} at most"

    def takes(value: Any) -> bool:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < math.inf
            and (value >= least if above is None else value > above)
            and (most is None or value <= most)
            and (below is None or value < below)
        )

    return Kind(f"a number, {lower}{upper}", takes)


def choice(*values: str) -> Kind:
    """Take one of some words."""
    return Kind(
        f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values
    )


def several(kind: Kind, example: str, least: int = 1) -> Kind:
    """Take a list of a kind, such as the example."""

    def takes(value: Any) -> bool:
        return isinstance(value, list) and len(value) >= least and all(map(kind.takes, value))

    count = "" if least < 2 else f", {least} or more"
    return Kind(f"a list such as {example}{count} (each {kind.expected})", takes)


def either(*kinds: Kind) -> Kind:
    """Take any of some kinds."""
    return Kind(
        " or ".join(kind.expected for kind in kinds),
        lambda value: any(kind.takes(value) for kind in kinds),
    )


NULL = Kind("null", lambda value: value is None)
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
TEXT = Kind("text", lambda value: isinstance(value, str) and value != "")
PATH = Kind("text", lambda value: isinstance(value, str) or value is None)
# Null where an encoder begins from nothing.
SOURCE = Kind("null or text", lambda value: TEXT.takes(value) or value is None)
MAPPING = Kind("{name: value}", lambda value: isinstance(value, dict))
SHARE, SHARE_BELOW_ONE = number(0, 1), number(0, below=1)
WEIGHTS = Kind(
    f"{{name: weight}}, each weight {SHARE.expected}",
    lambda value: isinstance(value, dict) and all(map(SHARE.takes, value.values())),
)
PERCENT = whole(SLOWEST, FASTEST)
NAMES = several(TEXT, "[ang, sad]", least=2)
RATE = number(0)

KEYS: dict[str, Kind] = {
    "experiment": TEXT,
    "seed": whole(0, _INTEGER_SEEDS - 1),
    # Data
    **dict.fromkeys(("data_folder", "ravdess_folder", "nemo_folder"), PATH),
    **dict.fromkeys(("train_csv", "valid_csv", "test_csv", "manifest", "words"), PATH),
    "speakers_csv": PATH,
    "fold_column": TEXT,
    "protocol": TEXT,
    "fold": whole(1),
    "number_of_folds": whole(1),
    # Which there are is for the corpus's preparation to say.
    "validation": TEXT,
    "valid_speakers": either(whole(1), several(either(TEXT, whole(0)), "[anna, bob]")),
    "select_by": choice(*SELECTING),
    "skip_bad_audio": FLAG,
    "train_share": number(above=0, most=1),
    "merge_calm": FLAG,
    "classes": either(NULL, NAMES),
    "prepare_options": MAPPING,
    "run_folder": TEXT,
    "output_folder": TEXT,
    # Encoders
    "audio_source": SOURCE,
    **dict.fromkeys(("text_source", "pretrained_folder"), TEXT),
    **dict.fromkeys(("freeze_audio", "freeze_feature_extractor", "freeze_text"), FLAG),
    "layers": either(choice("last", "weighted"), whole(1)),
    "attention": choice(*ATTENTIONS),
    "adapter": either(NULL, choice("lora")),
    "apply_spec_augment": FLAG,
    "gradient_checkpointing": FLAG,
    "n_mels": whole(1, 256),
    "window_ms": number(1, 1000),
    "hop_ms": number(1, 1000),
    "center_utterances": FLAG,
    "channels": several(whole(1, 65536), "[16, 32]"),
    "strides": several(whole(1, 2), "[1, 2]"),
    **dict.fromkeys(("frame_size", "text_size", "embedding_size"), whole(1, 65536)),
    "trim_db": either(NULL, number(above=0, most=300)),
    "tta_speeds": either(NULL, several(PERCENT, "[88, 100, 112]")),
    **dict.fromkeys(("text_dropout", "projection_dropout", "dropout"), SHARE_BELOW_ONE),
    # Objective
    "alpha_e": SHARE,
    "weights": WEIGHTS,
    "heads": several(TEXT, "[emotion, gender]"),
    "similarity": choice(*SIMILARITIES),
    "intra_weight": RATE,
    "cross_entropy_weight": RATE,
    "reduction": choice(*REDUCTIONS),
    "target": choice(*TARGETS),
    "logit_scale": number(above=0, most=100),
    "learn_logit_scale": FLAG,
    "label_smoothing": SHARE,
    "num_classes": whole(2),
    "emotion_templates": several(TEXT, '["this person sounds {}"]'),
    # What training hears
    "crop_seconds": either(NULL, number(0.1, 3600)),
    "speeds": several(PERCENT, "[92, 100, 108]"),
    "mixup": number(0, 100),
    "wav_augment": Kind("null, or an object in the YAML", lambda value: value is None),
    **dict.fromkeys(("time_masks", "frequency_masks"), whole(0, 1000)),
    "time_mask_ms": number(above=0, most=60_000),
    "frequency_mask_bands": whole(1, 1024),
    "cache_gib": either(NULL, RATE),
    # Training
    # None only of a model that a pretrainer loads.
    "number_of_epochs": whole(0),
    **dict.fromkeys(("batch_size", "valid_batch_size", "pool_batches"), whole(1)),
    "micro_batch_size": either(NULL, whole(1)),
    **dict.fromkeys(("lr", "weight_decay"), number(0, 100)),
    **dict.fromkeys(("lr_audio", "lr_text"), either(NULL, number(0, 100))),
    "warmup": SHARE_BELOW_ONE,
    "num_workers": whole(0, 1024),
    "modules": MAPPING,
    # GMP-TL: its stages
    "stage": either(NULL, choice(*STAGES)),
    **dict.fromkeys(("warm_up_folder", "labels_folder", "stage_one_folder"), TEXT),
    **dict.fromkeys(EARLIER_STAGES, MAPPING),
    **dict.fromkeys(("warm_up_epochs", "stage_one_epochs"), whole(0)),
    **dict.fromkeys(("warm_up_lr", "stage_one_lr"), number(above=0, most=100)),
    "label_layers": several(whole(1), "[6, 9]"),
    "clusters": several(whole(2, 2**20), "[8, 64, 512]"),
    "label_attributes": several(TEXT, "[gender]", least=0),
    "kmeans_passes": whole(1),
    "block_seconds": number(above=0),
    "margin": number(0),
    "scale": either(NULL, number(above=0, most=1000)),
    "margin_kind": choice(*KINDS),
    # Clusters of speakers
    "clusters_folder": PATH,
    "valid_share": number(above=0, below=1),
    **dict.fromkeys(("speakers_per_batch", "clusters_per_speaker"), whole(1)),
    "utterances_per_cluster": whole(2),
    "batches_per_epoch": either(NULL, whole(1)),
    "contrast": choice(*FORMS),
    "negatives": choice(*NEGATIVES),
    "temperature": number(above=0, most=100),
    "speaker_task": either(NULL, choice(*filter(None, SPEAKER_TASKS))),
    "speaker_weight": RATE,
}
AS_TYPED = frozenset(key for key, kind in KEYS.items() if kind in (TEXT, PATH, SOURCE))
"""Keys of text: names and paths, which a command line may write as they are."""

# What an experiment cannot do without: what takes no plain value, and what does.
OBJECTS = (
    "objective", "prompts", "opt_class", "checkpointer", "epoch_counter", "train_logger", "history",
)  # fmt: skip
PLAIN = (
    "experiment", "seed", "fold", "skip_bad_audio", "output_folder", "batch_size",
    "valid_batch_size", "pool_batches", "num_workers",
)  # fmt: skip
# What it may leave out, or set to null.
OPTIONAL_OBJECTS = ("random_speed", "lr_schedule", "pretrainer")


def check_keys(
    settings: Mapping[str, Any],
    hparams_file: str,
    given: Mapping[str, Any] | None = None,
    references: Mapping[str, Collection[str]] = {},
) -> None:
    """Refuse settings that are not of their key's kind; ExperimentError names each, in one line.

    ``settings`` are `gemoclap_sb.training.settings.read_settings`'s, ``given`` those of them
    that the command line gave. What is wrong by one of its ``references`` is not told besides.
    """
    wrong = {}
    for key, value in settings.items():
        if is_object(value):
            continue
        kind = KEYS.get(key)
        if key in OPTIONAL_OBJECTS and value is None:
            continue
        if key in (*OBJECTS, *OPTIONAL_OBJECTS):
            kind = Kind("an object as in the YAML, or {argument: value} of it", lambda _: False)
        if key == "audio_source" and is_argument(references):
            kind = TEXT
        if kind is None:
            continue
        if not kind.takes(value):
            wrong[key] = f"{named(key, hparams_file, given)}: {refusal(kind.expected, value)}"
    if wrong:
        told = [of for key, of in wrong.items() if not wrong.keys() & set(references.get(key, ()))]
        # Two may refer to parts of each other.
        raise ExperimentError("; ".join(told or wrong.values()) + ".")


def named(key: str, hparams_file: str, given: Mapping[str, Any] | None) -> str:
    """Call a key as the user wrote it: an option, or a key of a file."""
    return f"--{key}" if key in (given or {}) else f"{hparams_file}: {key}"


def refusal(expected: str, value: Any) -> str:
    """Say what was expected and what was found, of which a long value is cut."""
    if value is None:
        found = "null"
    elif isinstance(value, datetime.date):
        found = f"the date {value}; in quotes it is text"
    else:
        found = repr(value)
    if len(found) > _LONGEST_SHOWN:
        found = f"{found[:_LONGEST_SHOWN]}..."
    if isinstance(value, int | float) and expected in (TEXT.expected, SOURCE.expected):
        found = f"the number {found}; in quotes it is text"
    return f"expected {expected}, found {found}"
