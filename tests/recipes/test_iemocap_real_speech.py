"""Real recordings laid out as the release of IEMOCAP is."""

import subprocess
import sys
from collections import Counter

import pytest
import soundfile

from gemoclap_sb.data.manifests import read_manifest
from tests.conftest import SHARED
from tests.recipes.test_iemocap_prepare import (
    CLASSES,
    issues_of,
    prepare_iemocap,
    read_parts,
    warnings_of,
    whole,
)


@pytest.fixture(scope="module")
def real_speech_release(tmp_path_factory):
    tool = SHARED / "tools" / "make_iemocap_layout.py"
    recordings = SHARED / "data" / "ravdess16k"
    for path in (tool, recordings):
        if not path.exists():
            pytest.skip(f"needs real speech: {path} is absent")
    folder = tmp_path_factory.mktemp("real") / "IEMOCAP_full_release"
    subprocess.run(
        [sys.executable, str(tool), str(recordings), str(folder)], check=True, capture_output=True
    )
    return folder


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_real_speech_in_the_layout_of_the_release(real_speech_release, tmp_path, caplog, fold):
    result = prepare_iemocap(real_speech_release, tmp_path, fold)
    parts = read_parts(result)
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [202, 22, 56]
    assert Counter(whole(result)["emotion"]) == {"ang": 80, "hap": 80, "sad": 80, "neu": 40}
    assert set(parts["valid"]["emotion"]) == {"ang", "hap", "neu", "sad"}
    assert len(set(parts["valid"]["spk_id"])) == 8
    assert len(warnings_of(caplog)) == 1
    assert issues_of(tmp_path) == {
        "AppleDouble files (._*), ignored": 40,
        "files in sub-folders beside the label files, not read": 15,
        "utterances with labels outside the four classes, left out": 320,
    }
    rows = read_manifest(result["test_csv"], result["data_root"], CLASSES)
    for row in rows.values():
        samples, rate = soundfile.read(row["wav"])
        assert abs(row["duration"] - len(samples) / rate) < 1e-5
