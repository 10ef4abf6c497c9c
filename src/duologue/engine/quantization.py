"""A speech model's matrices in eight bits, for one frame at a time on a CPU.

A frame reads all weights once, so that their bytes are its time. Weights become int8 with a scale an output; the input
of a product gets a scale a row while it runs, and whole numbers are added up exactly: a row's result does not depend on
the rows beside it, not even in its last bit. What reads the same input is one product.

The kernel is torch's own for quantized linear layers (FBGEMM on x86). Of what torch 2.13 has, measured on one AMD Zen 4
core for 8192 x 2048 weights and one row: float32 3.7 ms, bfloat16 3.1, int8 weights with bfloat16 rows
(`_weight_int8pack_mm`) 1.8, oneDNN's dynamic int8 1.1, FBGEMM's 0.5 (dev/LOG.md). The compiled backend has one of
our own (`kernels/products.cpp`), which gives the same whole numbers sooner.
"""

from __future__ import annotations

import itertools
import threading
import warnings
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.checkpoints.packing import pack, unpack
from duologue.engine.native import has_vnni, int8_shaped
from duologue.errors import OptionError
from duologue.model.csm import CSM
from duologue.nn.attention import Attention
from duologue.nn.transformer import SwiGLU, Transformer, TransformerLayer

QUANTIZATIONS = ("int8",)
# Added to the largest value of a row, so that a row of zeros is not divided by zero.
_SMALLEST = 1e-30
# What our own operator takes the length of a row of weights to be a multiple of.
_NATIVE_WIDTH = 32


@cache
def _input_levels() -> int:
    """Steps on either side of zero that an input's values are rounded to.

    Without the instructions that add up products of bytes (AVX-512 VNNI; the kernels do not know the shorter AVX-VNNI)
    they add pairs of them in 16 bits, which overflow for more than seven bits of input.
    """
    return 127 if has_vnni() else 63


# torch's packed weights by number. A compiled graph holds tensors and numbers only, and finds a product's weights here.
_PACKED: dict[int, Any] = {}
_numbers, _lock = itertools.count(), threading.RLock()  # a finalizer may run wherever memory is taken


def _reserved(count: int) -> range:
    """Numbers for as many packed weights, one after the other."""
    with _lock:
        numbers = list(itertools.islice(_numbers, count))
    return range(numbers[0], numbers[-1] + 1)


class _TorchWeights:
    """Weights packed for torch, found by their number for as long as anybody holds this; a copy of it is itself."""

    operators = torch.ops.duologue

    def __init__(self, number: int, codes: Tensor, scale: Tensor) -> None:
        """From whole numbers `[M, N]` int8 and a scale `[M]` an output."""
        self._number, zeros = number, torch.zeros(len(codes), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch moves its tools for quantizing elsewhere and says so; the kernels stay.
            warnings.simplefilter("ignore")
            quantized = torch._make_per_channel_quantized_tensor(codes, scale.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantized, None)
        with _lock:
            _PACKED[number] = packed
        weakref.finalize(self, _forget, number)

    def __deepcopy__(self, _: dict[int, Any]) -> _TorchWeights:
        return self

    def codes(self) -> Tensor:
        weight, _ = torch.ops.quantized.linear_unpack(_PACKED[self._number])
        codes: Tensor = weight.int_repr()
        return codes


class _NativeWeights:
    """As `_TorchWeights`, for the operator of `products.cpp`."""

    operators = torch.ops.duologue_native

    def __init__(self, number: int, codes: Tensor, scale: Tensor) -> None:
        self._num_inputs = codes.shape[1]
        self._codes = F.pad(codes, (0, -codes.shape[1] % _NATIVE_WIDTH)).contiguous()
        self.operators.hold(number, self._codes, scale.float().contiguous(), codes.sum(dim=1, dtype=torch.int32))
        weakref.finalize(self, self.operators.drop, number)

    def __deepcopy__(self, _: dict[int, Any]) -> _NativeWeights:
        return self

    def codes(self) -> Tensor:
        return self._codes[:, : self._num_inputs]


def _forget(number: int) -> None:
    with _lock:
        del _PACKED[number]


def _kernel(rows: Tensor, levels: int, number: int, num_outputs: int) -> Tensor:
    """Rows `[R, N]` in [-1, 1], rounded to `levels` either side of zero, times the weights of a number: `[R, M]`."""
    product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        rows, 1 / levels, levels + 1, _PACKED[number]
    )
    return product


torch.library.define("duologue::int8_product", "(Tensor rows, int levels, SymInt number, int num_outputs) -> Tensor")
torch.library.impl("duologue::int8_product", "cpu", _kernel)
torch.library.register_fake("duologue::int8_product", int8_shaped)


