"""A small corpus of synthetic emotional speech in IEMOCAP's layout, for runs without data.

Pitch, range, rate and level follow Scherer (Speech Communication 40, 2003) and Juslin and
Laukka (Psychological Bulletin 129, 2003), tense and lax voice Gobl and Ni Chasaide (Speech
Communication 40, 2003). Speakers differ, an emotion is acted weakly or strongly and every
utterance strays at random, so that classes overlap. What a model reaches here says that
the software works, and nothing else.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.random import Generator, default_rng
from tqdm import tqdm

from gemoclap_sb.files import atomic_folder, read_json, write_json, write_text
from gemoclap_sb.synthetic.speech import Delivery, Voice, synthesize

# At the root of a finished corpus, with the arguments that made it.
MARKER = "demo_corpus.json"

SENTENCES: dict[str, str] = {
    "The water is cold this morning.": "DH AX W AO1 T ER IH Z K OW1 L D DH IH S M AO1 R N IH NG",
    "They sold the house in May.": "DH EY S OW1 L D DH AX HH AW1 S IH N M EY1",
    "Nobody told me about it.": "N OW1 B AX D IY T OW1 L D M IY AX B AW T IH T",
    "She left her keys on the table.": "SH IY L EH1 F T HH ER K IY1 Z AO N DH AX T EY1 B AX L",
    "I saw your brother last night.": "AY S AO1 Y AO R B R AH1 DH ER L AE S T N AY1 T",
    "You can put it over there.": "Y UW K AE N P UH1 T IH T OW1 V ER DH EH R",
    "The bus was late again, today.": "DH AX B AH1 S W AX Z L EY1 T AX G EH N , T AX D EY1",
    "We moved the boxes to the garden.":
        "W IY M UW1 V D DH AX B AA1 K S IH Z T AX DH AX G AA1 R D AX N",
    "Well, I think he is right.": "W EH1 L , AY TH IH1 NG K HH IY IH Z R AY1 T",
    "My father called on Sunday.": "M AY F AA1 DH ER K AO1 L D AO N S AH1 N D EY",
    "Look, the door was open.": "L UH1 K , DH AX D AO1 R W AX Z OW1 P AX N",
    "Ask him where he was.": "AE1 S K HH IH M W EH1 R HH IY W AX Z",
}  # fmt: skip

# Mean delivery of each label at full strength; "xxx" borrows one at random.
EXPRESSIONS: dict[str, Delivery] = {
    "neu": Delivery(),
    "ang": Delivery(pitch=3.5, pitch_range=1.35, rate=1.12, level=6.0, rd=-0.45, breath=-4.0,
                    openness=1.10, precision=1.08, roughness=1.8, pauses=0.8),
    "hap": Delivery(pitch=4.0, pitch_range=1.60, rate=1.06, level=2.5, rd=-0.05, breath=1.0,
                    openness=1.02, fronting=1.05, precision=1.03, pauses=0.9),
    "exc": Delivery(pitch=5.0, pitch_range=1.75, rate=1.14, level=4.0, rd=-0.15, breath=1.0,
                    openness=1.04, fronting=1.05, precision=1.03, roughness=1.2, pauses=0.8),
    "sad": Delivery(pitch=-1.5, pitch_range=0.62, rate=0.84, level=-5.0, rd=0.70, breath=8.0,
                    openness=0.95, fronting=0.98, precision=0.80, pauses=1.7),
    "fru": Delivery(pitch=1.5, pitch_range=1.15, rate=1.0, level=3.0, rd=-0.25,
                    openness=1.05, roughness=1.5, pauses=1.2),
    "sur": Delivery(pitch=6.0, pitch_range=1.9, rate=1.0, level=2.0, breath=3.0, openness=1.05),
    "fea": Delivery(pitch=4.5, pitch_range=0.9, rate=1.2, level=0.0, rd=0.2, breath=5.0,
                    roughness=2.0, pauses=1.3),
}  # fmt: skip

# Per-utterance straying: standard deviations, of the logarithm where the field is a factor.
STRAYING: dict[str, float] = {
    "pitch": 1.6, "pitch_range": 0.2, "rate": 0.08, "level": 1.9, "rd": 0.2, "breath": 2.5,
    "openness": 0.035, "fronting": 0.025, "precision": 0.07, "roughness": 0.25, "pauses": 0.3,
}  # fmt: skip
ADDED = ("pitch", "level", "rd", "breath")

# With one of the others per cycle, IEMOCAP's proportions.
LABEL_CYCLE = ("neu", "ang", "exc", "sad", "neu", "hap", "ang", "sad", "neu", "exc")
OTHER_CYCLE = ("fru", "xxx", "sur", "fea")
CATEGORY = {"neu": "Neutral", "ang": "Anger", "hap": "Happiness", "exc": "Excited",
            "sad": "Sadness", "fru": "Frustration", "sur": "Surprise", "fea": "Fear"}  # fmt: skip
# Valence, activation and dominance on IEMOCAP's scale of 1 to 5.
ATTRIBUTES = {"neu": (3.0, 2.5, 3.0), "ang": (1.7, 4.0, 4.0), "hap": (4.2, 3.3, 3.2),
              "exc": (4.2, 3.9, 3.5), "sad": (2.0, 2.0, 2.3), "fru": (2.0, 3.3, 3.3),
              "sur": (3.2, 3.8, 3.0), "fea": (2.0, 3.5, 2.2), "xxx": (2.7, 3.0, 3.0)}  # fmt: skip
SPEECH_LEVEL, PEAK_LIMIT = 10 ** (-25 / 20), 0.9


@dataclasses.dataclass(frozen=True)
class _Speaker:
    """A voice with habits: strength of acting, loudness in dB, microphone's tilt in dB/octave."""

    voice: Voice
    expressiveness: float
    level: float
    tilt: float


