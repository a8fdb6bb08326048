"""The synthetic corpus, judged by measurements that share nothing with the synthesiser."""

import collections
import hashlib
import json
import re

import numpy as np
import pytest
import scipy.fft
import soundfile
from scipy.io import wavfile
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gemoclap_sb.synthetic import corpus as demo_corpus
from gemoclap_sb.synthetic.corpus import MARKER, make_demo_corpus
from gemoclap_sb.synthetic.phones import CONSONANTS, VOWELS
from gemoclap_sb.synthetic.speech import RD_GRID, Delivery, Voice, glottal_table, synthesize

RATE = 16000
CLASSES = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
SUMMARY = re.compile(
    r"\[(\d+\.\d{4}) - (\d+\.\d{4})\]\t(\S+)\t(\w{3})\t\[\d\.\d{4}, \d\.\d{4}, \d\.\d{4}\]"
)
SPOKEN = re.compile(r"(\S+) \[\d{3}\.\d{4}-\d{3}\.\d{4}\]: (\S.+)")
Turn = collections.namedtuple("Turn", "label gender session seconds wave")


def frames_of(wave, length=640, hop=160):
    return np.lib.stride_tricks.sliding_window_view(wave, length)[::hop]


def autocorrelation_f0(wave, length=640):
    """F0 in Hz of the clearly voiced frames: the peak of the normalised autocorrelation."""
    frames = frames_of(wave) * np.hanning(length)
    windowed = np.vstack([frames, np.hanning(length)])
    correlation = scipy.fft.irfft(np.abs(scipy.fft.rfft(windowed, 4 * length)) ** 2)
    correlation, window = correlation[:-1], correlation[-1]
    lags = np.arange(RATE // 500, RATE // 65)
    ratio = correlation[:, lags] / (correlation[:, :1] + 1e-9) / (window[lags] / window[0])
    # The first lag that comes near the best one, or the octave below would often win.
    first = np.argmax(ratio > 0.9 * ratio.max(axis=1, keepdims=True), axis=1)
    near = np.clip(first[:, None] + np.arange(12), 0, len(lags) - 1)
    first = near[np.arange(len(near)), np.argmax(np.take_along_axis(ratio, near, 1), axis=1)]
    energy = frames.var(axis=1)
    voiced = (ratio.max(axis=1) > 0.6) & (energy > 0.05 * energy.max())
    return RATE / lags[first[voiced]]


def mel_cepstra(wave, bands=24, coefficients=12):
    power = np.abs(np.fft.rfft(frames_of(wave, 400) * np.hamming(400), 512)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 7600 / 700), bands + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(512, 1 / RATE)
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.clip(np.minimum(rise, fall), 0, None)
    return scipy.fft.dct(np.log(power @ filters.T + 1e-6), norm="ortho")[:, 1 : coefficients + 1]


def features_of(wave):
    f0 = 12 * np.log2(autocorrelation_f0(wave))
    energy = 10 * np.log10(frames_of(wave).var(axis=1) + 1e-7)
    cepstra = mel_cepstra(wave)
    return np.concatenate(
        [[f0.mean(), f0.std(), energy.mean(), energy.std(), len(wave) / RATE],
         cepstra.mean(axis=0), cepstra.std(axis=0)]
    )  # fmt: skip


def read_turns(corpus):
    """Name -> turn, by the label files alone."""
    turns = {}
    for path in corpus.glob("Session*/dialog/EmoEvaluation/Ses0?[FM]_*.txt"):
        for start, end, name, label in SUMMARY.findall(path.read_text()):
            session = path.parents[2]
            rate, wave = wavfile.read(session / f"sentences/wav/{path.stem}/{name}.wav")
            assert (rate, wave.dtype, wave.ndim) == (RATE, np.int16, 1)
            seconds = float(end) - float(start)
            turns[name] = Turn(label, name[-4], int(session.name[-1]), seconds, wave / 2**15)
    return turns


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
    }


