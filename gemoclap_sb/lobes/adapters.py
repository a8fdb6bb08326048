"""Low-rank adapters in a large encoder, through SpeechBrain's own.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685;
`speechbrain.nnet.adapters`.
"""

from __future__ import annotations

from collections.abc import Sequence

from speechbrain.nnet.adapters import AdaptedModel, LoRA
from torch import nn

# The query and value projections, which the paper adapts.
ATTENTION_PROJECTIONS = ("encoder.layers.*.attention.q_proj", "encoder.layers.*.attention.v_proj")


def insert_lora(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    target_layers: Sequence[str] = ATTENTION_PROJECTIONS,
    unfrozen_layers: Sequence[str] = (),
) -> None:
    """Freeze a model and put a trainable low-rank branch beside some layers, in place.

    The model computes what it did until the branches are trained.

    Parameters
    ----------
    model : nn.Module
        The model to adapt.
    rank : int
        Rank of each branch.
    alpha : float
        The branches are scaled by `alpha / rank`.
    target_layers : Sequence of str
        Names of linear or convolutional layers, with `*`, `?` and `[...]` as in a shell.
    unfrozen_layers : Sequence of str
        Names of modules that stay trainable whole, for example `encoder.layer_norm`.

    Raises
    ------
    ValueError
        If a target names no layer, or one of another kind.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> insert_lora(model, rank=2, target_layers=["0"])
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['0.adapter_down_proj.weight', '0.adapter_up_proj.weight']
    """
    adapted = AdaptedModel(
        model,
        LoRA,
        target_layers=list(target_layers),
        unfrozen_layers=list(unfrozen_layers),
        adapter_kwargs={"rank": rank, "alpha": alpha},
        manual_adapter_insertion=True,
    )
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    wrong = [n for n in adapted.replace_layers if not isinstance(model.get_submodule(n), kinds)]
    if wrong or not adapted.replace_layers:
        raise ValueError(
            "target_layers: expected linear or convolutional layers among named_modules(), found "
            f"{wrong or 'no layer'} for {list(target_layers)}"
        )
    # Only the insertion is wanted: the wrapper would rename every key of the state dictionary.
    adapted.insert_adapters()
