"""Mimi's decoder as one operator gives the sound and leaves the state that the modules do, and takes no other codec."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch

from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS, HarmonicConfig
from duologue.engine import native_decoder as module
from duologue.engine.backends import find_backend
from duologue.engine.layout import lay_out
from duologue.engine.native_decoder import NativeDecoder, can_decode, native_decoder
from tests.engine.builders import fill_codebooks, tiny_mimi
from tests.engine.test_native import needs_build

# The least that the operator takes: every convolution has eight inputs or more.
CONFIG = replace(MIMI_PRESETS["tiny"], num_filters=16)


def a_codec(seed: int = 0, config=CONFIG) -> Mimi:
    torch.manual_seed(seed)
    codec = fill_codebooks(Mimi(config), seed).eval()
    for parameter in codec.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.2, 1.0)  # of biases, norms and scales an error shows in the sound
    return lay_out(codec, by_output=True)


def some_codes(batch: int, num_frames: int, num_codebooks: int = CONFIG.num_codebooks) -> torch.Tensor:
    return torch.randint(0, CONFIG.codebook_size, (batch, num_codebooks, num_frames))


def assert_alike(state, other) -> None:
    for (name, ours), (_, theirs) in zip(state.named_tensors(), other.named_tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=lambda told, name=name: f"{name}: {told}")


@pytest.fixture
def codec() -> Mimi:
    return a_codec()


@needs_build
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 2), (1, 5), (3, 1), (9, 2)])
def test_a_stream_is_the_whole_beyond_the_window(codec, batch, length):
    decoder, state, other = native_decoder(codec), codec.init_decoder_state(batch), codec.init_decoder_state(batch)
    assert decoder is not None and length <= decoder.max_frames
    codes = some_codes(batch, 2 * state.transformer.capacity // CONFIG.resample_stride + 1)
    with torch.inference_mode():
        pieces = [decoder.decode(piece, state) for piece in codes.split(length, dim=-1)]
        expected = codec.decode(codes)
        codec.decode(codes, other)
    torch.testing.assert_close(torch.cat(pieces, dim=-1), expected, atol=1e-5, rtol=1e-4)
    assert_alike(state, other)


@needs_build
def test_modules_go_on_where_the_operator_stopped(codec):
    decoder, state = native_decoder(codec), codec.init_decoder_state(1)
    codes = some_codes(1, 12)
    with torch.inference_mode():
        pieces = [
            (decoder.decode if index % 2 else codec.decode)(piece, state)
            for index, piece in enumerate(codes.split((1, 2, 3, 1, 1, 4), dim=-1))
        ]
        torch.testing.assert_close(torch.cat(pieces, dim=-1), codec.decode(codes), atol=1e-5, rtol=1e-4)


@needs_build
def test_rows_of_a_state_go_on_by_themselves(codec):
    decoder, state = native_decoder(codec), codec.init_decoder_state(3)
    first, second, third = some_codes(3, 2), some_codes(2, 2), some_codes(3, 1)
    with torch.inference_mode():
        decoder.decode(first, state)
        decoder.decode(second, state.rows(0, 2))
        state.reset(torch.tensor([1]))
        got = decoder.decode(third, state)
        for row, before in enumerate(([first[0], second[0]], [], [first[2]])):
            expected = codec.decode(torch.cat([*before, third[row]], dim=-1)[None])[..., -codec.frame_size :]
            torch.testing.assert_close(got[row : row + 1], expected, atol=1e-5, rtol=1e-4)


@needs_build
@pytest.mark.parametrize("num_codebooks", [1, 2])
def test_fewer_codebooks(codec, num_codebooks):
    codes = some_codes(1, 1, num_codebooks)
    got = native_decoder(codec).decode(codes, codec.init_decoder_state(1))
    torch.testing.assert_close(got, codec.decode(codes), atol=1e-5, rtol=1e-4)


@needs_build
def test_what_it_cannot_take(codec):
    decoder = native_decoder(codec)
    codes, state = some_codes(1, 1), codec.init_decoder_state(1)
    with pytest.raises(IndexError, match="code 64 of 64"):
        decoder.decode(torch.full_like(codes, 64), state)
    with pytest.raises(RuntimeError, match="too many codebooks"):
        decoder.decode(codes.repeat(1, 2, 1), state)
    with pytest.raises(RuntimeError, match="are not for rings"):
        decoder.decode(some_codes(1, decoder.max_frames + 1), state)
    with pytest.raises(RuntimeError, match="hold 2 rows"):
        decoder.decode(some_codes(2, 1), state)
    with pytest.raises(RuntimeError, match="float32"):
        decoder.decode(codes, copy.deepcopy(codec).double().init_decoder_state(1))


@needs_build
def test_the_compiled_backend_uses_it_for_short_chunks_alone(codec, monkeypatch):
    decoded = []
    real = NativeDecoder.decode
    monkeypatch.setattr(
        NativeDecoder, "decode", lambda self, codes, state: decoded.append(codes.shape[-1]) or real(self, codes, state)
    )
    longest = native_decoder(codec).max_frames
    codes, state = some_codes(1, 2 * longest + 2), codec.init_decoder_state(1)
    pieces = codes.split((1, longest, longest + 1), dim=-1)
    got = torch.cat([find_backend("compiled").decode_frames(codec, piece, state) for piece in pieces], dim=-1)
    torch.testing.assert_close(got, codec.decode(codes), atol=1e-5, rtol=1e-4)
    find_backend("eager").decode_frames(codec, codes[..., :1], state)
    assert decoded == [1, longest]


@needs_build
def test_other_weights_are_seen(codec):
    codes, before = some_codes(1, 1), native_decoder(codec)
    assert native_decoder(codec) is before
    codec.load_state_dict(a_codec(seed=1).state_dict())
    after = native_decoder(codec)
    assert after is not before
    got = after.decode(codes, codec.init_decoder_state(1))
    torch.testing.assert_close(got, codec.decode(codes), atol=1e-5, rtol=1e-4)
    codec.double()
    assert native_decoder(codec) is None
    assert native_decoder(lay_out(codec.float(), by_output=True)) is not None


@needs_build
def test_a_codec_is_not_kept():
    codec = a_codec()
    assert native_decoder(codec) is not None
    kept = weakref.ref(codec)
    gc.collect()
    num_known = len(module._known)
    del codec
    gc.collect()
    assert kept() is None and len(module._known) == num_known - 1


def test_other_codecs_are_left_to_the_modules(codec, monkeypatch):
    assert can_decode(codec)
    assert not can_decode(tiny_mimi())  # convolutions of four inputs
    assert not can_decode(lay_out(a_codec()))  # the other order of weights
    assert not can_decode(copy.deepcopy(codec).double())
    harmonic = replace(CONFIG, harmonic=HarmonicConfig(num_channels=16, num_bands=24))
    assert not can_decode(Mimi(harmonic))
    for change in ({"num_kv_heads": 1}, {"final_norm": True}, {"window": None}, {"mlp": "swiglu"}, {"norm": "rms"}):
        assert not can_decode(a_codec(config=replace(CONFIG, transformer=replace(CONFIG.transformer, **change))))
    codec.decoder.stages[0].residual.conv1.pad_mode = "replicate"
    assert not can_decode(codec) and native_decoder(codec) is None
    monkeypatch.setattr(module, "load_operators", lambda: False)
    assert native_decoder(a_codec()) is None
