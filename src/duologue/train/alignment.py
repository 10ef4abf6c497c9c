"""An early helping hand for small data: one attention head is drawn to the text that is being spoken.

Source: Tachibana et al., "Efficiently Trainable Text-to-Speech System Based on Deep Convolutional Networks with Guided
Attention" (2018), section 4.1, changed to the logarithm of the attention mass inside the diagonal band. Nothing of the
model changes; the term is dropped once reading has been learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from duologue.model.csm import CSM
from duologue.nn.attention import Attention
from duologue.nn.rope import apply_rope


@dataclass
class AttentionProbe:
    """The inputs of one layer's attention during the last forward pass."""

    attention: Attention
    inputs: list[tuple[Tensor, tuple[Tensor, Tensor]]] = field(default_factory=list)

    def scores(self, head: int) -> Tensor:
        """Scaled dot products `[B, T, T]` of query rows and key rows in one head; not masked."""
        x, angles = self.inputs[-1]
        attention = self.attention
        size, group = attention.head_size, attention.num_heads // attention.num_kv_heads
        queries = torch.nn.functional.linear(x, attention.q_proj.weight[head * size : (head + 1) * size])
        first = head // group * size
        keys = torch.nn.functional.linear(x, attention.k_proj.weight[first : first + size])
        queries, keys = apply_rope(queries[:, None], angles), apply_rope(keys[:, None], angles)  # [B, 1, T, size]
        scores: Tensor = (queries @ keys.transpose(2, 3))[:, 0].float() * size**-0.5
        return scores


@contextmanager
def probing(model: CSM, layer: int) -> Iterator[AttentionProbe]:
    """Records what the backbone's `layer` attends from while the context is open."""
    attention = model.backbone.layers[layer].attention
    assert isinstance(attention, Attention)
    probe = AttentionProbe(attention)
    handle = attention.register_forward_pre_hook(lambda _, args: probe.inputs.append((args[0], args[1])))
    try:
        yield probe
    finally:
        handle.remove()


def diagonal_band(turn: Tensor, is_audio: Tensor, width: float) -> Tensor:
    """How near text row `s` is to what audio row `t` of the same turn speaks: `[B, T, T]`, 1 on the diagonal, else
    less.

    `turn [B, T]` numbers the turns (-1: padding), `is_audio [B, T]` tells audio rows from text rows. Both are taken to
    advance evenly through the turn; `width` is the band's standard deviation as a share of the turn.
    """
    place = _relative_place(turn, is_audio)
    same = (turn[:, :, None] == turn[:, None, :]) & (turn >= 0)[:, :, None]
    pairs = same & is_audio[:, :, None] & ~is_audio[:, None, :]
    distance = place[:, :, None] - place[:, None, :]
    return torch.where(pairs, torch.exp(-0.5 * (distance / width).square()), 0.0)


def _relative_place(turn: Tensor, is_audio: Tensor) -> Tensor:
    """Each row's place among the rows of its kind in its turn, 0 to 1: `[B, T]`."""
    group = turn * 2 + is_audio  # text and audio rows of every turn are runs of their own
    begins = torch.ones_like(group, dtype=torch.bool)
    begins[:, 1:] = group[:, 1:] != group[:, :-1]
    index = torch.arange(group.shape[1], device=group.device).expand_as(group)
    first = torch.where(begins, index, 0).cummax(dim=1).values
    run = begins.long().cumsum(dim=1) - 1  # [B, T]
    lengths = torch.zeros_like(group).scatter_add_(1, run, torch.ones_like(group)).gather(1, run)
    return (index - first + 0.5) / lengths


def alignment_loss(scores: Tensor, turn: Tensor, is_audio: Tensor, *, width: float) -> Tensor:
    """Mean over audio rows of minus the logarithm of the attention mass inside the band; a scalar in nats."""
    steps = scores.shape[1]
    causal = torch.ones(steps, steps, dtype=torch.bool, device=scores.device).tril()
    weights = scores.masked_fill(~causal, -torch.inf).softmax(dim=-1)
    mass = (weights * diagonal_band(turn, is_audio, width)).sum(dim=-1)  # [B, T]
    return -(mass[is_audio & (turn >= 0)] + 1e-4).log().mean()
