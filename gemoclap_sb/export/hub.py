"""An exported folder, uploaded to the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi

from gemoclap_sb.export.folder import FILES
from gemoclap_sb.export.trained import ExportError
from gemoclap_sb.models.configuration import TOKENIZER


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload a GEmo-CLAP model",
    api: HfApi | None = None,
) -> str:
    """Upload an exported folder to the Hugging Face hub.

    Only the files of an export are uploaded, whatever else lies in the folder.

    Parameters
    ----------
    folder : str or os.PathLike
        What `export` wrote; ExportError if it is not whole.
    repo_id : str
        ``owner/name``; made if it is not there.
    private : bool
        Whether a new repository is private.
    token : str, optional
        By default the one that ``hf auth login`` has stored.
    commit_message : str
        Of the upload.
    api : HfApi, optional
        In place of one made with ``token``.

    Returns
    -------
    str
        Address of the repository.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ExportError(
            f"{folder}: expected the folder of an export, found no {', '.join(missing)}. "
            "Export the run first."
        )
    api = HfApi(token=token) if api is None else api
    address = api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        repo_type="model",
        commit_message=commit_message,
        allow_patterns=[*FILES, f"{TOKENIZER}/*"],
    )
    return str(address)
