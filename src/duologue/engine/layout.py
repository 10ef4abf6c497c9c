"""How weights lie in memory where they are read for a few rows at a time.

For a few rows, a product on a CPU runs along the longer side of its matrix. With more outputs than inputs it is faster
where the outputs of each input lie side by side, by 1.2 to 1.9 times at the sizes of CSM, parlor and Mimi; with more
inputs torch's own order is the faster one (dev/LOG.md). For many rows both are alike. Convolutions are products over
windows of steps (`nn/conv.py`), whose inputs are ordered by step and then by channel.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from duologue.model.csm import CSM

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def lay_out(module: AnyModule, *, by_output: bool = False) -> AnyModule:
    """The same module, its matrices and convolutions laid out for the CPU if that is where they compute.

    `by_output`: the inputs of each output side by side, whatever the shape, as our own operator reads them. Shapes and
    values stay, so that it can be trained and saved as before.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            _rearrange(part.weight, _order(part, by_output))
        elif by_output and isinstance(part, CSM):
            _rearrange(part.audio_head, (0, 2, 1))
    return module


def _order(layer: nn.Linear | nn.Conv1d | nn.ConvTranspose1d, by_output: bool) -> tuple[int, ...]:
    """The dimensions of its weight as they shall lie in memory."""
    weight = layer.weight
    if isinstance(layer, nn.ConvTranspose1d):
        return (2, 1, 0) if by_output else (0, 2, 1)
    # The inputs of a window: its first step's channels, its second step's, and so on.
    inputs = tuple(range(1, weight.dim()))[::-1]
    is_wide = weight.shape[0] >= weight[0].numel() and weight.dtype in (torch.float32, torch.float64)
    return (*inputs, 0) if is_wide and not by_output else (0, *inputs)


def _rearrange(weight: Tensor, order: tuple[int, ...]) -> None:
    if weight.device.type == "cpu":
        back = tuple(order.index(dim) for dim in range(weight.dim()))
        weight.data = weight.data.permute(order).contiguous().permute(back)
