"""Labels of a manifest as class indices.

An attribute that has words (emotion, gender) has the classes of its words, in their
order. Any other column (a speaker, a cluster) can be a label too: its classes are the
values that the manifests hold, sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from speechbrain.dataio.encoder import CategoricalEncoder

Rows = Mapping[str, Mapping[str, object]]


def label_encoders(
    attributes: Iterable[str], words: Mapping[str, Iterable[str]], splits: Iterable[Rows] = ()
) -> dict[str, CategoricalEncoder]:
    """Make an encoder of labels for each attribute.

    Parameters
    ----------
    attributes : Iterable[str]
        Columns of the manifests.
    words : Mapping[str, Iterable[str]]
        Labels of the attributes that have words, in the order of their indices.
    splits : Iterable[Mapping]
        What `gemoclap_sb.data.manifests.read_manifest` returned, of all splits: a speaker
        who is only tested needs an index too.

    Returns
    -------
    dict of str to CategoricalEncoder
        SpeechBrain's; ``lab2ind`` maps labels to indices.

    Examples
    --------
    >>> rows = {"a": {"emotion": "sad", "spk_id": "s2"}, "b": {"emotion": "sad", "spk_id": "s1"}}
    >>> encoders = label_encoders(["emotion", "spk_id"], {"emotion": ["ang", "sad"]}, [rows])
    >>> {name: encoder.lab2ind for name, encoder in encoders.items()}
    {'emotion': {'ang': 0, 'sad': 1}, 'spk_id': {'s1': 0, 's2': 1}}
    """
    splits = list(splits)
    return {
        name: label_encoder(
            words[name]
            if name in words
            else sorted({str(r[name]) for s in splits for r in s.values()})
        )
        for name in attributes
    }


def label_encoder(labels: Iterable[str]) -> CategoricalEncoder:
    """Make an encoder that numbers labels in their order."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(labels)
    encoder.expect_len(len(encoder))
    return encoder
