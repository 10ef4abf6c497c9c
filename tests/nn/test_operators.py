"""Graphs for a CPU call the operators that were registered, for what these can take, and nothing else does."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from duologue.config import TransformerConfig
from duologue.nn import operators
from duologue.nn.attention import Attention
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.nn.linear import Linear, multiply
from duologue.nn.operators import Operators


@pytest.fixture
def registered(monkeypatch):
    """Operators that are one off, which tells where they were used."""

    def attend(queries, keys, values, mask):
        return 1 + F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)

    monkeypatch.setattr(operators, "_registered", Operators(lambda rows, weights: 1 + rows @ weights.T, attend))
    torch.compiler.reset()


def change(function, *arguments):
    """What compiling `function` adds to what it gives, wherever that is the same everywhere."""
    with torch.inference_mode():
        compiled = torch.compile(function, backend="eager", fullgraph=True)(*arguments)
        (added,) = (compiled - function(*arguments)).round(decimals=3).unique().tolist()
        return added


def test_rows_of_a_linear_layer(registered):
    layer = Linear(16, 5)
    assert change(layer, torch.randn(3, 1, 16)) == 1
    assert change(layer, torch.randn(16)) == 1
    assert change(Linear(12, 5), torch.randn(2, 12)) == 0
    assert change(layer.double(), torch.randn(2, 16).double()) == 0
    assert change(nn.Linear(16, 5), torch.randn(2, 16)) == 0
    assert change(lambda x, weight: multiply(x, weight.T), torch.randn(2, 8), torch.randn(8, 8)) == 0


def test_what_learns_is_torchs(registered):
    layer, x = Linear(16, 5), torch.randn(2, 16)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x), layer(x))


def test_convolutions_whose_weights_lie_in_order(registered):
    conv, back, step = CausalConv1d(4, 3, 2), CausalConvTranspose1d(8, 3, 2, stride=1), torch.randn(1, 8, 1)
    assert change(conv, torch.randn(1, 4, 2)) == 1
    assert change(back, step) == 0
    back.conv.weight.data = back.conv.weight.data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert change(back, step) == 2  # of the step, and of the one before it


def test_attention_of_few_steps(registered):
    attention = Attention(
        TransformerConfig(dim=32, num_layers=1, num_heads=4, num_kv_heads=2, ffn_dim=8, max_positions=64)
    )
    keys, values = torch.randn(2, 1, 2, 40, 8)

    def attend(queries, mask):
        return attention._attend(queries, keys, values, mask, 0, is_small=False)

    assert change(attend, torch.randn(1, 4, 1, 8), None) == 1
    for steps, added in ((4, 1), (5, 0)):
        assert change(attend, torch.randn(1, 4, steps, 8), torch.ones(1, 1, steps, 40, dtype=torch.bool)) == added
