"""Source-filter speech: a glottal source through time-varying vocal-tract resonances.

The flow derivative is the LF model's (Fant, Liljencrants and Lin, STL-QPSR 4/1985) with its
one-parameter control Rd (Fant, STL-QPSR 2-3/1995). Formant resonators stand in cascade and
noise in parallel (Klatt, JASA 67, 1980). Declination and accents add on a semitone scale
(Fujisaki and Hirose, 1984, simplified). The filter changes every 8 ms and is applied in the
frequency domain with overlapping Hann windows, so that nothing loops over samples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gemoclap_sb.synthetic.phones import CONSONANTS, PAUSE, VOWELS, Segment

Floats = NDArray[np.float64]

HOP_SECONDS = 0.008
OVERSAMPLING = 2
RD_GRID = np.round(np.arange(0.4, 2.81, 0.1), 1)
TABLE_SIZE = 1024


@dataclass(frozen=True)
class Voice:
    """One speaker: what does not change with the emotion.

    Attributes
    ----------
    f0, tract_scale : float
        Neutral mean F0 in Hz; formants relative to a man's, about 1.16 for a woman.
    rd, rate : float
        Voice quality, the LF model's Rd (1.1 is modal); tempo relative to the average speaker.
    jitter, shimmer : float
        Deviation from cycle to cycle of the period, relative, and of the amplitude, in dB.
    """

    f0: float
    tract_scale: float
    rd: float = 1.1
    rate: float = 1.0
    jitter: float = 0.008
    shimmer: float = 0.3


@dataclass(frozen=True)
class Delivery:
    """How one utterance is said, relative to the speaker's neutral voice.

    Attributes
    ----------
    pitch, level, rd, breath : float
        Added: semitones, speech level in dB (for the caller to apply), Rd (negative is
        tenser), aspiration noise in dB.
    pitch_range, rate, openness, fronting, roughness, pauses : float
        Factors on declination and accents, tempo, the first formant, the higher formants,
        jitter and shimmer, and the length of pauses.
    precision : float
        1 reaches the formant targets; 0 collapses every vowel to the neutral one.
    """

    pitch: float = 0.0
    pitch_range: float = 1.0
    rate: float = 1.0
    level: float = 0.0
    rd: float = 0.0
    breath: float = 0.0
    openness: float = 1.0
    fronting: float = 1.0
    precision: float = 1.0
    roughness: float = 1.0
    pauses: float = 1.0


@functools.lru_cache(maxsize=1)
def glottal_table() -> Floats:
    """LF flow derivative, one period [len(RD_GRID), TABLE_SIZE] per Rd, of zero mean.

    Examples
    --------
    >>> bool(abs(glottal_table().mean(axis=1)).max() < 1e-9)
    True
    """
    phase = (np.arange(TABLE_SIZE) + 0.5) / TABLE_SIZE
    rd = RD_GRID[:, None]
    # Fant (1995): the shape parameters predicted from Rd, in fractions of the period.
    ra, rk = (-1 + 4.8 * rd) / 100, (22.4 + 11.8 * rd) / 100
    rg = rk / 4 * (0.5 + 1.2 * rk) / (0.11 * rd - ra * (0.5 + 1.2 * rk))
    peak = 1 / (2 * rg)
    excitation = peak * (1 + rk)
    epsilon = 1 / ra
    for _ in range(100):
        epsilon = (1 - np.exp(-epsilon * (1 - excitation))) / ra
    tail = np.exp(-epsilon * (phase - excitation)) - np.exp(-epsilon * (1 - excitation))
    closing = -tail / (epsilon * ra)

    def pulse(growth: Floats) -> Floats:
        grown = np.exp(growth * (phase - excitation)) * np.sin(np.pi * phase / peak)
        return np.where(phase < excitation, -grown / np.sin(np.pi * excitation / peak), closing)

    # The flow must return to where it began: bisect the growth for zero net area,
    # which falls as the growth rises.
    low, high = np.full_like(rd, -20.0), np.full_like(rd, 80.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = pulse(middle).mean(axis=1, keepdims=True) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    table = pulse(low)
    table -= table.mean(axis=1, keepdims=True)
    # The steepest closing sets the level of the formants: it is the same for every Rd.
    table /= -table.min(axis=1, keepdims=True)
    modal = table[np.argmin(np.abs(RD_GRID - 1.1))]
    return table / np.sqrt(np.mean(modal**2))


def synthesize(
    phones: list[str], voice: Voice, delivery: Delivery, rng: Generator, sample_rate: int = 16000
) -> Floats:
    """Speak phones: a waveform [T] whose voiced stretches have an RMS of one.

    `phones` are ARPAbet symbols, with ``1`` after a vowel that is accented, and ``,`` for a
    pause. `rng` gives noise, jitter, shimmer and the variation of timing and accents.
    ValueError if a phone is unknown, there is no vowel, or the rate is under 8 kHz.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> wave = synthesize("HH AX L OW1".split(), Voice(120.0, 1.0), Delivery(), rng)
    >>> 0.3 < len(wave) / 16000 < 0.9
    True
    """
    if sample_rate < 8000:
        raise ValueError(f"expected a sample rate of at least 8000 Hz, found {sample_rate}")
    segments, seconds, accents = _timed_segments(phones, voice, delivery, rng)
    edges = np.append(0.0, np.cumsum(seconds))
    hop = round(HOP_SECONDS * sample_rate)
    times = np.arange(int(np.ceil(seconds.sum() / HOP_SECONDS)) + 1) * HOP_SECONDS
    which = np.searchsorted(edges[1:], times, side="right").clip(max=len(segments) - 1)
    fine_rate = sample_rate * OVERSAMPLING
    fine_times = np.arange((len(times) - 1) * hop * OVERSAMPLING) / fine_rate

    def level_track(name: str, ramp: float) -> Floats:
        """Give an amplitude per sample: segment levels with ramps of some seconds between."""
        gains = 10 ** (np.array([getattr(s, name) for s in segments]) / 20)
        # Short segments have short ramps, so that none is skipped.
        half = np.minimum(ramp, seconds) / 2
        points = np.column_stack([edges[:-1] + half, edges[1:] - half]).ravel()
        return np.interp(fine_times, points, np.repeat(gains, 2))

    contour = _f0_track(times, accents, seconds.sum(), voice, delivery, rng)
    f0 = np.interp(fine_times, times, contour)
    voiced, opening = _glottal_source(f0 / fine_rate, voice, delivery, rng)
    voicing = level_track("voice", 0.03)
    breath = 10 ** ((-27.0 + delivery.breath) / 20)
    # Breath passes the glottis mostly while it is open, and alone in /h/ and after stops.
    aspiration = breath * voicing * opening + level_track("aspiration", 0.02)
    noise = rng.standard_normal((2, len(fine_times))) * np.sqrt(OVERSAMPLING)
    glottis = _decimate(voiced * voicing + noise[0] * aspiration)
    frication = _decimate(noise[1] * level_track("frication", 0.03))

    formants = _formant_tracks(np.array([s.formants for s in segments])[which], voice, delivery)
    tract = _tract_response(formants, voice, delivery, sample_rate, 6 * hop)
    front_cavity = _noise_response(segments, voice, sample_rate, 6 * hop)[which]
    wave = _overlap_add([glottis, frication], [tract, front_cavity], hop)
    return wave / np.sqrt(np.mean(wave[voicing[::OVERSAMPLING] > 0.3] ** 2))


def _timed_segments(
    phones: list[str], voice: Voice, delivery: Delivery, rng: Generator
) -> tuple[list[Segment], Floats, Floats]:
    """Expand phones into segments, their seconds, and the times of the accents."""
    vowels = [i for i, phone in enumerate(phones) if phone.rstrip("1") in VOWELS]
    if not vowels:
        raise ValueError(f"expected at least one vowel, found {' '.join(phones) or 'no phone'}")
    segments, lengths, accents = [PAUSE], [rng.uniform(0.06, 0.14)], []
    tempo = voice.rate * delivery.rate
    for i, phone in enumerate(phones):
        name, accented = phone.rstrip("1"), phone.endswith("1")
        if phone == ",":
            segments.append(PAUSE)
            lengths.append(PAUSE.milliseconds / 1000 * delivery.pauses / tempo)
            continue
        if name in VOWELS:
            targets = VOWELS[name]
            # Accented vowels are longer, diphthongs too, and the last one before a pause.
            total = (118 if accented else 68) * (1.3 if len(targets) > 1 else 1.0)
            total *= 1.45 if i == vowels[-1] else 1.0
            level = 0.0 if accented else -2.5
            pieces = [Segment(target, total / len(targets), voice=level) for target in targets]
            if accented:
                accents.append(sum(lengths) + 0.4 * total / 1000 / tempo)
        elif name in CONSONANTS:
            pieces = CONSONANTS[name]
        else:
            known = ", ".join([*VOWELS, *CONSONANTS])
            raise ValueError(
                f"unknown phone {phone!r}; expected one of {known}, a vowel with 1, or a comma"
            )
        stretch = np.exp(rng.normal(0.0, 0.12)) / tempo
        segments += pieces
        lengths += [piece.milliseconds / 1000 * stretch for piece in pieces]
    return [*segments, PAUSE], np.array([*lengths, rng.uniform(0.08, 0.16)]), np.array(accents)


def _formant_tracks(targets: Floats, voice: Voice, delivery: Delivery) -> Floats:
    """Glide between formant targets [F, 3] in Hz; the articulators need about 60 ms."""
    neutral = np.array([500.0, 1500.0, 2500.0])
    reached = neutral + (targets - neutral) * delivery.precision
    window = np.hanning(11)[1:-1]
    padded = np.pad(reached, ((4, 4), (0, 0)), mode="edge")
    smooth = [np.convolve(track, window / window.sum(), "valid") for track in padded.T]
    factors = np.array([delivery.openness, delivery.fronting, 0.5 + 0.5 * delivery.fronting])
    return np.stack(smooth, axis=1) * factors * voice.tract_scale


def _f0_track(
    times: Floats, accents: Floats, length: float, voice: Voice, delivery: Delivery, rng: Generator
) -> Floats:
    """Give F0 [F] in Hz: declination, one bump per accent, final fall, slow drift."""
    place = times / length
    semitones = 1.6 - 3.2 * place - 1.5 * np.clip((place - 0.8) / 0.2, 0, 1)
    heights = rng.normal(3.2, 1.0, len(accents))
    bumps = np.exp(-0.5 * ((times[:, None] - accents) / 0.075) ** 2) @ heights
    drift = np.interp(times, np.linspace(0, length, 9), rng.normal(0.0, 0.5, 9))
    semitones = delivery.pitch + delivery.pitch_range * (semitones + bumps) + drift
    return np.clip(voice.f0 * 2 ** (semitones / 12), 55.0, 600.0)


def _glottal_source(
    step: Floats, voice: Voice, delivery: Delivery, rng: Generator
) -> tuple[Floats, Floats]:
    """Give the flow derivative and how open the glottis is, from F0 in cycles per sample."""
    # The cycles' number is known well enough before jitter to draw one factor for each.
    cycle = np.cumsum(step).astype(np.int64)
    count = int(cycle[-1]) + 2
    jitter = rng.normal(0, voice.jitter * delivery.roughness, count).clip(-0.1, 0.1)
    phase = np.cumsum(step * (1 + jitter)[cycle])
    cycle = phase.astype(np.int64).clip(max=count - 1)
    shimmer = 10 ** (rng.normal(0, voice.shimmer * delivery.roughness, count) / 20)
    # The voice slackens towards the end of the utterance.
    rd = voice.rd + delivery.rd + 0.3 * np.linspace(-0.5, 1.0, count) ** 3
    row = np.rint((rd + rng.normal(0, 0.05, count) - RD_GRID[0]) / 0.1)
    row = row.astype(np.int64).clip(0, len(RD_GRID) - 1)
    within = phase % 1
    flow = glottal_table()[row[cycle], (within * TABLE_SIZE).astype(np.int64)] * shimmer[cycle]
    return flow, 0.35 + 1.3 * np.sin(np.pi * np.clip(within / 0.75, 0, 1)) ** 2


def _decimate(wave: Floats) -> Floats:
    """Remove the oversampling by dropping the upper part of the spectrum."""
    length = len(wave) // OVERSAMPLING
    return np.fft.irfft(np.fft.rfft(wave)[: length // 2 + 1], length) / OVERSAMPLING


def _tract_response(
    formants: Floats, voice: Voice, delivery: Delivery, sample_rate: int, size: int
) -> NDArray[np.complex128]:
    """Give the cascade's frequency response [F, size // 2 + 1], one row per frame."""
    bins = np.arange(size // 2 + 1)
    z = np.exp(-2j * np.pi * bins / size)
    top = 0.46 * sample_rate
    higher = (1000.0 * np.arange(4, 9) - 500.0) * voice.tract_scale
    frequencies = [*np.minimum(formants, top).T, *higher[higher < top, None]]
    # A lax glottis damps the first formants.
    lax = max(voice.rd + delivery.rd - 1.0, 0.0)
    bandwidths = (65 + 50 * lax, 90 + 20 * lax, 140, 200, 250, 300, 350, 400)
    response = 1.0
    for frequency, bandwidth in zip(frequencies, bandwidths, strict=False):
        # Klatt's digital resonator: gain one at 0 Hz.
        radius = np.exp(-np.pi * bandwidth / sample_rate)
        b = 2 * radius * np.cos(2 * np.pi * frequency / sample_rate)[:, None]
        c = -(radius**2)
        response = response * ((1 - b - c) / (1 - b * z - c * z**2))
    hertz = bins * sample_rate / size
    # No speech lies below 50 Hz; without this the wave would drift.
    return response * (hertz**2 / (hertz**2 + 50.0**2))


def _noise_response(segments: list[Segment], voice: Voice, sample_rate: int, size: int) -> Floats:
    """Give the frication's shape per segment [S, size // 2 + 1]: one hump, at unit power."""
    hertz = np.arange(size // 2 + 1) * sample_rate / size
    # The front cavity is shorter in a short vocal tract, though less so than the whole.
    scale = 0.5 + 0.5 * voice.tract_scale
    centre, width = np.array([s.noise for s in segments]).T[..., None] * scale
    centre = np.minimum(centre, 0.42 * sample_rate)
    hump = np.exp(-0.5 * ((hertz - centre) / width) ** 2) * np.minimum(hertz / 300.0, 1.0)
    return hump / np.sqrt(np.mean(hump**2, axis=1, keepdims=True))


def _overlap_add(waves: list[Floats], responses: list[NDArray], hop: int) -> Floats:
    """Add up waves [T], each filtered by its own response [F, size // 2 + 1] per frame."""
    # Hann windows of two hops sum to one; the rest of the transform holds the filter's tail.
    window = np.hanning(2 * hop + 1)[:-1]
    size = 2 * (responses[0].shape[1] - 1)

    def spectrum(wave: Floats) -> NDArray[np.complex128]:
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, hop), 2 * hop)[::hop]
        return np.fft.rfft(frames * window, size)

    filtered = sum(spectrum(wave) * shape for wave, shape in zip(waves, responses, strict=True))
    pieces = np.fft.irfft(filtered, size).reshape(len(filtered), size // hop, hop)
    blocks = np.zeros((len(pieces) + size // hop, hop))
    for k in range(size // hop):
        blocks[k : k + len(pieces)] += pieces[:, k]
    return blocks.reshape(-1)[hop : hop + len(waves[0])]
