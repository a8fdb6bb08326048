"""Learning rate over a training run.

Written here because the schedules of torch and SpeechBrain count steps: they need the
length of the data in the YAML, and their count must survive a resumption. This one is a
function of the share of training that is done, which the loop knows anyway.
"""

from __future__ import annotations

import math


class WarmupCosine:
    """Rise linearly to the peak, then fall as a half cosine.

    Source: Loshchilov and Hutter, "SGDR", arXiv 1608.03983, equation 5, with one cycle
    and a linear warm-up.

    Parameters
    ----------
    peak : float
        Largest learning rate.
    warmup : float
        Share of training that rises, in [0, 1).
    final : float
        Learning rate at the end, from 0 to ``peak``.

    Examples
    --------
    >>> schedule = WarmupCosine(peak=1.0, warmup=0.2)
    >>> [round(schedule(progress), 3) for progress in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, peak: float, warmup: float = 0.2, final: float = 0.0) -> None:
        if not 0.0 <= warmup < 1.0:
            raise ValueError(f"warmup: expected a share in [0, 1), found {warmup!r}.")
        if not 0.0 <= final <= peak:
            raise ValueError(f"final: expected 0 <= final <= peak = {peak:g}, found {final!r}.")
        self.peak = peak
        self.warmup = warmup
        self.final = final

    def __call__(self, progress: float) -> float:
        """Learning rate when a share of the training steps, in [0, 1], is done."""
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        fall = (progress - self.warmup) / (1.0 - self.warmup)
        return self.final + 0.5 * (self.peak - self.final) * (1.0 + math.cos(math.pi * fall))
