"""What libsndfile cannot read, decoded with ffmpeg where that is installed."""

from __future__ import annotations

import shutil

# Of what people record and keep: phones, browsers, video, older recorders.
FFMPEG_SUFFIXES = (
    ".3gp", ".aac", ".ac3", ".amr", ".ape", ".avi", ".flv", ".m4a", ".m4b", ".mka", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".tta", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip


def has_ffmpeg() -> bool:
    """Tell whether ``ffmpeg`` is on the path."""
    return shutil.which("ffmpeg") is not None
