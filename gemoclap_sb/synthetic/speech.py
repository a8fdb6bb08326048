"""Source-filter speech: a glottal source through time-varying vocal-tract resonances.

The embedded corpus needs speech that nobody recorded, that is audible as speech, and
whose pitch, rate, level and voice quality can be set. The parts are standard:

- glottal flow derivative by the LF model with its one-parameter control Rd (Fant,
  Liljencrants and Lin, "A four-parameter model of glottal flow", STL-QPSR 4/1985; Fant,
  "The LF-model revisited", STL-QPSR 2-3/1995): Rd 0.5 is tense, 2.5 is lax and breathy;
- formant resonators in cascade and noise in parallel (Klatt, "Software for a
  cascade/parallel formant synthesizer", JASA 67, 1980);
- declination and accents added on a semitone scale (Fujisaki and Hirose, 1984, simplified).

The phones' targets are in :mod:`gemoclap_sb.synthetic.phones`. The filter changes every 8 ms and is
applied in the frequency domain with overlapping Hann windows, so that nothing loops over
samples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemoclap_sb.synthetic.phones import CONSONANTS, PAUSE, VOWELS, Segment

__all__ = ["Delivery", "Voice", "glottal_table", "synthesize"]

Floats = NDArray[np.float64]

HOP_SECONDS = 0.008
OVERSAMPLING = 2
RD_GRID = np.round(np.arange(0.4, 2.81, 0.1), 1)
TABLE_SIZE = 1024


@dataclass(frozen=True)
class Voice:
    """What does not change with the emotion: one speaker.

    Attributes
    ----------
    f0 : float
        Neutral mean fundamental frequency in Hz.
    tract_scale : float
        Formant frequencies relative to an adult man's; about 1.16 for a woman.
    rd : float
        Neutral voice quality, the LF model's Rd; about 1.1 is modal.
    rate : float
        Speaking rate relative to the average speaker.
    jitter : float
        Standard deviation of the period from cycle to cycle, relative.
    shimmer : float
        Standard deviation of the amplitude from cycle to cycle, in dB.
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
    pitch : float
        Shift of the mean pitch in semitones.
    pitch_range : float
        Factor on declination and accents.
    rate : float
        Factor on the speaking rate.
    level : float
        Active speech level relative to neutral in dB; the caller scales by it.
    rd : float
        Added to the voice's Rd: negative is tenser, positive is laxer.
    breath : float
        Aspiration noise relative to neutral in dB.
    openness : float
        Factor on the first formant (jaw opening and vocal effort).
    fronting : float
        Factor on the second and third formants (spread lips raise them).
    precision : float
        1 reaches the formant targets; 0 collapses every vowel to the neutral one.
    roughness : float
        Factor on jitter and shimmer.
    pauses : float
        Factor on the length of pauses.
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
    """Tabulate one period of the LF glottal flow derivative for each Rd of the grid.

    Returns
    -------
    ndarray
        Periods [len(RD_GRID), TABLE_SIZE] with zero mean and the same main excitation
        (steepest closing), which is what sets the level of the formants; modal voice
        (Rd = 1.1) has unit power.

    Examples
    --------
    >>> table = glottal_table()
    >>> bool(abs(table.mean(axis=1)).max() < 1e-9)
    True
    """
    rows = []
    phase = (np.arange(TABLE_SIZE) + 0.5) / TABLE_SIZE
    for rd in RD_GRID:
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

        def pulse(alpha: float, peak=peak, excitation=excitation, closing=closing) -> Floats:
            grown = np.exp(alpha * (phase - excitation)) * np.sin(np.pi * phase / peak)
            opening = -grown / np.sin(np.pi * excitation / peak)
            return np.where(phase < excitation, opening, closing)

        # The flow must return to where it began: bisect the growth for zero net area,
        # which falls as the growth rises.
        low, high = -20.0, 80.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if pulse(middle).mean() > 0 else (low, middle)
        period = pulse(low)
        period -= period.mean()
        rows.append(period / -period.min())
    table = np.array(rows)
    modal = table[np.argmin(np.abs(RD_GRID - 1.1))]
    return table / np.sqrt(np.mean(modal**2))


