"""What tells a speech model's weights from others, quickly: for what was made with a model and is taken up again."""

from __future__ import annotations

import hashlib
from typing import Final

import torch
from torch import Tensor, nn

from duologue.engine.quantization import Int8Linear

# Of each tensor: training moves nearly all values, adapters all of a matrix's.
_VALUES: Final = 4096


def weights_fingerprint(model: nn.Module) -> str:
    """16 hex digits of a hash over values spread through all parameters, quantized or not, and buffers."""
    digest = hashlib.sha256()
    for module in model.modules():
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if isinstance(module, Int8Linear):
            tensors = [module.codes()]
        for tensor in tensors:
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_some(tensor).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _some(tensor: Tensor) -> Tensor:
    values = tensor.detach().flatten()
    return values[:: max(1, len(values) // _VALUES)].cpu().contiguous()
