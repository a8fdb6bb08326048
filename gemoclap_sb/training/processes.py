"""What the processes of one training have in common: the work of one of them, and its buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from speechbrain.utils.distributed import main_process_only
from torch import Tensor, nn

from gemoclap_sb.training.settings import ExperimentError

Result = TypeVar("Result")


class FailedElsewhere(ExperimentError):
    """The main process cannot go on, and says why; so this one cannot either."""


def is_group() -> bool:
    """Whether this process has others beside it."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def place() -> tuple[int, int]:
    """Rank of this process, and the number of processes; 0 of 1 where there is one alone."""
    return (
        (torch.distributed.get_rank(), torch.distributed.get_world_size()) if is_group() else (0, 1)
    )


def on_main(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function on the main process, while the others wait; all get what it returns.

    That must be something to pickle. An error is raised on the main process, and on the others
    `FailedElsewhere`, so that none waits for ever.

    >>> on_main(max, 1, 2)
    2
    """
    errors: list[Exception] = []

    def attempt() -> tuple[bool, Result | None]:
        try:
            return True, function(*arguments)
        except Exception as error:
            errors.append(error)
            return False, None

    succeeded, result = main_process_only(attempt)()
    if errors:
        raise errors[0]
    if not succeeded:
        raise FailedElsewhere("the main process cannot go on.")
    return result


def least_of_all(number: Tensor) -> float:
    """Give the least of the processes' numbers, each a tensor of no dimensions."""
    if place()[1] > 1:
        number = number.detach().clone()
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MIN)
    return number.item()


def average_gradients(modules: nn.Module) -> None:
    """Give all processes the mean of their gradients, as DDP's backward pass does."""
    if place()[1] == 1:
        return
    for parameter in modules.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= place()[1]


def share_buffers(modules: nn.Module) -> None:
    """Give all processes the buffers of the main one.

    On a CPU each process has running statistics of its own share of the training.
    """
    if place()[1] == 1:
        return
    for mine in modules.buffers():
        of_main = mine.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.broadcast(of_main, 0)
        # What is the same everywhere may be a view that cannot be written.
        if not torch.equal(mine, of_main):
            mine.copy_(of_main)


def mean_of_all(number: Tensor) -> Tensor:
    """Give the mean of the processes' numbers, each a tensor of no dimensions."""
    count = place()[1]
    if count == 1:
        return number
    total = number.detach().clone()
    torch.distributed.all_reduce(total)
    return total / count
