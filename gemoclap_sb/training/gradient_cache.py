"""Gradient caching: the gradient of a large batch in the memory of a small one.

A contrastive loss compares each utterance with all others of its batch, so it is no sum over parts
of the batch, as gradient accumulation would have it. But it reads embeddings alone. So every part
is embedded without a graph, the loss of all embeddings together gives their gradients, and every
part is embedded once more, with a graph, into which the gradients of its own embeddings go. It
costs a second forward pass, and memory for one part.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(arXiv 2101.06983), section 3.2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gemoclap_sb.lobes.lengths import sample_lengths
from gemoclap_sb.training.buffers import KeptBuffers

Outputs = dict[str, NamedTuple]


class RandomState:
    """The state of Python's, NumPy's and torch's generators when it was made.

    >>> state = RandomState(torch.device("cpu"))
    >>> drawn = torch.rand(2)
    >>> state.restore()
    >>> torch.equal(torch.rand(2), drawn)
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.python, self.numpy = random.getstate(), np.random.get_state()
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Have the generators draw again what they drew since."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


class GradientCache:
    """The two passes over the parts of one batch.

    The second repeats the first: what was drawn at random (dropout, SpecAugment) is drawn again,
    and the model's buffers (running statistics) go back to where they were. A layer that normalises
    by the batch, such as BatchNorm, knows the part only, and counts it once.

    Parameters
    ----------
    parts : MicroBatches
        What the model is called with, part by part, and where the parts' rows stand in the batch.
    device : torch.device or str
        Whose random numbers the model draws, besides the CPU's.

    Examples
    --------
    >>> from gemoclap_sb.objectives.cross_entropy import ClassifierOutput
    >>> class Classifier(nn.Linear):
    ...     def forward(self, x):
    ...         return {"emotion": ClassifierOutput(super().forward(x))}
    >>> class Halves(list):
    ...     places = [[0, 1], [2, 3]]
    >>> model, x = Classifier(3, 2), torch.randn(4, 3)
    >>> cache = GradientCache(Halves([(x[:2],), (x[2:],)]), "cpu")
    >>> outputs = cache.embed(model)
    >>> outputs["emotion"].logits.square().sum().backward()
    >>> cache.backward(model)
    >>> found = model.weight.grad.clone()
    >>> model.zero_grad()
    >>> model(x)["emotion"].logits.square().sum().backward()
    >>> torch.allclose(found, model.weight.grad)
    True
    """

    def __init__(self, parts: MicroBatches, device: torch.device | str) -> None:
        self.parts = parts
        self.places = [torch.as_tensor(of) for of in parts.places]
        self.device = torch.device(device)

    def embed(self, model: nn.Module) -> Outputs:
        """Run every part without a graph: outputs of the whole batch, which wait for gradients.

        ``model`` gives a NamedTuple of tensors per head: ``[N, ...]`` has a row for each utterance,
        a scalar (a temperature) is the same for every part. Call it without DDP's wrapper.
        """
        self.states, found = [], []
        self.buffers = KeptBuffers(model)
        with torch.no_grad():
            for part in self.parts:
                self.states.append(RandomState(self.device))
                found.append(model(*part))
        self.outputs = _joined(found, torch.argsort(torch.cat(self.places)))
        return self.outputs

    def backward(
        self,
        model: nn.Module,
        autocast: AbstractContextManager | None = None,
        no_sync: Callable[[bool], AbstractContextManager] | None = None,
    ) -> None:
        """Run every part again, and add what the outputs' gradients make of the parameters'.

        To be called once the loss's own ``backward`` has given the outputs their gradients.

        Parameters
        ----------
        model : nn.Module
            As in `embed`, now with DDP's wrapper, if it has one.
        autocast : AbstractContextManager, optional
            The context of a forward pass, entered once a part.
        no_sync : Callable, optional
            ``no_sync(True)`` makes the context in which processes keep their gradients to
            themselves; they are summed with the last part.
        """
        self.buffers.restore()
        last = len(self.parts) - 1
        for number, (part, state) in enumerate(zip(self.parts, self.states, strict=True)):
            state.restore()
            with nullcontext() if no_sync is None else no_sync(number < last):
                with autocast or nullcontext():
                    found = model(*part)
                pairs = list(self._gradients(found, number))
                torch.autograd.backward([of for of, _ in pairs], [given for _, given in pairs])

    def _gradients(self, found: Outputs, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the part's outputs that have a graph, each with its gradient."""
        for head, output in found.items():
            for tensor, whole in zip(output, self.outputs[head], strict=True):
                if tensor is None or whole.grad is None or not tensor.requires_grad:
                    continue
                if tensor.dim():
                    yield tensor, whole.grad[self.places[number].to(tensor.device)]
                elif number == len(self.parts) - 1:
                    # Every part has the same: its gradient counts once.
                    yield tensor, whole.grad


def micro_batch_count(size: int, most: int) -> int:
    """Count the micro-batches of at most ``most`` that a batch of ``size`` utterances is cut into.

    None is of a single utterance, with which BatchNorm could do nothing; then one has more.

    >>> micro_batch_count(256, 8), micro_batch_count(9, 8), micro_batch_count(3, 2)
    (32, 2, 1)
    """
    count = -(-size // most)
    return count if most == 1 else min(count, max(1, size // 2))


def micro_batch_places(lengths: np.ndarray, count: int) -> list[list[int]]:
    """Cut a batch by the lengths of its utterances, the longest first: places of each part.

    >>> micro_batch_places(np.array([4, 8, 2, 6]), 2)
    [[1, 3], [0, 2]]
    """
    order = np.argsort(-lengths, kind="stable")
    return [of.tolist() for of in np.array_split(order, count)]


class MicroBatches(Sequence):
    """A batch in parts of like length, the longest first, with little padding.

    Each is cut out when it is asked for, since all together are as large as the batch.

    Parameters
    ----------
    wavs, wav_lens : Tensor
        ``[N, T]`` and ``[N]``, relative to the longest.
    sentences : Mapping[str, Sequence[str]]
        N for each head.
    count : int
        How many parts, of sizes that differ by one at most.

    Examples
    --------
    >>> wavs, wav_lens = torch.zeros(4, 8), torch.tensor([0.5, 1.0, 0.25, 0.75])
    >>> parts = MicroBatches(wavs, wav_lens, {"emotion": ["a", "b", "c", "d"]}, count=2)
    >>> parts.places
    [[1, 3], [0, 2]]
    >>> wavs, wav_lens, sentences = parts[1]
    >>> wavs.shape, wav_lens.tolist(), sentences["emotion"]
    (torch.Size([2, 4]), [1.0, 0.5], ['a', 'c'])
    """

    def __init__(
        self, wavs: Tensor, wav_lens: Tensor, sentences: Mapping[str, Sequence[str]], count: int
    ) -> None:
        self.wavs, self.sentences = wavs, sentences
        self.samples = sample_lengths(wavs, wav_lens)
        self.places = micro_batch_places(self.samples.cpu().numpy(), count)

    def __len__(self) -> int:
        """Count the parts."""
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, dict[str, list[str]]]:
        """Cut a part out: waveforms as long as its longest, relative lengths, sentences."""
        of = self.places[index]
        longest = int(self.samples[of[0]])
        words = {head: [said[i] for i in of] for head, said in self.sentences.items()}
        return self.wavs[of, :longest], self.samples[of] / longest, words


def _joined(found: Sequence[Outputs], order: Tensor) -> Outputs:
    """Join parts' outputs to one batch's, in its order; each is a leaf that wants a gradient."""

    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        if tensors[0] is None:
            return None
        if tensors[0].dim() == 0:
            whole = tensors[0].clone()
        else:
            whole = torch.cat(list(tensors))[order.to(tensors[0].device)]
        return whole.requires_grad_(whole.is_floating_point())

    return {
        head: type(output)(*map(joined, zip(*(of[head] for of in found), strict=True)))
        for head, output in found[0].items()
    }
