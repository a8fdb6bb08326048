from __future__ import annotations

import json
import re

import pytest
import transformers
from transformers import AutoTokenizer

from gemoclap_sb.models.building import ConfigurationError, model_config
from gemoclap_sb.models.tokenizer_files import CLASSES, check_tokenizer
from tests.run_folders import pretrained_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz ▁Ġ"]
UNIGRAM = ("AlbertTokenizer", "CamembertTokenizer", "DebertaV2Tokenizer", "XLMRobertaTokenizer")
BPE = ("DebertaTokenizer", "RobertaTokenizer")


def make(name, **options):
    """A tokenizer of letters, as its own class builds it."""
    cls = getattr(transformers, name)
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *LETTERS])}
    if name in UNIGRAM:
        return cls(vocab=[(token, -float(index)) for token, index in vocabulary.items()])
    if name in BPE:
        return cls(vocab=vocabulary | {"ab": len(vocabulary)}, merges=[("a", "b")])
    return cls(vocab=vocabulary)


@pytest.mark.parametrize(
    "name", sorted(CLASSES - {"PreTrainedTokenizer", "TokenizersBackend", "ElectraTokenizer"})
)
def test_those_of_each_known_text_encoder_pass(tmp_path, name):
    """Their own normalizers, expressions and templates among it, and padding that was asked for."""
    tokenizer = make(name)
    tokenizer("abc", padding="max_length", max_length=20, truncation=True)
    folder = tmp_path / "tokenizer"
    tokenizer.save_pretrained(folder)
    check_tokenizer(folder, len(tokenizer))
    again = AutoTokenizer.from_pretrained(folder)
    assert again("ab c")["input_ids"] == tokenizer("ab c")["input_ids"]


def test_another_class_is_not_exported(tmp_path):
    model = pretrained_model(tmp_path)

    class OfOnesOwn(type(model.text_encoder.tokenizer)):
        pass

    model.text_encoder.tokenizer.__class__ = OfOnesOwn
    with pytest.raises(ConfigurationError, match="the tokenizer OfOnesOwn is not among those"):
        model_config(model)


@pytest.mark.parametrize(
    "expression", [" {2,}", r"\s{2,}|[\n\r\t]", r"\s+", "a", r"[\p{L}]", "^x*$"]
)
def test_expressions_that_end(tmp_path, expression):
    _with_expression(tmp_path, expression)


@pytest.mark.parametrize(
    "expression", ["(a+)+", "(a|a)*b*", "(?:a{2,}){2,}", "a{99}{99}", "a*a*a*a*b", "x" * 201]
)
def test_expressions_that_may_not(tmp_path, expression):
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json: .*regular expression"):
        _with_expression(tmp_path, expression)


def _with_expression(tmp_path, expression):
    folder = tmp_path / "tokenizer"
    make("BertTokenizer").save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    pattern = {"type": "Replace", "pattern": {"Regex": expression}, "content": " "}
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], pattern]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    check_tokenizer(folder)


@pytest.mark.parametrize("rows", [39, 45, 52])
def test_a_vocabulary_may_have_spare_rows(tmp_path, rows):
    folder = tmp_path / "tokenizer"
    make("BertTokenizer").save_pretrained(folder)
    check_tokenizer(folder, rows)


@pytest.mark.parametrize("rows", [3, 53, 30522])
def test_a_vocabulary_of_another_model(tmp_path, rows):
    folder = tmp_path / "tokenizer"
    make("BertTokenizer").save_pretrained(folder)
    message = f"expected a tokenizer of {rows} tokens at most, .* 75% of these at least, found 39"
    with pytest.raises(ConfigurationError, match=re.escape(str(folder)) + ".*" + message):
        check_tokenizer(folder, rows)
