"""A tokenizer's folder from somebody else: which files it may hold, and what they may say.

transformers picks the tokenizer's class by what the files say, and can be told there to fetch
the class as code, to read files that lie elsewhere, or to match an expression for hours. It also
takes a folder of which half is missing. Such a folder is refused before transformers sees it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gemoclap_sb.models.data_files import check_inside, plain_size, read_json
from gemoclap_sb.models.errors import ConfigurationError, shortened, shown

SUFFIXES = (".json", ".txt", ".model", ".jinja")
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
# What a hub download of `tokenizer/` is limited to.
PATTERNS = tuple(f"*{suffix}" for suffix in SUFFIXES)

CONFIG_FILE, WHOLE_FILE = "tokenizer_config.json", "tokenizer.json"
# Those of the text encoders that an export may have; each reads the whole of `tokenizer.json`.
CLASSES = {
    "AlbertTokenizer", "BertTokenizer", "CamembertTokenizer", "DebertaTokenizer",
    "DebertaV2Tokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer",
    "PreTrainedTokenizer", "RobertaTokenizer", "TokenizersBackend", "XLMRobertaTokenizer",
}  # fmt: skip
_JSON = {CONFIG_FILE, WHOLE_FILE, "added_tokens.json", "special_tokens_map.json", "vocab.json"}
_KINDS = ("BPE", "Unigram", "WordPiece")
# XLM-R has 250,002 tokens and 9 MB.
_BYTES, _VALUES, _FILES, _ADDED = 32 * 2**20, 1_500_000, 16, 1000
_TOKENS, _PARTS, _BLOB, _CHARSMAP = ("model", "added_tokens"), 2000, "precompiled_charsmap", 2**20
_QUANTIFIER = re.compile(r"[*+]|\{\d*,?\d*\}")
# Of a model's rows of embeddings some may be spare, and of its tokens some are never merged.
_WHOLE = 0.75


def check_tokenizer(folder: str | os.PathLike, rows: object = None) -> None:
    """Refuse a tokenizer's folder that holds or asks for code, or is not whole.

    ``rows`` are the embeddings that its model has. ConfigurationError for what
    `gemoclap_sb.models.data_files.read_json` refuses, for links out of the model's folder, which is
    the one around it, for a file of a kind that tokenizers do not have, for a class or an
    expression that none of the known text encoders has, and for a vocabulary that is missing,
    incomplete or of another model.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "a.B"}}')
    >>> try:
    ...     check_tokenizer(folder)
    ... except ConfigurationError as error:
    ...     print(str(error).replace(str(folder), "tokenizer"))
    tokenizer/tokenizer_config.json: expected data only, found 'auto_map', which asks for code
    from elsewhere. Nothing was loaded; take the model from somebody you trust.
    """
    folder = Path(folder)
    contents = _read(folder)
    for name, content in contents.items():
        _check_keys(folder / name, content)
    for name in (CONFIG_FILE, WHOLE_FILE):
        if name not in contents:
            raise ConfigurationError(
                f"no file {folder / name}. Expected the tokenizer's folder beside config.json; "
                "export the run again, or download the whole model."
            )
    if contents[CONFIG_FILE].get("backend", "tokenizers") != "tokenizers":
        raise ConfigurationError(f"{folder / CONFIG_FILE}: backend: expected 'tokenizers'.")
    kind = contents[CONFIG_FILE].get("tokenizer_class")
    if not isinstance(kind, str) or kind.removesuffix("Fast") not in CLASSES:
        raise ConfigurationError(
            f"{folder / CONFIG_FILE}: tokenizer_class: expected one of "
            f"{', '.join(sorted(CLASSES))}, found {shown(kind)}. Nothing else is constructed."
        )
    _check_whole(folder / WHOLE_FILE, contents[WHOLE_FILE], rows)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Look at all files of a folder, and read those that are JSON."""
    if not folder.is_dir():
        return {}
    paths = sorted(folder.iterdir())
    if len(paths) > _FILES:
        raise ConfigurationError(
            f"{folder}: expected at most {_FILES} files of a tokenizer, found {len(paths):,}."
        )
    contents = {}
    for path in paths:
        check_inside(folder.parent, path)
        is_known = path.name in _JSON if path.suffix == ".json" else path.suffix in SUFFIXES
        if path.is_dir() or not is_known:
            raise ConfigurationError(
                f"{path}: expected only a tokenizer's files ({', '.join(SUFFIXES)}). Nothing was "
                "loaded; remove it if you know what it is."
            )
        if not path.exists():
            continue  # a link to nothing, like no file
        if plain_size(path) > _BYTES:
            raise ConfigurationError(f"{path}: expected at most {_BYTES:,} bytes, found more.")
        if path.suffix == ".json":
            contents[path.name] = read_json(path, _BYTES, _VALUES)
            if not isinstance(contents[path.name], dict):
                raise ConfigurationError(f"{path}: expected an object of JSON, found another kind.")
    return contents


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse keys by which transformers fetches code or reads a file, and endless lists of tokens.

    A key of a file (``vocab_file``) may name none.
    """
    for key, value in content.items():
        if key in CODE_KEYS:
            raise ConfigurationError(
                f"{path}: expected data only, found {key!r}, which asks for code from elsewhere. "
                "Nothing was loaded; take the model from somebody you trust."
            )
        if path.name == WHOLE_FILE or path.name == "vocab.json":
            continue
        if value is not None and (key.endswith(("_file", "_files")) or key == "sp_model_kwargs"):
            raise ConfigurationError(
                f"{path}: expected no paths, found {shortened(key, 40)}. Nothing was loaded; "
                "export the run again."
            )
        if isinstance(value, dict | list) and len(value) > _ADDED:
            raise _too_many(path, key, len(value))
    if path.name == "added_tokens.json" and len(content) > _ADDED:
        raise _too_many(path, "tokens", len(content))


def _too_many(path: Path, key: str, count: int) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {shortened(key, 40)}: expected at most {_ADDED:,}, found {count:,}."
    )


def _check_whole(path: Path, content: Mapping[str, Any], rows: int | None) -> None:
    """Refuse a ``tokenizer.json`` that is none, is not whole, or has an endless expression."""
    model, added = content.get("model"), content.get("added_tokens")
    kind = model.get("type") if isinstance(model, dict) else None
    vocabulary = model.get("vocab") if kind in _KINDS else None
    if not isinstance(vocabulary, dict | list) or not isinstance(added, list):
        raise ConfigurationError(
            f"{path}: expected a tokenizer with a model of type {', '.join(_KINDS)}, its vocab and "
            f"added_tokens, found the type {shown(kind)}. Export the run again."
        )
    if len(added) > _ADDED:
        raise _too_many(path, "added_tokens", len(added))
    _check_parts(path, {key: of for key, of in content.items() if key not in _TOKENS})
    if model.get("dropout"):
        raise ConfigurationError(
            f"{path}: model.dropout: expected none, found {shown(model['dropout'], 40)}: the same "
            "sentence would have other tokens each time."
        )
    count = len(vocabulary) + len(_texts(added) - _texts(vocabulary))
    if isinstance(rows, int) and not _WHOLE * rows <= count <= rows:
        raise ConfigurationError(
            f"{path}: expected a tokenizer of {rows} tokens at most, as many as the text encoder "
            f"has embeddings, and of {_WHOLE:.0%} of these at least, found {count}. It is not "
            "whole, or belongs to another model."
        )
    if kind == "BPE":
        _check_merges(path, vocabulary, model.get("merges"), len(added))


def _texts(tokens: dict[str, Any] | list[Any]) -> set[str]:
    """Give the texts of tokens: of a vocabulary, by index or with scores, or of those added."""
    if isinstance(tokens, dict):
        return set(tokens)
    texts = {of["content"] for of in tokens if isinstance(of, dict) and _is_text(of.get("content"))}
    return texts | {of[0] for of in tokens if isinstance(of, list) and of and _is_text(of[0])}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_merges(path: Path, vocabulary: object, merges: object, added: int) -> None:
    """Refuse a byte-pair encoding without the merges that its longer tokens are made by."""
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise ConfigurationError(f"{path}: expected a BPE with its vocab and merges.")
    longer = sum(len(token) > 1 for token in vocabulary) - added
    if len(merges) + 8 < _WHOLE * longer:
        raise ConfigurationError(
            f"{path}: expected about {longer} merges, one for each longer token of the vocabulary, "
            f"found {len(merges)}. The file is not whole; export the run again, or download the "
            "whole model."
        )


def _check_parts(path: Path, parts: Mapping[str, Any]) -> None:
    """Refuse normalizers and the like that have no end, or make an endless text of a short one."""
    replaced = 0
    for count, (key, value) in enumerate(_pairs(parts)):
        what = None
        if count > _PARTS:
            what = f"at most {_PARTS} values beside the vocabulary"
        elif key in ("Regex", "prefix_regex") or (key == "pattern" and isinstance(value, str)):
            if len(str(value)) > 200 or len(_QUANTIFIER.findall(str(value))) > 1:
                what = "a regular expression with one repetition at most"
        elif isinstance(value, str) and len(value) > (_CHARSMAP if key == _BLOB else 200):
            what = "shorter texts"
        elif isinstance(value, int) and not abs(value) <= _BYTES:
            what = "smaller numbers"
        elif key in ("content", "prepend", "append") and isinstance(value, str):
            # Each may be replaced in its turn, by as much again.
            replaced += 1
            what = "a few short replacements" if replaced > 8 or len(value) > 2 else None
        elif key in ("Fixed", "pad_to_multiple_of") and isinstance(value, int) and value > 10_000:
            what = "padding to less"
        if what is not None:
            raise ConfigurationError(
                f"{path}: {shortened(str(key), 40)}: expected {what}, found {shown(value, 40)}. "
                "Export the run again."
            )


def _pairs(value: Any, key: object = None) -> Iterator[tuple[object, Any]]:
    """Walk plain data: each value with the key that it, or the list around it, stands under."""
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _pairs(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner, key)