def small(folder, **changes):
    arguments = {"speakers": 2, "utterances_per_speaker": 4, "progress": False} | changes
    return make_demo_corpus(folder, **arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "demo"
    return small(folder, speakers=4, utterances_per_speaker=22)


@pytest.fixture(scope="module")
def turns(corpus):
    return read_turns(corpus)


# ------------------------------------------------------------------------------ layout


def test_layout_is_that_of_iemocap(corpus, turns):
    assert {path.name for path in corpus.iterdir()} == {"Session1", "Session2", MARKER}
    wavs = {path.stem for path in corpus.glob("Session*/sentences/wav/*/*.wav")}
    assert wavs == set(turns) and len(wavs) == 88
    texts = {}
    for path in corpus.glob("Session*/dialog/transcriptions/*.txt"):
        for line in path.read_text().splitlines():
            name, text = SPOKEN.fullmatch(line).groups()
            assert name.startswith(path.stem)
            texts[name] = text
    assert set(texts) == wavs and set(texts.values()) == set(demo_corpus.SENTENCES)
    for name, turn in turns.items():
        assert re.fullmatch(r"Ses0\d[FM]_(impro01|script01_1)_[FM]\d{3}", name)
        assert len(turn.wave) / RATE == pytest.approx(turn.seconds, abs=2e-4)


def test_label_files_hold_annotators_and_every_speaker_every_class(corpus, turns):
    text = next(corpus.glob("Session1/dialog/EmoEvaluation/*.txt")).read_text()
    assert text.startswith("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n[")
    summaries = len(SUMMARY.findall(text))
    assert (text.count("\nC-E"), text.count("\nA-E")) == (3 * summaries, 2 * summaries)

    per_speaker = collections.defaultdict(collections.Counter)
    for turn in turns.values():
        per_speaker[turn.session, turn.gender][turn.label] += 1
    assert len(per_speaker) == 4
    for counts in per_speaker.values():
        assert [counts[label] for label in ("neu", "ang", "sad", "hap", "exc")] == [6, 4, 4, 2, 4]
        assert counts.total() == 22
    assert set().union(*per_speaker.values()) - set(CLASSES) == {"fru", "xxx", "sur", "fea"}


# ------------------------------------------------------------------------------- sound


def test_level_dc_and_duration(turns):
    for name, turn in turns.items():
        assert np.abs(turn.wave).max() < 0.95, f"{name} is near clipping"
        assert abs(turn.wave.mean()) < 1e-4, f"{name} has DC"
        assert -50 < 10 * np.log10(np.mean(turn.wave**2)) < -10, f"{name}: inaudible or too loud"
        assert 0.7 < turn.seconds < 4.5, name
    assert 1.0 < np.median([turn.seconds for turn in turns.values()]) < 2.2


def test_pitch_follows_gender_and_emotion(turns):
    pitch = collections.defaultdict(list)
    for turn in turns.values():
        f0 = np.median(autocorrelation_f0(turn.wave))
        pitch[turn.gender].append(f0)
        pitch[turn.gender, CLASSES.get(turn.label)].append(f0)
    mean = {key: np.mean(values) for key, values in pitch.items()}
    assert 1.4 < mean["F"] / mean["M"] < 2.3
    for gender in "FM":
        assert min(mean[gender, "ang"], mean[gender, "hap"]) > 1.1 * mean[gender, "sad"]


def test_level_rate_and_tilt_follow_emotion(turns):
    measured = collections.defaultdict(list)
    for turn in turns.values():
        power = np.abs(np.fft.rfft(frames_of(turn.wave) * np.hanning(640))) ** 2
        power = power[power.sum(axis=1) > 0.1 * power.sum(axis=1).max()].mean(axis=0)
        level, tilt = np.mean(turn.wave**2), power[40:120].sum() / power[:40].sum()
        measured[turn.label].append([10 * np.log10(level), turn.seconds, 10 * np.log10(tilt)])
    mean = {label: np.mean(rows, axis=0) for label, rows in measured.items()}
    level, seconds, tilt = ({label: row[k] for label, row in mean.items()} for k in range(3))
    assert level["ang"] > level["neu"] + 3 and level["neu"] > level["sad"] + 2
    assert seconds["sad"] > 1.1 * seconds["neu"] > 1.1 * seconds["ang"]
    # A tense voice has more energy above 1 kHz.
    assert tilt["ang"] > tilt["neu"] + 1


@pytest.mark.slow
def test_task_is_neither_trivial_nor_hopeless(tmp_path):
    """Logistic regression on global statistics, one session out each, is right mostly."""
    turns = read_turns(make_demo_corpus(tmp_path / "demo", progress=False))
    assert len(turns) == 440
    kept = [turn for turn in turns.values() if turn.label in CLASSES]
    features = np.array([features_of(turn.wave) for turn in kept])
    session = np.array([turn.session for turn in kept])

    def uar(targets):
        targets, guesses = np.array(targets), np.empty(len(kept), "U3")
        for k in range(1, 6):
            train, test = session != k, session == k
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
            guesses[test] = model.fit(features[train], targets[train]).predict(features[test])
        return balanced_accuracy_score(targets, guesses)

    assert 0.55 < uar([CLASSES[turn.label] for turn in kept]) < 0.92
    assert uar([turn.gender for turn in kept]) > 0.9


# ------------------------------------------------------------- determinism and building


def test_bytes_follow_the_seed_and_not_the_number_of_speakers(corpus, tmp_path):
    first = digest(corpus / "Session1")
    alone = small(tmp_path / "alone", utterances_per_speaker=22)
    assert digest(alone / "Session1") == first
    other = digest(small(tmp_path / "other", utterances_per_speaker=22, seed=2) / "Session1")
    sound = [name for name in first if name.endswith(".wav")]
    assert len(sound) == 44 and all(first[name] != other.get(name) for name in sound)
    assert first != digest(corpus / "Session2")


def test_finished_corpus_is_kept_and_any_other_folder_is_refused(tmp_path):
    folder = small(tmp_path / "demo")
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert small(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps
    with pytest.raises(FileExistsError, match="'seed': 2.*found.*'seed': 1.*delete that folder"):
        small(folder, seed=2)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for taken in (tmp_path / "mine", tmp_path / "mine/thesis.txt"):
        with pytest.raises(FileExistsError, match=f"found no readable {MARKER}"):
            small(taken)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"

    (tmp_path / "empty").mkdir()
    assert digest(small(tmp_path / "empty")) == digest(folder)


def test_interrupted_building_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def write(path, *arguments, **options):
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt
        soundfile_write(path, *arguments, **options)

    soundfile_write = soundfile.write
    monkeypatch.setattr(demo_corpus.soundfile, "write", write)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "demo")
    assert written and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_what_another_process_made_meanwhile_stays(tmp_path, monkeypatch, seed):
    def overtaken(path, arguments):
        path.write_text(json.dumps(arguments))
        monkeypatch.setattr(demo_corpus, "write_json", original)
        inodes.append(small(tmp_path / "demo", seed=seed).stat().st_ino)

    original, inodes = demo_corpus.write_json, []
    monkeypatch.setattr(demo_corpus, "write_json", overtaken)
    if seed == 1:
        small(tmp_path / "demo")
    else:
        with pytest.raises(FileExistsError, match="delete that folder"):
            small(tmp_path / "demo")
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert inodes == [(tmp_path / "demo").stat().st_ino]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": 3}, "even number of speakers from 2 to 18, found 3"),
        ({"speakers": 20}, "found 20"),
        ({"utterances_per_speaker": 0}, "utterances_per_speaker of 1 or more.*found 0 and 1"),
        ({"seed": -1}, "seed of 0 or more, found 4 and -1"),
        ({"sample_rate": 4000}, "at least 8000 Hz, found 4000"),
    ],
)
def test_arguments_out_of_range(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "demo", **changes)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------- synthesiser


