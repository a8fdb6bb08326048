"""Running statistics of sentence vectors, step by step; `test_text` has them in an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gemoclap_sb.lobes.normalization import SentenceNormalization, TrainingSetNormalization


def test_running_statistics_weigh_the_first_steps_alike_and_later_ones_by_momentum():
    normalization = SentenceNormalization(3, momentum=0.25)
    vectors = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0)) * 4 + 9
    means, variances = vectors.numpy().mean(axis=1), vectors.numpy().var(axis=1)
    for step in vectors[:4]:
        normalization(step)
    np.testing.assert_allclose(normalization.mean, means[:4].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalization.variance, variances[:4].mean(axis=0), rtol=1e-5)
    for step in vectors[4:]:
        normalization(step)
    weights = [0.75**3 / 4] * 4 + [0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    mean, variance = np.average(means, 0, weights), np.average(variances, 0, weights)
    one = vectors[0, :1]
    expected = (one.numpy() - mean) / np.sqrt(variance + 1e-5)
    # Alone in a step, and in use, whatever stands beside it.
    np.testing.assert_allclose(normalization(one), expected, rtol=1e-4)
    np.testing.assert_allclose(normalization.eval()(vectors[0])[:1], expected, rtol=1e-4)
    assert normalization.steps == 7


@pytest.mark.parametrize("count", [1, 4])
def test_a_step_has_its_gradients_after_another_one(count):
    """As torch's function of the same statistics has them."""
    normalization, vectors = SentenceNormalization(3), torch.randn(count, 3, requires_grad=True)
    normalization(torch.randn(4, 3))
    mean, variance = normalization.mean.clone(), normalization.variance.clone()
    weights = torch.randn(count, 3)
    loss = (normalization(vectors) * weights).sum()
    normalization(torch.randn(4, 3))
    [found] = torch.autograd.grad(loss, vectors)
    output = torch.nn.functional.batch_norm(vectors, mean, variance, training=count > 1)
    [expected] = torch.autograd.grad((output * weights).sum(), vectors)
    torch.testing.assert_close(found, expected)


def test_training_set_is_counted_when_compiled_for_any_length():
    torch.manual_seed(0)
    normalization = TrainingSetNormalization(3)
    compiled = torch.compile(normalization, backend="eager", dynamic=True)
    batches = [torch.randn(2, frames, 3) for frames in (7, 9, 11)]
    for batch in batches:
        compiled(batch, torch.ones(*batch.shape[:2], 1, dtype=torch.bool))
    seen = torch.cat([batch.flatten(0, 1) for batch in batches]).numpy()
    np.testing.assert_allclose(normalization.mean, seen.mean(0), atol=1e-6)
    np.testing.assert_allclose(normalization.deviation, seen.std(0), rtol=1e-5)
