"""Cross-entropy of scaled cosines with a margin between the classes.

The score of an utterance's own class is lowered in training, so that it must win by the margin.

Sources: Wang et al., "Additive Margin Softmax for Face Verification", arXiv 1801.05599;
Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv 1801.07698.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gemoclap_sb.objectives.cross_entropy import ClassifierOutput, cross_entropy
from gemoclap_sb.objectives.label_matrices import check_choice, labels_of

KINDS = ("additive", "angular")


class MarginSoftmaxObjective(nn.Module):
    """Softmax with a margin, by the losses of SpeechBrain, for a classifier of cosines.

    The model's logits are ``scale * cosine``, as of an `AudioClassifier` with that
    ``cosine_scale``; its scores have no margin in use. ``additive`` is AM-Softmax, ``scale *
    (cosine - margin)`` for the true class; ``angular`` is AAM-Softmax, ``scale * cos(angle +
    margin)``.

    Parameters
    ----------
    attribute : str
        The attribute that is classified.
    margin : float
        0 or more: a difference of cosines, or an angle in radians.
    scale : float, optional
        That of the model's logits. None for plain cross-entropy of the logits, without a margin.
    kind : str
        ``additive`` or ``angular``.

    Raises
    ------
    ValueError
        If an option is none of these.

    Examples
    --------
    >>> outputs = {"emotion": ClassifierOutput(30.0 * torch.tensor([[0.5, 0.3]]))}
    >>> labels = {"emotion": torch.tensor([0])}
    >>> round(MarginSoftmaxObjective(margin=0.2)(outputs, labels).item(), 4)
    0.6931
    >>> round(MarginSoftmaxObjective(margin=0.0)(outputs, labels).item(), 4)
    0.0025
    """

    def __init__(
        self,
        attribute: str = "emotion",
        margin: float = 0.2,
        scale: float | None = 30.0,
        kind: str = "additive",
    ) -> None:
        super().__init__()
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f"margin: expected 0 or more, found {margin!r}.")
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale: expected more than 0, or null, found {scale!r}.")
        check_choice("kind", kind, KINDS)
        self.attributes = self.heads = (attribute,)
        self.margin, self.scale, self.kind = margin, scale, kind
        # Imported by those who train only: the module takes SpeechBrain's decoders along.
        from speechbrain.nnet import losses

        with_margin = {
            "additive": losses.AngularMargin,
            "angular": losses.AdditiveAngularMargin,
        }[kind]
        self.loss = None if scale is None else losses.LogSoftmaxWrapper(with_margin(margin, scale))

    def forward(
        self, outputs: Mapping[str, ClassifierOutput], labels: Mapping[str, Tensor]
    ) -> Tensor:
        """Mean loss of a batch, a scalar, in float32 at least."""
        (attribute,) = self.attributes
        logits, index = outputs[attribute].logits, labels_of(labels, attribute)
        if self.loss is None:
            return cross_entropy(logits, index)
        wide = torch.promote_types(logits.dtype, torch.float32)
        cosines = logits.to(wide) / self.scale
        return self.loss(cosines.unsqueeze(1), index.unsqueeze(1))

    def extra_repr(self) -> str:
        """Show the options in ``print(objective)``."""
        return f"{self.attributes[0]!r}, margin={self.margin}, scale={self.scale}, {self.kind!r}"