MAN, NEUTRAL = Voice(120.0, 1.0), Delivery()


def speak(phones, voice=MAN, delivery=NEUTRAL, rate=RATE):
    return synthesize(phones.split(), voice, delivery, np.random.default_rng(1), rate)


def test_glottal_table_follows_fants_prediction():
    """Fant (1995) predicts the first two harmonics' difference as -7.6 + 11.1 Rd dB."""
    spectrum = np.abs(np.fft.rfft(glottal_table()))
    difference = 20 * np.log10(spectrum[:, 1] / spectrum[:, 2])
    middle = (RD_GRID > 0.45) & (RD_GRID < 1.85)
    assert difference[middle] == pytest.approx(-7.6 + 11.1 * RD_GRID[middle], abs=1.5)
    assert (np.diff(difference) > 0).all()


@pytest.mark.parametrize("f0", [100.0, 210.0])
@pytest.mark.parametrize("semitones", [0.0, 7.0])
def test_requested_pitch_is_spoken(f0, semitones):
    flat = Delivery(pitch=semitones, pitch_range=0.0)
    found = np.median(autocorrelation_f0(speak("M AA1 M AA M IY1 M AA", Voice(f0, 1.0), flat)))
    assert found == pytest.approx(f0 * 2 ** (semitones / 12), rel=0.06)


