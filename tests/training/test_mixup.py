"""Mixup against the sums written out, and from the command line's option to the loss."""

from __future__ import annotations

import numpy as np
import torch

from gemoclap_sb.objectives import (
    ClassifierOutput,
    ContrastiveOutput,
    CrossEntropyObjective,
    EmoCLAPObjective,
)
from gemoclap_sb.training.mixup import Mixup

LABELS = {"emotion": torch.tensor([0, 1, 2, 1])}
PARTNERS = torch.tensor([2, 0, 1, 3])


def test_waveforms_are_added_and_the_longer_counts():
    wavs, wav_lens = torch.randn(4, 10), torch.tensor([1.0, 0.5, 0.25, 0.75])
    mixed, lens = Mixup(0.7, PARTNERS).of_waveforms(wavs, wav_lens)
    for i, partner in enumerate(PARTNERS.tolist()):
        np.testing.assert_allclose(mixed[i], 0.7 * wavs[i] + 0.3 * wavs[partner], rtol=1e-5)
        assert lens[i] == max(wav_lens[i], wav_lens[partner])


def test_cross_entropy_of_a_mixture_is_that_of_mixed_labels():
    # For cross-entropy, and only there, mixing losses and mixing labels are the same.
    logits = torch.randn(4, 3)
    output = {"emotion": ClassifierOutput(logits)}
    loss = Mixup(0.7, PARTNERS).of_loss(CrossEntropyObjective(), output, LABELS)
    one_hot = torch.nn.functional.one_hot(LABELS["emotion"], 3).float()
    expected = torch.nn.functional.cross_entropy(logits, 0.7 * one_hot + 0.3 * one_hot[PARTNERS])
    torch.testing.assert_close(loss, expected)


def test_sentences_go_with_the_labels():
    audio, text = torch.nn.functional.normalize(torch.randn(2, 4, 5), dim=-1)
    scale = torch.tensor(4.0)
    objective = EmoCLAPObjective()
    outputs = {"emotion": ContrastiveOutput(audio, text, scale, scale)}
    loss = Mixup(0.7, PARTNERS).of_loss(objective, outputs, LABELS)
    partners = {"emotion": ContrastiveOutput(audio, text[PARTNERS], scale, scale)}
    of_partners = objective(partners, {"emotion": LABELS["emotion"][PARTNERS]})
    torch.testing.assert_close(loss, 0.7 * objective(outputs, LABELS) + 0.3 * of_partners)


def test_shares_are_beta_distributed():
    torch.manual_seed(0)
    drawn = [Mixup.draw(2.0, 4, (1, 1, step)) for step in range(2000)]
    shares = np.array([mixup.share for mixup in drawn])
    # Beta(2, 2): mean 1/2, variance 1/20.
    assert abs(shares.mean() - 0.5) < 0.02 and abs(shares.var() - 0.05) < 0.005
    assert all(sorted(mixup.partners.tolist()) == [0, 1, 2, 3] for mixup in drawn)


def test_processes_of_a_step_draw_one_share_and_partners_of_their_own():
    drawn = []
    for rank in (0, 1):
        torch.manual_seed(rank)
        np.random.seed(rank)
        drawn.append(Mixup.draw(2.0, 64, (7, 1, 3)))
    assert drawn[0].share == drawn[1].share != Mixup.draw(2.0, 64, (7, 1, 4)).share
    assert not torch.equal(drawn[0].partners, drawn[1].partners)
