"""Words of labels: as a file has them, and what is wrong with a file."""

from __future__ import annotations

import pytest

from gemoclap_sb.data.prompts import Prompts
from gemoclap_sb.data.words import check_words, own_words, read_words

ROWS = [{"emotion": "ang", "gender": "F"}, {"emotion": "sad", "gender": ""}]


def test_words_and_templates_are_what_prompts_take(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text(
        "gender: {F: woman, M: man}\n"
        "emotion:\n    yes: happy\n    01: sad\n"
        'templates: {emotion: ["a {gender} sounds {}", "so {}"]}\n',
        encoding="utf-8",
    )
    words, templates, heads = read_words(path)
    assert heads == []
    prompts = Prompts(words, templates)
    assert prompts.words["emotion"] == {"yes": "happy", "01": "sad"}
    assert prompts.class_sentences("emotion")[1] == [
        "a woman sounds sad",
        "a man sounds sad",
        "so sad",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected words for each label of emotion"),
        ("[ang]", "expected words for each label of emotion"),
        ("gender: {F: woman}", "expected words for each label of emotion"),
        ("emotion: [ang, sad]", r"emotion: expected a word for each label.*\['ang', 'sad'\]"),
        ("emotion: {ang: , sad: sad}", "emotion: expected a word for each label"),
        ("emotion: {ang: [a, b]}", "emotion: expected a word for each label"),
        ("emotion: {ang: a, sad", "is no YAML"),
        ("emotion: {ang: a, ang: b}", "is no YAML"),
        ("emotion: {ang: a}\ntemplates: [so]", "expected a list of sentences"),
        ("emotion: {ang: a}\ntemplates: {emotion: so}", "templates: expected a list"),
        ("emotion: {ang: a}\nheads: emotion", "heads: expected emotion and one or more"),
        ("emotion: {ang: a}\nheads: [emotion]", "heads: expected emotion and one or more"),
        ("emotion: {ang: a}\nheads: [emotion, age]", "heads: expected emotion and one or more"),
        ("emotion: {ang: a}\nage: {o: old}\nheads: [age, emotion]", "heads: expected emotion"),
        (
            "emotion: {ang: a}\nage: {o: old}\nheads: [emotion, age, age]",
            r"each once.*found \['emotion', 'age', 'age'\]",
        ),
    ],
)
def test_files_that_are_not_so(tmp_path, text, message):
    path = tmp_path / "words.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_words(path)
    assert "words.yaml" in str(caught.value)


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"words.yaml cannot be read"):
        read_words(tmp_path / "words.yaml")
    (tmp_path / "words.yaml").write_bytes(b"emotion: {\xe9: x}")
    with pytest.raises(ValueError, match=r"words.yaml cannot be read"):
        read_words(tmp_path / "words.yaml")


def test_labels_and_words_must_be_the_same():
    fitting = {"emotion": {"ang": "angry", "sad": "sad"}, "gender": {"F": "woman", "M": "man"}}
    check_words(fitting, ROWS, "words.yaml", "corpus.csv")
    check_words({**fitting, "age": {"old": "old"}}, ROWS, "words.yaml", "corpus.csv")
    with pytest.raises(ValueError, match=r"words.yaml: no word for the emotion sad of corpus.csv"):
        check_words({"emotion": {"ang": "angry"}}, ROWS, "words.yaml", "corpus.csv")
    with pytest.raises(ValueError, match="emotion bored, which no row of corpus.csv has"):
        more = {"emotion": {**fitting["emotion"], "bored": "bored"}}
        check_words(more, ROWS, "words.yaml", "corpus.csv")
    with pytest.raises(ValueError, match="no word for the gender F"):
        check_words({**fitting, "gender": {"f": "woman"}}, ROWS, "words.yaml", "corpus.csv")


def test_labels_are_their_own_words():
    assert own_words(ROWS, {"sad": "gloomy", "hap": "happy"}) == {
        "emotion": {"ang": "ang", "sad": "gloomy"}
    }
