"""Float32 matrices packed for products of a few rows on a CPU, by oneDNN.

What streams speech multiplies its weights with one to thirty-two rows at a time. Packed, such a product takes
little longer than memory needs to give the weights; MKL's takes two to three times as long from two rows on
(dev/LOG.md). The operators are those that torch's own compiler uses for weights that do not change.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from duologue.codec.quantizer import ResidualVQ
from duologue.engine.layout import AnyModule, lay_out
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d
from duologue.nn.linear import Linear


class PackedLinear(nn.Module):
    """A linear layer `[..., N] -> [..., M]` that computes only: it cannot be trained, but saved and loaded."""

    def __init__(self, linear: nn.Linear) -> None:
        """Of the weights of `linear`, with which it shares the bias."""
        super().__init__()
        self.bias = linear.bias
        self._packed = _Packed(linear.weight)

    @property
    def weight(self) -> Tensor:
        """A copy of the weights, `[M, N]`."""
        return self._packed.unpacked()

    def forward(self, x: Tensor) -> Tensor:
        return self._packed.multiply(x, self.bias)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        weight = state_dict.pop(f"{prefix}weight", None)
        if weight is not None:
            self._packed = _Packed(weight)
        super()._load_from_state_dict(state_dict, prefix, *others)


class PackedConv1d(CausalConv1d):
    """A causal convolution of which a packed copy is multiplied."""

    def __init__(self, conv: CausalConv1d) -> None:
        nn.Module.__init__(self)
        self.conv, self.pad_mode, self.look_back = conv.conv, conv.pad_mode, conv.look_back
        self._packed = _Packed(self.matrix())
        self.register_load_state_dict_post_hook(_pack_anew)  # type: ignore[no-untyped-call]

    def multiply(self, windows: Tensor) -> Tensor:
        return self._packed.multiply(windows, self.conv.bias)


class PackedConvTranspose1d(CausalConvTranspose1d):
    """A causal transposed convolution of which a packed copy is multiplied."""

    def __init__(self, conv: CausalConvTranspose1d) -> None:
        nn.Module.__init__(self)
        self.conv, self.overlap = conv.conv, conv.overlap
        self._packed = _Packed(self.matrix())
        self.register_load_state_dict_post_hook(_pack_anew)  # type: ignore[no-untyped-call]

    def multiply(self, steps: Tensor) -> Tensor:
        return self._packed.multiply(steps, None)


def pack_products(module: AnyModule) -> AnyModule:
    """The same module, its float32 matrices on a CPU packed where torch can do so, what is left laid out by `lay_out`.

    It is for inference alone. Convolutions that are always products keep their weights as well; what the quantizer
    multiplies is little, and it looks at its weights.
    """
    if can_pack():
        for parent in module.modules():
            if isinstance(parent, ResidualVQ):
                continue
            for name, layer in parent.named_children():
                setattr(parent, name, _packed(layer))
    return lay_out(module)


@cache
def can_pack() -> bool:
    """Whether torch has the operators here, and they run."""
    try:
        packed = _Packed(torch.ones(2, 3))
        return torch.equal(packed.multiply(torch.ones(1, 3), None), torch.full((1, 2), 3.0))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _packed(layer: nn.Module) -> nn.Module:
    if type(layer) is Linear and _is_fit(layer.weight):
        return PackedLinear(layer)
    if type(layer) is CausalConv1d and layer.is_product and _is_fit(layer.conv.weight):
        return PackedConv1d(layer)
    if type(layer) is CausalConvTranspose1d and layer.is_product and _is_fit(layer.conv.weight):
        return PackedConvTranspose1d(layer)
    return layer


def _pack_anew(layer: PackedConv1d | PackedConvTranspose1d, _: object) -> None:
    """After other weights were loaded."""
    layer._packed = _Packed(layer.matrix())


def _is_fit(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


class _Packed:
    """A matrix `[M, N]` in an order of oneDNN's choice. Never written to: a copy of it is itself."""

    def __init__(self, weight: Tensor) -> None:
        with torch.no_grad():
            self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`[..., N] -> [..., M]`."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")
        return product

    def unpacked(self) -> Tensor:
        return self._weight.to_dense()

    def __deepcopy__(self, _: dict[int, Any]) -> _Packed:
        return self
