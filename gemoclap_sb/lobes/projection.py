"""The multilayer perceptron that takes a tower's vector into the common space.

GEmo-CLAP puts a multilayer perceptron on either tower and does not give its shape (Pan et al.,
arXiv 2306.07848, section 2.1). The form here is LAION-CLAP's: two linear layers with a ReLU
between, the hidden layer as wide as the output, 512 there (Wu et al., arXiv 2211.06687).
"""

from __future__ import annotations

from torch import Tensor, nn


class Projection(nn.Module):
    """Linear, ReLU, dropout, linear.

    Parameters
    ----------
    input_size : int
        Size of the tower's vector.
    output_size : int
        D, size of the common space.
    hidden_size : int, optional
        Width of the hidden layer; by default ``output_size``.
    dropout : float
        Dropout on the hidden layer; LAION-CLAP has none.

    Raises
    ------
    ValueError
        If a size is not positive or ``dropout`` is not within [0, 1).

    Examples
    --------
    >>> import torch
    >>> Projection(768, 512)(torch.randn(4, 768)).shape
    torch.Size([4, 512])
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        hidden_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden_size = output_size if hidden_size is None else hidden_size
        sizes = {"input_size": input_size, "output_size": output_size, "hidden_size": hidden_size}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}: expected 1 or more, found {size!r}.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout: expected a share within [0, 1), found {dropout!r}.")
        self.output_size = output_size
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, output_size),
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Project vectors [N, input_size] to [N, output_size]."""
        return self.layers(vectors)
