"""A tokenizer's folder from somebody else: which files it may hold, and what they may not say.

transformers picks the tokenizer's class by what the files say, and can be told there
to fetch the class as code. Such a folder is refused before transformers sees it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

SUFFIXES = (".json", ".txt", ".model", ".jinja")
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
# What a hub download of `tokenizer/` is limited to.
PATTERNS = tuple(f"*{suffix}" for suffix in SUFFIXES)


def check_tokenizer(folder: str | os.PathLike) -> None:
    """Refuse a tokenizer's folder that holds or asks for code, with a ValueError.

    So is one without ``tokenizer_config.json``, with a file of a kind that tokenizers do not
    have, or with a ``.json`` that is none.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "a.B"}}')
    >>> try:
    ...     check_tokenizer(folder)
    ... except ValueError as error:
    ...     print(str(error).replace(str(folder), "tokenizer"))
    tokenizer/tokenizer_config.json: expected data only, found 'auto_map', which asks for code
    from elsewhere. Nothing was loaded; take the model from somebody you trust.
    """
    folder = Path(folder)
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        raise ValueError(
            f"no file {config}. Expected the tokenizer's folder beside config.json; export the "
            "run again, or download the whole model."
        )
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.suffix not in SUFFIXES:
            raise ValueError(
                f"{path}: expected only a tokenizer's files ({', '.join(SUFFIXES)}). Nothing was "
                "loaded; remove it if you know what it is."
            )
        if path.suffix != ".json":
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON: {error}. Download the file again.") from error
        found = [key for key in CODE_KEYS if isinstance(content, dict) and key in content]
        if found:
            raise ValueError(
                f"{path}: expected data only, found {found[0]!r}, which asks for code from "
                "elsewhere. Nothing was loaded; take the model from somebody you trust."
            )
