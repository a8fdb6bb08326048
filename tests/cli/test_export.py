"""`gemoclap export`: the folder and the upload."""

from __future__ import annotations

from pathlib import Path

import gemoclap_sb.export.hub


def test_export_gives_a_folder_that_loads(run, model, audio, tmp_path, command):
    target = tmp_path / "out"
    arguments = ["export", run, target, "--license", "cc-by-4.0", "--datasets", "demo"]
    status, out, _ = command(*arguments)
    assert (status, out) == (0, f"{target}\n")
    assert "license: cc-by-4.0" in (target / "README.md").read_text()
    first = command("classify", audio, "--model", target)
    assert first == command("classify", audio, "--model", model)
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert "exists" in err
    assert command(*arguments, "--overwrite")[0] == 0


def test_export_uploads_when_asked(run, tmp_path, command, monkeypatch):
    calls = []

    def upload(folder, repo, *, private):
        calls.append((Path(folder).name, repo, private))
        if private:
            raise OSError("no network")
        return f"https://hub/{repo}"

    monkeypatch.setattr(gemoclap_sb.export.hub, "push_to_hub", upload)
    arguments = ["export", run, tmp_path / "out", "--overwrite", "--push-to-hub", "me/model"]
    status, out, _ = command(*arguments)
    assert (status, out) == (0, f"{tmp_path / 'out'}\nhttps://hub/me/model\n")
    status, out, err = command(*arguments, "--private")
    assert (status, out) == (1, f"{tmp_path / 'out'}\n")
    assert "was not uploaded: no network" in err
    assert calls == [("out", "me/model", False), ("out", "me/model", True)]
