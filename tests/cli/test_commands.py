"""The command: what it prints is parsed and compared with what the classes answer."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix

import gemoclap_sb.export.hub
from gemoclap_sb.cli.inputs import CommandError, find_audio
from gemoclap_sb.cli.parser import main
from gemoclap_sb.export.folder import export
from gemoclap_sb.inference.classifier import GEmoCLAPClassifier
from gemoclap_sb.inference.timeline import timeline
from tests.conftest import ROOT
from tests.run_folders import LABELS, make_run, write_tone
from tests.telling_models import telling_model

PROBABILITIES = [f"probability_{label}" for label in LABELS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(
        tmp_path_factory.mktemp("run") / "run", telling_model(heads=("emotion", "gender"))
    )


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    return str(export(run, tmp_path_factory.mktemp("exported") / "model"))


@pytest.fixture(scope="module")
def classifier(model):
    return GEmoCLAPClassifier.from_pretrained(model, device="cpu")


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Three recordings, and what must not be taken for one."""
    folder = tmp_path_factory.mktemp("audio")
    for i, name in enumerate(("b.wav", "a, b.FLAC", "deep/er/c.ogg")):
        write_tone(folder / name, 0.5 + 0.4 * i, 100 + 170 * i)
    for name in (".hidden.wav", ".folder/d.wav", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no audio")
    return folder


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF of nothing")
    return str(path)


def names(audio: Path) -> list[str]:
    return [str(audio / name) for name in ("a, b.FLAC", "b.wav", "deep/er/c.ogg")]


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run it in this process: exit code, standard output, standard error."""
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def in_a_shell(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "gemoclap_sb.cli", *map(str, arguments)],
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
        **options,
    )


def answers(classifier, paths, **options) -> tuple[list[str], np.ndarray]:
    """What `classify_file` says of each file."""
    found = [classifier.classify_file(path, **options) for path in paths]
    return [labels[0] for *_, labels in found], torch.cat([f[0] for f in found]).exp().numpy()


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ------------------------------------------------------------------------------- the parser


def test_help_and_version_load_no_torch():
    script = (
        "import sys\nfrom gemoclap_sb.cli.parser import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        "    assert stop.code == 0\n    print('heavy:', {'torch', 'numpy'} & set(sys.modules))"
    )
    for arguments in (["--help"], ["--version"], ["classify", "--help"]):
        printed = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout  # fmt: skip
        assert printed.endswith("heavy: set()\n")
        assert "gemoclap" in printed


def test_every_command_has_help_with_an_example(capsys):
    status, out, _ = command(capsys, "--help")
    assert status == 0
    for name in ("classify", "timeline", "embed", "evaluate", "export", "info"):
        assert f"gemoclap {name}" in out
        status, help_text, _ = command(capsys, name, "--help")
        assert status == 0
        assert "example" in help_text and f"  gemoclap {name} " in help_text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["classfy", "a.wav"], "invalid choice"),
        (["classify", "a.wav"], "--model"),
        (["classify", "a.wav", "--model", "m", "--format", "xml"], "invalid choice"),
        (["classify", "a.wav", "--model", "m", "--batch-size", "0"], "expected auto, or 1"),
        (["classify", "a.wav", "--model", "no/such/folder"], "no folder no/such/folder"),
        (["classify", "a.wav", "--model", "{empty}"], "no file {empty}/config.json"),
        (["classify", "{empty}", "--model", "{model}"], "{empty}: expected recordings"),
        (["classify", "a.wav", "--model", "{model}", "--attribute", "age"], "found 'age'"),
        (["classify", "a.wav", "--model", "{model}", "--device", "cuda:99"], "--device cuda:99"),
        (["classify", "a.wav", "--model", "{model}", "--labels", "sad"], "two classes or more"),
        (["classify", "a.wav", "--model", "{model}", "--labels", "a", "a=b"], "each label once"),
        (["classify", "a.wav", "--model", "{model}", "--labels", "a=", "b"], "LABEL=WORD"),
        (["classify", "a.wav", "--model", "{model}", "--templates", "so"], "where the word goes"),
        (["timeline", "a.wav", "--model", "m", "--hop", "0"], "positive number of seconds"),
        (["timeline", "a.wav", "--model", "m", "--output", "a.jpg"], "ends in .png"),
        (["embed", "a.wav", "--model", "m"], "--output"),
        (["embed", "a.wav", "--model", "m", "--output", "a.txt"], "ends in .npy or .parquet"),
        (["evaluate", "{empty}/none.csv", "--model", "{model}"], "none.csv is missing"),
        (["export", "{empty}", "{empty}/out"], "cannot be exported"),
        (["export", "{empty}", "{empty}/out", "--private"], "--push-to-hub"),
        (["export", "{empty}", "{empty}/out", "--push-to-hub", "a/b/c"], "a/b/c"),
        (["info", "{empty}"], "config.json"),
    ],
)
def test_misuse_is_2_and_says_what_to_change(arguments, message, model, tmp_path, capsys):
    places = {"{empty}": str(tmp_path), "{model}": model}
    for key, value in places.items():
        arguments = [argument.replace(key, value) for argument in arguments]
        message = message.replace(key, value)
    status, out, err = command(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


# --------------------------------------------------------------------------------- classify


def test_folders_are_searched(audio, tmp_path):
    assert find_audio([audio]) == names(audio)
    assert find_audio(["none.txt", audio / "b.wav", audio]) == [
        "none.txt", str(audio / "b.wav"), names(audio)[0], names(audio)[2],
    ]  # fmt: skip
    assert find_audio([audio / ".folder"]) == [str(audio / ".folder" / "d.wav")]
    with pytest.raises(CommandError, match="expected recordings"):
        find_audio([tmp_path])


def test_classify_as_csv(classifier, model, audio, capsys):
    status, out, _ = command(capsys, "classify", audio, "--model", model, "--format", "csv")
    assert status == 0
    assert out.splitlines()[0] == ",".join(["path", "label", "score", "error", *PROBABILITIES])
    labels, probabilities = answers(classifier, names(audio))
    rows = parsed(out)
    assert [row["path"] for row in rows] == names(audio)
    assert [row["label"] for row in rows] == labels
    assert {row["error"] for row in rows} == {""}
    found = np.array([[float(row[column]) for column in PROBABILITIES] for row in rows])
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    assert [float(row["score"]) for row in rows] == found.max(axis=1).tolist()


def test_classify_goes_on_after_a_bad_file(classifier, model, audio, broken, capsys):
    paths = [names(audio)[0], broken, "none.wav", names(audio)[1]]
    status, out, err = command(capsys, "classify", *paths, "--model", model, "--format", "json")
    assert status == 1
    records = json.loads(out)
    assert [record["path"] for record in records] == paths
    labels, probabilities = answers(classifier, [paths[0], paths[3]])
    for record, label, values in zip(records[::3], labels, probabilities, strict=True):
        assert (record["label"], record["error"]) == (label, None)
        assert list(record["probabilities"]) == LABELS
        assert list(record["probabilities"].values()) == pytest.approx(values.tolist(), abs=1e-4)
    for record, message in zip(records[1:3], ("broken.wav", "none.wav is missing"), strict=True):
        assert (record["label"], record["score"], record["probabilities"]) == (None, None, {})
        assert message in record["error"]
        assert record["error"] in err


def test_classify_as_a_table(classifier, model, audio, broken, capsys):
    status, out, _ = command(capsys, "classify", names(audio)[1], broken, "--model", model)
    assert status == 1
    heading, row, failed = [line.split() for line in out.splitlines()]
    assert heading == ["label", *LABELS, "file"]
    labels, probabilities = answers(classifier, [names(audio)[1]])
    assert [row[0], row[-1]] == [labels[0], names(audio)[1]]
    assert [float(cell) for cell in row[1:-1]] == pytest.approx(probabilities[0], abs=6e-4)
    assert failed == ["-"] * 5 + [broken]


def test_classify_with_other_words(classifier, model, audio, capsys):
    status, out, _ = command(
        capsys, "classify", audio, "--model", model, "--format", "csv", "--batch-size", 2,
        "--labels", "label", "f=afraid", "sad", "--templates", "so {}", "a {} voice",
    )  # fmt: skip
    assert status == 0
    words = {"label": "label", "f": "afraid", "sad": "sad"}
    labels, probabilities = answers(
        classifier, names(audio), labels=words, templates=["so {}", "a {} voice"]
    )
    rows = parsed(out)
    assert [row["label"] for row in rows] == labels
    found = [[float(row[f"probability_{name}"]) for name in words] for row in rows]
    np.testing.assert_allclose(found, probabilities, atol=1e-4)


def test_classify_another_attribute(model, audio, capsys):
    status, out, _ = command(
        capsys, "classify", audio, "--model", model, "--attribute", "gender", "--format", "csv"
    )
    assert status == 0
    assert {row["label"] for row in parsed(out)} <= {"F", "M"}


def test_what_libraries_print_stays_out_of_the_data(model, audio, capsys, monkeypatch):
    original = GEmoCLAPClassifier.from_pretrained

    def noisy(*arguments, **options):
        print("a library's chatter")
        return original(*arguments, **options)

    monkeypatch.setattr(GEmoCLAPClassifier, "from_pretrained", noisy)
    status, out, err = command(capsys, "classify", audio, "--model", model, "--format", "json")
    assert status == 0
    assert len(json.loads(out)) == 3
    assert "a library's chatter" in err


def test_in_a_shell_data_and_messages_are_apart(model, audio, broken):
    done = in_a_shell(
        "classify", audio, broken, "--model", model, "--format", "csv", capture_output=True
    )
    assert done.returncode == 1
    rows = parsed(done.stdout)
    assert [row["path"] for row in rows] == [*names(audio), broken]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True]
    assert "broken.wav" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(model):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = in_a_shell("info", model, stdout=closed, stderr=subprocess.PIPE)
    assert done.returncode == 141
    assert "BrokenPipe" not in done.stderr and "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------ embed


def test_embed_into_npy_with_ids(classifier, model, audio, broken, tmp_path, capsys):
    output = tmp_path / "new" / "x.npy"
    status, out, err = command(capsys, "embed", broken, audio, "--model", model, "--output", output)
    assert (status, out) == (1, "")
    assert "broken.wav" in err
    found = np.load(output)
    assert found.dtype == np.float32
    expected = torch.stack(
        [classifier.encode_batch(classifier.load_audio(p))[0, 0] for p in names(audio)]
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert pd.read_csv(output.with_name("x.ids.csv"))["ID"].tolist() == names(audio)
    assert sorted(file.name for file in output.parent.iterdir()) == ["x.ids.csv", "x.npy"]


def test_embed_writes_nothing_from_nothing(model, broken, tmp_path, capsys):
    folder = tmp_path / "new"
    status, _, err = command(
        capsys, "embed", broken, "--model", model, "--output", folder / "x.npy"
    )
    assert status == 1
    assert "no file could be read" in err
    assert not folder.exists()


def test_parquet_without_pyarrow_names_the_extra(model, audio, tmp_path, capsys, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "pyarrow" else original(name, *a),
    )
    output = tmp_path / "x.parquet"
    status, _, err = command(capsys, "embed", audio, "--model", model, "--output", output)
    assert status == 2
    assert "gemoclap_sb[parquet]" in err
    assert not output.exists()


def test_embed_into_parquet(classifier, model, audio, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    output = tmp_path / "x.parquet"
    status, _, _ = command(capsys, "embed", audio, "--model", model, "--output", output)
    assert status == 0
    frame = pd.read_parquet(output)
    assert frame["ID"].tolist() == names(audio)
    expected = classifier.embed_files(names(audio), progress=False).numpy()
    np.testing.assert_allclose(np.stack(frame["embedding"]), expected, atol=1e-4)


# --------------------------------------------------------------------------------- timeline


def test_timeline_in_every_format(classifier, model, audio, tmp_path, capsys):
    path = write_tone(tmp_path / "long.wav", 4.3)
    expected = list(timeline(classifier, path, window=1.5, hop=1.0).rows())
    arguments = ["timeline", path, "--model", model, "--window", 1.5, "--hop", 1]

    picture = tmp_path / "long.png"
    status, out, _ = command(capsys, *arguments, "--format", "csv", "--output", picture)
    assert status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = parsed(out)
    assert list(rows[0]) == ["start", "end", "label", "score", *PROBABILITIES]
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for key in ("start", "end", "score"):
        found = [float(row[key]) for row in rows]
        assert found == pytest.approx([row[key] for row in expected], abs=1e-5)

    status, out, _ = command(capsys, *arguments, "--format", "json")
    assert status == 0
    for found, row in zip(json.loads(out), expected, strict=True):
        assert list(found) == ["start", "end", "label", "score", "probabilities"]
        assert found["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)

    status, out, _ = command(capsys, *arguments)
    assert status == 0
    heading, *lines = [line.split() for line in out.splitlines()]
    assert heading == ["start", "end", "label", *LABELS]
    assert [float(line[0]) for line in lines] == [0.0, 1.0, 2.0, 3.0]
    assert [line[2] for line in lines] == [row["label"] for row in expected]


def test_timeline_of_an_unreadable_file(model, broken, tmp_path, capsys):
    picture = tmp_path / "a.png"
    status, out, err = command(capsys, "timeline", broken, "--model", model, "--output", picture)
    assert (status, out) == (1, "")
    assert "broken.wav" in err
    assert not picture.exists()


# --------------------------------------------------------------------------------- evaluate


@pytest.fixture
def corpus(tmp_path):
    """Recordings with labels at will, and their manifest."""
    emotions = ["ang", "ang", "hap", "hap", "hap", "neu", "sad", "sad"]
    lines = ["ID,wav,emotion"]
    for i, emotion in enumerate(emotions):
        write_tone(tmp_path / f"{i}.wav", 0.4 + 0.1 * i, 90 + 77 * i)
        lines.append(f"u{i},$data_root/{i}.wav,{emotion}")
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "all.csv", emotions


def test_evaluate_counts_right(classifier, model, corpus, tmp_path, capsys):
    manifest, true = corpus
    output = tmp_path / "results"
    arguments = ["evaluate", manifest, "--model", model, "--data-root", tmp_path]
    status, out, _ = command(capsys, *arguments, "--format", "json", "--output", output)
    assert status == 0
    predicted, _ = answers(classifier, [tmp_path / f"{i}.wav" for i in range(8)])
    metrics = json.loads(out)
    assert metrics["war"] == pytest.approx(accuracy_score(true, predicted))
    assert metrics["uar"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert metrics["confusion"] == confusion_matrix(true, predicted, labels=LABELS).tolist()
    assert (metrics["labels"], metrics["n_test"], metrics["n_failed"]) == (LABELS, 8, 0)
    assert list(metrics["per_class_recall"]) == LABELS

    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert (output / "confusion.png").read_bytes().startswith(b"\x89PNG")
    rows = parsed((output / "predictions.csv").read_text())
    assert [row["ID"] for row in rows] == [f"u{i}" for i in range(8)]
    assert [row["predicted"] for row in rows] == predicted
    assert [row["true"] for row in rows] == true

    status, out, _ = command(capsys, *arguments)
    assert status == 0
    figures = [line.split()[:3] for line in out.splitlines()[:2]]
    assert figures == [[k.upper(), f"{100 * metrics[k]:.2f}", "%"] for k in ("war", "uar")]


def test_evaluate_on_other_labels(classifier, model, corpus, tmp_path, capsys):
    manifest, true = corpus
    manifest.write_text(manifest.read_text().replace(",hap", ",bor").replace(",sad", ",afr"))
    arguments = [
        "evaluate",
        manifest,
        "--model",
        model,
        "--data-root",
        tmp_path,
        "--format",
        "json",
    ]
    status, out, err = command(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "emotion is 'bor', expected one of ang, hap, neu, sad" in err

    words = {"bor": "bored", "afr": "afraid", "ang": "angry", "neu": "calm"}
    given = ["bor=bored", "afr=afraid", "ang", "neu=calm"]
    status, out, _ = command(capsys, *arguments, "--labels", *given)
    assert status == 0
    metrics = json.loads(out)
    predicted, _ = answers(classifier, [tmp_path / f"{i}.wav" for i in range(8)], labels=words)
    renamed = [{"hap": "bor", "sad": "afr"}.get(label, label) for label in true]
    expected = confusion_matrix(renamed, predicted, labels=list(words)).tolist()
    assert (metrics["confusion"], metrics["labels"]) == (expected, list(words))
    assert metrics["words"] == words

    status, out, err = command(capsys, *arguments, "--ignore-others", "--labels", "ang", "neu")
    assert status == 0
    assert json.loads(out)["n_test"] == 3
    assert "Left out: 5 utterances" in err


def test_evaluate_goes_on_after_bad_files(model, corpus, tmp_path, capsys):
    manifest, _ = corpus
    (tmp_path / "3.wav").unlink()
    soundfile.write(tmp_path / "4.wav", np.array([0.1, np.nan]), 16000, "FLOAT")
    arguments = ["evaluate", manifest, "--model", model, "--data-root", tmp_path]
    status, out, _ = command(capsys, *arguments, "--format", "json")
    assert status == 1
    metrics = json.loads(out)
    assert (metrics["n_test"], metrics["n_failed"]) == (6, 2)
    # Whatever is wrong with the manifest itself is misuse still.
    status, out, err = command(capsys, "evaluate", manifest, "--model", model)
    assert (status, out) == (2, "")
    assert "$data_root" in err


# --------------------------------------------------------------------------- export and info


def test_export_gives_a_folder_that_loads(run, model, audio, tmp_path, capsys):
    target = tmp_path / "out"
    arguments = ["export", run, target, "--license", "cc-by-4.0", "--datasets", "demo"]
    status, out, _ = command(capsys, *arguments)
    assert (status, out) == (0, f"{target}\n")
    assert "license: cc-by-4.0" in (target / "README.md").read_text()
    first = command(capsys, "classify", audio, "--model", target)
    assert first == command(capsys, "classify", audio, "--model", model)
    status, out, err = command(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "exists" in err
    assert command(capsys, *arguments, "--overwrite")[0] == 0


def test_export_uploads_when_asked(run, tmp_path, capsys, monkeypatch):
    calls = []

    def upload(folder, repo, *, private):
        calls.append((Path(folder).name, repo, private))
        if private:
            raise OSError("no network")
        return f"https://hub/{repo}"

    monkeypatch.setattr(gemoclap_sb.export.hub, "push_to_hub", upload)
    arguments = ["export", run, tmp_path / "out", "--overwrite", "--push-to-hub", "me/model"]
    status, out, _ = command(capsys, *arguments)
    assert (status, out) == (0, f"{tmp_path / 'out'}\nhttps://hub/me/model\n")
    status, out, err = command(capsys, *arguments, "--private")
    assert (status, out) == (1, f"{tmp_path / 'out'}\n")
    assert "was not uploaded: no network" in err
    assert calls == [("out", "me/model", False), ("out", "me/model", True)]


def test_info_says_what_the_model_is(model, capsys):
    status, out, _ = command(capsys, "info", model, "--format", "json")
    assert status == 0
    found = json.loads(out)
    built = telling_model(heads=("emotion", "gender"))
    assert sum(found["parameters"].values()) == sum(p.numel() for p in built.parameters())
    audio_encoder = sum(p.numel() for p in built.audio_encoder.parameters())
    assert found["parameters"]["audio_encoder"] == audio_encoder
    assert list(found["attributes"]) == ["emotion", "gender"]
    assert found["attributes"]["gender"]["labels"] == {"F": "female", "M": "male"}
    assert found["attributes"]["emotion"]["templates"][0] == "this person sounds {}"
    assert found["metrics"]["war"] == pytest.approx(5 / 6)
    size = Path(model, "model.safetensors").stat().st_size
    assert found["files"]["model.safetensors"] == size

    status, out, _ = command(capsys, "info", model)
    assert status == 0
    for text in ("ang  angry", "this person sounds {}", "ScratchEncoder", "WAR    83.33 %"):
        assert text in out


def test_info_notices_damaged_weights(model, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: len(content) // 2])
    status, out, err = command(capsys, "info", folder)
    assert (status, out) == (2, "")
    assert "model.safetensors" in err
