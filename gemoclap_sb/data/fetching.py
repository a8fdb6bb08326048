"""Recordings that are somewhere else, as local files.

SpeechBrain's ``fetch`` waits for a server without end, needs a folder, and takes two addresses
that end alike for the same file; so addresses are downloaded here. What only it knows, a
``FetchSource``, is left to it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from speechbrain.utils.data_utils import split_path
from speechbrain.utils.fetching import FetchSource, fetch

from gemoclap_sb.data.audio import AudioError

# A server that is silent for so long is given up.
TIMEOUT_SECONDS = 30.0
# An endless answer would fill the disk. The longest WAV has as much.
LARGEST_BYTES = 2**32
_BLOCK = 2**20


def is_remote(path: object) -> bool:
    """Whether a recording has to be fetched: an address, or a ``FetchSource``."""
    return isinstance(path, FetchSource) or (
        isinstance(path, str) and path.lower().startswith(("http://", "https://"))
    )


@contextlib.contextmanager
def fetched(path: str | FetchSource, savedir: str | os.PathLike | None = None) -> Iterator[Path]:
    """Make a recording from elsewhere a local file for a while, or in ``savedir`` for good.

    What lies in ``savedir`` already is not fetched again. AudioError if it cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="gemoclap_") as temporary:
        if isinstance(path, FetchSource):
            yield _by_speechbrain(path, savedir or temporary)
        elif savedir is None:
            yield _download(path, Path(temporary))
        else:
            kept = Path(savedir) / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}_{_name(path)}"
            if not kept.exists():
                Path(savedir).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=savedir) as beside:
                    os.replace(_download(path, Path(beside)), kept)
            yield kept


def _name(address: str) -> str:
    # The suffix says which decoder is asked; a long name could not be written.
    return PurePosixPath(urlsplit(address).path).name[-100:] or "audio"


def _download(address: str, folder: Path) -> Path:
    try:
        path = folder / _name(address)
        with (
            urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer,
            path.open("wb") as file,
        ):
            promised = int(answer.headers.get("Content-Length") or -1)
            if promised > min(LARGEST_BYTES, shutil.disk_usage(folder).free):
                raise OSError(f"it has {promised:,} bytes, too many to be kept")
            while block := answer.read(_BLOCK):
                file.write(block)
                if file.tell() > LARGEST_BYTES:
                    raise OSError(f"it has more than {LARGEST_BYTES:,} bytes")
            if 0 <= file.tell() < promised:
                raise OSError(f"it ended after {file.tell():,} of {promised:,} bytes")
    # A ValueError is what an address that is none is answered with.
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise AudioError(
            f"Audio {address!r} could not be downloaded: {reason}. Check the address, and whether "
            "it can be reached from here."
        ) from error
    return path


def _by_speechbrain(source: FetchSource, savedir: str | os.PathLike) -> Path:
    try:
        folder, name = split_path(source)
        return Path(fetch(name, source=folder, savedir=savedir))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AudioError(f"Audio {source.path!r} could not be fetched: {reason}.") from error
