"""Causal convolutions: streaming equals offline, and nothing looks ahead."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d

chunk_sizes = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@given(
    chunks=chunk_sizes,
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    bias=st.booleans(),
    pad_mode=st.sampled_from(["constant", "replicate"]),
    seed=st.integers(0, 10_000),
)
def test_convolution_streams_as_offline(chunks, kernel, stride, dilation, bias, pad_mode, seed):
    torch.manual_seed(seed)
    if (kernel - 1) * dilation + 1 < stride:
        kernel = stride
    conv = CausalConv1d(3, 5, kernel, stride=stride, dilation=dilation, bias=bias, pad_mode=pad_mode)
    x = torch.randn(2, 3, sum(chunks) * stride)
    with torch.no_grad():
        offline = conv(x)
        state = conv.init_state(2)
        streamed = [conv(piece, state) for piece in x.split([size * stride for size in chunks], dim=-1)]
    assert offline.shape == (2, 5, sum(chunks))
    torch.testing.assert_close(torch.cat(streamed, dim=-1), offline, atol=1e-5, rtol=1e-5)


@given(
    chunks=chunk_sizes,
    kernel=st.integers(1, 9),
    stride=st.integers(1, 4),
    bias=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_transposed_convolution_streams_as_offline(chunks, kernel, stride, bias, seed):
    torch.manual_seed(seed)
    conv = CausalConvTranspose1d(3, 5, max(kernel, stride), stride=stride, bias=bias)
    x = torch.randn(2, 3, sum(chunks))
    with torch.no_grad():
        offline = conv(x)
        state = conv.init_state(2)
        streamed = [conv(piece, state) for piece in x.split(chunks, dim=-1)]
    assert offline.shape == (2, 5, sum(chunks) * stride)
    torch.testing.assert_close(torch.cat(streamed, dim=-1), offline, atol=1e-5, rtol=1e-5)


def test_convolution_pads_on_the_left_only():
    conv = CausalConv1d(1, 1, 3, bias=False)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    torch.testing.assert_close(conv(x), F.conv1d(F.pad(x, (2, 0)), conv.conv.weight))
    conv.pad_mode = "replicate"
    torch.testing.assert_close(conv(x), F.conv1d(torch.tensor([[[1.0, 1.0, 1.0, 2.0, 3.0, 4.0]]]), conv.conv.weight))


def test_transposed_convolution_is_cut_on_the_right_only():
    conv = CausalConvTranspose1d(2, 3, 6, stride=2)
    x = torch.randn(1, 2, 5)
    whole = F.conv_transpose1d(x, conv.conv.weight, conv.conv.bias, stride=2)
    torch.testing.assert_close(conv(x), whole[..., :10])


@pytest.mark.parametrize("pad_mode", ["constant", "replicate"])
def test_a_row_that_is_reset_starts_afresh_beside_one_that_goes_on(pad_mode):
    torch.manual_seed(0)
    conv = CausalConv1d(2, 2, 5, pad_mode=pad_mode)
    first, second = torch.randn(2, 2, 6), torch.randn(2, 2, 4)
    with torch.no_grad():
        state = conv.init_state(2)
        conv(first, state)
        state.reset(torch.tensor([1]))
        streamed = conv(second, state)
        torch.testing.assert_close(streamed[:1], conv(torch.cat((first, second), dim=-1)[:1])[..., -4:])
        torch.testing.assert_close(streamed[1:], conv(second[1:]))


def test_a_transposed_row_that_is_reset_owes_nothing():
    torch.manual_seed(0)
    conv = CausalConvTranspose1d(2, 2, 7, stride=2)
    first, second = torch.randn(2, 2, 6), torch.randn(2, 2, 4)
    with torch.no_grad():
        state = conv.init_state(2)
        conv(first, state)
        state.reset(torch.tensor([True, False]))
        streamed = conv(second, state)
        torch.testing.assert_close(streamed[:1], conv(second[:1]))
        torch.testing.assert_close(streamed[1:], conv(torch.cat((first, second), dim=-1)[1:])[..., -8:])


@pytest.mark.parametrize("module", [CausalConv1d(1, 1, 5), CausalConvTranspose1d(1, 1, 5, stride=2)])
def test_the_future_does_not_reach_the_past(module):
    x = torch.randn(1, 1, 12)
    changed = x.clone()
    changed[..., 7:] += 1.0
    before = module(x)
    after = module(changed)
    same = 7 * before.shape[-1] // 12
    assert torch.equal(before[..., :same], after[..., :same])
    assert not torch.equal(before, after)


@pytest.mark.parametrize("steps", [1, 2, 32, 33])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (7, 1), (6, 3), (5, 2)])
def test_short_and_long_convolutions_are_torch_s_own(kernel, stride, steps):
    torch.manual_seed(0)
    conv = CausalConv1d(3, 5, kernel, stride=stride)
    x = torch.randn(2, 3, steps * stride)
    expected = F.conv1d(F.pad(x, (conv.look_back, 0)), conv.conv.weight, conv.conv.bias, stride=stride)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 256, 257])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (4, 4), (6, 3), (5, 3), (9, 2)])
def test_short_and_long_transposed_convolutions_are_torch_s_own(kernel, stride, groups, steps):
    torch.manual_seed(0)
    conv = CausalConvTranspose1d(4, 4, kernel, stride=stride, groups=groups)
    x = torch.randn(2, 4, steps)
    expected = F.conv_transpose1d(x, conv.conv.weight, conv.conv.bias, stride=stride, groups=groups)
    torch.testing.assert_close(conv(x), expected[..., : steps * stride], atol=1e-5, rtol=1e-5)
