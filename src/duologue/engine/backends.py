"""What runs the parts of a frame that repeat: as torch runs them, or compiled.

A frame is four functions: the backbone reads the newest row of every request, codebook 0 is drawn, then the other
codes, and the codec makes sound of them. Each takes its state as an argument. Eager, a small model's frame is a
thousand small operations, and calling them takes longer than what they compute; compiled, what lies between two matrix
products is one loop, and the products are our own (`native.py`), or Mimi's decoder as a whole (`native_decoder.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.engine.compiling import Compiled
from duologue.engine.native_decoder import native_decoder
from duologue.engine.sampling import BatchSampling, sample
from duologue.errors import OptionError
from duologue.frames import END_CODE
from duologue.model.csm import CSM
from duologue.nn.transformer import TransformerState

BACKENDS = ("eager", "compiled", "cuda-graphs")

# Frames that are decoded at once in a compiled graph.
MOST_COMPILED = 2
# A graph of more layers takes minutes to compile.
_MAX_LAYERS = 64


def read_frames(model: CSM, tokens: Tensor, mask: Tensor, state: TransformerState, num_valid: Tensor | None) -> Tensor:
    """The backbone's hidden `[B, D]` at one more row of every conversation; the state is updated in place."""
    return model(tokens, mask, state, num_valid)[:, -1]  # type: ignore[no-any-return]


def first_code(
    model: CSM, options: BatchSampling, follows: Tensor, hidden: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """From `hidden [B + G, D]` and `noise [B, V]`: codebook 0 `[B]`, and what the depth decoder begins with.

    `follows [B + G]` says which request each row belongs to.
    """
    drawn = _draw(model, options, model.codebook0_logits(hidden), noise, options.end_bias)
    return drawn, torch.stack((hidden, model.embed_audio(drawn[follows], 0)), dim=1)  # [B + G, 2, D]


def next_codes(
    model: CSM,
    options: BatchSampling,
    follows: Tensor,
    depth: TransformerState,
    inputs: Tensor,
    first: int,
    count: int,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """The codes `[B, count]` of codebook `first`, 1 or more, and of those that follow it.

    Also the depth decoder's next input `[B + G, 1, D]`. `noise [B, K, V]` is that of the whole frame.
    """
    codes = []
    for index in range(count):
        codebook = first + index
        output = model.depth_step(inputs, depth)  # [B + G, depth dim]
        drawn = _draw(model, options, model.depth_head(output, codebook), noise.select(1, codebook))
        inputs = model.embed_audio(drawn[follows], codebook)[:, None]
        codes.append(drawn)
    return torch.stack(codes, dim=1), inputs


def decode_codes(codec: Mimi, codes: Tensor, tables: tuple[Tensor, Tensor], state: MimiDecoderState) -> Tensor:
    """`Mimi.decode` with the quantizer's tables at hand: `[B, K, T] -> [B, 1, T * frame_size]`."""
    return codec.decode_latent(codec.quantizer.look_up(codes, tables), state)


def _draw(model: CSM, options: BatchSampling, logits: Tensor, noise: Tensor, end_bias: Tensor | None = None) -> Tensor:
    logits = options.guide(logits)
    if end_bias is not None:
        logits = logits.float().clone()
        logits[:, END_CODE] += end_bias
    return sample(logits, noise, options.temperature, options.topk, model.config.codebook_size, options.max_topk)


@dataclass(frozen=True)
class Backend:
    """The four functions in one of their forms; they give the same frames, but for rounding."""

    name: str
    read_frames: Callable[[CSM, Tensor, Tensor, TransformerState, Tensor | None], Tensor]
    first_code: Callable[[CSM, BatchSampling, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    next_codes: Callable[
        [CSM, BatchSampling, Tensor, TransformerState, Tensor, int, int, Tensor], tuple[Tensor, Tensor]
    ]
    decode_codes: Callable[[Mimi, Tensor, tuple[Tensor, Tensor], MimiDecoderState], Tensor]
    max_layers: int | None = _MAX_LAYERS

    def codes_together(self, model: CSM) -> int:
        """How many codes `next_codes` should draw in one call: all of a frame's, or one where that is too large."""
        count = model.num_codebooks - 1
        num_layers = count * model.config.depth.num_layers
        return count if self.max_layers is None or num_layers <= self.max_layers else 1

    @torch.inference_mode()
    def decode_frames(self, codec: Mimi, codes: Tensor, state: MimiDecoderState) -> Tensor:
        """`Mimi.decode` of codes `[B, K, T]` that are known to be the codec's: `[B, 1, T * frame_size]`.

        Compiled, one frame or two at a time are what repeats; more at once take so little time each that they are never
        compiled. Mimi's own decoder is one operator where that is to be had.
        """
        native = native_decoder(codec) if self.name == "compiled" else None
        if native is not None and codes.shape[-1] <= native.max_frames:
            return native.decode(codes, state)
        tables = codec.quantizer.tables()
        if self is EAGER or codes.shape[-1] > MOST_COMPILED:
            return decode_codes(codec, codes, tables, state)
        # The whole ring from the first frame on: it is small, and where it is full another graph would be needed, as it
        # would for rows that are even, for codes in another order, and for those of another mode (a clone is of ours).
        state.transformer.extent, state.transformer.is_even = state.transformer.capacity, False
        codes = codes.clone(memory_format=torch.contiguous_format)
        if self.name == "compiled":
            torch._dynamo.mark_static(codes, 2)
        return self.decode_codes(codec, codes, tables, state)


EAGER = Backend("eager", read_frames, first_code, next_codes, decode_codes)


@cache
def _compiled() -> Backend:
    return Backend(
        "compiled", Compiled(read_frames), Compiled(first_code), Compiled(next_codes), Compiled(decode_codes)
    )


def find_backend(name: str, device: torch.device | None = None) -> Backend:
    """The backend of that name; raises `OptionError` for one that there is not, or not on that device."""
    if name not in BACKENDS:
        raise OptionError(f"backend {name!r}; expected {', '.join(map(repr, BACKENDS[:-1]))} or {BACKENDS[-1]!r}")
    if name == "eager":
        return EAGER
    if name == "compiled":
        return _compiled()
    if device is not None and device.type != "cuda":
        raise OptionError(f"backend {name!r} is for CUDA; on {device.type} 'compiled' is fastest")
    return _graphs()


@cache
def _graphs() -> Backend:
    from duologue.engine.graphs import graphs_backend

    return graphs_backend()
