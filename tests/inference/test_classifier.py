from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import FetchFrom, FetchSource
from torchaudio.functional import resample

from gemoclap_sb.data.audio import AudioError, AudioReader
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from tests.run_folders import LABELS, RATE, write_tone

KINDS = ("scratch", "pretrained")


@pytest.fixture(scope="module")
def classifiers(exported):
    return {k: GEmoCLAPClassifier.from_pretrained(exported[k], device="cpu") for k in KINDS}


@pytest.fixture
def classifier(exported):
    """A fresh one, with nothing cached."""
    return GEmoCLAPClassifier.from_pretrained(exported["scratch"], device="cpu")


def count_encoded(classifier, monkeypatch):
    """Record the sentences that reach the text lobe."""
    encoded = []
    lobe = classifier.text_tower.text_encoder
    forward = lobe.forward
    monkeypatch.setattr(lobe, "forward", lambda s: encoded.extend(s) or forward(s))
    return encoded


def padded(wavs):
    lengths = torch.tensor([len(wav) for wav in wavs])
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return batch, lengths / batch.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_the_models(classifiers, models, kind):
    wavs, wav_lens = padded([torch.randn(n) for n in (9000, 16000, 4000)])
    found = classifiers[kind].encode_batch(wavs, wav_lens)
    with torch.no_grad():
        expected = models[kind].encode_audio(wavs, wav_lens)
        text = models[kind].encode_text(["this person sounds sad", "so bored"])
    assert found.shape == (3, 1, 24)
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 1))
    sentences = classifiers[kind].encode_text(["this person sounds sad", "so bored"])
    torch.testing.assert_close(sentences, text, rtol=0, atol=1e-5)
    torch.testing.assert_close(sentences.norm(dim=-1), torch.ones(2))


def test_embeddings_can_train_something_else(classifier):
    head = torch.nn.Linear(24, 2)
    head(classifier.encode_batch(torch.randn(2, 8000))).sum().backward()
    assert head.weight.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_same_answer_as_stock_speechbrain(exported, classifiers, tones, kind):
    stock = EncoderClassifier.from_hparams(source=str(exported[kind]))
    wavs, wav_lens = padded([torch.randn(n) for n in (9000, 16000, 4000)])
    for found, expected in (
        (classifiers[kind].classify_batch(wavs, wav_lens), stock.classify_batch(wavs, wav_lens)),
        (classifiers[kind].classify_batch(wavs[0]), stock.classify_batch(wavs[0])),
        (classifiers[kind].classify_file(tones[1]), stock.classify_file(str(tones[1]))),
    ):
        assert len(found) == 4
        for tensor, other in zip(found[:3], expected[:3], strict=True):
            torch.testing.assert_close(tensor, other, rtol=0, atol=1e-5)
        assert found[3] == expected[3]


@pytest.mark.parametrize("kind", KINDS)
def test_from_hparams_does_everything_too(exported, classifiers, tones, kind, tmp_path):
    for options in ({}, {"savedir": str(tmp_path / "saved")}):
        loaded = GEmoCLAPClassifier.from_hparams(str(exported[kind]), **options)
        assert isinstance(loaded, GEmoCLAPClassifier)
        for arguments in ({}, {"labels": ["bored", "afraid"], "templates": ["so {}"]}):
            found = loaded.classify_file(tones[0], **arguments)
            expected = classifiers[kind].classify_file(tones[0], **arguments)
            torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
            assert found[3] == expected[3]
    source = FetchSource(FetchFrom.LOCAL, str(exported[kind]))
    assert GEmoCLAPClassifier.from_hparams(source).encode_text(["so sad"]).shape == (1, 24)


def test_text_without_a_folder_says_what_to_do(classifier):
    bare = GEmoCLAPClassifier(dict(classifier.mods), vars(classifier.hparams))
    assert bare.classify_batch(torch.randn(1, 8000))[0].shape == (1, 4)
    with pytest.raises(RuntimeError, match="from_pretrained"):
        bare.encode_text(["so sad"])