def synthesize(
    phones: Sequence[str],
    voice: Voice,
    delivery: Delivery,
    rng: np.random.Generator,
    sample_rate: int = 16000,
) -> Floats:
    """Speak a sequence of phones.

    Parameters
    ----------
    phones : sequence of str
        ARPAbet symbols; a vowel takes ``1`` (``AA1``) where the syllable is accented;
        ``,`` is a pause.
    voice : Voice
        The speaker.
    delivery : Delivery
        How it is said.
    rng : numpy.random.Generator
        Source of noise, jitter, shimmer and the variation of timing and accents.
    sample_rate : int
        In Hz, 8000 or more.

    Returns
    -------
    ndarray
        Waveform [T] with an active speech level (RMS over the voiced stretches) of one;
        the caller sets the level.

    Raises
    ------
    ValueError
        If a phone is unknown, there is no vowel, or the rate is under 8 kHz.

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
    hop = round(HOP_SECONDS * sample_rate)
    num_frames = int(np.ceil(seconds.sum() / HOP_SECONDS)) + 1
    times = np.arange(num_frames) * HOP_SECONDS
    which = np.searchsorted(np.cumsum(seconds), times, side="right").clip(max=len(segments) - 1)
    edges = np.concatenate([[0.0], np.cumsum(seconds)])

    formants = _formant_tracks(np.array([s.formants for s in segments])[which], voice, delivery)
    num_samples = (num_frames - 1) * hop
    fine_times = np.arange(num_samples * OVERSAMPLING) / (sample_rate * OVERSAMPLING)

    def level_track(name: str, ramp: float) -> Floats:
        """Give an amplitude per sample: segment levels with ramps of some seconds between."""
        gains = 10 ** (np.array([getattr(s, name) for s in segments]) / 20)
        # Short segments have short ramps, so that none is skipped.
        half = np.minimum(ramp, seconds) / 2
        points = np.column_stack([edges[:-1] + half, edges[1:] - half]).ravel()
        return np.interp(fine_times, points, np.repeat(gains, 2))

    f0 = _f0_track(times, accents, seconds.sum(), voice, delivery, rng)
    voiced, opening = _glottal_source(
        np.interp(fine_times, times, f0), times, fine_times, sample_rate, voice, delivery, rng
    )
    voicing = level_track("voice", 0.03)
    breath = 10 ** ((-27.0 + delivery.breath) / 20)
    # Breath passes the glottis mostly while it is open, and alone in /h/ and after stops.
    aspiration = breath * voicing * opening + level_track("aspiration", 0.02)
    noise = rng.standard_normal((2, num_samples * OVERSAMPLING)) * np.sqrt(OVERSAMPLING)
    tract_input = _decimate(voiced * voicing + noise[0] * aspiration)
    frication = _decimate(noise[1] * level_track("frication", 0.03))

    mouth = _tract_response(formants, voice, delivery, sample_rate, 6 * hop)
    shaping = _noise_response(segments, which, voice, sample_rate, 6 * hop)
    wave = _overlap_add(tract_input, mouth, frication, shaping, hop)
    active = np.interp(np.arange(num_samples) / sample_rate, fine_times, voicing) > 0.3
    return wave / np.sqrt(np.mean(wave[active] ** 2))


def _timed_segments(
    phones: Sequence[str], voice: Voice, delivery: Delivery, rng: np.random.Generator
) -> tuple[list[Segment], Floats, Floats]:
    """Expand phones into segments, their seconds, and the times of the accents."""
    segments, lengths, accented = [PAUSE], [rng.uniform(0.06, 0.14)], []
    tempo = voice.rate * delivery.rate
    last_vowel = max(
        (i for i, p in enumerate(phones) if p.rstrip("1") in VOWELS),
        default=-1,
    )
    if last_vowel < 0:
        raise ValueError(f"expected at least one vowel, found {' '.join(phones) or 'no phone'}")
    for i, phone in enumerate(phones):
        name, accent = phone.rstrip("1"), phone.endswith("1")
        if phone == ",":
            segments.append(PAUSE)
            lengths.append(PAUSE.milliseconds / 1000 * delivery.pauses / tempo)
            continue
        if name in VOWELS:
            targets = VOWELS[name]
            # Accented vowels are longer, diphthongs too, and the last one before a pause.
            total = (118 if accent else 68) * (1.3 if len(targets) > 1 else 1.0)
            total *= 1.45 if i == last_vowel else 1.0
            loud = 0.0 if accent else -2.5
            pieces = [Segment(t, total / len(targets), voice=loud) for t in targets]
            if accent:
                accented.append(sum(lengths) + 0.4 * total / 1000 / tempo)
        elif name in CONSONANTS:
            pieces = list(CONSONANTS[name])
        else:
            raise ValueError(
                f"unknown phone {phone!r}; expected one of "
                f"{', '.join([*VOWELS, *CONSONANTS])}, a vowel with 1, or a comma"
            )
        stretch = float(np.exp(rng.normal(0.0, 0.12))) / tempo
        segments += pieces
        lengths += [piece.milliseconds / 1000 * stretch for piece in pieces]
    segments.append(PAUSE)
    lengths.append(rng.uniform(0.08, 0.16))
    return segments, np.array(lengths), np.array(accented)


def _formant_tracks(targets: Floats, voice: Voice, delivery: Delivery) -> Floats:
    """Glide between formant targets [F, 3]; the articulators need about 60 ms."""
    neutral = np.array([500.0, 1500.0, 2500.0])
    reached = neutral + (targets - neutral) * delivery.precision
    window = np.hanning(11)[1:-1]
    padded = np.pad(reached, ((4, 4), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(track, window / window.sum(), "valid") for track in padded.T])
    factors = np.array([delivery.openness, delivery.fronting, 0.5 + 0.5 * delivery.fronting])
    return smooth.T * factors * voice.tract_scale


def _f0_track(
    times: Floats,
    accents: Floats,
    duration: float,
    voice: Voice,
    delivery: Delivery,
    rng: np.random.Generator,
) -> Floats:
    """Give F0 [F] in Hz: declination, one bump per accent, final fall, slow drift."""
    place = times / duration
    semitones = 1.6 - 3.2 * place - 1.5 * np.clip((place - 0.8) / 0.2, 0, 1)
    heights = rng.normal(3.2, 1.0, len(accents))
    bumps = np.exp(-0.5 * ((times[:, None] - accents) / 0.075) ** 2) @ heights
    drift = np.interp(times, np.linspace(0, duration, 9), rng.normal(0.0, 0.5, 9))
    semitones = delivery.pitch + delivery.pitch_range * (semitones + bumps) + drift
    return np.clip(voice.f0 * 2 ** (semitones / 12), 55.0, 600.0)


def _glottal_source(
    f0: Floats,
    times: Floats,
    fine_times: Floats,
    sample_rate: int,
    voice: Voice,
    delivery: Delivery,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Give the flow derivative and how open the glottis is, oversampled."""
    step = f0 / (sample_rate * OVERSAMPLING)
    # The cycles' number is known well enough before jitter to draw one factor for each.
    cycle = np.cumsum(step).astype(np.int64)
    count = int(cycle[-1]) + 2
    roughness = delivery.roughness
    jitter = 1 + np.clip(rng.normal(0, voice.jitter * roughness, count), -0.1, 0.1)
    phase = np.cumsum(step * jitter[cycle])
    cycle = phase.astype(np.int64).clip(max=count - 1)
    shimmer = 10 ** (rng.normal(0, voice.shimmer * roughness, count) / 20)
    # The voice slackens towards the end of the utterance.
    rd = voice.rd + delivery.rd + 0.3 * np.linspace(-0.5, 1.0, count) ** 3
    row = np.rint((rd + rng.normal(0, 0.05, count) - RD_GRID[0]) / 0.1)
    row = row.astype(np.int64).clip(0, len(RD_GRID) - 1)
    within = phase - np.floor(phase)
    column = (within * TABLE_SIZE).astype(np.int64).clip(max=TABLE_SIZE - 1)
    flow = glottal_table()[row[cycle], column] * shimmer[cycle]
    opening = 0.35 + 1.3 * np.sin(np.pi * np.clip(within / 0.75, 0, 1)) ** 2
    return flow, opening


