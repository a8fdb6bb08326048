"""What is sent to a hub, told to an interface that sends nothing."""

from __future__ import annotations

import shutil

import huggingface_hub
import pytest

from gemoclap_sb.export.folder import FILES
from gemoclap_sb.export.hub import push_to_hub
from gemoclap_sb.export.trained import ExportError


class FakeApi:
    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options))


def test_push_to_hub(exported, tmp_path):
    folder = shutil.copytree(exported["pretrained"], tmp_path / "model")
    (folder / "secret.env").touch()
    api = FakeApi()
    address = push_to_hub(folder, "me/clap", private=True, commit_message="v1", api=api)
    assert address == "https://huggingface.co/me/clap"
    create, upload = api.calls
    assert create == (
        "create_repo",
        "me/clap",
        {"repo_type": "model", "private": True, "exist_ok": True},
    )
    options = upload[1]
    assert options["folder_path"] == str(folder)
    assert options["repo_id"] == "me/clap"
    assert options["commit_message"] == "v1"
    sent = set(
        huggingface_hub.utils.filter_repo_objects(
            [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()],
            allow_patterns=options["allow_patterns"],
        )
    )
    assert set(FILES) < sent
    assert {name.split("/")[0] for name in sent - set(FILES)} == {"tokenizer"}


def test_push_of_half_an_export_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported["scratch"], tmp_path / "model")
    (folder / "README.md").unlink()
    api = FakeApi()
    with pytest.raises(ExportError, match=r"found no README\.md"):
        push_to_hub(folder, "me/clap", api=api)
    assert api.calls == []