def test_nothing_wants_a_gradient_or_trains(classifier):
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not any(module.training for module in classifier.mods.modules())
    assert not classifier.text_tower.training


@pytest.mark.parametrize("kind", KINDS)
def test_result_does_not_depend_on_the_batch(classifiers, kind):
    wavs = [torch.randn(n) * 0.1 for n in (5000, 48000, 401, 16000)]
    together = classifiers[kind].classify_batch(*padded(wavs))[0]
    for row, wav in zip(together, wavs, strict=True):
        alone = classifiers[kind].classify_batch(wav)[0]
        torch.testing.assert_close(row, alone[0], rtol=0, atol=1e-4)


def test_another_head_is_classified_on_request(exported, models, tones):
    genders = GEmoCLAPClassifier.from_pretrained(exported["scratch"], attribute="gender")
    assert genders.labels == ["F", "M"]
    wav, _ = soundfile.read(tones[0], dtype="float32")
    with torch.no_grad():
        model = models["scratch"]
        audio = model.encode_audio(torch.from_numpy(wav)[None], torch.ones(1), head="gender")
        classes = model.encode_classes([["a female speaker"], ["a male speaker"]])
        logits = model.audio_scales["gender"]() * audio @ classes.T
    found = genders.classify_file(tones[0])[0]
    torch.testing.assert_close(found, logits.log_softmax(dim=1), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected one of \['emotion', 'gender'\], found 'age'"):
        GEmoCLAPClassifier.from_pretrained(exported["scratch"], attribute="age")


def test_zero_shot_with_any_words(classifier, models, tones):
    out_prob, score, index, label = classifier.classify_file(
        tones[0], labels=["bored", "afraid", "calm"], templates=["so {}", "a {} voice"]
    )
    model = models["scratch"]
    wav, _ = soundfile.read(tones[0], dtype="float32")
    with torch.no_grad():
        audio = model.encode_audio(torch.from_numpy(wav)[None], torch.ones(1))[0]
        cosines = []
        for word in ("bored", "afraid", "calm"):
            mean = (model.encode_text([f"so {word}", f"a {word} voice"])).mean(dim=0)
            cosines.append(torch.cosine_similarity(audio, mean, dim=0))
        logits = model.audio_scales["emotion"]() * torch.stack(cosines)
    expected = logits.log_softmax(dim=0)[None]
    torch.testing.assert_close(out_prob, expected, rtol=0, atol=1e-5)
    assert index.tolist() == [int(expected.argmax())]
    assert label == [["bored", "afraid", "calm"][int(expected.argmax())]]
    assert score.tolist() == pytest.approx([float(expected.max())], abs=1e-5)


def test_templates_default_to_the_models(classifier, monkeypatch):
    encoded = count_encoded(classifier, monkeypatch)
    classifier.classify_batch(torch.randn(1, 8000), labels=["bored", "afraid"])
    assert sorted(encoded) == sorted(
        f"{start} sounds {word}"
        for word in ("bored", "afraid")
        for start in ("this person", "a female speaker", "a male speaker")
    )


def test_own_labels_stand_for_their_words(classifier, monkeypatch):
    encoded = count_encoded(classifier, monkeypatch)
    wavs = torch.randn(2, 8000)
    some = classifier.classify_batch(wavs, labels=["sad", "ang"])
    assert encoded == []
    every = classifier.classify_batch(wavs)[0]
    expected = torch.stack([every[:, 3], every[:, 0]], dim=1)
    torch.testing.assert_close(some[0], expected.log_softmax(dim=1), rtol=0, atol=1e-5)
    assert set(some[3]) <= {"sad", "ang"}


def test_labels_with_words_of_ones_own(classifier):
    wavs = torch.randn(3, 8000)
    named = classifier.classify_batch(wavs, labels={"b": "bored", "a": "afraid"})
    plain = classifier.classify_batch(wavs, labels=["bored", "afraid"])
    torch.testing.assert_close(named[0], plain[0], rtol=0, atol=0)
    assert [{"b": "bored", "a": "afraid"}[label] for label in named[3]] == plain[3]


def test_second_call_encodes_no_text(classifier, tones, monkeypatch):
    encoded = count_encoded(classifier, monkeypatch)
    arguments = {"labels": ["bored", "afraid"], "templates": ["so {}"]}
    first = classifier.classify_file(tones[0], **arguments)
    assert encoded == ["so bored", "so afraid"]
    second = classifier.classify_file(tones[0], **arguments)
    list(classifier.classify_files(tones, **arguments, progress=False))
    classifier.encode_text(["so afraid"])
    assert encoded == ["so bored", "so afraid"]
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    classifier.encode_text(["so afraid", "so new"])
    assert encoded[2:] == ["so new"]


def test_cache_of_sentences_is_bounded(classifier, monkeypatch):
    monkeypatch.setattr("gemoclap_sb.inference.sentences.CACHED_SENTENCES", 3)
    sentences = [f"so {word}" for word in "abcdef"]
    rows = classifier.encode_text(sentences)
    assert len(classifier._sentences) == 3
    torch.testing.assert_close(rows, classifier.encode_text(sentences))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "bored"}, "labels: expected a list, found one string"),
        ({"labels": ["bored"]}, "two classes or more"),
        ({"labels": []}, "two classes or more"),
        ({"labels": ["bored", "bored"]}, "each label once"),
        ({"labels": {"a": "bored", "b": "bored"}}, "share a word"),
        ({"templates": "so {}"}, "templates: expected a list, found one string"),
        ({"templates": ["so sad"]}, "where the word goes"),
        ({"templates": ["a {age} {}"]}, "names 'age'"),
        ({"templates": []}, "at least one template"),
    ],
)
def test_words_that_cannot_serve(classifier, tones, arguments, message):
    for call in (
        lambda: classifier.classify_batch(torch.randn(1, 8000), **arguments),
        lambda: classifier.classify_file(tones[0], **arguments),
        lambda: classifier.classify_files(tones, **arguments),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("sentences", ["one string", []])
def test_encode_text_wants_a_list(classifier, sentences):
    with pytest.raises(ValueError, match="expected a list"):
        classifier.encode_text(sentences)


@pytest.mark.parametrize(("suffix", "rate", "channels"), [
    ("wav", 8000, 1), ("flac", 48000, 2), ("ogg", 44100, 6), ("mp3", 22050, 2), ("aiff", 96000, 1),
])  # fmt: skip
def test_any_rate_channels_and_format(classifiers, tmp_path, suffix, rate, channels):
    path = write_tone(tmp_path / f"tone.{suffix}", 0.7, rate=rate, channels=channels)
    same = write_tone(tmp_path / "tone16.wav", 0.7)
    other = write_tone(tmp_path / "other.wav", 0.7, pitch=900)
    rows = classifiers["scratch"].encode_files([path, same, other], progress=False)
    found, alike, unlike = (row.embedding for row in rows)
    # The same tone, but for what 8 kHz or a lossy coding takes away of its noise.
    assert found @ alike > max(0.7, found @ unlike + 0.2)
    label = classifiers["scratch"].classify_file(path)[3]
    assert label[0] in LABELS


@pytest.mark.parametrize("kind", KINDS)
def test_silence_gets_a_finite_answer(classifiers, tmp_path, kind):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    out_prob = classifiers[kind].classify_file(path)[0]
    assert torch.isfinite(out_prob).all()
    assert out_prob.exp().sum().item() == pytest.approx(1)
    [row] = classifiers[kind].classify_files([path], progress=False)
    assert row.error is None and row.label in LABELS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 160, 399])
