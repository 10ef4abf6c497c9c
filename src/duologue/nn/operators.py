"""The engine's own operators, which a graph that is compiled for a CPU calls where they have been built.

Everything else is computed by torch, with the same result but for rounding (see `engine/native.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Operators:
    """Both take float32, and what lies in memory in order, its last dimension a multiple of `WIDTH`.

    `multiply`: rows `[..., N]` and weights `[M, N]` to `[..., M]`. `attend`: queries `[B, H, T, D]`, keys and values
    `[B, num_kv_heads, S, D]`, and a mask as `Attention` has it, to `[B, H, T, D]`.
    """

    multiply: Callable[[Tensor, Tensor], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


WIDTH = 8

_registered: Operators | None = None


def register(operators: Operators) -> None:
    """For the graphs that are compiled from now on."""
    global _registered
    _registered = operators


def registered() -> Operators | None:
    """What has been registered."""
    return _registered


def operators_for(*tensors: Tensor) -> Operators | None:
    """The operators, where a graph is being compiled, nothing is learned, and these tensors are fit for them."""
    if _registered is None or not torch.compiler.is_compiling() or torch.is_grad_enabled():
        return None
    is_fit = all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.shape[-1] % WIDTH == 0
        for tensor in tensors
    )
    return _registered if is_fit else None
