"""Every experiment loads, builds and trains a step; the twelve of the paper are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml

from gemoclap_sb.data.datasets import build_dataset
from gemoclap_sb.data.labels import label_encoders
from gemoclap_sb.data.manifests import read_manifest
from gemoclap_sb.training.gemoclap_brain import GEmoCLAPBrain, needed_labels
from gemoclap_sb.training.settings import read_settings

HPARAMS = Path(__file__).resolve().parent.parent / "hparams"
# Their data are no three manifests: tests/training has them.
OF_SPEAKERS = {"clusters_scratch", "clusters_wavlm", "speakers_scratch"}
EXPERIMENTS = sorted({path.stem for path in HPARAMS.glob("*.yaml")} - OF_SPEAKERS)
PAPER = [
    f"{o}_{e}" for o in ("emo", "ml", "sl") for e in ("wavlm", "hubert", "wav2vec2", "data2vec")
]
HUB_IDS = {
    "wavlm": "microsoft/wavlm-large",
    "hubert": "facebook/hubert-large-ll60k",
    "wav2vec2": "facebook/wav2vec2-large-lv60",
    "data2vec": "facebook/data2vec-audio-large",
}


def test_all_experiments_are_here():
    assert set(PAPER) < set(EXPERIMENTS)
    assert {"demo", "ravdess_scratch", "nemo_scratch", "across_scratch"} < set(EXPERIMENTS)
    assert {"gmp_tl_hubert", "gmp_tl_scratch", "ravdess_gmp_tl"} < set(EXPERIMENTS)


@pytest.mark.parametrize("name", PAPER)
def test_paper_settings(name):
    objective, encoder = name.split("_")
    settings = read_settings(HPARAMS / f"{name}.yaml")
    assert settings["experiment"] == name
    assert settings["audio_source"] == HUB_IDS[encoder]
    assert settings["text_source"] == "FacebookAI/roberta-base"
    assert settings["batch_size"] == 32
    assert settings["lr"] == 2e-5
    assert settings["number_of_epochs"] == 80
    assert settings["number_of_folds"] == 5
    assert settings["similarity"] == "cross"
    assert settings["target"] == "softmax"
    assert "!name:torch.optim.Adam" in settings["opt_class"]
    if objective == "emo":
        assert "alpha_e" not in settings
    else:
        assert settings["weights"]["emotion"] == settings["alpha_e"] == 0.9
        assert settings["weights"]["gender"] == pytest.approx(0.1)


@pytest.mark.parametrize("objective", ["emo", "ml", "sl"])
def test_experiments_of_an_objective_differ_in_the_encoder_only(objective):
    texts = []
    for encoder, hub_id in HUB_IDS.items():
        lines = (HPARAMS / f"{objective}_{encoder}.yaml").read_text().splitlines()[1:]
        text = "\n".join(lines).replace(hub_id, "HUB").replace(f"{objective}_{encoder}", "NAME")
        texts.append(text)
    assert len(set(texts)) == 1


@pytest.mark.parametrize(
    ("sl", "ml"), [("sl_scratch", "ml_scratch"), ("ravdess_scratch", "ravdess_ml")]
)
def test_ml_and_sl_differ_in_objective_and_heads_only(sl, ml):
    text = (HPARAMS / f"{sl}.yaml").read_text().replace("SL-GEmo-CLAP", "ML-GEmo-CLAP")
    text = text.replace(f"experiment: {sl}", f"experiment: {ml}")
    text = text.replace("objectives.SoftLabelObjective", "objectives.MultiTaskObjective")
    text = text.replace("heads: [emotion]", "heads: !ref <heads>")
    weights = "    gender: !ref 1 - <alpha_e>\n"
    heads = "heads: [emotion, gender]       # an embedding for each of them\n"
    assert (HPARAMS / f"{ml}.yaml").read_text() == text.replace(weights, weights + heads)


def test_gmp_tl_is_the_same_on_both_corpora_but_for_what_the_corpora_are():
    """Of the stages; and the SE-ResNet is that of the other small experiments."""
    ours, theirs = (
        read_settings(HPARAMS / f"{name}.yaml") for name in ("gmp_tl_scratch", "ravdess_gmp_tl")
    )
    own = {"experiment", "validation", "select_by", "tta_speeds", "prompts", "num_classes"}
    differing = {key for key in ours if ours[key] != theirs.get(key)}
    places = {key for key in differing if key.endswith("_folder")}
    nested = {"prepare_options", "train_logger", "checkpointer", "pretrainer", "modules", "clap"}
    assert differing - places - nested - {"warm_up", "stage_one"} == own
    [encoder] = theirs["audio_encoder"].values()
    [model] = read_settings(HPARAMS / "ravdess_scratch.yaml")["clap"].values()
    assert encoder == model["audio_encoder"]["!new:gemoclap_sb.lobes.ResNetEncoder"]


def test_encoders_of_pretraining_and_of_speakers_are_those_that_begin_from_them():
    [model] = read_settings(HPARAMS / "ravdess_scratch.yaml")["clap"].values()
    for name in ("clusters_scratch", "speakers_scratch"):
        settings = read_settings(HPARAMS / f"{name}.yaml")
        [own] = settings["clap"].values()
        assert own["audio_encoder"] == model["audio_encoder"]
        assert own["trim_db"] == model["trim_db"]
        assert settings["experiment"] == name


def test_each_stage_of_gmp_tl_begins_from_what_the_stage_before_hands_on():
    for name in ("gmp_tl_hubert", "gmp_tl_scratch", "ravdess_gmp_tl"):
        settings = read_settings(HPARAMS / f"{name}.yaml", {"output_folder": "run"})
        for pretrainer, stage in (
            (settings["stage_one"]["pretrainer"], "warm_up"),
            (settings["pretrainer"], "stage_one"),
        ):
            [arguments] = pretrainer.values()
            assert arguments["paths"] == {"audio_encoder": f"run/{stage}/audio_encoder.ckpt"}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_any_corpus(name):
    settings = read_settings(HPARAMS / f"{name}.yaml")
    own = ("train_csv", "valid_csv", "test_csv", "manifest", "fold_column", "words")
    assert [settings[key] for key in own] == ["", "", "", "", "session", None]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_training_step(name, small_manifests, small_encoders, tmp_path):
    settings = read_settings(HPARAMS / f"{name}.yaml")
    overrides = {"output_folder": str(tmp_path), "batch_size": 6, "num_workers": 0}
    if settings.get("audio_source"):
        [family] = [of for of in HUB_IDS if of in name]
        overrides |= {
            "audio_source": str(small_encoders[family]),
            "text_source": str(small_encoders["text"]),
            "pretrained_folder": str(tmp_path / "pretrained"),
            "lr": 1e-3,
        }
        overrides = {key: of for key, of in overrides.items() if key in settings}
    with open(HPARAMS / f"{name}.yaml", encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    columns = needed_labels(hparams["clap"], hparams["objective"], hparams["prompts"])
    rows = read_manifest(small_manifests["train_csv"], small_manifests["data_root"])
    encoders = label_encoders(columns, hparams["prompts"].words, [rows])
    hparams["label_encoders"] = encoders
    brain = GEmoCLAPBrain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        {"device": "cpu"},
        hparams["checkpointer"],
    )
    options = brain.train_loader_options(rows)
    loader = brain.make_dataloader(build_dataset(rows, encoders), sb.Stage.TRAIN, **options)
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, 1)
    brain.modules.train()
    before = {name: p.detach().clone() for name, p in brain.modules.named_parameters()}
    brain.step = 1
    loss = brain.fit_batch(next(iter(loader)))
    assert torch.isfinite(loss)
    parameters = dict(brain.modules.named_parameters())
    still = [
        key
        for key, parameter in parameters.items()
        if parameter.requires_grad and torch.equal(parameter, before[key])
    ]
    # RoBERTa has word and position embeddings that no prompt uses, but not a whole tensor.
    assert still == []
    assert any(parameter.requires_grad for parameter in parameters.values())
