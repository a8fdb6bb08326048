"""What the header of an audio file promises, in bytes, against what the file holds.

libsndfile corrects such a header and reads what is there, as if a recording of which half
was lost were whole. A length that was not known when the header was written, as in a pipe, is
no promise.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

# Writers into a pipe state the largest length that they can, or a little less: ffmpeg
# 0xFFFFFFFF, arecord 0x80000000, SoX 0x7FFFF000 and less a header.
_UNSTATED = 0x7FFF0000
_LARGEST_OGG_PAGE = 65307
# Some writers count a header of their own.
_SLACK_BYTES = 64
# ASF's header, and of the objects in it that which has the size of the file 40 bytes on.
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_SIZES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLV_SIZE = b"filesize\0"


def cut_short(file: BinaryIO) -> tuple[int, int] | None:
    r"""Compare bytes of audio promised and there: both of a file that was cut, None of a whole one.

    Looked at are WAV (RIFF, RIFX, RF64, BW64, W64), AIFF, AU, CAF, NIST SPHERE, and the last page
    of Ogg; of what takes ffmpeg, which reads these as if nothing were missing, AVI, ASF (WMA) and
    FLV.

    Examples
    --------
    >>> import io
    >>> header = b"RIFF\x00\x00\x00\x00WAVEdata\xe8\x03\x00\x00"
    >>> cut_short(io.BytesIO(header + bytes(1000))), cut_short(io.BytesIO(header + bytes(700)))
    (None, (1000, 700))
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(24)
    kind, form = start[:4], start[8:12]
    if kind in (b"RIFF", b"RIFX", b"RF64", b"BW64") and form == b"WAVE":
        found = _of_wav(file, size, "big" if kind == b"RIFX" else "little")
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        chunks = _chunks(file, size, 12, "big")
        found = next(((s, at) for name, s, at in chunks if name == b"SSND"), None)
    elif kind == b"riff":
        # Sony's 64 bits: 16 bytes of a name, and lengths that count their own 24 bytes.
        chunks = _chunks(file, size, 40, "little", name=16, length=8, counted=24, align=8)
        found = next(((s, at) for name, s, at in chunks if name[:4] == b"data"), None)
    elif kind in (b".snd", b"dns."):
        order = "big" if kind == b".snd" else "little"
        found = int.from_bytes(start[8:12], order), int.from_bytes(start[4:8], order)
    elif kind == b"caff":
        chunks = _chunks(file, size, 8, "big", length=8, align=1)
        found = next(((s, at) for name, s, at in chunks if name == b"data"), None)
    elif start[:7] == b"NIST_1A":
        found = _of_sphere(file)
    elif kind == b"OggS":
        return _of_ogg(file, size)
    elif kind == b"RIFF" and form == b"AVI ":
        found = int.from_bytes(start[4:8], "little"), 8
    elif kind == b"FLV\x01" or start[:16] == _ASF:
        found = _of_whole_file(file)
    else:
        return None
    if found is None:
        return None
    promised, held = found[0], max(0, size - found[1])
    # What is 64 bits long is not stated if it is the largest number, with a sign or without.
    is_stated = not (promised >= 2**62 or _UNSTATED <= promised < 2**32)
    return (promised, held) if is_stated and promised - held > _SLACK_BYTES else None


def unwritten_length(file: BinaryIO) -> int | None:
    """Find the place of the length of a WAV's sound where 0 was left there, and sound follows.

    So does what writes into a pipe, and a recorder that was not closed. libsndfile takes it
    for a recording without samples.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        return None
    for name, length, at in _chunks(file, size, 12, "little"):
        if name == b"data":
            # Unless what follows are chunks to the end: notes on nothing.
            ends = [
                at,
                *(place + content for _, content, place in _chunks(file, size, at, "little")),
            ]
            return None if length or ends[-1] in (size, size + 1) else at - 4
    return None


class StatedToEnd(io.FileIO):
    """A WAV that reads as if its sound went to the end of the file, from the place found above."""

    def __init__(self, path: str | os.PathLike, place: int) -> None:
        super().__init__(path, "rb")
        self._place = place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; the length reads as the largest there is."""
        view, start = memoryview(buffer).cast("B"), self.tell()
        count = super().readinto(view) or 0
        for i in range(max(self._place, start), min(self._place + 4, start + count)):
            view[i - start] = 0xFF
        return count


def _chunks(
    file: BinaryIO,
    size: int,
    at: int,
    order: str,
    name: int = 4,
    length: int = 4,
    counted: int = 0,
    align: int = 2,
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, length and place of the content of each chunk."""
    while at + name + length <= size:
        file.seek(at)
        header = file.read(name + length)
        content = int.from_bytes(header[name:], order) - counted
        at += name + length
        yield header[:name], content, at
        if content < 0:
            return
        at += -(-content // align) * align


def _of_wav(file: BinaryIO, size: int, order: str) -> tuple[int, int] | None:
    long = None
    for name, length, at in _chunks(file, size, 12, order):
        if name == b"ds64":
            file.seek(at + 8)
            long = int.from_bytes(file.read(8), order)
        elif name == b"data":
            return (long if length == 2**32 - 1 and long is not None else length), at
    return None


def _of_sphere(file: BinaryIO) -> tuple[int, int] | None:
    """NIST's header: its own length in the second line, then a field a line."""
    file.seek(0)
    text = file.read(4096).decode("ascii", "replace")
    fields = dict(re.findall(r"^(\w+) -\S+ (\S+)", text, re.MULTILINE))
    lines = text.splitlines()
    try:
        header = int(lines[1])
        names = ("sample_count", "sample_n_bytes", "channel_count")
        count, width, channels = (int(fields.get(key, 1)) for key in names)
    except (IndexError, ValueError):
        return None
    return (count * width * channels, header) if "sample_count" in fields else None


def _of_whole_file(file: BinaryIO) -> tuple[int, int] | None:
    """Bytes of the whole file, as ASF and FLV state them near their beginning."""
    file.seek(0)
    header = file.read(2**16)
    if (at := header.find(_ASF_SIZES)) >= 0:
        return int.from_bytes(header[at + 40 : at + 48], "little"), 0
    at = header.find(_FLV_SIZE)
    stated = header[at + len(_FLV_SIZE) :][:8]
    if at < 0 or len(stated) < 8:
        return None
    (size,) = struct.unpack(">d", stated)
    return (int(size), 0) if 0 < size < 2**53 else None


def _of_ogg(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Look at the last page: Ogg states no length, but no page is left half written."""
    file.seek(max(0, size - _LARGEST_OGG_PAGE))
    end = file.read()
    at = end.rfind(b"OggS\0")
    if at < 0:
        return None
    page = end[at:]
    promised = 27
    if len(page) > 26:
        promised = 27 + page[26] + sum(page[27 : 27 + page[26]])
        # The very beginning of a next one.
        if 0 < len(page) - promised < 5 and b"OggS".startswith(page[promised:]):
            return promised + 27, len(page)
    return (promised, len(page)) if len(page) < promised else None