@pytest.mark.parametrize("vowel", ["IY", "EH", "AA", "AX"])
@pytest.mark.parametrize("scale", [1.0, 1.16])
def test_formants_by_linear_prediction(vowel, scale):
    """The first two formants, found by solving the normal equations of an all-pole model."""
    wave = speak(vowel, Voice(90.0, scale), Delivery(rate=0.15, pitch_range=0.0))
    middle = wave[len(wave) // 2 - 800 : len(wave) // 2 + 800]
    middle = np.append(middle[0], np.diff(middle)) * np.hamming(1600)
    order = 18
    correlation = np.correlate(middle, middle, "full")[1599 : 1599 + order + 1]
    toeplitz = correlation[np.abs(np.subtract.outer(np.arange(order), np.arange(order)))]
    poles = np.roots([1, *-np.linalg.solve(toeplitz, correlation[1:])])
    sharp = poles[(poles.imag > 0) & (np.abs(poles) > 0.93)]
    found = np.sort(np.angle(sharp)) * RATE / (2 * np.pi)
    expected = np.array(VOWELS[vowel][0][:2]) * scale
    assert found[found > 200][:2] == pytest.approx(expected, rel=0.12)


def test_every_phone_can_be_spoken_at_any_rate():
    phones = " ".join([*(f"{name} AX" for name in CONSONANTS), *VOWELS])
    seconds = []
    for rate in (8000, 16000, 22050, 44100):
        wave = speak(phones, rate=rate)
        assert np.isfinite(wave).all() and 1 < np.abs(wave).max() < 12
        seconds.append(len(wave) / rate)
    assert seconds == pytest.approx([seconds[0]] * 4, rel=0.01)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_deliveries_stay_finite(sign):
    delivery = Delivery(
        pitch=sign * 20.0, pitch_range=4.0, rate=2.0**sign, rd=sign * 3.0, breath=sign * 20.0,
        openness=1.3**sign, fronting=1.3**sign, precision=1.5**sign, roughness=10.0,
    )  # fmt: skip
    wave = speak(next(iter(demo_corpus.SENTENCES.values())), Voice(300.0, 1.4), delivery)
    assert np.isfinite(wave).all() and np.abs(wave).max() < 20


@pytest.mark.parametrize(
    ("phones", "message"),
    [
        ("AA XX", "unknown phone 'XX'"),
        ("S T", "at least one vowel, found S T"),
        ("", "at least one vowel, found no phone"),
    ],
)
def test_unknown_phone_and_no_vowel_are_named(phones, message):
    with pytest.raises(ValueError, match=message):
        speak(phones)
