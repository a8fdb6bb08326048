"""The embedded corpus: synthetic emotional speech in IEMOCAP's layout.

IEMOCAP needs a licence and every real corpus a download. So that the first command runs
anywhere, this room synthesises a small corpus of acted speech (:mod:`gemoclap_sb.synthetic.speech`)
and lays it out exactly as an ``IEMOCAP_full_release`` folder: five sessions of one woman
and one man, turns, label files with annotators' lines, and transcriptions.

How a delivery follows the emotion is taken from reviews of vocal expression: pitch level
and range, rate and level from Scherer ("Vocal communication of emotion", Speech
Communication 40, 2003) and Juslin and Laukka ("Communication of emotions in vocal
expression and music performance", Psychological Bulletin 129, 2003); tense and lax voice
from Gobl and Ni Chasaide ("The role of voice quality in communicating emotion, mood and
attitude", Speech Communication 40, 2003). Speakers differ from each other, an emotion is
acted weakly or strongly, and every utterance strays at random, so that classes overlap.

The numbers that a model reaches here say that the software works, and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from gemoclap_sb.files import write_json
from gemoclap_sb.synthetic.speech import Delivery, Voice, synthesize

__all__ = ["MARKER", "make_demo_corpus"]

MARKER = "demo_corpus.json"
"""File at the root of a finished corpus, holding the arguments that made it."""
GENERATOR = {"generator": "gemoclap_sb.demo_corpus", "version": 1}

SENTENCES: tuple[tuple[str, str], ...] = (
    ("The water is cold this morning.",
     "DH AX W AO1 T ER IH Z K OW1 L D DH IH S M AO1 R N IH NG"),
    ("They sold the house in May.", "DH EY S OW1 L D DH AX HH AW1 S IH N M EY1"),
    ("Nobody told me about it.", "N OW1 B AX D IY T OW1 L D M IY AX B AW T IH T"),
    ("She left her keys on the table.",
     "SH IY L EH1 F T HH ER K IY1 Z AO N DH AX T EY1 B AX L"),
    ("I saw your brother last night.", "AY S AO1 Y AO R B R AH1 DH ER L AE S T N AY1 T"),
    ("You can put it over there.", "Y UW K AE N P UH1 T IH T OW1 V ER DH EH R"),
    ("The bus was late again, today.",
     "DH AX B AH1 S W AX Z L EY1 T AX G EH N , T AX D EY1"),
    ("We moved the boxes to the garden.",
     "W IY M UW1 V D DH AX B AA1 K S IH Z T AX DH AX G AA1 R D AX N"),
    ("Well, I think he is right.", "W EH1 L , AY TH IH1 NG K HH IY IH Z R AY1 T"),
    ("My father called on Sunday.", "M AY F AA1 DH ER K AO1 L D AO N S AH1 N D EY"),
    ("Look, the door was open.", "L UH1 K , DH AX D AO1 R W AX Z OW1 P AX N"),
    ("Ask him where he was.", "AE1 S K HH IH M W EH1 R HH IY W AX Z"),
)  # fmt: skip

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
"""Mean delivery of each label at full strength; ``xxx`` borrows one at random."""

# Per-utterance straying: standard deviations, of the logarithm where the field is a factor.
STRAYING: dict[str, float] = {
    "pitch": 1.6, "pitch_range": 0.2, "rate": 0.08, "level": 1.9, "rd": 0.2, "breath": 2.5,
    "openness": 0.035, "fronting": 0.025, "precision": 0.07, "roughness": 0.25, "pauses": 0.3,
}  # fmt: skip
ADDED = ("pitch", "level", "rd", "breath")

# One cycle has IEMOCAP's proportions: neutral 3, happy + excited 3, angry 2, sad 2, other 1.
LABEL_CYCLE = ("neu", "ang", "exc", "sad", "neu", "hap", "ang", "sad", "neu", "exc", "other")
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
    """A voice with habits: how strongly it acts, how loud it is, how it was recorded."""

    voice: Voice
    sex: str
    expressiveness: float
    level: float
    tilt: float


@dataclasses.dataclass(frozen=True)
class _Turn:
    """One utterance and its place in the dialogue."""

    name: str
    label: str
    text: str
    start: float
    end: float


def make_demo_corpus(
    folder: str | Path,
    speakers: int = 10,
    utterances_per_speaker: int = 44,
    seed: int = 1,
    sample_rate: int = 16000,
    progress: bool = True,
) -> Path:
    """Write the synthetic corpus in the layout of ``IEMOCAP_full_release``.

    The same arguments give the same bytes. The corpus is built in a hidden folder beside
    `folder` and renamed at the end, so `folder` is whole or absent. A finished corpus of
    the same arguments is kept as it is; anything else in its place is an error, because
    deleting a folder is not for a program to decide.

    Parameters
    ----------
    folder : str or Path
        Where the corpus will stand.
    speakers : int
        Even, 2 to 18: one woman and one man per session.
    utterances_per_speaker : int
        Of every 11, three are neutral, three happy or excited, two angry, two sad, and
        one has a label outside the four classes.
    seed : int
        Seed of everything that is random.
    sample_rate : int
        In Hz, 8000 or more.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        `folder`.

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
    if utterances_per_speaker < 1:
        raise ValueError(f"expected utterances_per_speaker of 1 or more, found "
                         f"{utterances_per_speaker}")  # fmt: skip
    if seed < 0:
        raise ValueError(f"expected a seed of 0 or more, found {seed}")
    if sample_rate < 8000:
        raise ValueError(f"expected a sample rate of at least 8000 Hz, found {sample_rate}")
    arguments = GENERATOR | {
        "speakers": speakers,
        "utterances_per_speaker": utterances_per_speaker,
        "seed": seed,
        "sample_rate": sample_rate,
    }
    folder = Path(folder)
    if _is_finished(folder, arguments):
        return folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    building.mkdir()
    try:
        total = speakers * utterances_per_speaker
        with tqdm(total=total, desc="demo corpus", unit="utt", disable=not progress) as bar:
            for session in range(1, speakers // 2 + 1):
                _write_session(building, session, utterances_per_speaker, seed, sample_rate, bar)
        write_json(building / MARKER, arguments)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Windows does not rename onto a folder, not even an empty one.
        try:
            os.rename(building, folder)
        except OSError:
            # Another process may have finished the same corpus meanwhile.
            if not _is_finished(folder, arguments):
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _is_finished(folder: Path, arguments: dict[str, Any]) -> bool:
    """Tell whether the corpus stands already; refuse a folder that holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    found: Any = None
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = "an unreadable marker"
    if found == arguments:
        return True
    what = "no demo corpus" if found is None else f"a demo corpus made with {found}"
    raise FileExistsError(
        f"{folder} holds {what}, not one made with {arguments}; "
        "delete that folder or choose another"
    )


def _write_session(
    root: Path, session: int, count: int, seed: int, sample_rate: int, bar: tqdm
) -> None:
    """Synthesise one session: a woman and a man take turns in four dialogues."""
    base = root / f"Session{session}"
    labels, script = base / "dialog/EmoEvaluation", base / "dialog/transcriptions"
    labels.mkdir(parents=True)
    script.mkdir(parents=True)
    people = {}
    for number, sex in enumerate("FM"):
        rng = np.random.default_rng([seed, session, number])
        people[sex] = (_draw_speaker(sex, rng), _draw_lines(count, session + number, rng))

    for d, kind in enumerate(("F_impro01", "M_impro01", "F_script01_1", "M_script01_1")):
        dialogue = f"Ses0{session}{kind}"
        wavs = base / "sentences/wav" / dialogue
        wavs.mkdir(parents=True)
        rng = np.random.default_rng([seed, session, 2, d])
        clock, turns, spoken = 6.29, [], {"F": 0, "M": 0}
        for i in range(d, count, 4):
            for number, sex in enumerate("FM"):
                speaker, lines = people[sex]
                label, (text, phones) = lines[i]
                wave = _speak(phones.split(), label, speaker,
                              np.random.default_rng([seed, session, number, i]),
                              sample_rate)  # fmt: skip
                name = f"{dialogue}_{sex}{spoken[sex]:03d}"
                spoken[sex] += 1
                soundfile.write(wavs / f"{name}.wav", wave, sample_rate, subtype="PCM_16")
                turns.append(_Turn(name, label, text, clock, clock + len(wave) / sample_rate))
                clock = turns[-1].end + rng.uniform(0.3, 0.9)
                bar.update()
        (labels / f"{dialogue}.txt").write_text(_evaluation(turns, rng), encoding="utf-8")
        (script / f"{dialogue}.txt").write_text(
            "".join(f"{t.name} [{t.start:08.4f}-{t.end:08.4f}]: {t.text}\n" for t in turns),
            encoding="utf-8",
        )


def _draw_speaker(sex: str, rng: np.random.Generator) -> _Speaker:
    """Draw a speaker: pitch and vocal tract follow the sex, habits do not."""
    female = sex == "F"
    spread = 2 ** (rng.normal(0.0, 1.3) / 12)
    voice = Voice(
        f0=(205.0 if female else 112.0) * spread,
        tract_scale=(1.16 if female else 1.0) * (1 + rng.normal(0.0, 0.025)),
        rd=1.1 + (0.1 if female else 0.0) + rng.normal(0.0, 0.15),
        rate=float(np.exp(rng.normal(0.0, 0.07))),
        jitter=0.008 * float(np.exp(rng.normal(0.0, 0.3))),
        shimmer=0.3 * float(np.exp(rng.normal(0.0, 0.3))),
    )
    return _Speaker(voice, sex, rng.uniform(0.8, 1.1), rng.normal(0.0, 1.5), rng.normal(0.0, 0.7))


def _draw_lines(
    count: int, offset: int, rng: np.random.Generator
) -> list[tuple[str, tuple[str, str]]]:
    """Pair labels in fixed proportions with sentences that do not depend on them."""
    labels = [LABEL_CYCLE[i % len(LABEL_CYCLE)] for i in range(count)]
    others = iter(range(offset, offset + count))
    labels = [
        OTHER_CYCLE[next(others) % len(OTHER_CYCLE)] if label == "other" else label
        for label in labels
    ]
    return [(labels[i], SENTENCES[rng.integers(len(SENTENCES))]) for i in rng.permutation(count)]


def _draw_delivery(label: str, strength: float, rng: np.random.Generator) -> Delivery:
    """Act a label with some strength, and stray from it."""
    if label == "xxx":
        label = str(rng.choice(list(EXPRESSIONS)))
    mean = dataclasses.asdict(EXPRESSIONS[label])
    drawn = {}
    for field, deviation in STRAYING.items():
        stray = rng.normal(0.0, deviation)
        if field in ADDED:
            drawn[field] = strength * mean[field] + stray
        else:
            drawn[field] = float(np.exp(strength * np.log(mean[field]) + stray))
    return Delivery(**drawn)


def _speak(
    phones: list[str], label: str, speaker: _Speaker, rng: np.random.Generator, sample_rate: int
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


def _evaluation(turns: Iterable[_Turn], rng: np.random.Generator) -> str:
    """Give a label file: a summary line per turn, and what each annotator said."""
    blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
    for turn in turns:
        means = np.array(ATTRIBUTES[turn.label])
        scores = np.clip(np.rint(means + rng.normal(0.0, 0.6, (2, 3))), 1, 5).astype(int)
        v, a, d = scores.mean(axis=0)
        if turn.label == "xxx":  # no majority
            votes = ["Neutral", "Frustration", "Sadness"]
        else:
            votes = [CATEGORY[turn.label], CATEGORY[turn.label], "Other"]
            rng.shuffle(votes)
        lines = [
            f"[{turn.start:.4f} - {turn.end:.4f}]\t{turn.name}\t{turn.label}\t"
            f"[{v:.4f}, {a:.4f}, {d:.4f}]"
        ]
        lines += [f"C-E{k}:\t{vote};\t()" for k, vote in enumerate(votes, start=1)]
        lines += [
            f"A-E{k}:\tval {val}; act {act}; dom  {dom};\t()"
            for k, (val, act, dom) in enumerate(scores, start=1)
        ]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
