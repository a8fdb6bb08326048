"""Text encoders against transformers itself."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaModel, T5Config

from gemoclap_sb.lobes import ByteTextEncoder, TextEncoder
from tests.small_models import save_small_roberta

SENTENCES = [
    "this person sounds angry",
    "sad",
    "a female speaker, who is calm and not in the least surprised",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_small_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="module")
def encoder(source, tmp_path_factory):
    return TextEncoder(str(source), str(tmp_path_factory.mktemp("downloads"))).eval()


def byte_encoder(**settings):
    torch.manual_seed(0)
    return ByteTextEncoder(**({"hidden_size": 32} | settings)).eval()


@pytest.fixture(params=["pretrained", "bytes"])
def either(request, encoder):
    return copy.deepcopy(encoder) if request.param == "pretrained" else byte_encoder()


def test_first_token_of_transformers_own_model(source, encoder):
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = RobertaModel.from_pretrained(source, attn_implementation="eager").eval()
    vectors = encoder(SENTENCES)
    assert vectors.shape == (3, encoder.output_size)
    for sentence, vector in zip(SENTENCES, vectors, strict=True):
        expected = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state[0, 0]
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)
        assert tokenizer(sentence)["input_ids"][0] == tokenizer.cls_token_id


def test_bytes_are_counted_from_the_special_tokens(monkeypatch):
    encoder = byte_encoder()
    seen = {}
    run = encoder.model.forward
    monkeypatch.setattr(
        encoder.model, "forward", lambda **inputs: seen.update(inputs) or run(**inputs)
    )
    encoder(["é", "a\x00"])
    # é is C3 A9 in UTF-8.
    assert seen["input_ids"].tolist() == [
        [0, 0xC3 + 3, 0xA9 + 3, 2],
        [0, ord("a") + 3, 0 + 3, 2],
    ]
    encoder(["", "ab"])
    assert seen["input_ids"].tolist() == [[0, 2, 1, 1], [0, ord("a") + 3, ord("b") + 3, 2]]
    assert seen["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_alone_as_in_a_batch(either):
    together = either(SENTENCES)
    for sentence, vector in zip(SENTENCES, together, strict=True):
        torch.testing.assert_close(either([sentence])[0], vector, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_attention_is_fused(either):
    assert either.model.config._attn_implementation == "sdpa"


def test_every_parameter_has_a_gradient(either):
    either.train()(SENTENCES).square().sum().backward()
    assert [name for name, p in either.named_parameters() if p.grad is None] == []


def test_gradient_mode_is_left_alone(either):
    with torch.no_grad():
        assert not either(SENTENCES).requires_grad
        assert not torch.is_grad_enabled()
    assert either(SENTENCES).requires_grad


def test_frozen_encoder_builds_no_graph_and_stays_in_eval_mode(source, tmp_path):
    encoder = TextEncoder(str(source), str(tmp_path), freeze=True)
    assert not any(p.requires_grad for p in encoder.parameters())
    encoder.train()
    assert encoder.training and not encoder.model.training
    vectors = encoder(SENTENCES)
    assert not vectors.requires_grad
    assert torch.equal(vectors, encoder(SENTENCES))


def test_training_mode_has_dropout(encoder):
    encoder = copy.deepcopy(encoder).train()
    assert not torch.equal(encoder(SENTENCES), encoder(SENTENCES))
    bytes_without = byte_encoder(dropout=0.0).train()
    assert torch.equal(bytes_without(SENTENCES), bytes_without(SENTENCES))


def test_gradient_checkpointing_changes_nothing_but_memory(source, tmp_path):
    def gradients(encoder):
        torch.manual_seed(0)
        encoder.train()(SENTENCES).square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters()}

    for plain, checkpointed in (
        (
            TextEncoder(str(source), str(tmp_path)),
            TextEncoder(str(source), str(tmp_path), gradient_checkpointing=True),
        ),
        (byte_encoder(), byte_encoder(gradient_checkpointing=True)),
    ):
        assert checkpointed.model.is_gradient_checkpointing
        expected = gradients(plain)
        for name, gradient in gradients(checkpointed).items():
            torch.testing.assert_close(gradient, expected[name])


def test_byte_vectors_are_normalised_by_each_other_in_training():
    encoder = byte_encoder()
    raw = encoder(SENTENCES).detach().numpy()  # the statistics are still 0 and 1
    encoder.train()
    trained = encoder(SENTENCES).detach()
    expected = (raw - raw.mean(axis=0)) / (raw.var(axis=0) + 1e-5) ** 0.5
    np.testing.assert_allclose(trained, expected, rtol=1e-3, atol=1e-3)
    # What all prompts have in common is gone.
    cosines, before = (np.corrcoef(x)[np.triu_indices(3, 1)] for x in (trained, raw))
    assert cosines.max() < 0.5 < before.min()


def test_a_byte_vector_in_use_does_not_depend_on_its_neighbours():
    encoder = byte_encoder().train()
    among = encoder(SENTENCES).detach()
    # One sentence, in training too: there is no deviation of one.
    torch.testing.assert_close(encoder(SENTENCES[:1])[0], among[0], rtol=1e-3, atol=1e-3)
    encoder.eval()
    torch.testing.assert_close(encoder(SENTENCES), among, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(encoder(SENTENCES[:1])[0], among[0], rtol=1e-3, atol=1e-3)


def test_rebuilt_from_plain_data(encoder, tmp_path):
    config = json.loads(json.dumps(encoder.to_config()))
    assert "_name_or_path" not in config["model"]
    encoder.save_tokenizer(tmp_path)
    by_bytes = byte_encoder(layers=1, heads=2, dropout=0.3, max_bytes=64)
    byte_config = json.loads(json.dumps(by_bytes.to_config()))
    for original, rebuilt in (
        (encoder, TextEncoder.from_config(config, tmp_path).eval()),
        (
            by_bytes,
            ByteTextEncoder.from_config(byte_config).eval(),
        ),
    ):
        assert not torch.equal(rebuilt(SENTENCES), original(SENTENCES))
        rebuilt.load_state_dict(original.state_dict())
        assert torch.equal(rebuilt(SENTENCES), original(SENTENCES))
        assert rebuilt.to_config() == original.to_config()
    frozen = TextEncoder.from_config(config | {"freeze": True}, tmp_path).train()
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen.model.training


def test_copies_and_pickles(either):
    vectors = either(SENTENCES)
    assert torch.equal(copy.deepcopy(either)(SENTENCES), vectors)
    assert torch.equal(pickle.loads(pickle.dumps(either))(SENTENCES), vectors)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [([], "empty list"), ((), "empty list"), ("this person sounds sad", "found one string")],
)
def test_what_is_no_list_of_sentences_is_refused(either, sentences, message):
    with pytest.raises(ValueError, match=message):
        either(sentences)


def test_the_longest_sentence_is_read_and_a_longer_one_refused(encoder):
    # A tokenizer with no merge for x gives a token for each; two are the ends.
    longest = "x" * (encoder.max_tokens - 2)
    assert encoder.max_tokens == 64
    assert torch.isfinite(encoder([longest])).all()
    with pytest.raises(ValueError, match=r"sentences\[1\]: expected at most 64 tokens, found 65"):
        encoder(["sad", longest + "x"])
    by_bytes = byte_encoder(max_bytes=10)
    assert torch.isfinite(by_bytes(["x" * 10])).all()
    with pytest.raises(ValueError, match="max_bytes = 10 bytes, found 11"):
        by_bytes(["x" * 11])


def test_other_text_encoders(source, tmp_path):
    """A BERT that has no tokenizer of its own borrows RoBERTa's."""
    folder = tmp_path / "bert"
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    config = BertConfig(
        vocab_size=320,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    encoder = TextEncoder(str(folder), str(tmp_path)).eval()
    assert encoder.output_size == 16
    assert encoder.max_tokens == 40
    assert not any("pooler" in name for name in encoder.state_dict())
    expected = BertModel.from_pretrained(folder).eval()(
        **AutoTokenizer.from_pretrained(folder)(SENTENCES[:1], return_tensors="pt")
    )
    torch.testing.assert_close(encoder(SENTENCES[:1]), expected.last_hidden_state[:, 0])


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config(d_model=8, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder 't5'"):
        TextEncoder(str(tmp_path), str(tmp_path))


def test_heads_must_divide_the_hidden_size():
    with pytest.raises(ValueError, match=r"multiple of heads=4, found 30"):
        ByteTextEncoder(hidden_size=30)
