"""A corpus split within each speaker."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from gemoclap_sb.data.manifests import ManifestError
from gemoclap_sb.data.speaker_folds import deal_utterances, prepare_speakers
from gemoclap_sb.data.splits import share_of_each_class


def test_each_speaker_is_in_each_split(small_manifests, tmp_path):
    frame = pd.concat(
        pd.read_csv(small_manifests[f"{of}_csv"]) for of in ("train", "valid", "test")
    )
    corpus = tmp_path / "corpus.csv"
    # Two utterances of a speaker are too few; what they feel is nobody's business.
    alone = frame.spk_id.iloc[0]
    short = pd.concat([frame[frame.spk_id == alone][:2], frame[frame.spk_id != alone]])
    short.drop(columns=["emotion", "session"]).to_csv(corpus, index=False)
    root = small_manifests["data_root"]
    found = prepare_speakers(root, tmp_path / "out", 2, manifest=corpus, number_of_folds=5)
    splits = {of: pd.read_csv(found[f"{of}_csv"]) for of in ("train", "valid", "test")}
    everyone = set(short.spk_id) - {alone}
    assert all(set(splits[of].spk_id) == everyone for of in ("train", "test"))
    # A tenth of the rest is fewer than one of each.
    assert len(splits["valid"]) == 7 and set(splits["valid"].spk_id) < everyone
    ids = [name for of in splits.values() for name in of.ID]
    assert sorted(ids) == sorted(short[short.spk_id != alone].ID)
    # Eleven utterances in five parts: two or three of each are tested.
    assert set(Counter(splits["test"].spk_id).values()) <= {2, 3}
    again = prepare_speakers(root, tmp_path / "again", 2, manifest=corpus, number_of_folds=5)
    assert pd.read_csv(again["test_csv"]).equals(splits["test"])


def test_what_a_speaker_is_dealt_depends_on_no_other():
    rows = [{"ID": f"{s}{n}", "spk_id": s} for s in "abc" for n in range(7)]
    dealt = deal_utterances(rows, 3, seed=1)
    assert deal_utterances(rows[::-1][:7], 3, seed=1).items() <= dealt.items()
    assert deal_utterances(rows, 3, seed=2) != dealt


def test_a_manifest_without_speakers_is_refused(tmp_path):
    (tmp_path / "corpus.csv").write_text("ID,wav\na,a.wav\n")
    with pytest.raises(ManifestError, match="missing column spk_id"):
        prepare_speakers(None, tmp_path / "out", 1, manifest=tmp_path / "corpus.csv")


def test_a_share_is_of_each_class_and_part_of_a_larger_one():
    rows = {
        f"{emotion}{n}": {"emotion": emotion}
        for emotion, count in (("ang", 40), ("sad", 10), ("hap", 3))
        for n in range(count)
    }
    shares = {of: share_of_each_class(rows, of, "emotion", seed=1) for of in (0.1, 0.25, 1.0)}
    counts = {of: Counter(row["emotion"] for row in kept.values()) for of, kept in shares.items()}
    assert counts[0.1] == {"ang": 4, "sad": 1, "hap": 1}
    assert counts[0.25] == {"ang": 10, "sad": 2, "hap": 1}
    assert shares[1.0] == rows
    assert shares[0.1].keys() <= shares[0.25].keys()
    assert list(shares[0.25]) == [name for name in rows if name in shares[0.25]]
    other = share_of_each_class(rows, 0.25, "emotion", seed=2)
    assert other != shares[0.25]
    # Whatever else is in the manifest.
    angry = {name: row for name, row in rows.items() if row["emotion"] == "ang"}
    alone = share_of_each_class(angry, 0.25, "emotion", seed=1)
    assert alone.items() <= shares[0.25].items()
