"""Manifest to waveforms, each file opened once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.data.datasets import AudioCache, build_dataset


def test_waveforms_are_mono_at_the_rate_of_the_model(tmp_path):
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (4410, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, 44100, subtype="FLOAT")
    item = build_dataset({"a": {"wav": str(tmp_path / "a.wav")}}, {}, sample_rate=16000)[0]
    mono = torch.from_numpy(stereo.mean(axis=1))
    expected = torchaudio.functional.resample(mono, 44100, 16000)
    assert item["id"] == "a"
    torch.testing.assert_close(item["sig"], expected, rtol=0, atol=1e-5)


def test_an_item_opens_its_file_once(tones, monkeypatch):
    opened, original = Counter(), soundfile.SoundFile
    monkeypatch.setattr(
        soundfile, "SoundFile", lambda path, *a, **k: opened.update([path]) or original(path)
    )
    dataset = build_dataset({str(i): {"wav": str(path)} for i, path in enumerate(tones)}, {})
    for i in range(len(tones)):
        dataset[i]
    assert opened == Counter(map(str, tones))


def test_kept_audio_is_not_decoded_again_and_the_limit_holds(tones, monkeypatch):
    opened, original = Counter(), soundfile.SoundFile
    monkeypatch.setattr(
        soundfile, "SoundFile", lambda path, *a, **k: opened.update([path]) or original(path)
    )
    rows = {str(i): {"wav": str(path)} for i, path in enumerate(tones)}
    plain = build_dataset(rows, {})
    sizes = [4 * len(plain[i]["sig"]) for i in range(len(rows))]
    # Room for all but the last.
    cache = AudioCache((sum(sizes) - 1) / 2**30)
    dataset = build_dataset(rows, {}, cache=cache)
    expected = [plain[i]["sig"] for i in range(len(rows))]
    opened.clear()
    for _ in range(3):
        for i, wav in enumerate(expected):
            assert torch.equal(dataset[i]["sig"], wav)
    assert opened == {**{str(path): 1 for path in tones[:-1]}, str(tones[-1]): 3}
    assert sum(4 * len(wav) for wav in cache.kept.values()) == sum(sizes[:-1])


def test_audio_that_went_missing_is_named(tmp_path):
    dataset = build_dataset({"u7": {"wav": str(tmp_path / "no.wav")}}, {}, manifest="train.csv")
    with pytest.raises(AudioError, match=r"train\.csv, ID 'u7': .*no\.wav is missing"):
        dataset[0]
