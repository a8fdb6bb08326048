"""Model folders that were changed at random: a model that answers, or one line.

Bounded in time, and the same examples in each run.
"""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.models.building import ConfigurationError
from gemoclap_sb.models.weights import WeightsError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KINDS = ("scratch", "pretrained")
RATE = 16000
SHORT = torch.sin(torch.arange(RATE / 4) ** 1.2)[None]

HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 10**18, 10**39, -(10**39), 0.5, 1e-300, 1e300]
        + ["", " ", "x", "no", "\x1b[2J", "{}", "é" * 300, [], {}, [[]], [1], ["x"], [0] * 7]
        + [{"x": 1}, {"": ""}, [None], [-1] * 7, [1] * 1000, ["emotion", "emotion"]]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
JUST_A_FEW = settings(
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@pytest.fixture(scope="module")
def copies(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    return {kind: shutil.copytree(exported[kind], folder / kind) for kind in KINDS}


def assert_answers_or_says_why(folder):
    try:
        classifier = GEmoCLAPClassifier.from_pretrained(folder, device="cpu")
    except (ConfigurationError, WeightsError) as error:
        assert "\n" not in str(error) and len(str(error)) < 1500
        return
    embedding = classifier.encode_batch(SHORT)
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(1, 1), rtol=0, atol=1e-3)
    probabilities = classifier.classify_batch(SHORT)[0].exp()
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0), rtol=0, atol=1e-3)


def places(value, path=()):
    """All places of plain data, from the outside in."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        yield from places(inner, (*path, key))


def changed(content, data):
    """Change one to three places: another value, none, or a key that nobody knows."""
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        *parents, last = data.draw(st.sampled_from([*places(content)][1:]), label="place")
        inner = content
        for key in parents:
            inner = inner[key]
        what = data.draw(st.sampled_from(["value"] * 6 + ["gone", "more"]), label="what")
        if what == "gone":
            del inner[last]
        elif what == "more" and isinstance(inner, dict):
            inner[data.draw(st.text(max_size=5))] = data.draw(HOSTILE)
        else:
            inner[last] = data.draw(HOSTILE, label="value")
        if len([*places(content)]) < 2:
            break
    return content


@pytest.mark.parametrize("kind", KINDS)
@JUST_A_FEW
@given(data=st.data())
def test_descriptions(exported, copies, kind, data):
    content = changed(json.loads((exported[kind] / CONFIG).read_text()), data)
    (copies[kind] / CONFIG).write_text(json.dumps(content))
    try:
        assert_answers_or_says_why(copies[kind])
    finally:
        shutil.copy(exported[kind] / CONFIG, copies[kind])


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@settings(JUST_A_FEW, max_examples=20)
@given(data=st.data())
def test_tokenizers(exported, copies, name, data):
    file = f"tokenizer/{name}"
    content = changed(json.loads((exported["pretrained"] / file).read_text()), data)
    (copies["pretrained"] / file).write_text(json.dumps(content))
    try:
        assert_answers_or_says_why(copies["pretrained"])
    finally:
        shutil.copy(exported["pretrained"] / file, copies["pretrained"] / file)


@JUST_A_FEW
@given(data=st.data())
def test_headers_of_weights(exported, copies, data):
    whole = (exported["scratch"] / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    if data.draw(st.booleans(), label="as JSON"):
        text = json.dumps(changed(json.loads(whole[8 : 8 + length]), data)).encode()
        content = struct.pack("<Q", len(text)) + text + whole[8 + length :]
    else:
        content = spoilt(whole, 8 + length, data)
    (copies["scratch"] / WEIGHTS).write_bytes(content)
    try:
        assert_answers_or_says_why(copies["scratch"])
    finally:
        shutil.copy(exported["scratch"] / WEIGHTS, copies["scratch"])


def spoilt(whole, header, data):
    """Change bytes of the header, and perhaps cut the file."""
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4), label="bytes")):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.one_of(st.none(), st.integers(0, len(content))), label="stop")
    return bytes(content[:stop])
