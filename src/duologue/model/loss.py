"""The loss of CSM with compute amortization: codebook 0 on every frame, the depth decoder on a random share of them.

Source: Sesame, "Crossing the uncanny valley of conversational voice" (2025), section "Compute amortization". Both terms
are means of cross-entropies per code, in nats, so that their weights do not depend on the number of codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from duologue.model.csm import CSM


@dataclass(frozen=True)
class CSMLoss:
    """Scalars in nats per code; `depth_share` is the share of frames that the depth decoder saw."""

    codebook0: Tensor
    depth: Tensor
    depth_share: float

    def total(self, depth_weight: float) -> Tensor:
        """`(1 - depth_weight) * codebook0 + depth_weight * depth`."""
        return (1 - depth_weight) * self.codebook0 + depth_weight * self.depth


def draw_frames(num_frames: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Indices of a fresh random `share` of the frames, int64, sorted, at least one of them where there is any."""
    count = min(num_frames, max(1, round(num_frames * share)))
    return torch.randperm(num_frames, generator=generator)[:count].sort().values


def csm_loss(
    model: CSM,
    tokens: Tensor,
    mask: Tensor,
    scored: Tensor,
    *,
    depth_share: float = 1 / 16,
    generator: torch.Generator | None = None,
    hidden: Tensor | None = None,
) -> CSMLoss:
    """Losses of a batch of row sequences.

    `tokens [B, T, K+1]` int64 and `mask` (bool) are rows, `scored [B, T]` (bool) marks the audio rows to be learned,
    end frames among them; row `t` is predicted from the hidden of row `t - 1`, so row 0 cannot be scored.
    `depth_share` of the scored frames, drawn with `generator` (on the CPU), go through the depth decoder. `hidden [B,
    T, D]` saves a backbone pass when the caller has it. A batch with nothing scored gives zeros.
    """
    if hidden is None:
        hidden = model(tokens, mask)
    rows = scored[:, 1:]
    before = hidden[:, :-1][rows]  # [N, D]
    frames = tokens[:, 1:, :-1][rows]  # [N, K]
    if not len(frames):
        zero = hidden.sum() * 0.0
        return CSMLoss(zero, zero, 0.0)
    codebook0 = F.cross_entropy(model.codebook0_logits(before).float(), frames[:, 0])
    chosen = draw_frames(len(frames), depth_share, generator).to(frames.device)
    logits = model.depth_logits(before[chosen], frames[chosen])  # [M, K-1, V]
    depth = F.cross_entropy(logits.flatten(0, 1).float(), frames[chosen, 1:].flatten())
    return CSMLoss(codebook0, depth, len(chosen) / len(frames))
