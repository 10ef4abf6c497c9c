"""How weights lie in memory where they are read for one row at a time.

For a few rows, float32 products on a CPU are faster over matrices whose inputs lie one after the other in memory than
over torch's own order, by 1.2 to 1.8 times at the sizes of CSM and parlor (dev/LOG.md); for many rows both are alike.
"""

from __future__ import annotations

import torch
from torch import nn

from duologue.model.csm import CSM


def lay_out(model: CSM) -> CSM:
    """The same model, the matrices of its linear layers laid out for the CPU if that is where it computes.

    Shapes and values stay, so that it can be trained and saved as before.
    """
    if model.device.type == "cpu" and model.dtype == torch.float32:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.t().contiguous().t()
    return model
