"""What runs the parts of a frame that repeat: as torch runs them, or compiled.

A frame is four functions: the backbone reads the newest row of every request, codebook 0 is drawn, then the other
codes, and the codec makes sound of them. Each takes its state as an argument. Eager, a small model's frame is a
thousand small operations, and calling them takes longer than what they compute; compiled, what lies between two matrix
products is one loop, and the weights of a small model are built into it (`weights_built_in`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.engine.quantization import Int8Linear, call_natively
from duologue.engine.sampling import BatchSampling, sample
from duologue.errors import OptionError
from duologue.frames import END_CODE
from duologue.model.csm import CSM
from duologue.nn.transformer import TransformerState

BACKENDS = ("eager", "compiled", "cuda-graphs")

# A graph of more layers takes minutes to compile.
_MAX_LAYERS = 64
# What is built into a graph is there twice.
_MAX_BUILT_IN_BYTES = 256 << 20
_BUILT_IN_DTYPES = (torch.float32, torch.float64)
# What calls the loops is a tenth of a frame's time in Python.
_WITHOUT_PYTHON = {"cpp_wrapper": True, "size_asserts": False}


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
    apart = count > 1 and torch.compiler.is_compiling()
    for index in range(count):
        codebook = first + index
        output = model.depth_step(inputs, depth)  # [B + G, depth dim]
        drawn = _draw(model, options, model.depth_head(output, codebook, apart=apart), noise.select(1, codebook))
        inputs = model.embed_audio(drawn[follows], codebook)[:, None]
        codes.append(drawn)
    return torch.stack(codes, dim=1), inputs


def decode_latent(codec: Mimi, latent: Tensor, state: MimiDecoderState) -> Tensor:
    """`Mimi.decode_latent`: `[B, T, D] -> [B, 1, T * frame_size]`."""
    return codec.decode_latent(latent, state)


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
    decode_latent: Callable[[Mimi, Tensor, MimiDecoderState], Tensor]
    max_layers: int | None = _MAX_LAYERS

    def codes_together(self, model: CSM) -> int:
        """How many codes `next_codes` should draw in one call: all of a frame's, or one where that is too large."""
        count = model.num_codebooks - 1
        num_layers = count * model.config.depth.num_layers
        return count if self.max_layers is None or num_layers <= self.max_layers else 1

    @torch.inference_mode()
    def decode_frames(self, codec: Mimi, codes: Tensor, state: MimiDecoderState) -> Tensor:
        """`Mimi.decode` of codes `[B, K, T]` that are known to be the codec's: `[B, 1, T * frame_size]`.

        A single frame is what repeats; several at once take so little time each that they are never compiled.
        """
        latent = codec.quantizer.decode(codes)
        if self is EAGER or codes.shape[-1] > 1:
            return decode_latent(codec, latent, state)
        # The whole ring from the first frame on: it is small, and where it is full another graph would be needed.
        state.transformer.extent = state.transformer.capacity
        return self.decode_latent(codec, latent, state)


EAGER = Backend("eager", read_frames, first_code, next_codes, decode_latent)


@cache
def _compiled() -> Backend:
    # Each model and each kind of input is compiled anew; an older torch gives up after eight, and goes on eager.
    is_limit_ours = "recompile_limit" in inspect.signature(torch.compile).parameters
    options: dict[str, Any] = {"fullgraph": True, "recompile_limit": 64} if is_limit_ours else {}
    return Backend(
        "compiled",
        torch.compile(read_frames, **options),
        torch.compile(first_code, **options),
        torch.compile(next_codes, **options),
        torch.compile(decode_latent, **options),
    )


@contextmanager
def weights_built_in(*modules: nn.Module) -> Iterator[None]:
    """What is compiled in here has the weights of `modules` as constants, where they are few, and on a CPU.

    torch then arranges them once, in float32 for its own product of a few rows, which takes a half to a fifth of MKL's
    time (dev/LOG.md). The weights may not be changed afterwards. What is compiled outside reads them where they are, to
    the same result. Where weights stay outside, or in eight bits, their products are calls, and the loops between them
    are over before a second thread has begun: one thread runs them.
    """
    # Of a module in eight bits the parameters are a few; its embeddings are buffers.
    weights = [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
    are_fit = all(
        weight.device.type == "cpu" and weight.dtype in _BUILT_IN_DTYPES and not weight.storage_offset()
        for weight in weights
    )  # of a constant that begins elsewhere than its memory, the compiled product would take the beginning
    are_few = sum(weight.nbytes for weight in weights) <= _MAX_BUILT_IN_BYTES
    if not (are_fit and are_few):
        if any(isinstance(part, Int8Linear) for module in modules for part in module.modules()):
            call_natively()
        with torch._inductor.config.patch({"cpp.threads": 1, **_WITHOUT_PYTHON}):
            yield
        return
    options = {
        "freezing": True,
        "max_autotune": True,
        "max_autotune_gemm_backends": "CPP,ATEN",
        **_WITHOUT_PYTHON,
    }
    with torch._inductor.config.patch(options), _without_packing(), _own_products_first():
        yield


@contextmanager
def _without_packing() -> Iterator[None]:
    """oneDNN's packed weights cannot be kept on disk, and neither can a graph that has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name in torch that the context manager itself uses
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextmanager
def _own_products_first() -> Iterator[None]:
    """Takes torch's own product wherever there is one, without timing it beside MKL's: that takes seconds a shape.

    A torch that has no place for such a rule times them.
    """
    from torch._inductor import select_algorithm

    def prefer(choices: list[Any]) -> list[Any]:
        return [choice for choice in choices if "cpp" in choice.name.lower()] or choices

    selector = getattr(select_algorithm, "get_algorithm_selector_cache", lambda: None)()
    filters: list[Any] = getattr(selector, "preprocessing_fns", [])
    filters.append(prefer)
    try:
        yield
    finally:
        filters.remove(prefer)


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
