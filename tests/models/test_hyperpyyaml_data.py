"""Reading HyperPyYAML as data, against `load_hyperpyyaml`, and what it must never do."""

from __future__ import annotations

import pytest
from hyperpyyaml import load_hyperpyyaml

from gemoclap_sb.models.errors import ConfigurationError
from gemoclap_sb.models.hyperpyyaml_data import HyperPyYAMLData, Named, leaves

PLAIN = """\
n: 80
rate: 1e-10
half: !ref <n> // 2
path: !ref a/<n>/b.ckpt
yes_is_text: yes
truth: True
nothing:
sizes: [5, 3, (1, 2), !ref <n>]
pair: (3, 0.5)
inner: {a: {b: 7}, c: !ref <sizes>}
deep: !ref <inner[a][b]> * 3
text: !ref <path>
quoted: "12"
negative: -3
"""


@pytest.fixture
def read(tmp_path):
    def read(text: str) -> HyperPyYAMLData:
        path = tmp_path / "hyperparams.yaml"
        path.write_text(text, encoding="utf-8")
        return HyperPyYAMLData(path)

    return read


def test_plain_values_are_those_of_hyperpyyaml(read):
    expected, found = load_hyperpyyaml(PLAIN), read(PLAIN)
    assert {key: found[key] for key in expected} == expected
    assert found.get("none", 5) == 5
    assert isinstance(found["rate"], float) and found["pair"] == (3, 0.5)


def test_a_reference_is_the_same_object(read):
    data = read(
        "a: !new:x.A {n: !ref <n>, f: !name:x.f }\nn: 3\nb: !new:x.B\n    - !ref <a>\n"
        "c:\n    a: !ref <a>\n    n: !ref <a[n]>\n"
    )
    a, b, c = data["a"], data["b"], data["c"]
    assert isinstance(a, Named) and a.is_new and (a.name, a.kwargs["n"]) == ("x.A", 3)
    assert b.args[0] is a and c["a"] is a and c["n"] == 3
    assert not a.kwargs["f"].is_new
    assert data.tags == {"!new:x.A", "!new:x.B", "!name:x.f"}
    assert sorted(leaves([a, a, {"k": 1}])) == [("k", 1), ("n", 3)]


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!apply:os.mkdir ['{marker}']", "!apply:os.mkdir"),
        ("!applyref:os.mkdir ['{marker}']", "!applyref:os.mkdir"),
        ("!include:{marker}", "!include:"),
        ("!module:os", "!module:os"),
        ("!copy <x>", "!copy"),
        ("!PLACEHOLDER", "!PLACEHOLDER"),
        ("!new:os;x", "!new:os;x"),
        ("!!python/object/apply:os.mkdir ['{marker}']", "python/object/apply:os.mkdir"),
        ("!!python/name:os.mkdir", "python/name"),
        ("{{x: [{{y: !apply:os.mkdir ['{marker}']}}]}}", "!apply:os.mkdir"),
        ("!new:x.A {{y: !apply:os.mkdir ['{marker}']}}", "!apply:os.mkdir"),
    ],
)
def test_a_tag_that_could_do_something_is_named(value, tag, read, tmp_path):
    marker = tmp_path / "made"
    with pytest.raises(ConfigurationError) as error:
        read(f"x: 1\na: {value.format(marker=marker)}\n")
    assert tag in str(error.value) and "\n" not in str(error.value)
    assert not marker.exists()


def test_a_tuple_runs_nothing(read, tmp_path):
    """HyperPyYAML reads what is in the brackets with a loader that makes any object."""
    marker = tmp_path / "made"
    inside = f"!!python/object/apply:os.mkdir ['{marker}']"
    for text in (f"({inside})", f'"({inside})"', f"!tuple ({inside})", f"(1, ({inside}))"):
        assert isinstance(read(f"a: {text}")["a"], str)
    assert not marker.exists()
    load_hyperpyyaml(f"a: ({inside})")
    assert marker.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected keys and values"),
        ("- 1", "expected keys and values"),
        ("a: [", "expected HyperPyYAML"),
        ("a: 1\na: 2", "each once"),
        ("a: &x [1]\nb: *x", "an alias"),
        ("a: !ref <b>\nb: !ref <a>", "refers to itself"),
        ("a: !ref <none>", "expected 'none', found none"),
        ("b: 1\na: !ref <b.real>", "expected 'b.real', found none"),
        ("b: [1]\na: !ref x<b>", "expected a text or a number"),
        ("b: 0\na: !ref 1 / <b>", "division by zero"),
        ("a: " + "[" * 2000 + "]" * 2000, "50 levels"),
        ("a: \0", "expected HyperPyYAML"),
        ("a: !!bool maybe", "expected HyperPyYAML"),
        ('a: !!int ""', "expected HyperPyYAML"),
        ("a: [" + "1, " * 20_000 + "1]", "at most 2,000 values"),
        ("b: " + "x" * 900 + "\na: !ref <b><b>", "too long"),
        ("a: " + "x" * 70_000, "at most 65,536 bytes"),
    ],
)
def test_what_is_no_hyperpyyaml_is_told_in_a_line(text, told, read):
    with pytest.raises(ConfigurationError, match=told) as error:
        read(text)["a"]
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_what_multiplies_ends(read):
    chain = [f"a{i}: !new:x.A [!ref <a{i - 1}>, !ref <a{i - 1}>]" for i in range(1, 60)]
    lists = [f"b{i}: [!ref <b{i - 1}>, !ref <b{i - 1}>]" for i in range(1, 60)]
    data = read("\n".join(["a0: 1", *chain, "b0: 1", *lists, "c: {d: !ref <a59>}", "p: 9"]))
    for key in ("c", "a59", "b59"):
        with pytest.raises(ConfigurationError, match=f"{key}: expected at most 20,000 values"):
            data[key]
    # What is shared is looked through once.
    assert len(list(leaves([data["a14"], data["b14"]]))) == 4
    assert read("p: 9\na: !ref <p>**<p>**<p>**<p>")["a"] == "9**9**9**9"