def _decimate(wave: Floats) -> Floats:
    """Remove the oversampling by dropping the upper half of the spectrum."""
    length = len(wave) // OVERSAMPLING
    spectrum = np.fft.rfft(wave)[: length // 2 + 1]
    return np.fft.irfft(spectrum, length) / OVERSAMPLING


def _tract_response(
    formants: Floats, voice: Voice, delivery: Delivery, sample_rate: int, size: int
) -> NDArray[np.complexfloating]:
    """Give the cascade's frequency response [F, size // 2 + 1], one row per frame."""
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)

    def resonator(frequency: Floats, bandwidth: float) -> NDArray[np.complexfloating]:
        # Klatt's digital resonator: gain one at 0 Hz.
        radius = np.exp(-np.pi * bandwidth / sample_rate)
        b = 2 * radius * np.cos(2 * np.pi * frequency / sample_rate)
        c = -(radius**2)
        return (1 - b - c)[..., None] / (1 - b[..., None] * z - c * z**2)

    # A lax glottis damps the first formant.
    lax = max(voice.rd + delivery.rd - 1.0, 0.0)
    top = 0.46 * sample_rate
    response = np.ones((len(formants), len(z)), dtype=complex)
    for i, bandwidth in enumerate((65.0 + 50.0 * lax, 90.0 + 20 * lax, 140.0)):
        response *= resonator(np.minimum(formants[:, i], top), bandwidth)
    for number in range(4, 9):
        frequency = (1000.0 * number - 500.0) * voice.tract_scale
        if frequency < top:
            response *= resonator(np.array(frequency), 100.0 + 50.0 * (number - 2))
    hertz = np.arange(size // 2 + 1) * sample_rate / size
    # No speech lies below 50 Hz; without this the wave would drift.
    return response * (hertz**2 / (hertz**2 + 50.0**2))


def _noise_response(
    segments: Sequence[Segment], which: NDArray[np.integer], voice: Voice, sample_rate: int,
    size: int,
) -> Floats:  # fmt: skip
    """Give the frication's shape [F, size // 2 + 1]: one hump, at unit power."""
    hertz = np.arange(size // 2 + 1) * sample_rate / size
    # The front cavity is shorter in a short vocal tract, though less so than the whole.
    scale = 0.5 + 0.5 * voice.tract_scale
    centre = np.array([s.noise_centre for s in segments])[:, None] * scale
    width = np.array([s.noise_width for s in segments])[:, None] * scale
    centre = np.minimum(centre, 0.42 * sample_rate)
    hump = np.exp(-0.5 * ((hertz - centre) / width) ** 2) * np.minimum(hertz / 300.0, 1.0)
    return (hump / np.sqrt(np.mean(hump**2, axis=1, keepdims=True)))[which]


def _overlap_add(
    first: Floats, first_response: NDArray, second: Floats, second_response: NDArray, hop: int
) -> Floats:
    """Filter two waves, each with its own response per frame, and add them.

    Hann windows of two hops sum to one; the rest of the transform holds the filter's tail.
    """
    size = 2 * (first_response.shape[1] - 1)
    window = np.hanning(2 * hop + 1)[:-1]
    num_frames = len(first) // hop + 1

    def frames(wave: Floats) -> Floats:
        padded = np.pad(wave, (hop, hop))
        return np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop] * window

    spectrum = np.fft.rfft(frames(first), size) * first_response
    spectrum += np.fft.rfft(frames(second), size) * second_response
    pieces = np.fft.irfft(spectrum, size).reshape(num_frames, size // hop, hop)
    blocks = np.zeros((num_frames + size // hop, hop))
    for k in range(size // hop):
        blocks[k : k + num_frames] += pieces[:, k]
    return blocks.reshape(-1)[hop : hop + len(first)]
