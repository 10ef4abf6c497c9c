"""Mimi's decoder of a stream as one operator of ours (`kernels/decoder.cpp`), where it can be built.

In Python, and in a compiled graph as well, a sixth of a frame's time goes into calling what computes it (dev/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.codec.seanet import DecoderStage, SEANetDecoder, SEANetDecoderState
from duologue.engine.native import load_operators
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState
from duologue.nn.linear import Linear
from duologue.nn.operators import WIDTH
from duologue.nn.transformer import GeluMLP, LayerScale, TransformerLayer


class NativeDecoder:
    """The decoder of a codec for a few frames at a time; it reads the codec's own weights."""

    def __init__(self, codec: Mimi) -> None:
        """Of a codec that `can_decode`; see `native_decoder`."""
        assert can_decode(codec) and isinstance(codec.decoder, SEANetDecoder)
        config = codec.config.transformer
        assert config.window is not None
        self._weights = [weight.detach() for weight in (*codec.quantizer.tables(), *_weights(codec))]
        self._shape = (config.num_layers, len(codec.decoder.stages), config.window, config.norm_eps)
        self._steps = codec.config.resample_stride
        # What a ring has room for beside the window that the newest step sees.
        self.max_frames = (codec.init_decoder_state(1).transformer.capacity - config.window + 1) // self._steps

    def decode(self, codes: Tensor, state: MimiDecoderState) -> Tensor:
        """Codes `[B, K, T]`, `T` at most `max_frames`, to `[B, 1, T * frame_size]`; the state is updated in place."""
        sound: Tensor = torch.ops.duologue_native.decode(
            codes.contiguous(), self._weights, list(_states(state)), *self._shape
        )
        transformer = state.transformer
        transformer.extent = min(transformer.capacity, transformer.extent + self._steps * codes.shape[-1])
        transformer.is_even = False
        return sound


@dataclass(frozen=True)
class _Known:
    """A codec's decoder, if it can have one, and where a weight lay then: casting, moving and `lay_out` change that."""

    decoder: NativeDecoder | None
    weight: Tensor
    place: int


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def native_decoder(codec: Mimi) -> NativeDecoder | None:
    """The codec's own one, or None where it is of another kind, or lies elsewhere, or nothing can be built."""
    known = _known.get(codec)
    if known is None or known.weight.data_ptr() != known.place:
        if known is None:
            codec.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]
        decoder = NativeDecoder(codec) if can_decode(codec) and load_operators() else None
        weight = codec.upsample.conv.weight
        known = _known[codec] = _Known(decoder, weight, weight.data_ptr())
    return known.decoder


def _forget(codec: nn.Module, _: object) -> None:
    """After other weights were loaded, of which the quantizer makes other tables."""
    if codec in _known:
        _known[codec] = replace(_known[codec], place=0)


def can_decode(codec: Mimi) -> bool:
    """Whether it is built as Mimi, and computes in float32 on a CPU with weights laid out by output (`lay_out`)."""
    config, decoder = codec.config.transformer, codec.decoder
    if not isinstance(decoder, SEANetDecoder) or config.final_norm or config.window is None:
        return False
    if config.num_heads != config.num_kv_heads or config.head_size % WIDTH:
        return False
    if not all(_is_fit(layer) for layer in codec.decoder_transformer.layers):
        return False
    for conv in (codec.upsample, *decoder.modules()):
        if isinstance(conv, CausalConvTranspose1d) and conv.overlap != conv.conv.stride[0]:
            return False
        if isinstance(conv, CausalConv1d) and not (
            conv.pad_mode == "constant" and conv.conv.stride[0] == conv.conv.dilation[0] == 1
        ):
            return False
    return all(
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.is_contiguous()
        and (weight.dim() == 1 or weight.shape[1] % WIDTH == 0)
        for weight in _weights(codec)
    )


def _is_fit(layer: nn.Module) -> bool:
    """Whether it is a layer as `kernels/layer.h` has it."""
    if not isinstance(layer, TransformerLayer) or not isinstance(layer.mlp, GeluMLP):
        return False
    attention, mlp = layer.attention, layer.mlp
    linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.up_proj, mlp.down_proj)
    return (
        isinstance(layer.attention_norm, nn.LayerNorm)
        and isinstance(layer.attention_scale, LayerScale)
        and all(isinstance(part, Linear) for part in linear)
    )


def _weights(codec: Mimi) -> Iterator[Tensor]:
    """All behind the quantizer's tables, in the order in which `kernels/decoder.cpp` reads them."""
    assert isinstance(codec.decoder, SEANetDecoder)
    yield codec.quantizer.semantic.output_proj.weight
    yield codec.quantizer.acoustic.output_proj.weight
    yield codec.upsample.conv.weight[:, 0].T.contiguous()
    yield codec.decoder_transformer.frequencies(codec.upsample.conv.weight.device)
    for layer in codec.decoder_transformer.layers:
        assert isinstance(layer, TransformerLayer)
        yield from _layer(layer)
    yield from _convolution(codec.decoder.input_conv)
    for stage in codec.decoder.stages:
        assert isinstance(stage, DecoderStage)
        for conv in (stage.upsample, stage.residual.conv1, stage.residual.conv2):
            yield from _convolution(conv)
    yield from _convolution(codec.decoder.output_conv)


def _layer(layer: TransformerLayer) -> Iterator[Tensor]:
    attention, mlp = layer.attention, layer.mlp
    assert isinstance(mlp, GeluMLP)
    yield from layer.attention_norm.parameters()
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        yield projection.weight
    yield from layer.attention_scale.parameters()
    yield from layer.mlp_norm.parameters()
    yield from (mlp.up_proj.weight, mlp.down_proj.weight)
    yield from layer.mlp_scale.parameters()


def _convolution(conv: CausalConv1d | CausalConvTranspose1d) -> Iterator[Tensor]:
    assert conv.conv.bias is not None
    yield from (conv.matrix(), conv.conv.bias)


def _states(state: MimiDecoderState) -> Iterator[Tensor]:
    """In the order in which `kernels/decoder.cpp` reads them."""
    assert isinstance(state.decoder, SEANetDecoderState)
    yield state.upsample.previous
    yield state.transformer.lengths
    for layer in state.transformer.layers:
        yield from (layer.keys, layer.values)
    yield from _began(state.decoder.input_conv)
    for stage in state.decoder.stages:
        yield stage.upsample.previous
        yield from _began(stage.residual.conv1)
        yield from _began(stage.residual.conv2)
    yield from _began(state.decoder.output_conv)


def _began(state: ConvState) -> tuple[Tensor, Tensor]:
    return state.previous, state.started
