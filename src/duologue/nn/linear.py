"""Where a matrix of weights is multiplied, and with what."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from duologue.nn.operators import operators_for


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`[..., N]` times a weight `[M, N]`, and a bias `[M]` added: `[..., M]`."""
    operators = operators_for(x, weight)
    if operators is None or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    product = operators.multiply(x, weight)
    return product if bias is None else product + bias


class Linear(nn.Linear):
    """torch's, by way of `multiply`."""

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self.weight, self.bias)
