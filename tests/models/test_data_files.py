from __future__ import annotations

import json
import os
import shutil

import pytest

from gemoclap_sb.models.data_files import check_inside, plain_size, read_json
from gemoclap_sb.models.errors import ConfigurationError


@pytest.mark.parametrize(
    "content",
    [
        {"a": [1, -2, 0.5, 1e-300, True, None, "é😀\n\x1b", {}, []]},
        "text",
        [],
        10**30,
        {"nested": json.loads("[" * 30 + "]" * 30)},
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_plain_data_come_back(tmp_path, content, escaped):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, ensure_ascii=escaped), encoding="utf-8")
    assert read_json(path) == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 40 + "]" * 40, "nested too deeply"),
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ("9" * 5000, "an integer of 5000 digits"),
        ("-1e999", "the number -1e999 is too large"),
        ("[NaN]", "NaN is no JSON"),
        (r'{"\udc80": 1}', "half a character"),
        (r'["\ud83d\ude00", "\ud83d"]', "half a character"),
        ("[1," * 60_000, "at most 100,000 values"),
        (" " * 5_000_000, "at most 4,194,304 bytes, found 5,000,000"),
    ],
)
def test_what_other_readers_take_otherwise(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_file_that_must_not_be_read(tmp_path, monkeypatch):
    """By the right to read, which the owner of the tests may not lack."""
    path = tmp_path / "a.json"
    path.write_text("{}")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    for owner in ("builtins.open", "os.stat"):
        with monkeypatch.context() as patched:
            patched.setattr(owner, refuse)
            with pytest.raises(ConfigurationError, match=r"a\.json cannot be read: Permission"):
                read_json(path)


def test_no_file_is_no_configuration_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        plain_size(tmp_path / "nothing")


@pytest.fixture
def cache(tmp_path):
    """The hub's cache as huggingface_hub leaves it, with a blob that several models share."""
    repo = tmp_path / "cache" / "models--me--clap"
    shared = tmp_path / "cache" / "blobs" / "ab" / ("ab" * 32)
    snapshot = repo / "snapshots" / "0123abc"
    for folder in (repo / "blobs", shared.parent, snapshot / "tokenizer"):
        folder.mkdir(parents=True)
    for file in (repo / "blobs" / "one", shared, tmp_path / "private", repo / "refs"):
        file.write_text("{}")
    (repo / "blobs" / "two").symlink_to(os.path.relpath(shared, repo / "blobs"))
    return tmp_path, snapshot


@pytest.mark.parametrize(
    ("link", "target", "is_inside"),
    [
        ("config.json", "../../blobs/one", True),
        ("config.json", "../../blobs/two", True),
        ("tokenizer/vocab.json", "../../../blobs/one", True),
        ("config.json", "tokenizer/vocab.json", True),
        ("config.json", "../../refs", False),
        ("config.json", "../../../../private", False),
        ("config.json", "/etc/hostname", False),
        ("config.json", "../../blobs", False),
    ],
)
def test_links_of_the_hubs_cache(cache, link, target, is_inside):
    tmp_path, snapshot = cache
    (snapshot / "tokenizer" / "vocab.json").touch()
    (snapshot / link).unlink(missing_ok=True)
    (snapshot / link).symlink_to(target)
    if is_inside:
        check_inside(snapshot, snapshot / link)
    else:
        with pytest.raises(ConfigurationError, match="a link that points out of it"):
            check_inside(snapshot, snapshot / link)
    # The same links in a folder of another name.
    elsewhere = shutil.copytree(snapshot, tmp_path / "x/y/z", symlinks=True)
    if target.startswith(".."):
        with pytest.raises(ConfigurationError, match="a link that points out of it"):
            check_inside(elsewhere, elsewhere / link)


def test_a_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").touch()
    (tmp_path / "link").symlink_to("model")
    check_inside(tmp_path / "link", tmp_path / "link" / "a")
