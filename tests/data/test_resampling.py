"""Resampling against torchaudio, SciPy, and itself in parts; memory against a bound."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly
from torch.nn.functional import pad
from torchaudio.transforms import Resample

from gemoclap_sb.data.audio import AudioReader, read_audio
from gemoclap_sb.data.resampling import DirectResampler, PeriodicResampler, resampler_of
from tests.conftest import ROOT

USUAL = (8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000)


def noise(count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)


def part(resampler, samples, start, stop):
    """Outputs of a span, what lies outside of the samples being zeros."""
    first, last = resampler.span(start, stop)
    inside = torch.from_numpy(samples[max(0, first) : max(0, last)])
    return resampler(pad(inside, (max(0, -first), last - max(0, first) - len(inside))), start, stop)


@pytest.mark.parametrize("rate", USUAL)
def test_usual_rates_are_torchaudios(rate):
    samples = noise(rate)
    resampler = resampler_of(rate, 16000)
    assert isinstance(resampler, PeriodicResampler)
    expected = Resample(rate, 16000)(torch.from_numpy(samples))
    torch.testing.assert_close(part(resampler, samples, 0, 16000), expected, rtol=0, atol=1e-6)
    # The form for all other rates is the same filter. torchaudio's has its phases in float32.
    direct = part(DirectResampler(rate, 16000), samples, 0, 16000)
    torch.testing.assert_close(direct, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [1009, 15999, 16001, 22255, 44056, 44101, 192001])
def test_rates_without_a_common_factor_are_scipys(rate):
    """The same window and cutoff as a polyphase filter, in double precision."""
    resampler = resampler_of(rate, 16000)
    assert isinstance(resampler, DirectResampler)
    samples = noise(rate // 5)
    divisor = math.gcd(rate, 16000)
    up, down = 16000 // divisor, rate // divisor
    half = math.ceil(6 * max(up, down) / 0.99)
    crossings = np.arange(-half, half + 1) / max(up, down) * 0.99
    taps = np.sinc(crossings) * np.cos(np.pi / 12 * np.clip(crossings, -6, 6)) ** 2
    # resample_poly multiplies by `up`, as a filter of unit gain wants.
    taps *= 0.99 / max(up, down)
    expected = resample_poly(samples.astype(np.float64), up, down, window=taps)
    found = part(resampler, samples, 0, len(expected)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.integers(1, 400_000), st.sampled_from(USUAL)),
    st.integers(0, 2**40),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_parts_joined_are_the_whole_at_any_place(rate, start, sizes):
    """Far into a recording too, where float32 would have lost the phase long ago."""
    resampler = resampler_of(rate, 16000)
    edges = np.cumsum([start, *sizes]).tolist()
    first, last = resampler.span(edges[0], edges[-1])
    samples = noise(last - first, seed=rate)
    whole = resampler(torch.from_numpy(samples), edges[0], edges[-1])
    parts = []
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        own_first, own_last = resampler.span(begin, end)
        assert first <= own_first and own_last <= last
        parts.append(
            resampler(torch.from_numpy(samples[own_first - first : own_last - first]), begin, end)
        )
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [1, 7, 999_983, 2**31 - 1])
def test_no_rate_takes_much_memory(rate):
    """A cosine that is slow at either rate stays one."""
    period = max(8 * rate / 16000, 8)
    resampler = resampler_of(rate, 16000)
    count = 40 if rate < 2**30 else 3
    first, last = resampler.span(0, count)
    samples = np.cos(2 * np.pi * np.arange(first, last) / period).astype(np.float32)
    tracemalloc.start()
    found = resampler(torch.from_numpy(samples), 0, count).numpy()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * 2**20
    expected = np.cos(2 * np.pi * np.arange(count) * rate / 16000 / period)
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize("rate", [44101, 192001])
def test_parts_of_a_file_are_those_of_the_whole(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(rate // 2), rate, "FLOAT")
    whole = read_audio(path)
    assert len(whole) == math.ceil(rate // 2 * 16000 / rate)
    with AudioReader(path, 16000) as audio:
        for start, stop in ((0, 1), (3000, 3010), (100, 7900), (7999, 8000)):
            found = audio.read(start, min(stop, audio.num_samples))
            torch.testing.assert_close(found, whole[start:stop], rtol=0, atol=1e-5)


def test_long_reads_are_put_together(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    channels = np.stack([noise(30000), noise(30000, 1), noise(30000, 2)], axis=1)
    soundfile.write(path, channels, 44100, "FLOAT")
    whole = read_audio(path)
    monkeypatch.setattr("gemoclap_sb.data.audio._BLOCK_VALUES", 1000)
    torch.testing.assert_close(read_audio(path), whole, rtol=0, atol=1e-5)


_MEMORY = """
import resource, sys, torch
torch.set_num_threads(1)
from gemoclap_sb.data.audio import read_audio
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read_audio(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    print(path, tuple(read_audio(path).shape), file=sys.stderr)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no ru_maxrss on Windows")
def test_memory_of_a_process_that_reads_strange_rates(tmp_path):
    paths = []
    for rate in (44100, 44101, 22255, 192001, 9_999_991):
        paths.append(tmp_path / f"{rate}.wav")
        soundfile.write(paths[-1], noise(100_000), rate)
    # Forged: each sample has 1024 channels.
    paths.append(tmp_path / "channels.wav")
    soundfile.write(paths[-1], np.zeros((4000, 1024), np.float32), 44101)
    found = subprocess.run(
        [sys.executable, "-c", _MEMORY, *map(str, paths)],
        capture_output=True, text=True, check=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert float(found.stdout) < 200
