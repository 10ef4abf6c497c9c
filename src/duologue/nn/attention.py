"""Causal self-attention with grouped queries, a window, and an explicit cache.

The cache is a ring: position `p` lies in slot `p % capacity`, so that the position in each slot follows from a row's
length alone and rows of one batch may be at different positions. A cache as long as the longest sequence never wraps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.config import TransformerConfig
from duologue.nn.linear import Linear
from duologue.nn.operators import operators_for
from duologue.nn.rope import apply_rope
from duologue.nn.state import State

# Room of a cache up to which any attention takes longer to be called than to be computed, and the steps up to which
# the engine's own is the faster one.
_FEW_KEYS, _FEW_STEPS = 16, 4


@dataclass
class KVCache(State):
    """Keys (rotated) and values of one layer: `[B, num_kv_heads, capacity, head_dim]` each."""

    keys: Tensor
    values: Tensor


def beside_caches(state: State) -> Iterator[Tensor]:
    """The tensors of a state but for keys and values, which a step that is repeated writes into the same slots."""
    for value in vars(state).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Tensor):
                yield item
            elif isinstance(item, State) and not isinstance(item, KVCache):
                yield from beside_caches(item)


def causal_mask(positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """Who sees whom: bool `[B, 1, T, S]` from query positions `[B, T]` and key positions `[B, S]` (negative: empty).

    A query sees the keys at its own position and before it, the last `window` of them where a window is given.
    """
    queries, keys = positions[:, None, :, None], key_positions[:, None, None, :]
    mask = (keys <= queries) & (keys >= 0)
    return mask if window is None else mask & (keys > queries - window)


def slot_positions(last: Tensor, num_slots: int, capacity: int) -> Tensor:
    """The position in each ring slot when `last [B]` is the newest one written: `[B, num_slots]`, negative: empty."""
    slots = torch.arange(num_slots, device=last.device)
    return last[:, None] - (last[:, None] - slots) % capacity


class Attention(nn.Module):
    """Multi-head attention without biases; `num_kv_heads` keys and values are shared by groups of query heads."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_size = config.num_heads, config.num_kv_heads, config.head_size
        self.q_proj = Linear(config.dim, config.num_heads * config.head_size, bias=False)
        self.k_proj = Linear(config.dim, config.num_kv_heads * config.head_size, bias=False)
        self.v_proj = Linear(config.dim, config.num_kv_heads * config.head_size, bias=False)
        self.o_proj = Linear(config.num_heads * config.head_size, config.dim, bias=False)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None = None,
        slots: Tensor | int = 0,
        extent: int | Sequence[int] | None = None,
        *,
        newest: bool = False,
        shared: int = 0,
    ) -> Tensor:
        """`x [B, T, D] -> [B, T, D]`, or `[B, 1, D]` of the `newest` position alone.

        `mask` is bool `[B, 1, T, S]`, or None for plain causal attention over as many keys as there are queries, or of
        one query over all keys. With a `cache`, the new keys and values go to `slots [B, T]`, or to those from one slot
        on that is the same in every row, and the first `extent` slots are read, by one query a row also as many as it
        says for each row. Of these the first `shared` hold the
        same in every row (on a CPU, without a mask): the new steps see them all, and one another causally.
        """
        projected = self.project(x)
        keys = apply_rope(self._heads(projected[1], self.num_kv_heads), angles)  # [B, num_kv_heads, T, head_dim]
        asking = projected[0]
        if newest:
            asking, angles = asking[:, -1:], (angles[0][:, :, -1:], angles[1][:, :, -1:])
            mask = None if mask is None else mask[:, :, -1:]
        queries = apply_rope(self._heads(asking, self.num_heads), angles)  # [B, H, T, head_dim]
        values = self._heads(projected[2], self.num_kv_heads)
        if cache is not None:
            if isinstance(slots, Tensor):
                # Compiled, this writes where the caches lie; of a scatter the compiler would make a copy of them.
                rows = torch.arange(x.shape[0], device=x.device)[:, None]
                cache.keys[rows, :, slots] = keys.transpose(1, 2).to(cache.keys.dtype)
                cache.values[rows, :, slots] = values.transpose(1, 2).to(cache.values.dtype)
            else:
                cache.keys[:, :, slots : slots + x.shape[1]].copy_(keys)
                cache.values[:, :, slots : slots + x.shape[1]].copy_(values)
            if not isinstance(extent, int | None):
                mixed = _attend_by_row(queries, cache, extent)
                return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
            keys, values = cache.keys[:, :, :extent].to(x.dtype), cache.values[:, :, :extent].to(x.dtype)
        is_small = cache is not None and cache.keys.shape[2] <= _FEW_KEYS
        mixed = self._attend(queries, keys, values.to(queries.dtype), mask, shared, is_small=is_small)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[B, T, D]` -> queries, keys and values of all heads side by side, `[B, T, heads * head_dim]` each."""
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)

    def _heads(self, x: Tensor, num_heads: int) -> Tensor:
        return x.unflatten(-1, (num_heads, self.head_size)).transpose(1, 2)  # type: ignore[no-any-return]  # [B, H, T, head_dim]

    def _attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, shared: int, *, is_small: bool
    ) -> Tensor:
        """Queries `[B, H, T, head_dim]` over keys and values `[B, num_kv_heads, S, head_dim]`, in the shape of queries.

        `is_small`: they come from a cache with room for a few only.
        """
        steps = queries.shape[2]
        if is_small and mask is None and steps == 1 and torch.compiler.is_compiling():
            return _attend_to_few(queries, keys, values)
        if shared and steps > 1:
            return _attend_beyond_shared(queries, keys, values, shared)
        operators = operators_for(queries, keys, values)
        if operators is not None and steps <= _FEW_STEPS and (mask is not None or steps == 1):
            return operators.attend(queries, keys, values, mask)
        is_causal = False
        if mask is None and steps > 1:  # a branch, for a compiler that wants a plain bool
            is_causal = True
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=is_causal,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )


def _attend_by_row(queries: Tensor, cache: KVCache, extents: Sequence[int]) -> Tensor:
    """One query a row `[B, H, 1, D]` over as many of the row's own first slots as `extents` says."""
    is_grouped = queries.shape[1] != cache.keys.shape[1]
    mixed, row = [], 0
    for extent, rows in itertools.groupby(extents):
        stop = row + len(list(rows))
        keys, values = (tensor[row:stop, :, :extent].to(queries.dtype) for tensor in (cache.keys, cache.values))
        mixed.append(F.scaled_dot_product_attention(queries[row:stop], keys, values, enable_gqa=is_grouped))
        row = stop
    return torch.cat(mixed)


def _attend_to_few(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query `[B, H, 1, D]` over all keys and values `[B, num_kv_heads, S, D]`, as a compiler makes loops of it."""
    batch, heads, _, size = queries.shape
    grouped = queries.view(batch, keys.shape[1], heads // keys.shape[1], 1, size)
    weights = ((grouped * keys[:, :, None]).sum(dim=-1) / math.sqrt(size)).softmax(dim=-1)  # [B, KV, G, S]
    return (weights[..., None] * values[:, :, None]).sum(dim=3).view(batch, heads, 1, size)


def _attend_beyond_shared(queries: Tensor, keys: Tensor, values: Tensor, shared: int) -> Tensor:
    """Queries `[B, H, T, D]` of new steps over keys and values `[B, num_kv_heads, shared + T, D]`, on a CPU.

    What all rows share is read once, by the queries of all rows; the steps see one another causally. The two results
    are joined by the weight that each had in all (Juravsky et al., "Hydragen", 2024).
    """
    # What the public call comes to; it keeps the logarithms of the weights' sums to itself.
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    (batch, heads, steps, size), kv_heads = queries.shape, keys.shape[1]
    by_group = queries.view(batch, kv_heads, -1, steps, size).permute(1, 2, 0, 3, 4)  # [KV, G, B, T, D]
    together = by_group.reshape(1, kv_heads, -1, size)
    old, old_weight = attend(together, keys[:1, :, :shared], values[:1, :, :shared])
    old = old.reshape(by_group.shape).permute(2, 0, 1, 3, 4).reshape(queries.shape)
    old_weight = old_weight.reshape(by_group.shape[:-1]).permute(2, 0, 1, 3).reshape(batch, heads, steps)
    own = [part[:, :, shared:].repeat_interleave(heads // kv_heads, dim=1) for part in (keys, values)]
    new, new_weight = attend(queries, *own, is_causal=True)
    share = (old_weight - new_weight).sigmoid()
    return torch.lerp(new, old, share[..., None].to(new.dtype))
