"""`gemoclap info` against the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.printed import one_line
from tests.run_folders import telling_model


def test_info_says_what_the_model_is(model, command):
    status, out, _ = command("info", model, "--format", "json")
    assert status == 0
    found = json.loads(out)
    built = telling_model(heads=("emotion", "gender"))
    assert sum(found["parameters"].values()) == sum(p.numel() for p in built.parameters())
    audio_encoder = sum(p.numel() for p in built.audio_encoder.parameters())
    assert found["parameters"]["audio_encoder"] == audio_encoder
    assert list(found["attributes"]) == ["emotion", "gender"]
    assert found["attributes"]["gender"]["labels"] == {"F": "female", "M": "male"}
    assert found["attributes"]["emotion"]["templates"][0] == "this person sounds {}"
    assert found["metrics"]["war"] == pytest.approx(5 / 6)
    assert found["heard_speeds"] == [100]
    size = Path(model, "model.safetensors").stat().st_size
    assert found["files"]["model.safetensors"] == size

    status, out, _ = command("info", model)
    assert status == 0
    assert "heard at 100 % of an utterance's speed" in out
    for text in ("ang  angry", "this person sounds {}", "ResNetEncoder", "WAR    83.33 %"):
        assert text in out


def test_info_notices_damaged_metrics(model, tmp_path, command):
    folder = shutil.copytree(model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "metrics": {"fold": 1}}))
    assert command("info", folder)[0] == 2


def test_info_notices_damaged_weights(model, tmp_path, command):
    folder = tmp_path / "copy"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: len(content) // 2])
    status, out, err = command("info", folder)
    assert (status, out) == (2, "")
    assert "model.safetensors" in err


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"labels": 3, "confusion": 3}},
        {"metrics": {"labels": ["a"], "confusion": [[1]], "confidence_intervals": 3}},
        {"metrics": {"labels": ["a"], "confusion": [["x"]]}},
        {"runs": [{"war": "high"}]},
        {"temperatures": 3},
        {"metrics": {"x": float("1e400")}},
    ],
)
def test_info_notices_figures_of_other_types(changes, model, tmp_path, command):
    folder = shutil.copytree(model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config).replace("Infinity", "1e400"))
    for kind in ("table", "json"):
        status, out, err = command("info", folder, "--format", kind)
        assert "Traceback" not in err
        assert (status == 0) == bool(out)
        if status:
            assert status == 2
            assert str(folder) in one_line(err)


LOBE = {"class": "own_lobes.Lobe", "yaml": "!new:own_lobes.Lobe\nsize: 3\n", "packages": {}}
STOCK = "speechbrain.nnet.pooling.StatisticsPooling"
POOLING = {
    "class": STOCK,
    "yaml": f"!new:{STOCK}\n",
    "packages": {"speechbrain": "speechbrain 1"},
}


def changed(model, folder, change):
    """A copy of an export whose description is changed."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("parts", [{"audio_encoder": LOBE}, {"pooling": POOLING},
                                   {"audio_encoder": LOBE, "pooling": POOLING}])  # fmt: skip
def test_info_tells_of_classes_that_are_not_the_packages_own(parts, model, tmp_path, command):
    def change(config):
        config["model"] |= parts
        pooled = telling_model(heads=("emotion", "gender")).pooling.output_size
        config["model"] |= {"audio_size": pooled} if "pooling" in parts else {}

    folder = changed(model, tmp_path / "copy", change)
    status, out, _ = command("info", folder, "--format", "json")
    assert status == 0
    found = json.loads(out)
    assert found["imported"] == {
        of["class"]: "speechbrain 1" if of is POOLING else None for of in parts.values()
    }
    own = json.loads(command("info", model, "--format", "json")[1])
    assert own["imported"] == {}
    same = ("attributes", "metrics", "embedding_size", "sample_rate")
    assert [found[key] for key in same] == [own[key] for key in same]
    built = telling_model(heads=("emotion", "gender"))
    held = sum(of.numel() for of in built.audio_encoder.state_dict().values())
    if "audio_encoder" in parts:
        assert found["parameters"]["audio_encoder"] == held

    status, out, _ = command("info", folder)
    assert status == 0
    for of in parts.values():
        package = "speechbrain 1" if of is POOLING else "no installed package"
        assert f"{of['class']} (of {package})" in out
    assert "EncoderClassifier.from_hparams(source=FOLDER) imports and runs that" in out
    status, out, err = command("classify", "a.wav", "--model", folder)
    assert (status, out) == (2, "")
    assert "from_pretrained imports no others" in one_line(err)


@pytest.mark.parametrize("entry", [
    {**LOBE, "yaml": "!new:os.system ['touch ran']"}, {**LOBE, "packages": 3}, {"yaml": 3},
    {**LOBE, "class": 3}, {**LOBE, "more": 1}, {**LOBE, "yaml": "{"},
])  # fmt: skip
def test_info_of_a_class_told_in_another_way(entry, model, tmp_path, command):
    folder = changed(model, tmp_path / "c", lambda of: of["model"].update(audio_encoder=entry))
    status, out, err = command("info", folder)
    assert (status, out) == (2, "")
    assert one_line(err)