def test_shorter_than_a_frame_is_padded_with_silence(classifiers, tmp_path, kind, samples):
    wav = torch.randn(samples) * 0.1
    path = tmp_path / "short.wav"
    soundfile.write(path, wav.numpy(), RATE, subtype="FLOAT")
    alone = classifiers[kind].classify_file(path)[0]
    assert torch.isfinite(alone).all()
    mates = [wav, torch.randn(RATE)]
    torch.testing.assert_close(
        classifiers[kind].classify_batch(*padded(mates))[0][:1], alone, rtol=0, atol=1e-4
    )


def test_long_recording_is_the_mean_of_its_pieces(classifiers, models, tmp_path):
    path = write_tone(tmp_path / "long.wav", 150, rate=8000)
    wav, _ = soundfile.read(path, dtype="float32")
    found = classifiers["scratch"].classify_file(path)
    rows = []
    with torch.no_grad():
        for piece in resample(torch.from_numpy(wav), 8000, RATE).split(50 * RATE):
            rows.append(models["scratch"].encode_audio(piece[None], torch.ones(1))[0])
        mean = torch.nn.functional.normalize(torch.stack(rows).mean(dim=0), dim=0)
    tower = classifiers["scratch"].mods.classifier
    expected = (tower.scale * mean @ tower.classes.T).log_softmax(dim=0)
    torch.testing.assert_close(found[0][0], expected, rtol=0, atol=1e-4)
    [row] = classifiers["scratch"].classify_files([path], progress=False)
    assert row.probabilities == pytest.approx(
        dict(zip(LABELS, expected.exp().tolist(), strict=True)), abs=1e-4
    )


