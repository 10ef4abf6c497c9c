"""How weights lie in memory where they are read for a few rows at a time.

For a few rows, a product on a CPU runs along the longer side of its matrix. With more outputs than inputs it is faster
where the outputs of each input lie side by side, by 1.2 to 1.9 times at the sizes of CSM, parlor and Mimi; with more
inputs torch's own order is the faster one (dev/LOG.md). For many rows both are alike. Convolutions are products over
windows of steps (`nn/conv.py`), whose inputs are ordered by step and then by channel.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def lay_out(module: AnyModule) -> AnyModule:
    """The same module, its linear layers and convolutions laid out for the CPU if that is where they compute.

    Shapes and values stay, so that it can be trained and saved as before.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.ConvTranspose1d) or layer.weight.device.type != "cpu":
            continue
        weight = layer.weight
        if isinstance(layer, nn.ConvTranspose1d):
            order: tuple[int, ...] = (0, 2, 1)
        else:
            is_wide = weight.shape[0] >= weight[0].numel() and weight.dtype in (torch.float32, torch.float64)
            # The inputs of a window: its first step's channels, its second step's, and so on.
            inputs = tuple(range(1, weight.dim()))[::-1]
            order = (*inputs, 0) if is_wide else (0, *inputs)
        back = tuple(order.index(dim) for dim in range(weight.dim()))
        weight.data = weight.data.permute(order).contiguous().permute(back)
    return module
