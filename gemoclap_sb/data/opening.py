"""A path to an open audio file whose header can be trusted, or to an error that says why not.

No file is opened that is none: a pipe would keep its reader waiting for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import soundfile

from gemoclap_sb.data.decoding import FFMPEG_SUFFIXES, DecodingError, decode, has_ffmpeg
from gemoclap_sb.data.headers import StatedToEnd, cut_short, unwritten_length
from gemoclap_sb.data.resampling import FASTEST, SLOWEST

# libsndfile states this length (the largest 64-bit integer) when the header has none.
_UNKNOWN_LENGTH = 2**63 - 1
_BLOCK_FRAMES = 2**18
_MP3_FRAME = 1152
# FLAC's smallest frame, which repeats one value, stands for no more samples a byte.
_MOST_SAMPLES_A_BYTE = 8192
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class AudioError(ValueError):
    """An audio file that is missing, unreadable, empty, cut short, or holds NaN or Inf."""


class OpenedAudio:
    """An audio file that libsndfile reads, or what ffmpeg made of one; AudioError if neither can.

    ``file`` is soundfile's, ``frames`` the number of its samples, ``temporary`` what it reads
    from if that is not the file itself, ``is_copy`` whether ffmpeg wrote that. ``is_stopped`` is
    asked while something long is under way, which with True ends as an `AudioError`.
    """

    def __init__(self, path: str | os.PathLike, is_stopped: Callable[[], bool]) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            raise AudioError(f"expected the path of an audio file, found {type(path).__name__}.")
        name = os.fsdecode(path)
        if not name:
            raise AudioError("expected the path of an audio file, found an empty one.")
        self._is_address = "://" in name
        self.path = Path(name)
        self._is_stopped = is_stopped
        self.temporary: BinaryIO | None = None
        self.is_copy = False
        cut = self._checked()
        self.file = self._opened(cut)
        try:
            is_mp3 = self.file.format == "MP3"
            self.frames = self._decodable_frames() if is_mp3 else self.file.frames
            self._check_header(self.frames, cut)
        except (soundfile.SoundFileError, OSError) as error:
            self.close()
            raise self.unreadable(error) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        if self.temporary is not None:
            self.temporary.close()

    def _checked(self) -> tuple[int, int] | None:
        """Check that there is a file, and look whether it holds what its header promises."""
        if "\0" in str(self.path):
            name = shown(self.path)
            raise AudioError(f"Audio file {name} cannot be opened: its name holds a byte of zero.")
        try:
            found = os.stat(self.path)
            kind = stat.S_IFMT(found.st_mode)
            # A pipe that nobody writes to would keep whoever opens it for ever.
            if kind != stat.S_IFREG:
                name = _KINDS.get(kind, "no file")
                raise AudioError(f"{shown(self.path)} is {name}; expected an audio file.")
            if not found.st_size:
                raise AudioError(f"Audio file {shown(self.path)} is empty: it has 0 bytes.")
            with open(self.path, "rb") as file:
                return cut_short(file)
        except FileNotFoundError as error:
            link = ""
            if self.path.is_symlink():
                link = f": it is a link to {shown(os.readlink(self.path))}, where nothing is"
            elif self._is_address:
                link = ": no address is opened here. Download it first"
            raise AudioError(f"Audio file {shown(self.path)} is missing{link}.") from error
        except OSError as error:
            said = f"cannot be opened: {error.strerror or error}"
            raise AudioError(f"Audio file {shown(self.path)} {said}.") from error

    def _opened(self, cut: tuple[int, int] | None) -> soundfile.SoundFile:
        """Open it by libsndfile, and what libsndfile does not know by ffmpeg."""
        try:
            file = soundfile.SoundFile(_openable(self.path))
            if file.format in ("WAV", "WAVEX") and not file.frames:
                file = self._unclosed(file)
            if file.frames < _UNKNOWN_LENGTH or not has_ffmpeg():
                return file
            file.close()
            reason: Exception | None = None
        except (soundfile.SoundFileError, OSError) as error:
            reason = error
        if reason is not None and cut is not None:
            raise self.ends_early(*cut, "bytes of audio") from reason
        if not has_ffmpeg():
            raise self.unreadable(reason) from reason
        try:
            self.temporary = decode(self.path, self._is_stopped)
            self.is_copy = True
            return soundfile.SoundFile(self.temporary.fileno(), closefd=False)
        except (DecodingError, soundfile.SoundFileError, OSError) as error:
            if self.temporary is not None:
                self.temporary.close()
            raise self.unreadable(error) from error

    def _unclosed(self, file: soundfile.SoundFile) -> soundfile.SoundFile:
        """Take all that is there where a length of 0 was never corrected."""
        with open(self.path, "rb") as bytes_of:
            place = unwritten_length(bytes_of)
        if place is None:
            return file
        file.close()
        self.temporary = StatedToEnd(self.path, place)
        return soundfile.SoundFile(self.temporary)

    def _check_header(self, frames: int, cut: tuple[int, int] | None) -> None:
        rate = self.file.samplerate
        size = os.fstat(self.temporary.fileno()) if self.temporary else os.stat(self.path)
        if not SLOWEST <= rate <= FASTEST:
            wrong = (
                f"states a sample rate of {rate:,} Hz; expected {SLOWEST:,} to {FASTEST:,} Hz. "
                "Its header is damaged, or it is no recording of sound"
            )
        elif cut is not None:
            if not frames or not cut[1] or self.file.format == "OGG":
                raise self.ends_early(*cut, "bytes of audio")
            raise self.ends_early(round(frames * cut[0] / cut[1]), frames)
        elif frames == 0:
            wrong = "is zero-length: its header states 0 samples"
        elif frames >= _UNKNOWN_LENGTH:
            wrong = (
                "does not state its length (it was written to a pipe). Encode it again into a "
                "file, or install ffmpeg"
            )
        elif frames > _MOST_SAMPLES_A_BYTE * size.st_size:
            wrong = (
                f"states {frames:,} samples, which its {size.st_size:,} bytes cannot hold. Its "
                "header is damaged"
            )
        else:
            return
        raise AudioError(f"Audio file {shown(self.path)} {wrong}.")

    def _decodable_frames(self) -> int:
        """Length of an MP3: libsndfile's estimate is a little high where no header states it."""
        file = self.file
        if not 0 < file.frames < _UNKNOWN_LENGTH:
            return file.frames
        file.seek(file.frames - 1)
        is_exact = len(file.read(1)) == 1
        file.seek(0)
        if is_exact:
            return file.frames
        decoded = 0
        while size := len(file.read(_BLOCK_FRAMES, "float32")):
            self.stop_if_asked()
            decoded += size
        file.seek(0)
        # What misses more than that was cut short.
        if file.frames - decoded > max(2 * _MP3_FRAME, file.frames // 100):
            raise self.ends_early(file.frames, decoded)
        return decoded

    def stop_if_asked(self) -> None:
        """Raise AudioError if what reads the file is to end."""
        if self._is_stopped():
            raise AudioError(f"Audio file {shown(self.path)}: reading it was stopped.")

    def ends_early(self, stated: int, found: int, unit: str = "samples") -> AudioError:
        """Make the error of a file that was cut short."""
        seconds = ""
        if unit == "samples":
            rate = self.file.samplerate
            seconds = f" ({stated / rate:.2f} s and {found / rate:.2f} s)"
        return AudioError(
            f"Audio file {shown(self.path)} ends early: its header states {stated} {unit}, "
            f"{found} are there{seconds}. Copy or download it again."
        )

    def unreadable(self, error: Exception | None) -> AudioError:
        """Make the error of a file that does not decode."""
        reason = str(error or "its length is not stated")
        if isinstance(error, soundfile.LibsndfileError):
            reason = error.error_string or "libsndfile does not open it"
        if has_ffmpeg():
            kind, advice = "neither libsndfile nor ffmpeg decodes", ""
        elif self.path.suffix.lower() in FFMPEG_SUFFIXES:
            kind, advice = "takes ffmpeg", "install ffmpeg, or "
        else:
            kind, advice = "libsndfile does not decode", ""
        usual = f"It is damaged, or of a format that {kind}; {advice}convert it to WAV or FLAC."
        given = getattr(error, "advice", None)
        said = f"is unreadable: {shown(reason.strip().rstrip('.'))}. "
        said += usual if given is None else given
        return AudioError(f"Audio file {shown(self.path)} {said.rstrip()}")


def shown(path: str | os.PathLike) -> str:
    r"""Write a path so that any terminal and any file takes it: escapes for what is no letter.

    Examples
    --------
    >>> print(shown("caf\udce9\x1b.wav"))
    caf\xe9\x1b.wav
    """
    readable = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in readable)


def _openable(path: Path) -> str | bytes:
    """Name as soundfile takes it, which refuses a text that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return str(path)
