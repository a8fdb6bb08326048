"""WAV files with headers changed at random: a waveform, or an `AudioError` in one line."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gemoclap_sb.data.audio import AudioError, read_audio

RATE, HEADER = 16000, 60
A_FEW = settings(
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@pytest.mark.parametrize("kind", ["PCM_16", "FLOAT"])
@A_FEW
@given(data=st.data())
def test_recordings(tmp_path, kind, data):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.sin(np.arange(4000) / 9), RATE, subtype=kind)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4), label="bytes")):
        content[data.draw(st.integers(0, HEADER - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.one_of(st.none(), st.integers(0, len(content))), label="stop")
    path.write_bytes(content[:stop])
    assert_is_audio_or_says_why(path)


@A_FEW
@example(rate=1, channels=1, bits=16, size=8000)
@example(rate=2**31 - 1, channels=1, bits=16, size=8000)
@example(rate=44101, channels=65535, bits=16, size=2**32 - 1)
@given(
    rate=st.integers(0, 2**32 - 1),
    channels=st.integers(0, 2**16 - 1),
    bits=st.sampled_from([0, 1, 8, 16, 24, 32, 64, 65535]),
    size=st.integers(0, 2**32 - 1),
)
def test_headers_of_recordings(tmp_path, rate, channels, bits, size):
    path = tmp_path / "a.wav"
    frame = min(65535, channels * bits // 8)
    head = struct.pack("<HHIIHH", 1, channels, rate, rate * frame % 2**32, frame, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size)
    path.write_bytes(b"RIFF" + struct.pack("<I", 8036) + body + b"\1\2" * 4000)
    assert_is_audio_or_says_why(path)


def assert_is_audio_or_says_why(path):
    try:
        wav = read_audio(path, RATE)
    except AudioError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return
    assert wav.dtype == torch.float32 and wav.dim() == 1 and len(wav) and wav.isfinite().all()
