"""The synthetic corpus, judged by measurements that share nothing with the synthesiser."""

import collections
import hashlib
import json
import re
import wave as wave_reader

import numpy as np
import pytest
import scipy.fft
import soundfile
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


def frames_of(wave, length=640, hop=160):
    return np.lib.stride_tricks.sliding_window_view(wave, length)[::hop]


def autocorrelation_f0(wave, rate=RATE):
    """F0 in Hz of the clearly voiced frames: the peak of the normalised autocorrelation."""
    length = round(0.04 * rate)
    frames = frames_of(wave, length, length // 4) * np.hanning(length)
    size = 4 * length
    correlation = scipy.fft.irfft(np.abs(scipy.fft.rfft(frames, size)) ** 2)[:, :length]
    window = scipy.fft.irfft(np.abs(scipy.fft.rfft(np.hanning(length), size)) ** 2)[:length]
    lags = np.arange(int(rate / 500), int(rate / 65))
    ratio = correlation[:, lags] / (correlation[:, :1] + 1e-9) / (window[lags] / window[0])
    # The first lag that comes near the best one, or the octave below would often win.
    first = np.argmax(ratio > 0.9 * ratio.max(axis=1, keepdims=True), axis=1)
    near = np.clip(first[:, None] + np.arange(12), 0, len(lags) - 1)
    first = near[np.arange(len(near)), np.argmax(np.take_along_axis(ratio, near, 1), axis=1)]
    energy = frames.var(axis=1)
    voiced = (ratio.max(axis=1) > 0.6) & (energy > 0.05 * energy.max())
    return rate / lags[first[voiced]]


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


def read_labels(corpus):
    """Name, label and times of each turn, read from the label files alone."""
    turns = {}
    for path in sorted(corpus.glob("Session*/dialog/EmoEvaluation/*.txt")):
        for start, end, name, label in SUMMARY.findall(path.read_text()):
            turns[name] = (label, float(start), float(end))
    return turns


def wav_of(corpus, name):
    return corpus / f"Session{name[4]}" / "sentences/wav" / name.rsplit("_", 1)[0] / f"{name}.wav"


def digest(corpus):
    return {
        str(path.relative_to(corpus)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(corpus.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Make the default corpus, what the first command of the README trains on."""
    return make_demo_corpus(tmp_path_factory.mktemp("corpus") / "demo", progress=False)


@pytest.fixture(scope="module")
def turns(corpus):
    """Name -> (label, sex, session, waveform) of every turn."""
    return {
        name: (label, name[-4], int(name[4]), soundfile.read(wav_of(corpus, name))[0])
        for name, (label, _, _) in read_labels(corpus).items()
    }


# ------------------------------------------------------------------------------ layout


def test_layout_is_that_of_iemocap(corpus, turns):
    assert sorted(path.name for path in corpus.iterdir()) == [
        *(f"Session{k}" for k in range(1, 6)),
        MARKER,
    ]
    wavs = {path.stem for path in corpus.glob("Session*/sentences/wav/*/*.wav")}
    assert wavs == set(turns) and len(wavs) == 440
    spoken = {}
    for path in corpus.glob("Session*/dialog/transcriptions/*.txt"):
        for line in path.read_text().splitlines():
            name, times, text = re.fullmatch(
                r"(\S+) \[(\d{3}\.\d{4}-\d{3}\.\d{4})\]: (\S.+)", line
            ).groups()
            assert name.startswith(path.stem)
            spoken[name] = text
    assert set(spoken) == wavs
    assert len(set(spoken.values())) == len(demo_corpus.SENTENCES)
    for name, (_, start, end) in read_labels(corpus).items():
        assert re.fullmatch(r"Ses0\d[FM]_(impro01|script01_1)_[FM]\d{3}", name)
        with wave_reader.open(str(wav_of(corpus, name))) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
            assert file.getnframes() / RATE == pytest.approx(end - start, abs=2e-4)


def test_annotators_stand_between_the_summary_lines(corpus):
    text = next(corpus.glob("Session1/dialog/EmoEvaluation/*.txt")).read_text()
    assert text.startswith("% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n[")
    lines = text.splitlines()
    assert sum(line.startswith("C-E") for line in lines) == 3 * len(SUMMARY.findall(text))
    assert sum(line.startswith("A-E") for line in lines) == 2 * len(SUMMARY.findall(text))


def test_every_speaker_has_every_class_and_others(turns):
    per_speaker = collections.defaultdict(collections.Counter)
    for label, sex, session, _ in turns.values():
        per_speaker[session, sex][label] += 1
    assert len(per_speaker) == 10
    for counts in per_speaker.values():
        assert counts["neu"] == 12 and counts["ang"] == 8 and counts["sad"] == 8
        assert counts["hap"] == 4 and counts["exc"] == 8
        assert sum(counts.values()) == 44
    others = {label for label, *_ in turns.values()} - set(CLASSES)
    assert others == {"fru", "xxx", "sur", "fea"}


# ------------------------------------------------------------------------------- sound


def test_level_dc_and_duration(turns):
    for name, (_, _, _, wave) in turns.items():
        assert np.abs(wave).max() < 0.95, f"{name} is near clipping"
        assert abs(wave.mean()) < 1e-4, f"{name} has DC"
        assert -50 < 10 * np.log10(np.mean(wave**2)) < -10, f"{name} is inaudible or too loud"
        assert 0.7 < len(wave) / RATE < 4.5, name
    lengths = np.array([len(wave) / RATE for *_, wave in turns.values()])
    assert 1.0 < np.median(lengths) < 2.2


def test_pitch_follows_sex_and_emotion(turns):
    pitch = {name: np.median(autocorrelation_f0(turn[3])) for name, turn in turns.items()}
    mean = collections.defaultdict(list)
    for name, (label, sex, _, _) in turns.items():
        mean[sex].append(pitch[name])
        if label in CLASSES:
            mean[sex, CLASSES[label]].append(pitch[name])
    mean = {key: np.mean(values) for key, values in mean.items()}
    assert 1.4 < mean["F"] / mean["M"] < 2.3
    for sex in "FM":
        assert mean[sex, "ang"] > 1.1 * mean[sex, "sad"]
        assert mean[sex, "hap"] > 1.1 * mean[sex, "sad"]


def test_level_rate_and_tilt_follow_emotion(turns):
    measured = collections.defaultdict(list)
    for label, _, _, wave in turns.values():
        power = np.abs(np.fft.rfft(frames_of(wave) * np.hanning(640))) ** 2
        power = power[power.sum(axis=1) > 0.1 * power.sum(axis=1).max()].mean(axis=0)
        measured[label].append(
            [10 * np.log10(np.mean(wave**2)), len(wave) / RATE,
             10 * np.log10(power[40:120].sum() / power[:40].sum())]
        )  # fmt: skip
    level, seconds, tilt = {}, {}, {}
    for label, rows in measured.items():
        level[label], seconds[label], tilt[label] = np.mean(rows, axis=0)
    assert level["ang"] > level["neu"] + 3 and level["neu"] > level["sad"] + 2
    assert seconds["sad"] > 1.1 * seconds["neu"] > 1.1 * seconds["ang"]
    # A tense voice has more energy above 1 kHz.
    assert tilt["ang"] > tilt["neu"] + 1


def test_task_is_neither_trivial_nor_hopeless(turns):
    """Logistic regression on global statistics, one session out each, is right mostly."""
    kept = [turn for turn in turns.values() if turn[0] in CLASSES]
    features = np.array([features_of(turn[3]) for turn in kept])
    emotion = np.array([CLASSES[turn[0]] for turn in kept])
    sex = np.array([turn[1] for turn in kept])
    session = np.array([turn[2] for turn in kept])
    guesses = {"emotion": np.empty(len(kept), "U3"), "sex": np.empty(len(kept), "U3")}
    for k in range(1, 6):
        train, test = session != k, session == k
        for name, target in (("emotion", emotion), ("sex", sex)):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
            guesses[name][test] = model.fit(features[train], target[train]).predict(features[test])
    uar = balanced_accuracy_score(emotion, guesses["emotion"])
    print(f"UAR of logistic regression: {uar:.3f}")
    assert 0.55 < uar < 0.92
    assert balanced_accuracy_score(sex, guesses["sex"]) > 0.9


# ------------------------------------------------------------- determinism and building


def small(folder, **changes):
    arguments = {"speakers": 2, "utterances_per_speaker": 4, "progress": False} | changes
    return make_demo_corpus(folder, **arguments)


def test_same_seed_same_bytes_other_seed_other_speech(tmp_path):
    first = digest(small(tmp_path / "first", seed=3))
    assert digest(small(tmp_path / "second", seed=3)) == first
    other = digest(small(tmp_path / "other", seed=4))
    sound = [name for name in first if name.endswith(".wav")]
    assert len(sound) == 8
    assert all(first[name] != other.get(name) for name in sound)


def test_more_speakers_leave_the_first_session_as_it_is(tmp_path):
    one, two = small(tmp_path / "one"), small(tmp_path / "two", speakers=4)
    assert digest(one / "Session1") == digest(two / "Session1")
    assert digest(one / "Session1") != digest(two / "Session2")


def test_finished_corpus_is_kept_and_any_other_folder_is_refused(tmp_path):
    folder = small(tmp_path / "demo")
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert small(folder) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps
    with pytest.raises(FileExistsError, match="'seed': 1.*'seed': 2.*delete that folder"):
        small(folder, seed=2)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="mine holds no demo corpus"):
        small(tmp_path / "mine")
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


def test_two_processes_building_the_same_corpus_both_succeed(tmp_path, monkeypatch):
    def overtaken(path, arguments):
        path.write_text(json.dumps(arguments))
        monkeypatch.setattr(demo_corpus, "write_json", original)
        small(tmp_path / "demo")

    original = demo_corpus.write_json
    monkeypatch.setattr(demo_corpus, "write_json", overtaken)
    assert (small(tmp_path / "demo") / MARKER).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": 3}, "even number of speakers from 2 to 18, found 3"),
        ({"speakers": 20}, "found 20"),
        ({"utterances_per_speaker": 0}, "utterances_per_speaker of 1 or more, found 0"),
        ({"seed": -1}, "seed of 0 or more, found -1"),
        ({"sample_rate": 4000}, "at least 8000 Hz, found 4000"),
    ],
)
def test_arguments_out_of_range(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "demo", **changes)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------- synthesiser


def test_glottal_table_follows_fants_prediction():
    """Fant (1995) predicts the first two harmonics' difference as -7.6 + 11.1 Rd dB."""
    spectrum = np.abs(np.fft.rfft(glottal_table()))
    difference = 20 * np.log10(spectrum[:, 1] / spectrum[:, 2])
    middle = (RD_GRID > 0.45) & (RD_GRID < 1.85)
    assert difference[middle] == pytest.approx(-7.6 + 11.1 * RD_GRID[middle], abs=1.5)
    assert (np.diff(difference) > 0).all()


@pytest.mark.parametrize("f0", [100.0, 210.0])
def test_requested_pitch_is_spoken(f0):
    flat = Delivery(pitch_range=0.0)
    phones = ["M", "AA1", "M", "AA", "M", "IY1", "M", "AA"]
    wave = synthesize(phones, Voice(f0, 1.0), flat, np.random.default_rng(1))
    assert np.median(autocorrelation_f0(wave)) == pytest.approx(f0, rel=0.06)
    higher = Delivery(pitch=7.0, pitch_range=0.0)
    wave = synthesize(phones, Voice(f0, 1.0), higher, np.random.default_rng(1))
    assert np.median(autocorrelation_f0(wave)) == pytest.approx(f0 * 2 ** (7 / 12), rel=0.06)


@pytest.mark.parametrize("vowel", ["IY", "EH", "AA", "AX"])
@pytest.mark.parametrize("scale", [1.0, 1.16])
def test_formants_by_linear_prediction(vowel, scale):
    """The first two formants, found by solving the normal equations of an all-pole model."""
    slow = Delivery(rate=0.15, pitch_range=0.0)
    wave = synthesize([vowel], Voice(90.0, scale), slow, np.random.default_rng(1))
    middle = wave[len(wave) // 2 - 800 : len(wave) // 2 + 800]
    middle = np.append(middle[0], np.diff(middle)) * np.hamming(1600)
    order = 18
    correlation = np.correlate(middle, middle, "full")[1599 : 1599 + order + 1]
    toeplitz = correlation[np.abs(np.subtract.outer(np.arange(order), np.arange(order)))]
    poles = np.roots([1, *-np.linalg.solve(toeplitz, correlation[1:])])
    sharp = poles[(poles.imag > 0) & (np.abs(poles) > 0.93)]
    found = np.sort(np.angle(sharp)) * RATE / (2 * np.pi)
    found = found[found > 200]
    expected = np.array(VOWELS[vowel][0][:2]) * scale
    assert found[:2] == pytest.approx(expected, rel=0.12)


def test_every_phone_can_be_spoken_at_any_rate():
    phones = [part for name in CONSONANTS for part in (name, "AX")] + list(VOWELS)
    seconds = []
    for rate in (8000, 16000, 22050, 44100):
        wave = synthesize(phones, Voice(120.0, 1.0), Delivery(), np.random.default_rng(1), rate)
        assert np.isfinite(wave).all() and 1 < np.abs(wave).max() < 12
        seconds.append(len(wave) / rate)
    assert seconds == pytest.approx([seconds[0]] * 4, rel=0.01)


def test_extreme_deliveries_stay_finite():
    for sign in (-1, 1):
        delivery = Delivery(
            pitch=sign * 20.0, pitch_range=4.0, rate=2.0**sign, rd=sign * 3.0, breath=sign * 20.0,
            openness=1.3**sign, fronting=1.3**sign, precision=1.5**sign, roughness=10.0,
        )  # fmt: skip
        phones = demo_corpus.SENTENCES[0][1].split()
        wave = synthesize(phones, Voice(300.0, 1.4), delivery, np.random.default_rng(1))
        assert np.isfinite(wave).all() and np.abs(wave).max() < 20


def test_unknown_phone_and_no_vowel_are_named():
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="unknown phone 'XX'"):
        synthesize(["AA", "XX"], Voice(120.0, 1.0), Delivery(), rng)
    with pytest.raises(ValueError, match="at least one vowel, found S T"):
        synthesize(["S", "T"], Voice(120.0, 1.0), Delivery(), rng)
    with pytest.raises(ValueError, match="at least one vowel, found no phone"):
        synthesize([], Voice(120.0, 1.0), Delivery(), rng)
