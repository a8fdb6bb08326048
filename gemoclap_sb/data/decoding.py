"""What libsndfile cannot read, decoded with ffmpeg where that is installed.

ffmpeg's demuxers of playlists open other files and addresses that a file names: formats and
protocols are limited to those that hold sound themselves.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import BinaryIO

# Of what people record and keep: phones, browsers, video, older recorders.
FFMPEG_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".amr", ".ape", ".avi", ".flv", ".m4a", ".m4b", ".mka", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".tta", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpeg,mpegts,ogg,tta,w64,wav,wv"
)
# Six hours of two channels at 48 kHz.
_MOST_BYTES = 2**32
_POLL_SECONDS = 0.05
# As much as a file system hands out at a time, and more.
_A_LITTLE = 2**16
# ffmpeg ends well where a file ends too soon, and says so.
_CUT_SHORT = re.compile("prematurely|partial file|moov atom not found", re.IGNORECASE)
_NO_SOUND = "does not contain any stream"
# Of ffmpeg's lines: where in its memory something is, and what it writes for control characters.
_PLACE = re.compile(r"^\[.* @ 0x[0-9a-f]+\] ", re.MULTILINE)
_CONTROL = re.compile("[\x00-\x07\x0e-\x1f]")


class DecodingError(ValueError):
    """What ffmpeg said of a file that it cannot decode, and what to do if that is not the usual."""

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(reason)
        self.advice = advice


def has_ffmpeg() -> bool:
    """Tell whether ``ffmpeg`` is on the path."""
    return shutil.which("ffmpeg") is not None


def decode(path: str | os.PathLike, is_stopped: Callable[[], bool] = lambda: False) -> BinaryIO:
    """Decode the sound of a regular file to a WAV of 16 bits, in a file without a name.

    Rate and channels are the file's own. The WAV goes when it is closed. DecodingError if ffmpeg
    is not there, does not take the file, or ``is_stopped``, which is asked all the while.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise DecodingError("ffmpeg is not installed")
    # The prefix makes a name a name, whatever it begins with.
    source = "file:" + os.path.abspath(os.fsdecode(path))
    limits = ["-protocol_whitelist", "file,pipe", "-format_whitelist", _DEMUXERS]
    sound = ["-vn", "-sn", "-dn", "-c:a", "pcm_s16le", "-fs", str(_MOST_BYTES), "-f", "wav"]
    command = [program, "-nostdin", "-v", "error", "-xerror", *limits, "-i", source, *sound]
    try:
        return _decoded([*command, "pipe:1"], source, is_stopped)
    except OSError as error:
        raise DecodingError(
            f"what ffmpeg makes of it cannot be kept: {error}",
            "Free room for temporary files, or name another folder for them in TMPDIR.",
        ) from error


def _decoded(command: list[str], source: str, is_stopped: Callable[[], bool]) -> BinaryIO:
    wav = tempfile.TemporaryFile()  # noqa: SIM115 closed by the caller
    try:
        with tempfile.TemporaryFile() as errors:
            code = _run(command, wav, errors, is_stopped)
            if code:
                # Where there is no more room, ffmpeg does not say so.
                wav.write(bytes(_A_LITTLE))
                wav.flush()
            errors.seek(0)
            _check(code, errors.read(2000).decode(errors="surrogateescape"), source)
        if wav.seek(0, os.SEEK_END) >= _MOST_BYTES:
            raise DecodingError(f"it is longer than {_MOST_BYTES} bytes of WAV", "Cut it.")
        wav.seek(0)
        return wav
    except BaseException:
        wav.close()
        raise


def _run(
    command: list[str], wav: BinaryIO, errors: BinaryIO, is_stopped: Callable[[], bool]
) -> int:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=wav, stderr=errors) as process:
        try:
            while process.poll() is None:
                if is_stopped():
                    raise DecodingError("decoding was stopped", "")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            process.kill()
    return process.returncode


def _check(code: int, said: str, source: str) -> None:
    """Raise DecodingError if ffmpeg ended with an error, or said that the file was cut short."""
    # Before it is taken for lines: a name may hold line ends.
    said = said.replace(_CONTROL.sub("?", source) + ": ", "")
    lines = _PLACE.sub("", said).strip().splitlines()
    cut = next(filter(_CUT_SHORT.search, lines), None)
    if _NO_SOUND in said:
        raise DecodingError("it holds no sound", "Expected a recording, or a video with sound.")
    if code or cut:
        raise DecodingError(f"ffmpeg: {cut or (lines or [f'exit code {code}'])[-1]}")
