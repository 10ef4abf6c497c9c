"""Matrices as whole numbers of eight bits, with a scale per row: half of bfloat16's size.

In a file a packed tensor `name` is int8 and lies beside `name.scale`, float32, its shape but for a last dimension of 1.
Readers see one float32 tensor: the product of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import torch
from torch import Tensor

SCALE_SUFFIX: Final = ".scale"
_LARGEST: Final = 127
_TRIED: Final = 32  # scales a row
_SMALLEST_SHARE: Final = 0.6  # of the scale that clips nothing


def pack(tensor: Tensor, num_scales: int = _TRIED) -> tuple[Tensor, Tensor]:
    """`[..., N]` floating point to int8 `[..., N]` and float32 scales `[..., 1]`.

    A row's scale is the one of `num_scales` with the smallest squared error: to clip its few largest values can serve
    the many others. One scale clips nothing, and finds again what was packed before. Raises `ValueError` for values
    that are not finite.
    """
    values = tensor.detach().float()
    if not bool(values.isfinite().all()):
        raise ValueError("values that are not finite cannot be packed")
    widest = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / _LARGEST
    scale, least = widest, torch.full_like(widest, torch.inf)
    if num_scales == 1:
        return _rounded(values, widest), widest
    for share in torch.linspace(1.0, _SMALLEST_SHARE, num_scales).tolist():
        error = (unpack(_rounded(values, widest * share), widest * share) - values).square().sum(dim=-1, keepdim=True)
        scale = torch.where(error < least, widest * share, scale)
        least = torch.minimum(error, least)
    return _rounded(values, scale), scale


def unpack(packed: Tensor, scale: Tensor) -> Tensor:
    """What `pack` was given, float32, but for the rounding."""
    return packed.float() * scale


def packed_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """A checkpoint's tensors for a file, matrices packed; vectors, which are few, as float32."""
    for name, tensor in tensors:
        if tensor.dim() < 2:
            yield name, tensor.float()
            continue
        codes, scale = pack(tensor)
        yield name, codes
        yield name + SCALE_SUFFIX, scale


def _rounded(values: Tensor, scale: Tensor) -> Tensor:
    return (values / scale).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
