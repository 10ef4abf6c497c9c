"""Rotary position embeddings, interleaved (pairs of neighbouring channels), with Llama-3 frequency scaling.

Sources: Su et al., "RoFormer" (2021); Meta, `llama-models/models/llama3/model.py` (`apply_scaling`). The original CSM
weights and moshi's Mimi use this interleaved layout; transformers' layouts permute q and k instead (see checkpoints).
Tables and rotation are float32 whatever the dtype of the model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from duologue.config import TransformerConfig


def rope_frequencies(config: TransformerConfig) -> Tensor:
    """Angular frequency of each channel pair, radians per position: float32 `[head_dim / 2]`."""
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    # Long wavelengths are slowed by `factor`, short ones are kept, those between are blended.
    blend = (scaling.original_max_positions / wavelengths - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / scaling.factor + blend * frequencies


def rope_angles(frequencies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine for integer `positions [B, T]`: two float32 tensors `[B, 1, T, head_dim]`.

    Each cosine stands at both channels of its pair, each sine as well, with a minus at the first.
    """
    angles = positions.to(torch.float32)[:, None, :, None] * frequencies  # [B, 1, T, head_dim / 2]
    sine = angles.sin()
    return angles.cos().repeat_interleave(2, dim=-1), torch.stack((-sine, sine), dim=-1).flatten(-2)


def apply_rope(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates `x [B, H, T, head_dim]` by the angles of `rope_angles`; same shape and dtype."""
    cosine, sine = angles
    exact = x.float()
    swapped = exact.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(exact * cosine, swapped, sine).to(x.dtype)
