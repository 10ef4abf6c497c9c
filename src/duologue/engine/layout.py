"""How weights lie in memory where they are read for a few rows at a time.

For a few rows, a product on a CPU runs along the longer side of its matrix. With more outputs than inputs it is faster
where the outputs of each input lie side by side, by 1.2 to 1.9 times at the sizes of CSM, parlor and Mimi; with more
inputs torch's own order is the faster one (dev/LOG.md). For many rows both are alike.
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
        if isinstance(layer, nn.Linear | nn.Conv1d) and layer.weight.device.type == "cpu":
            weight = layer.weight
            is_wide = weight.shape[0] >= weight[0].numel()
            if is_wide and weight.dtype in (torch.float32, torch.float64):
                last = weight.dim() - 1
                weight.data = weight.data.movedim(0, last).contiguous().movedim(last, 0)
    return module
