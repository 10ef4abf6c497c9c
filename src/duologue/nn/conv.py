"""Causal 1-D convolutions that run offline and streaming with the same result.

Source: Kyutai, `moshi/modules/conv.py`. A convolution looks back `(kernel - 1) * dilation + 1 - stride` samples; a
transposed convolution owes the next call `kernel - stride` samples. Streaming calls take a multiple of the stride.

On a CPU a short input is one matrix product: torch's convolutions arrange their weights anew for every call, which for
the two steps of a streamed frame takes up to twenty times as long (dev/LOG.md). Compiled, every input is one, over
weights whose channels come last: a step's channels then lie side by side all the way through, as products leave them,
and the compiler arranges the weights once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.nn.state import State

# Steps up to which the product is no slower: of a convolution's output, and of a transposed convolution's input.
_SHORT, _SHORT_TRANSPOSED = 32, 256


@dataclass
class ConvState(State):
    """The inputs that the next call looks back at, `[B, C, look_back]`, and whether a row has begun, bool `[B]`."""

    previous: Tensor
    started: Tensor


@dataclass
class ConvTransposeState(State):
    """The outputs that the next call adds to its own first ones: `[B, C, kernel - stride]`, bias not included."""

    owed: Tensor


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
        if state is None:
            mode = "replicate" if self.pad_mode == "replicate" else "constant"
            return self._convolve(F.pad(x, (self.look_back, 0), mode=mode))
        previous = state.previous
        if self.pad_mode == "replicate":
            previous = torch.where(state.started[:, None, None], previous, x[..., :1])
        x = torch.cat((previous, x), dim=-1)
        if self.look_back:
            state.previous.copy_(x[..., -self.look_back :])
        state.started.fill_(True)
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        conv, (stride, dilation) = self.conv, (self.conv.stride[0], self.conv.dilation[0])
        steps = (x.shape[-1] - self.look_back) // stride
        if x.device.type != "cpu" or dilation > 1:
            return conv(x)  # type: ignore[no-any-return]
        if torch.compiler.is_compiling():
            rows = _steps_first(x).unfold(1, conv.kernel_size[0], stride).transpose(2, 3).flatten(2)
            return F.linear(rows, conv.weight.transpose(1, 2).flatten(1), conv.bias).transpose(1, 2)
        if steps > _SHORT:
            return conv(x)  # type: ignore[no-any-return]
        windows = x.unfold(-1, conv.kernel_size[0], stride).transpose(1, 2).flatten(2)  # [B, T / stride, C * kernel]
        return F.linear(windows, conv.weight.flatten(1), conv.bias).transpose(1, 2)


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

    def init_state(self, batch: int) -> ConvTransposeState:
        """The state of `batch` rows before their first step, on the weights' device."""
        weight = self.conv.weight
        shape = (batch, self.conv.out_channels, self.overlap)
        return ConvTransposeState(torch.zeros(shape, device=weight.device, dtype=weight.dtype))

    def forward(self, x: Tensor, state: ConvTransposeState | None = None) -> Tensor:
        """`[B, C, T] -> [B, C', T * stride]`. The state is updated in place."""
        is_plain = self.conv.groups == 1 and self.overlap <= self.conv.stride[0]
        if state is not None and is_plain and x.device.type == "cpu" and torch.compiler.is_compiling():
            return self._compiled_step(x, state)
        y = self._convolve(x)  # [B, C', T * stride + overlap]
        if state is None or not self.overlap:
            return y[..., : y.shape[-1] - self.overlap]
        y[..., : self.overlap] += state.owed
        owed = y[..., -self.overlap :]
        if self.conv.bias is not None:
            owed = owed - self.conv.bias[:, None]
        state.owed.copy_(owed)
        return y[..., : y.shape[-1] - self.overlap]

    def _convolve(self, x: Tensor) -> Tensor:
        conv, (steps, stride) = self.conv, (x.shape[-1], self.conv.stride[0])
        if x.device.type != "cpu" or steps > _SHORT_TRANSPOSED or self.overlap > stride:
            return conv(x)  # type: ignore[no-any-return]
        if conv.groups == 1:
            parts = (x.transpose(1, 2) @ conv.weight.flatten(1)).unflatten(-1, (conv.out_channels, -1)).transpose(1, 2)
        else:
            parts = x[..., None] * conv.weight[:, 0, None]  # [B, C', T, kernel]
        y = F.pad(parts[..., :stride].flatten(2), (0, self.overlap))
        if self.overlap:
            # What lies beyond its own stride falls on the next step's first samples.
            later = F.pad(parts[..., stride:], (0, stride - self.overlap)).flatten(2)
            y[..., stride:] += later[..., : y.shape[-1] - stride]
        return y if conv.bias is None else y + conv.bias[:, None]

    def _compiled_step(self, x: Tensor, state: ConvTransposeState) -> Tensor:
        """`forward` with a state, as one product whose rows are the steps."""
        conv, stride = self.conv, self.conv.stride[0]
        parts = _steps_first(x) @ conv.weight.transpose(1, 2).flatten(1)
        parts = parts.unflatten(-1, (-1, conv.out_channels))  # [B, T, kernel, C']
        own, later = parts[:, :, :stride], parts[:, :, stride:]
        earlier = torch.cat((state.owed.transpose(1, 2)[:, None], later[:, :-1]), dim=1)  # [B, T, overlap, C']
        state.owed.copy_(later[:, -1].transpose(1, 2))
        y = torch.cat((own[:, :, : self.overlap] + earlier, own[:, :, self.overlap :]), dim=2).flatten(1, 2)
        return (y if conv.bias is None else y + conv.bias).transpose(1, 2)


def _steps_first(x: Tensor) -> Tensor:
    """`[B, C, T] -> [B, T, C]`, contiguous even in a graph.

    The compiler leaves out what changes nothing, and then may turn the input round for reasons of its own.
    """
    return x.contiguous().transpose(1, 2).contiguous()