def make_demo_corpus(
    folder: str | Path,
    speakers: int = 10,
    utterances_per_speaker: int = 44,
    seed: int = 1,
    sample_rate: int = 16000,
    progress: bool = True,
) -> Path:
    """Write the synthetic corpus in the layout of ``IEMOCAP_full_release``; give its folder.

    The same arguments give the same bytes. `folder` is whole or absent: an interrupted run
    leaves nothing, and a finished corpus of the same arguments is kept as it is.

    Parameters
    ----------
    folder : str or Path
        Where the corpus will stand.
    speakers : int
        Even, 2 to 18: one woman and one man per session.
    utterances_per_speaker : int
        Of every 11: 3 neutral, 3 happy or excited, 2 angry, 2 sad, 1 of another label.
    seed, sample_rate : int
        Seed of everything that is random; rate in Hz, 8000 or more.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If an argument is out of range.
    FileExistsError
        If `folder` holds anything other than this very corpus.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     corpus = make_demo_corpus(Path(place) / "demo", 2, 11, progress=False)
    ...     len(list(corpus.glob("Session1/sentences/wav/*/*.wav")))
    22
    """
    if speakers % 2 or not 2 <= speakers <= 18:
        raise ValueError(f"expected an even number of speakers from 2 to 18, found {speakers}")
    if utterances_per_speaker < 1 or seed < 0:
        raise ValueError(
            "expected utterances_per_speaker of 1 or more and a seed of 0 or more, "
            f"found {utterances_per_speaker} and {seed}"
        )
    arguments = {
        "generator": "gemoclap_sb.demo_corpus",
        "version": 1,
        "speakers": speakers,
        "utterances_per_speaker": utterances_per_speaker,
        "seed": seed,
        "sample_rate": sample_rate,
    }
    folder = Path(folder)
    if _is_finished(folder, arguments):
        return folder
    total = speakers * utterances_per_speaker
    try:
        with (
            tqdm(total=total, desc="demo corpus", unit="utt", disable=not progress) as bar,
            atomic_folder(folder) as building,
        ):
            for session in range(1, speakers // 2 + 1):
                _write_session(building, session, utterances_per_speaker, seed, sample_rate, bar)
            write_json(building / MARKER, arguments)
            # What another process finished meanwhile may be in use already.
            if _is_finished(folder, arguments):
                raise FileExistsError(folder)
    except OSError:
        if not _is_finished(folder, arguments):
            raise
    return folder


def _is_finished(folder: Path, arguments: dict[str, Any]) -> bool:
    """Tell whether the corpus stands already; FileExistsError if something else does."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = read_json(folder / MARKER)
    except (OSError, ValueError):
        found = f"no readable {MARKER}"
    if found != arguments:
        raise FileExistsError(
            f"expected {folder} to be empty or to hold the demo corpus of {arguments}, "
            f"found {found}; delete that folder or choose another"
        )
    return True


def _write_session(
    root: Path, session: int, count: int, seed: int, sample_rate: int, bar: tqdm
) -> None:
    """Synthesise one session: a woman and a man take turns in four dialogues."""
    base = root / f"Session{session}"
    people = []
    for number, gender in enumerate("FM"):
        rng = default_rng([seed, session, number])
        speaker = _draw_speaker(gender, rng)
        people.append((gender, speaker, _draw_lines(count, session + number, rng)))

    for d, kind in enumerate(("F_impro01", "M_impro01", "F_script01_1", "M_script01_1")):
        dialogue = f"Ses0{session}{kind}"
        wavs = base / "sentences/wav" / dialogue
        wavs.mkdir(parents=True)
        rng = default_rng([seed, session, 2, d])
        clock, turns, script = 6.29, [], ""
        for i in range(d, count, 4):
            for number, (gender, speaker, lines) in enumerate(people):
                label, text = lines[i]
                voice_rng = default_rng([seed, session, number, i])
                wave = _speak(SENTENCES[text].split(), label, speaker, voice_rng, sample_rate)
                name = f"{dialogue}_{gender}{i // 4:03d}"
                soundfile.write(wavs / f"{name}.wav", wave, sample_rate, subtype="PCM_16")
                end = clock + len(wave) / sample_rate
                turns.append((name, label, clock, end))
                script += f"{name} [{clock:08.4f}-{end:08.4f}]: {text}\n"
                clock = end + rng.uniform(0.3, 0.9)
                bar.update()
        write_text(base / f"dialog/transcriptions/{dialogue}.txt", script)
        write_text(base / f"dialog/EmoEvaluation/{dialogue}.txt", _evaluation(turns, rng))


def _draw_speaker(gender: str, rng: Generator) -> _Speaker:
    """Draw a speaker: pitch and vocal tract follow the gender, habits do not."""
    female = gender == "F"
    spread = 2 ** (rng.normal(0.0, 1.3) / 12)
    voice = Voice(
        f0=(205.0 if female else 112.0) * spread,
        tract_scale=(1.16 if female else 1.0) * (1 + rng.normal(0.0, 0.025)),
        rd=1.1 + (0.1 if female else 0.0) + rng.normal(0.0, 0.15),
        rate=np.exp(rng.normal(0.0, 0.07)),
        jitter=0.008 * np.exp(rng.normal(0.0, 0.3)),
        shimmer=0.3 * np.exp(rng.normal(0.0, 0.3)),
    )
    return _Speaker(voice, rng.uniform(0.8, 1.1), rng.normal(0.0, 1.5), rng.normal(0.0, 0.7))


def _draw_lines(count: int, offset: int, rng: Generator) -> list[tuple[str, str]]:
    """Pair labels in fixed proportions with sentences that do not depend on them."""
    labels, texts = [], list(SENTENCES)
    while len(labels) < count:
        labels += [*LABEL_CYCLE, OTHER_CYCLE[offset % len(OTHER_CYCLE)]]
        offset += 1
    return [(labels[i], texts[rng.integers(len(texts))]) for i in rng.permutation(count)]


def _draw_delivery(label: str, strength: float, rng: Generator) -> Delivery:
    """Act a label with some strength, and stray from it."""
    mean = EXPRESSIONS[str(rng.choice(list(EXPRESSIONS))) if label == "xxx" else label]
    drawn = {}
    for field, deviation in STRAYING.items():
        target, stray = getattr(mean, field), rng.normal(0.0, deviation)
        if field in ADDED:
            drawn[field] = strength * target + stray
        else:
            drawn[field] = np.exp(strength * np.log(target) + stray)
    return Delivery(**drawn)


def _speak(
    phones: list[str], label: str, speaker: _Speaker, rng: Generator, sample_rate: int
) -> np.ndarray:
    """Give one recorded utterance [T] in [-1, 1]: speech, microphone and room noise."""
    delivery = _draw_delivery(label, speaker.expressiveness * rng.uniform(0.65, 1.15), rng)
    wave = synthesize(phones, speaker.voice, delivery, rng, sample_rate)
    wave = wave * SPEECH_LEVEL * 10 ** ((delivery.level + speaker.level) / 20)

    # Room noise falls by 3 dB per octave and does not follow the speaker's level.
    hertz = np.fft.rfftfreq(len(wave), 1 / sample_rate)
    noise = np.fft.rfft(rng.standard_normal(len(wave))) / np.sqrt(np.maximum(hertz, 40.0))
    noise *= np.sqrt(len(wave) / 2 / np.sum(np.abs(noise) ** 2)) * np.sqrt(len(wave))
    noise *= SPEECH_LEVEL * 10 ** (-rng.uniform(28.0, 42.0) / 20)
    microphone = (np.maximum(hertz, 40.0) / 1000.0) ** (speaker.tilt / 6.02)
    microphone[0] = 0.0  # no DC
    wave = np.fft.irfft((np.fft.rfft(wave) + noise) * microphone, len(wave))
    return wave * min(1.0, PEAK_LIMIT / np.abs(wave).max())


def _evaluation(turns: list[tuple[str, str, float, float]], rng: Generator) -> str:
    """Give a label file: a summary line per turn, and what each annotator said."""
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"
    for name, label, start, end in turns:
        scores = np.rint(ATTRIBUTES[label] + rng.normal(0.0, 0.6, (2, 3))).clip(1, 5).astype(int)
        if label == "xxx":  # no majority
            votes = ["Neutral", "Frustration", "Sadness"]
        else:
            votes = [CATEGORY[label], CATEGORY[label], "Other"]
            rng.shuffle(votes)
        v, a, d = scores.mean(axis=0)
        text += f"\n[{start:.4f} - {end:.4f}]\t{name}\t{label}\t[{v:.4f}, {a:.4f}, {d:.4f}]\n"
        for k, vote in enumerate(votes, start=1):
            text += f"C-E{k}:\t{vote};\t()\n"
        for k, (v, a, d) in enumerate(scores, start=1):
            text += f"A-E{k}:\tval {v}; act {a}; dom  {d};\t()\n"
    return text
