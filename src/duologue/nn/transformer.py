"""The one transformer: CSM's backbone and depth decoder (Llama style) and Mimi's two (LayerNorm, GELU, layer scale).

Sources: Touvron et al., "LLaMA" (2023), for pre-norm RMSNorm and SwiGLU; Kyutai, `moshi/modules/transformer.py`, for
Mimi's layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.config import TransformerConfig
from duologue.nn.attention import Attention, KVCache, causal_mask, slot_positions
from duologue.nn.linear import Linear
from duologue.nn.rope import rope_angles, rope_frequencies
from duologue.nn.state import State, unwritten_zeros

# Steps that a cache with a window takes in one pass: what is read of it costs as much as what it has room for.
_STEPS_AT_ONCE = 64


@dataclass
class TransformerState(State):
    """Caches of all layers; `lengths [B]` int64 counts each row's positions so far.

    `extent` bounds the slots in use over all rows, and `is_even` says that every row has come exactly so far; they are
    plain values, so that reading them never waits for a device. Whoever changes `lengths` sees to them.
    """

    lengths: Tensor
    layers: list[KVCache]
    extent: int = 0
    is_even: bool = False

    @property
    def capacity(self) -> int:
        """Slots of the cache."""
        return self.layers[0].keys.shape[2]

    def reset(self, rows: Tensor | None = None) -> None:
        """Takes the rows back to before their first step; with all rows, the bound on slots in use goes with them."""
        super().reset(rows)
        self.is_even = rows is None
        if rows is None:
            self.extent = 0

    def truncate(self, lengths: Tensor) -> None:
        """Forgets all positions of row `b` from `lengths[b]` on, in place; a row that is shorter stays as it is.

        Only for caches that hold whole sequences: a ring that has wrapped no longer has what came before.
        """
        torch.minimum(self.lengths, lengths.to(self.lengths), out=self.lengths)
        self.is_even = False

    def first(self, length: int) -> TransformerState:
        """A copy of the first `length` positions of every row, with room for no more; each row has at least as many.

        For caches that hold whole sequences, as `truncate` and `take`.
        """
        layers = [
            KVCache(layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone()) for layer in self.layers
        ]
        return TransformerState(torch.full_like(self.lengths, length), layers, length, is_even=True)

    def take(self, other: TransformerState, length: int, start: int = 0) -> None:
        """Begins anew with the first `length` positions of `other`, a state of as many rows, in place.

        The first `start` of them are in the caches already.
        """
        for ours, theirs in zip(self.layers, other.layers, strict=True):
            ours.keys[:, :, start:length] = theirs.keys[:, :, start:length]
            ours.values[:, :, start:length] = theirs.values[:, :, start:length]
        self.lengths.fill_(length)
        self.extent, self.is_even = length, True


class RMSNorm(nn.Module):
    """Root mean square normalisation over the last dimension, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32 and not torch.is_grad_enabled():
            # torch's own is made of a dozen operations there, which for a row or two is all of its time.
            return x * (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt() * self.weight
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated feed-forward: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, ffn_dim, bias=False)
        self.up_proj = Linear(dim, ffn_dim, bias=False)
        self.down_proj = Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class GeluMLP(nn.Module):
    """Feed-forward with the exact GELU and no biases."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.up_proj = Linear(dim, ffn_dim, bias=False)
        self.down_proj = Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al., 2021)."""

    def __init__(self, dim: int, initial: float = 0.01) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "rms":
        return RMSNorm(config.dim, config.norm_eps)
    return nn.LayerNorm(config.dim, config.norm_eps)


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward, each added to the stream."""

    def __init__(self, config: TransformerConfig, dropout: float) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config)
        self.mlp_norm = _norm(config)
        mlp = SwiGLU if config.mlp == "swiglu" else GeluMLP
        self.mlp = mlp(config.dim, config.ffn_dim)
        self.attention_scale = LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.mlp_scale = LayerScale(config.dim) if config.layer_scale else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        slots: Tensor | int,
        extent: int | Sequence[int] | None,
        *,
        newest: bool = False,
        shared: int = 0,
    ) -> Tensor:
        normed = self.attention_norm(x)
        mixed = self.attention(normed, angles, mask, cache, slots, extent, newest=newest, shared=shared)
        mixed = self.attention_scale(mixed)
        x = x[:, -1:] if newest else x
        x = x + (self.dropout(mixed) if self.training else mixed)
        changed = self.mlp_scale(self.mlp(self.mlp_norm(x)))
        return x + (self.dropout(changed) if self.training else changed)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A stack of causal layers over embeddings; it has no vocabulary of its own."""

    def __init__(self, config: TransformerConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(TransformerLayer(config, dropout) for _ in range(config.num_layers))
        self.norm = _norm(config) if config.final_norm else nn.Identity()
        self._frequencies: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._norm_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self._norm_weight.dtype

    @property
    def _norm_weight(self) -> Tensor:
        # The weights that are there in every form of a model, packed ones as well.
        return self.layers[0].attention_norm.weight  # type: ignore[union-attr, return-value]

    def init_state(
        self,
        batch: int,
        capacity: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TransformerState:
        """A state for `batch` rows before their first position.

        `capacity` is in positions: by default `max_positions`, or where there is a window, that and as many as are read
        in one go. Device and dtype are those of the weights unless given.
        """
        config = self.config
        self.frequencies(self.device)  # now, so that no step has to make them
        device = device if device is not None else self.device
        dtype = dtype if dtype is not None else self.dtype
        if capacity is None:
            capacity = (
                config.max_positions if config.window is None else config.window + min(config.window, _STEPS_AT_ONCE)
            )
        shape = (batch, config.num_kv_heads, capacity, config.head_size)
        layers = [
            KVCache(unwritten_zeros(shape, device, dtype), unwritten_zeros(shape, device, dtype))
            for _ in range(config.num_layers)
        ]
        return TransformerState(torch.zeros(batch, device=device, dtype=torch.int64), layers, is_even=True)

    def forward(
        self,
        x: Tensor,
        state: TransformerState | None = None,
        num_valid: Tensor | None = None,
        *,
        newest: bool = False,
        alike: bool = False,
    ) -> Tensor:
        """`x [B, T, D] -> [B, T, D]` after the final norm (where there is one).

        Without a state each row starts at position 0 and nothing is kept. With one, row `b` continues at
        `state.lengths[b]`, and the state is updated in place; `num_valid [B]` says how many of the `T` steps of each
        row are real (the first ones), the rest being padding that leaves no trace.

        `newest` gives the output of the last step alone, `[B, 1, D]`: of the others the last layer then computes keys
        and values, and no more. `alike` promises that all rows of the state hold the same so far, as prompts with one
        beginning do: on a CPU it is then read once for all of them.
        """
        if state is None:
            return self._whole(x, newest=newest)
        window = self.config.window
        longest = state.capacity if window is None else state.capacity - window + 1
        if x.shape[1] <= longest:
            return self._step(x, state, num_valid, newest=newest, alike=alike)
        assert window is not None and num_valid is None, "more steps than the cache has room for"
        outputs = [self._step(piece, state, None, newest=newest) for piece in x.split(longest, dim=1)]
        return outputs[-1] if newest else torch.cat(outputs, dim=1)

    def _whole(self, x: Tensor, *, newest: bool) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)[None]  # [1, T]
        window = self.config.window
        mask = None if window is None or x.shape[1] <= window else causal_mask(positions, positions, window)
        angles = rope_angles(self.frequencies(x.device), positions)
        for layer in self.layers:
            x = layer(x, angles, mask, None, 0, None, newest=newest and layer is self.layers[-1])
        return self.norm(x)  # type: ignore[no-any-return]

    def _step(
        self, x: Tensor, state: TransformerState, num_valid: Tensor | None, *, newest: bool, alike: bool = False
    ) -> Tensor:
        steps, capacity = x.shape[1], state.capacity
        extent = min(capacity, state.extent + steps)
        state.is_even = state.is_even and num_valid is None and self.config.window is None
        positions = state.lengths[:, None] + torch.arange(steps, device=x.device)  # [B, T]
        angles = rope_angles(self.frequencies(x.device), positions)
        mask: Tensor | None = None
        slots: Tensor | int = state.extent
        shared = state.extent if alike and x.device.type == "cpu" else 0
        reached: int | list[int] = extent
        # Where rows are even no mask is needed: one new position sees every slot in use, the first ones each other.
        if not (state.is_even and (steps == 1 or shared == state.extent) and state.extent + steps <= capacity):
            shared, slots = 0, positions % capacity
            if self._go_by_row(x, state):
                reached = positions[:, 0].add(1).tolist()
            else:
                held = slot_positions(positions[:, -1], extent, capacity)  # [B, extent]
                mask = causal_mask(positions, held, self.config.window)
        for layer, cache in zip(self.layers, state.layers, strict=True):
            is_last = layer is self.layers[-1]
            x = layer(x, angles, mask, cache, slots, reached, newest=newest and is_last, shared=shared)
        state.lengths += steps if num_valid is None else num_valid
        state.extent = extent
        return self.norm(x)  # type: ignore[no-any-return]

    def _go_by_row(self, x: Tensor, state: TransformerState) -> bool:
        """Whether each row reads its own slots in a call of its own.

        What it gives then does not depend on how far others have come, which rounding would: with weights in eight bits
        a last bit may be another code. On a CPU nothing waits for the lengths.
        """
        is_one = x.shape[1] == 1 and self.config.window is None and state.extent < state.capacity
        return is_one and x.device.type == "cpu" and not torch.compiler.is_compiling()

    def frequencies(self, device: torch.device) -> Tensor:
        """The rotary frequencies on `device`; float32, kept out of the parameters so that no cast rounds them."""
        if self._frequencies is None or self._frequencies.device != device:
            self._frequencies = rope_frequencies(self.config).to(device)
        return self._frequencies
