"""Waveforms in memory: what comes to [-1, 1], what is resampled, and what is refused."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from gemoclap_sb.data.audio import AudioError
from gemoclap_sb.inference.waveforms import as_floats, as_waveform, checked_batch

RATE = 16000
SAMPLES = np.random.default_rng(0).uniform(-0.9, 0.9, 1600)
NAN = np.where(np.arange(1600) == 3, np.nan, SAMPLES)


@pytest.mark.parametrize(("dtype", "subtype"), [
    (np.int16, "PCM_16"), (np.int32, "PCM_32"), (np.uint8, "PCM_U8"), (np.float64, "DOUBLE"),
    (np.float32, "FLOAT"), (">f4", "FLOAT"), (">i2", "PCM_16"),
])  # fmt: skip
def test_types_mean_what_they_mean_to_libsndfile(tmp_path, dtype, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES, RATE, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32")
    if subtype == "PCM_U8":
        given = (np.round(expected * 128) + 128).astype(dtype)
    else:
        given = soundfile.read(path, dtype=np.dtype(dtype).newbyteorder("=").name)[0].astype(dtype)
    found = as_floats("wavs", given)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("given", [
    SAMPLES.astype(np.int64), SAMPLES > 0, SAMPLES.astype(complex), np.array(["a"]), [0.1, 0.2],
    np.array([None]), SAMPLES.astype(np.uint16), torch.ones(3, dtype=torch.int64), "a.wav", None,
])  # fmt: skip
def test_what_is_no_samples_is_one_line(given):
    for call in (lambda: as_waveform("input", given, None, RATE), lambda: checked_batch(given)):
        with pytest.raises(ValueError, match="^(input|wavs): expected [^\n]*found [^\n]*$"):
            call()


def test_masked_samples_are_no_samples():
    """An array type that masks none is as good as any other."""
    masked = np.ma.masked_greater(SAMPLES, 0.89)
    with pytest.raises(ValueError, match=rf"{(SAMPLES > 0.89).sum()} samples are masked.*filled"):
        as_floats("wavs", masked)
    unmasked = np.ma.masked_greater(SAMPLES, 2.0)
    assert torch.equal(as_floats("wavs", unmasked), torch.from_numpy(SAMPLES).float())


@pytest.mark.parametrize("rate", [8000, 44100, 48000.0, np.int64(22050)])
def test_every_form_of_a_recording_is_the_same_waveform(rate):
    wav = torch.from_numpy(SAMPLES).float()
    expected = resample(wav, int(rate), RATE)
    content = io.BytesIO()
    soundfile.write(content, SAMPLES.astype(np.float32), int(rate), "FLOAT", format="WAV")
    samples = SimpleNamespace(data=wav.expand(2, -1), sample_rate=int(rate))
    for given, rates in (
        (SAMPLES, rate), (SAMPLES[None], rate), (wav[:, None], rate), (content.getvalue(), None),
        ({"array": SAMPLES, "sampling_rate": rate, "path": None}, None),
        ({"raw": wav, "sampling_rate": rate}, None),
        (SimpleNamespace(get_all_samples=lambda: samples), None),
    ):  # fmt: skip
        found = as_waveform("input", given, rates, RATE)
        # The functional form reckons its filter in float32.
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)


def test_samples_without_a_rate_have_the_models():
    found = as_waveform("input", SAMPLES[::-1], None, RATE)
    np.testing.assert_array_equal(found.numpy(), SAMPLES[::-1].astype(np.float32))


def half_of_a_wav() -> bytes:
    whole = io.BytesIO()
    soundfile.write(whole, SAMPLES, RATE, format="WAV")
    return whole.getvalue()[: len(whole.getvalue()) // 2]


@pytest.mark.parametrize(
    ("given", "rate", "message"),
    [
        (np.zeros((2, 1600)), None, "one channel .* shape \\[2, 1600\\]. Average the axis"),
        (np.array(0.5), None, "one channel .* shape \\[\\]"),
        (SAMPLES[:0], None, "expected samples, found none"),
        (NAN, None, "has 1 NaN or infinite samples"),
        (b"RIFF", None, "is unreadable"),
        (half_of_a_wav(), None, "\\(input\\) ends early"),
        ({"array": SAMPLES}, None, "'sampling_rate', found \\['array'\\]"),
        ({"audio": SAMPLES}, None, "expected the keys 'array'"),
        ({"array": SAMPLES, "sampling_rate": 8000}, 8000, "rate of its own; leave out"),
        *(
            (SAMPLES, rate, "sampling_rate: expected")
            for rate in (0, -1, True, "16000", 16000.5, float("nan"), float("inf"), 1, 999, 2**31)
        ),
    ],
)
def test_what_is_no_recording_is_one_line(given, rate, message):
    with pytest.raises(ValueError, match=f"^input:? [^\n]*$|{message}") as caught:
        as_waveform("input", given, rate, RATE)
    assert caught.match(message) and "\n" not in str(caught.value)


def test_a_batch_and_its_lengths():
    wavs, lengths = checked_batch(np.zeros((2, 800), np.int16), [1.0, 0.5])
    assert wavs.dtype == lengths.dtype == torch.float32
    assert lengths.tolist() == [1.0, 0.5]
    assert checked_batch(torch.zeros(800))[0].shape == (1, 800)
    assert checked_batch(torch.zeros(3, 8))[1].tolist() == [1.0] * 3
    # A quotient of float32 may come out a little above.
    assert checked_batch(torch.zeros(1, 8), torch.tensor([1.000001]))[1].tolist() == [1.0]


@pytest.mark.parametrize("lengths", [
    [1.0], [1.0, 0.0], [1.0, -0.5], [1.0, float("nan")], [16000, 8000], [[1.0, 0.5]], 1.0,
    ["a", "b"], torch.tensor([1.0, float("inf")]),
])  # fmt: skip
def test_lengths_that_are_none(lengths):
    with pytest.raises(ValueError, match="^wav_lens: expected [^\n]*$"):
        checked_batch(torch.zeros(2, 800), lengths)


@pytest.mark.parametrize("shape", [(0, 800), (2, 0), (2, 800, 1), (), (0,)])
def test_shapes_that_are_none(shape):
    with pytest.raises(ValueError, match=r"^wavs: expected \[batch, samples\][^\n]*$"):
        checked_batch(torch.zeros(shape))


def test_nan_counts_where_samples_are():
    wavs = torch.zeros(2, 800)
    wavs[1, 400:] = float("nan")
    checked_batch(wavs, [1.0, 0.5])
    with pytest.raises(AudioError, match=r"wavs\[1\] has 400 NaN or infinite samples"):
        checked_batch(wavs)