def test_long_waveforms_are_cut_the_same_way(classifiers, exported, tmp_path):
    path = write_tone(tmp_path / "long.wav", 100)
    short = torch.randn(RATE)
    wav = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    from_file = classifiers["scratch"].classify_file(path)[0]
    wavs, wav_lens = padded([short, wav])
    together = classifiers["scratch"].classify_batch(wavs, wav_lens)[0]
    torch.testing.assert_close(together[1:], from_file, rtol=0, atol=1e-4)
    alone = classifiers["scratch"].classify_batch(short)[0]
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-4)
    stock = EncoderClassifier.from_hparams(source=str(exported["scratch"]))
    torch.testing.assert_close(stock.classify_file(str(path))[0], from_file, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_hour_is_read_piece_by_piece(classifier, tmp_path, monkeypatch):
    path = tmp_path / "hour.flac"
    minute = np.sin(np.arange(60 * 8000) / 9).astype(np.float32) * 0.1
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(minute)
    tower, seen = classifier.mods.embedding_model, []
    forward = tower.audio_encoder.forward
    lengths, original = [], AudioReader.read
    monkeypatch.setattr(AudioReader, "read", lambda *a: lengths.append(len(w := original(*a))) or w)
    monkeypatch.setattr(
        tower.audio_encoder, "forward", lambda w, n: seen.append(w.numel()) or forward(w, n)
    )
    out_prob = classifier.classify_file(path)[0]
    assert torch.isfinite(out_prob).all()
    assert len(seen) == 60
    assert max(seen) == max(lengths) == 60 * RATE


def test_load_audio_fetches_addresses_through_speechbrain(classifier, tones):
    source = FetchSource(FetchFrom.LOCAL, str(tones[0]))
    torch.testing.assert_close(classifier.load_audio(source), classifier.load_audio(tones[0]))
    torch.testing.assert_close(
        classifier.classify_file(source)[0], classifier.classify_file(tones[0])[0]
    )


def test_missing_file_is_named_and_never_looked_for_on_the_hub(classifier):
    with pytest.raises(AudioError, match=r"speechbrain/some-model/anger.wav is missing"):
        classifier.classify_file("speechbrain/some-model/anger.wav")
