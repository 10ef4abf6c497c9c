"""Causal 1-D convolutions that run offline and streaming with the same result.

Source: Kyutai, `moshi/modules/conv.py`. A convolution looks back `(kernel - 1) * dilation + 1 - stride` samples, a
transposed one as many as `kernel - stride` outputs come of. Streaming calls take a multiple of the stride.

On a CPU the channels of a step lie side by side, as matrix products leave them, and a convolution is a product over
windows of steps wherever copying the windows takes less time than it saves; elsewhere torch's own, which in this order
is as fast as in the usual one, or with few outputs up to five times as fast. torch's transposed convolution takes two
to four times as long as a product whose overlapping ends are added (dev/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.nn.linear import multiply
from duologue.nn.state import State

# A product is the faster way with so many outputs, or windows of no more than so many numbers in all.
_MANY_OUTPUTS, _FEW_NUMBERS = 256, 2**19
# Numbers that a transposed convolution makes at once: what is added to them is still at hand then.
_PIECE = 2**20


@dataclass
class ConvState(State):
    """The inputs that the next call looks back at, `[B, C, look_back]`, and whether a row has begun, bool `[B]`."""

    previous: Tensor
    started: Tensor


@dataclass
class ConvTransposeState(State):
    """The inputs that the next call's first outputs depend on, too: `[B, C, look_back]`."""

    previous: Tensor