class Int8Linear(nn.Module):
    """`[..., N] -> [..., M]` float32: linear layers without bias over the same input, as one."""

    def __init__(self, weights: Sequence[Tensor], number: int | None = None, *, native: bool = False) -> None:
        """`weights` are matrices `[M_i, N]`, `M` in all; a `number` is one that has been reserved.

        `native`: for the operator of `products.cpp`, which has to be there (`load_operators`), instead of torch's.
        """
        super().__init__()
        self.number = _reserved(1)[0] if number is None else number
        packed, scales = zip(*(pack(weight, num_scales=1) for weight in weights), strict=True)
        codes, scale = torch.cat(packed), torch.cat(scales)[:, 0]
        self.sizes = [len(weight) for weight in weights]
        self._levels = _input_levels()
        try:
            self._weights = (_NativeWeights if native else _TorchWeights)(self.number, codes, scale)
            self(torch.zeros(1, codes.shape[1]))
        except RuntimeError as error:
            kernels = "our kernels" if native else f"torch's kernels ({torch.backends.quantized.engine})"
            raise OptionError(f"quantize 'int8': {kernels} for it do not run here: {error}") from error

    def forward(self, x: Tensor, number: int | None = None) -> Tensor:
        """Each row is scaled to its own largest value, so that the others have no part in it.

        With a `number`, the product with the weights of another layer of this shape.
        """
        rows = x.reshape(-1, x.shape[-1])
        number = self.number if number is None else number
        # Both say how far a row goes from zero. One call is fastest by itself, two become part of a compiled loop.
        if torch.compiler.is_compiling():
            largest = rows.abs().amax(dim=-1, keepdim=True) + _SMALLEST
        else:
            largest = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True) + _SMALLEST
        product = self._weights.operators.int8_product(rows / largest, self._levels, number, sum(self.sizes))
        scaled: Tensor = product * largest
        return scaled.view(*x.shape[:-1], -1)

    def codes(self) -> Tensor:
        """The weights as `[M, N]` int8, without their scales."""
        return self._weights.codes()


class Int8Embedding(nn.Module):
    """Ids `[...] -> [..., D]` float32 from rows of int8 with a scale each."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        codes, scale = pack(weight, num_scales=1)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return unpack(F.embedding(ids, self.codes), F.embedding(ids, self.scale))


class Int8Attention(Attention):
    """`Attention` whose three products over one input are one."""

    def __init__(self, attention: Attention, *, native: bool) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.num_kv_heads = attention.num_heads, attention.num_kv_heads
        self.head_size = attention.head_size
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv_proj = Int8Linear([projection.weight for projection in projections], native=native)
        self.o_proj = Int8Linear([attention.o_proj.weight], native=native)  # type: ignore[assignment]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self.qkv_proj(x).split(self.qkv_proj.sizes, dim=-1)
        return queries, keys, values


class Int8SwiGLU(nn.Module):
    """`SwiGLU` whose two products over one input are one."""

    def __init__(self, mlp: SwiGLU, *, native: bool) -> None:
        super().__init__()
        self.gate_up_proj = Int8Linear([mlp.gate_proj.weight, mlp.up_proj.weight], native=native)
        self.down_proj = Int8Linear([mlp.down_proj.weight], native=native)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)  # type: ignore[no-any-return]


class Int8CSM(CSM):
    """A `CSM` that only speaks: it cannot be trained or saved."""

    def __init__(self, model: CSM, *, native: bool = False) -> None:
        """Takes `model` apart as it packs it, so that both never lie in memory whole: it is of no use afterwards.

        `native`: for our own operator, as `Int8Linear`.
        """
        nn.Module.__init__(self)
        self.config = model.config
        with torch.no_grad():
            self.backbone, self.depth = _packed(model.backbone, native), _packed(model.depth, native)
            self.text_embeddings = Int8Embedding(_taken(model.text_embeddings))  # type: ignore[assignment]
            self.audio_embeddings = Int8Embedding(_taken(model.audio_embeddings))  # type: ignore[assignment]
            self.projection = Int8Linear([_taken(model.projection)], native=native)  # type: ignore[assignment]
            self.codebook0_head = Int8Linear([_taken(model.codebook0_head)], native=native)  # type: ignore[assignment]
            numbers = _reserved(len(model.audio_head))
            self.audio_heads = nn.ModuleList(
                Int8Linear([head.T], number, native=native)
                for head, number in zip(model.audio_head, numbers, strict=True)
            )
        self.eval()

    def depth_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        outputs = self.depth_outputs(hidden, codes)
        return torch.stack([head(outputs[:, index]) for index, head in enumerate(self.audio_heads)], dim=1)

    def depth_head(self, output: Tensor, codebook: int) -> Tensor:
        first = self.audio_heads[0]
        # By number, so that one compiled graph serves all codebooks.
        return first(output, first.number + codebook - 1)  # type: ignore[no-any-return, operator]


def check_quantization(how: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raises `OptionError` unless a model of that device and dtype can be packed as `how`, one of `QUANTIZATIONS`."""
    if how not in QUANTIZATIONS:
        raise OptionError(f"quantize {how!r}; expected {' or '.join(map(repr, QUANTIZATIONS))} or None")
    if device.type != "cpu":
        raise OptionError(f"quantize {how!r} is for the CPU; on {device.type} dtype='bfloat16' is fastest")
    if dtype != torch.float32:
        raise OptionError(f"quantize {how!r} computes in float32 between its products: leave dtype {dtype} out")


def _packed(transformer: Transformer, native: bool) -> Transformer:
    for layer in transformer.layers:
        assert isinstance(layer, TransformerLayer) and isinstance(layer.mlp, SwiGLU)
        layer.attention = Int8Attention(layer.attention, native=native)
        layer.mlp = Int8SwiGLU(layer.mlp, native=native)  # type: ignore[assignment]
    return transformer.float()


def _taken(module: nn.Embedding | nn.Linear) -> Tensor:
    """A module's weight, which it no longer has."""
    weight = module.weight
    module.weight = nn.Parameter(weight.new_empty(0))
    return weight
