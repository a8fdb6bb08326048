"""Where a run keeps the audio encoder that it has trained, for others to begin from."""

from __future__ import annotations

import os

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ENCODER, STAGE_ONE = "encoder", "stage_one"


def encoder_folder(source: str | os.PathLike) -> str:
    """Find the encoder that a user names by its run; anything else is given back as it came.

    Parameters
    ----------
    source : str or os.PathLike
        A run's folder with ``encoder/`` or, of GMP-TL, ``stage_one/encoder/``; the folder of an
        encoder itself; or a hub id.

    Examples
    --------
    >>> run = getfixture("tmp_path")
    >>> encoder = run / "stage_one" / "encoder"
    >>> encoder.mkdir(parents=True)
    >>> _ = (encoder / "config.json").write_text("{}")
    >>> encoder_folder(run) == encoder_folder(encoder) == str(encoder)
    True
    >>> encoder_folder("microsoft/wavlm-large")
    'microsoft/wavlm-large'
    """
    source = os.fspath(source)
    for place in (ENCODER, os.path.join(STAGE_ONE, ENCODER)):
        folder = os.path.join(source, place)
        if os.path.isfile(os.path.join(folder, CONFIG)):
            return folder
    return source