class CausalConv1d(nn.Module):
    """Convolution that is padded on the left only: output step `i` depends on inputs up to `(i + 1) * stride - 1`.

    `pad_mode` is what stands before the first sample: zeros, or that sample repeated.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        pad_mode: Literal["constant", "replicate"] = "constant",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, bias=bias)
        self.pad_mode = pad_mode
        self.look_back = (kernel_size - 1) * dilation + 1 - stride

    def init_state(self, batch: int) -> ConvState:
        """The state of `batch` rows before their first sample, on the weights' device."""
        weight = self.conv.weight
        return ConvState(
            torch.zeros(batch, self.conv.in_channels, self.look_back, device=weight.device, dtype=weight.dtype),
            torch.zeros(batch, device=weight.device, dtype=torch.bool),
        )

    def forward(self, x: Tensor, state: ConvState | None = None) -> Tensor:
        """`[B, C, T] -> [B, C', T / stride]`; `T` is a multiple of the stride. The state is updated in place."""
        assert x.shape[-1] % self.conv.stride[0] == 0, "a causal convolution takes whole strides"
        x = _channels_together(x)
        if self.look_back:
            x = _join(self._previous(x, state), x)
            if state is not None:
                state.previous.copy_(x[..., -self.look_back :])
        if state is not None:
            state.started.fill_(True)
        return self._convolve(x)

    def _previous(self, x: Tensor, state: ConvState | None) -> Tensor:
        """What stands before `x`: `[B, C, look_back]`."""
        if self.pad_mode == "constant":
            return x.new_zeros(*x.shape[:2], self.look_back) if state is None else state.previous
        first = x[..., :1].expand(-1, -1, self.look_back)
        return first if state is None else torch.where(state.started[:, None, None], state.previous, first)

    @property
    def is_product(self) -> bool:
        """Whether it is one on a CPU however long the input."""
        conv = self.conv
        return conv.dilation[0] == 1 and (conv.kernel_size[0] == 1 or conv.out_channels >= _MANY_OUTPUTS)

    def matrix(self) -> Tensor:
        """The weights of the product, `[C', kernel * C]`."""
        return self.conv.weight.transpose(1, 2).flatten(1)

    def multiply(self, windows: Tensor) -> Tensor:
        """Windows of steps `[B, T, kernel * C] -> [B, T, C']`."""
        return multiply(windows, self.matrix(), self.conv.bias)

    def _convolve(self, x: Tensor) -> Tensor:
        conv, kernel, stride = self.conv, self.conv.kernel_size[0], self.conv.stride[0]
        if x.device.type != "cpu" or conv.dilation[0] > 1:
            return conv(x)  # type: ignore[no-any-return]
        num_windows = (x.shape[-1] - self.look_back) // stride
        are_few = len(x) * num_windows * kernel * conv.in_channels <= _FEW_NUMBERS
        if torch.compiler.is_compiling() or self.is_product or are_few:
            windows = x.transpose(1, 2).unfold(1, kernel, stride).transpose(2, 3).flatten(2)
            return self.multiply(windows).transpose(1, 2)
        # The order of channels is kept by two-dimensional convolutions alone.
        return F.conv2d(x[:, :, None], conv.weight[:, :, None], conv.bias, stride=(1, stride))[:, :, 0]


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution cut on the right: output steps up to `(i + 1) * stride - 1` depend on inputs up to `i`.

    `groups` is 1, or one group a channel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        assert groups == 1 or groups == in_channels == out_channels
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias)
        self.overlap = kernel_size - stride

    @property
    def look_back(self) -> int:
        """Earlier inputs that an output depends on."""
        return -(-self.overlap // self.conv.stride[0])

    def init_state(self, batch: int) -> ConvTransposeState:
        """The state of `batch` rows before their first step, on the weights' device."""
        weight = self.conv.weight
        shape = (batch, self.conv.in_channels, self.look_back)
        return ConvTransposeState(torch.zeros(shape, device=weight.device, dtype=weight.dtype))

    def forward(self, x: Tensor, state: ConvTransposeState | None = None) -> Tensor:
        """`[B, C, T] -> [B, C', T * stride]`. The state is updated in place."""
        steps, stride = x.shape[-1], self.conv.stride[0]
        is_product = x.device.type == "cpu" and self.look_back <= 1
        if state is None and not is_product:
            return self.conv(x)[..., : steps * stride]  # type: ignore[no-any-return]
        x = _channels_together(x)
        if self.look_back:
            x = _join(x.new_zeros(*x.shape[:2], self.look_back) if state is None else state.previous, x)
            if state is not None:
                state.previous.copy_(x[..., steps:])
        if is_product:
            return self._lay_over(x)
        start = self.look_back * stride
        return self.conv(x)[..., start : start + steps * stride]  # type: ignore[no-any-return]

    @property
    def is_product(self) -> bool:
        """Whether it is one of matrices on a CPU."""
        return self.conv.groups == 1 and self.look_back <= 1

    def matrix(self) -> Tensor:
        """The weights of the product, `[kernel * C', C]`."""
        return self.conv.weight.transpose(1, 2).flatten(1).T

    def multiply(self, steps: Tensor) -> Tensor:
        """Steps `[B, T, C]` -> what each of them makes, `[B, T, kernel * C']`."""
        return multiply(steps, self.matrix())

    def _lay_over(self, x: Tensor) -> Tensor:
        """`forward` of an input `[B, C, look_back + T]` as products whose rows are its steps.

        Of as many steps at once as make `_PIECE` numbers.
        """
        conv, rows = self.conv, x.transpose(1, 2)
        num_steps = rows.shape[1] - self.look_back
        at_once = max(1, _PIECE // (len(x) * conv.kernel_size[0] * conv.out_channels))
        if torch.compiler.is_compiling() or at_once >= num_steps:
            made = [self._overlap(rows)]
        else:
            starts = range(0, num_steps, at_once)
            made = [self._overlap(rows[:, start : start + at_once + self.look_back]) for start in starts]
        made = made if conv.bias is None else [y + conv.bias for y in made]
        return (made[0] if len(made) == 1 else torch.cat(made, dim=1)).transpose(1, 2)

    def _overlap(self, steps: Tensor) -> Tensor:
        """What steps `[B, look_back + T, C]` make, laid a stride further each: `[B, T * stride, C']`, without bias."""
        conv, stride = self.conv, self.conv.stride[0]
        if conv.groups == 1:
            parts = self.multiply(steps).unflatten(-1, (-1, conv.out_channels))  # [B, look_back + T, kernel, C']
        else:
            parts = steps[:, :, None] * conv.weight[:, 0].T
        own = parts[:, self.look_back :, :stride]
        if self.look_back:
            y = own[:, :, : self.overlap] + parts[:, :-1, stride:]
            own = y if self.overlap == stride else torch.cat((y, own[:, :, self.overlap :]), dim=2)
        return own.flatten(1, 2)  # type: ignore[no-any-return]


def _channels_together(x: Tensor) -> Tensor:
    """The same `[B, C, T]`, on a CPU with the channels of a step side by side in memory, even in a graph.

    The compiler leaves out what changes nothing, and then may turn the input round for reasons of its own.
    """
    if x.device.type != "cpu":
        return x
    rows = x.contiguous().transpose(1, 2) if torch.compiler.is_compiling() else x.transpose(1, 2)
    return rows.contiguous().transpose(1, 2)


def _join(first: Tensor, second: Tensor) -> Tensor:
    """`[B, C, T]` and `[B, C, T']` one after the other, with the second's order of channels in memory."""
    if second.device.type != "cpu":
        return torch.cat((first, second), dim=-1)
    return torch.cat((first.transpose(1, 2), second.transpose(1, 2)), dim=1).transpose(1, 2)
