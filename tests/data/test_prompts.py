"""Labels to sentences."""

from __future__ import annotations

import pytest
import torch

from gemoclap_sb.data.prompts import Prompts

WORDS = {
    "emotion": {"ang": "angry", "sad": "sad", "neu": "neutral"},
    "gender": {"F": "female", "M": "male"},
}


def test_sentences_say_the_utterance_label():
    prompts = Prompts(WORDS, {"emotion": ["this person sounds {}"], "gender": ["a {} speaker"]})
    labels = {"emotion": ["sad", "ang"], "gender": ["M", "F"]}
    assert prompts.sentences("emotion", labels) == [
        "this person sounds sad",
        "this person sounds angry",
    ]
    assert prompts.sentences("gender", labels) == ["a male speaker", "a female speaker"]


def test_template_may_name_other_attributes():
    prompts = Prompts(WORDS, {"emotion": ["a {gender} voice, {}"]})
    assert prompts.fields("emotion") == ["gender", "emotion"]
    labels = {"emotion": ["sad"], "gender": ["F"]}
    assert prompts.sentences("emotion", labels) == ["a female voice, sad"]
    # At inference the gender is not known: both are said.
    assert prompts.class_sentences("emotion")[1] == ["a female voice, sad", "a male voice, sad"]


def test_drawn_templates_follow_the_seed_and_use_all():
    prompts = Prompts(WORDS, {"emotion": ["so {}", "very {}", "{} today"]})
    labels = {"emotion": ["sad"] * 60}
    torch.manual_seed(3)
    one = prompts.sentences("emotion", labels, draw=True)
    torch.manual_seed(3)
    two = prompts.sentences("emotion", labels, draw=True)
    assert one == two
    assert set(one) == {"so sad", "very sad", "sad today"}
    assert set(prompts.sentences("emotion", labels)) == {"so sad"}


def test_class_sentences_cover_all_templates():
    prompts = Prompts(WORDS, {"emotion": ["so {}", "very {}"]})
    assert prompts.class_sentences("emotion") == [
        ["so angry", "very angry"],
        ["so sad", "very sad"],
        ["so neutral", "very neutral"],
    ]


def test_config_rebuilds_the_object():
    prompts = Prompts(WORDS, {"emotion": ["so {}"]})
    assert Prompts(**prompts.to_config()).class_sentences("emotion") == prompts.class_sentences(
        "emotion"
    )


def test_braces_can_be_written_and_nothing_is_looked_up():
    prompts = Prompts(WORDS, {"emotion": ["{{{}}}"]})
    assert prompts.class_sentences("emotion")[0] == ["{angry}"]
    with pytest.raises(ValueError, match="names '0.__class__'"):
        Prompts(WORDS, {"emotion": ["{} {0.__class__}"]})


@pytest.mark.parametrize(
    ("words", "templates", "message"),
    [
        (WORDS, {"emotion": ["this person"]}, r"expected '\{\}' where the word goes"),
        (WORDS, {"emotion": ["{} {age}"]}, "names 'age', but words are given for"),
        (WORDS, {"emotion": []}, "at least one template"),
        (WORDS, {"emotion": ["{} {"]}, "write a brace as"),
        ({"emotion": {"ang": "angry"}}, {}, "two classes or more"),
        ({"emotion": {"hap": "happy", "exc": "happy"}}, {}, "two labels share a word"),
    ],
)
def test_wrong_prompts_are_explained(words, templates, message):
    with pytest.raises(ValueError, match=message):
        Prompts(words, templates)


def test_other_words_and_sentences_can_be_asked_for():
    prompts = Prompts(WORDS, {"emotion": ["so {}", "a {gender} voice, {}"]})
    asked = prompts.asked("emotion", ["bored", "sad"])
    assert asked.words["emotion"] == {"bored": "bored", "sad": "sad"}
    assert asked.class_sentences("emotion")[0] == [
        "so bored", "a female voice, bored", "a male voice, bored"
    ]  # fmt: skip
    asked = prompts.asked("emotion", {"b": "bored", "s": "sad"}, ["very {}"])
    assert asked.class_sentences("emotion") == [["very bored"], ["very sad"]]
    assert prompts.asked("emotion", None, ["very {}"]).words == prompts.words


def test_a_subset_of_the_words_in_the_order_asked_for():
    prompts = Prompts(WORDS, {"emotion": ["{}"]}, only={"emotion": ["neu", "ang"], "gender": None})
    assert list(prompts.words["emotion"]) == ["neu", "ang"]
    assert len(prompts.words["gender"]) == 2
    with pytest.raises(ValueError, match=r"only\['emotion'\]: no word for \['fru'\]"):
        Prompts(WORDS, {}, only={"emotion": ["ang", "fru"]})
