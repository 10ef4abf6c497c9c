"""Packed matrices give what the plain ones give, and are saved and loaded as they are."""

import copy

import pytest
import torch
from torch import nn

from duologue.checkpoints import load_codec, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS
from duologue.engine import packed
from duologue.engine.packed import PackedConv1d, PackedConvTranspose1d, PackedLinear, can_pack, pack_products
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from tests.engine.builders import tiny_mimi

needs_packing = pytest.mark.skipif(not can_pack(), reason="this torch has no packed products here")


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 3, 8), (0, 8)])
def test_a_linear_layer(shape, bias):
    torch.manual_seed(0)
    plain = nn.Linear(8, 5, bias=bias)
    layer = PackedLinear(plain)
    x = torch.randn(*shape)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x), atol=1e-6, rtol=1e-6)
        wide = torch.randn(3, 16)[:, ::2]  # not contiguous
        torch.testing.assert_close(layer(wide), plain(wide), atol=1e-6, rtol=1e-6)
    assert torch.equal(layer.weight, plain.weight)


@needs_packing
def test_its_weights_are_saved_loaded_and_shared_with_copies():
    torch.manual_seed(0)
    plain, other = nn.Linear(8, 5), nn.Linear(8, 5)
    layer = PackedLinear(plain)
    saved = layer.state_dict()
    assert saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in plain.state_dict().items())
    alike, x = copy.deepcopy(layer), torch.randn(3, 8)
    with torch.no_grad():
        expected = plain(x)
        assert layer.load_state_dict(other.state_dict()).missing_keys == []
        torch.testing.assert_close(layer(x), other(x))
        torch.testing.assert_close(alike(x), expected)


@needs_packing
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (7, 1), (8, 4)])
def test_convolutions(kernel, stride):
    torch.manual_seed(0)
    plain = CausalConv1d(6, 256, kernel, stride=stride)
    back = CausalConvTranspose1d(6, 4, 2 * stride, stride=stride)
    layer, opposite = PackedConv1d(plain), PackedConvTranspose1d(back)
    x = torch.randn(2, 6, 8 * stride)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(opposite(x), back(x), atol=1e-5, rtol=1e-5)


@needs_packing
def test_a_codec_is_the_same_codec(tmp_path):
    codec, plain = pack_products(tiny_mimi()), tiny_mimi()
    assert any(isinstance(module, PackedLinear) for module in codec.modules())
    assert any(isinstance(module, PackedConvTranspose1d) for module in codec.modules())
    pcm = 0.1 * torch.randn(2, 1, 5 * codec.frame_size, generator=torch.Generator().manual_seed(0))
    codes = plain.encode(pcm)
    assert torch.equal(codec.encode(pcm), codes)
    torch.testing.assert_close(codec.decode(codes), plain.decode(codes), atol=1e-5, rtol=1e-5)
    state = codec.init_decoder_state(2)
    streamed = torch.cat([codec.decode(piece, state) for piece in codes.split(1, dim=-1)], dim=-1)
    torch.testing.assert_close(streamed, codec.decode(codes), atol=1e-5, rtol=1e-5)
    other = tiny_mimi()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    changed = copy.deepcopy(codec)
    changed.load_state_dict(other.state_dict())
    torch.testing.assert_close(changed.decode(codes), other.decode(codes), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(changed.decode(codes), plain.decode(codes), atol=1e-4)
    read = load_codec(save_checkpoint(tmp_path / "saved", "moshi-mimi", codec=codec)).state_dict()
    assert read.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, read[name]) for name, tensor in plain.state_dict().items())


@needs_packing
def test_what_is_not_always_a_product_of_float32_stays_as_it_is():
    codec = pack_products(Mimi(MIMI_PRESETS["tiny"]).eval())
    left = [module for module in codec.modules() if type(module) is CausalConv1d]
    assert left and not any(module.is_product for module in left)
    exact = pack_products(Mimi(MIMI_PRESETS["tiny"]).double().eval())
    kinds = (PackedLinear, PackedConv1d, PackedConvTranspose1d)
    assert not any(isinstance(module, kinds) for module in exact.modules())


def test_where_torch_cannot_they_are_only_laid_out(monkeypatch):
    def refuse(self, weight):
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(packed._Packed, "__init__", refuse)
    can_pack.cache_clear()
    try:
        codec = pack_products(tiny_mimi())
    finally:
        monkeypatch.undo()
        can_pack.cache_clear()
    assert not any(isinstance(module, PackedLinear) for module in codec.modules())
    assert any(not weight.is_contiguous() for weight in codec.parameters())
