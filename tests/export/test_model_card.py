"""Model cards as huggingface_hub reads them."""

from __future__ import annotations

import huggingface_hub
import pytest

from gemoclap_sb.export.folder import export
from tests.run_folders import (
    make_run,
    scratch_model,
)


@pytest.mark.parametrize("kind", ("scratch", "pretrained"))
def test_model_card(exported, kind):
    path = exported[kind] / "README.md"
    card = huggingface_hub.ModelCard.load(path)
    data = card.data
    assert data.library_name == "speechbrain"
    assert data.license == "apache-2.0"
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == pytest.approx({"accuracy": 5 / 6, "recall": (1 + 1 + 1 + 2 / 3) / 4})
    assert data.model_name == "model"
    assert "speech-emotion-recognition" in data.tags
    for text in (
        "with the checkpoint of epoch 1.",
        "heard at 100 % of its speed",
        "held out at random from the training sessions",
        "| 83.33 % | 91.67 % |",
        "| sad | 1 | 0 | 0 | 2 | 66.67 % |",
        "| `ang` | angry | this person sounds angry; a female speaker sounds angry",
        "GEmoCLAPClassifier.from_pretrained",
        "EncoderClassifier.from_hparams",
        "Intended use and limits",
        "Licence: apache-2.0.",
    ):
        assert text in card.text, text


def test_card_without_figures_and_licence(tmp_path):
    run = make_run(tmp_path / "run", scratch_model())
    (run / "metrics.json").unlink()
    folder = export(run, tmp_path / "out", datasets=["me/corpus"], language="en")
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.eval_results is None
    assert card.data.datasets == ["me/corpus"]
    assert card.data.language == "en"
    assert card.data.license == "other"
    assert "there are no figures" in card.text
    assert "No licence was chosen" in card.text
