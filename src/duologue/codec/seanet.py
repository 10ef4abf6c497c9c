"""SEANet: the convolutional encoder and decoder between 24 kHz samples and latent steps.

Source: Kyutai, `moshi/modules/seanet.py` (after Tagliasacchi et al., 2020, and EnCodec). All convolutions are causal.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from duologue.config import MimiConfig
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState, ConvTransposeState
from duologue.nn.state import State


@dataclass
class ResidualState(State):
    """States of the two convolutions of a residual block."""

    conv1: ConvState
    conv2: ConvState


@dataclass
class EncoderStageState(State):
    """States of one encoder stage."""

    residual: ResidualState
    downsample: ConvState


@dataclass
class DecoderStageState(State):
    """States of one decoder stage."""

    upsample: ConvTransposeState
    residual: ResidualState


@dataclass
class SEANetEncoderState(State):
    """States of the whole encoder."""

    input_conv: ConvState
    stages: list[EncoderStageState]
    output_conv: ConvState


@dataclass
class SEANetDecoderState(State):
    """States of the whole decoder."""

    input_conv: ConvState
    stages: list[DecoderStageState]
    output_conv: ConvState


class ResidualBlock(nn.Module):
    """`x + conv2(elu(conv1(elu(x))))` through a bottleneck."""

    def __init__(self, channels: int, config: MimiConfig) -> None:
        super().__init__()
        inner = channels // config.compress
        self.conv1 = CausalConv1d(channels, inner, config.residual_kernel_size)
        self.conv2 = CausalConv1d(inner, channels, 1)

    def init_state(self, batch: int) -> ResidualState:
        return ResidualState(self.conv1.init_state(batch), self.conv2.init_state(batch))

    def forward(self, x: Tensor, state: ResidualState | None = None) -> Tensor:
        hidden = self.conv1(F.elu(x), state and state.conv1)
        change = self.conv2(F.elu(hidden, inplace=True), state and state.conv2)
        return change.add_(x)  # type: ignore[no-any-return]


class EncoderStage(nn.Module):
    """A residual block, then a strided convolution that doubles the channels."""

    def __init__(self, channels: int, ratio: int, config: MimiConfig) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels, config)
        self.downsample = CausalConv1d(channels, 2 * channels, 2 * ratio, stride=ratio)

    def init_state(self, batch: int) -> EncoderStageState:
        return EncoderStageState(self.residual.init_state(batch), self.downsample.init_state(batch))

    def forward(self, x: Tensor, state: EncoderStageState | None = None) -> Tensor:
        x = self.residual(x, state and state.residual)
        return self.downsample(F.elu(x, inplace=True), state and state.downsample)  # type: ignore[no-any-return]


class DecoderStage(nn.Module):
    """A transposed convolution that halves the channels, then a residual block."""

    def __init__(self, channels: int, ratio: int, config: MimiConfig) -> None:
        super().__init__()
        self.upsample = CausalConvTranspose1d(channels, channels // 2, 2 * ratio, stride=ratio)
        self.residual = ResidualBlock(channels // 2, config)

    def init_state(self, batch: int) -> DecoderStageState:
        return DecoderStageState(self.upsample.init_state(batch), self.residual.init_state(batch))

    def forward(self, x: Tensor, state: DecoderStageState | None = None) -> Tensor:
        x = self.upsample(F.elu(x, inplace=True), state and state.upsample)
        return self.residual(x, state and state.residual)  # type: ignore[no-any-return]


class SEANetEncoder(nn.Module):
    """`[B, 1, S] -> [B, D, S / hop]`; `S` is a multiple of the hop."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        channels = config.num_filters
        self.input_conv = CausalConv1d(1, channels, config.kernel_size)
        self.stages = nn.ModuleList()
        for ratio in reversed(config.ratios):
            self.stages.append(EncoderStage(channels, ratio, config))
            channels *= 2
        self.output_conv = CausalConv1d(channels, config.dim, config.last_kernel_size)

    def init_state(self, batch: int) -> SEANetEncoderState:
        """The state of `batch` rows before their first sample."""
        stages = [stage.init_state(batch) for stage in self.stages if isinstance(stage, EncoderStage)]
        return SEANetEncoderState(self.input_conv.init_state(batch), stages, self.output_conv.init_state(batch))

    def forward(self, x: Tensor, state: SEANetEncoderState | None = None) -> Tensor:
        x = self.input_conv(x, state and state.input_conv)
        for index, stage in enumerate(self.stages):
            x = stage(x, state and state.stages[index])
        return self.output_conv(F.elu(x, inplace=True), state and state.output_conv)  # type: ignore[no-any-return]


class SEANetDecoder(nn.Module):
    """`[B, D, T] -> [B, 1, T * hop]`."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        channels = config.num_filters * 2 ** len(config.ratios)
        self.input_conv = CausalConv1d(config.dim, channels, config.kernel_size)
        self.stages = nn.ModuleList()
        for ratio in config.ratios:
            self.stages.append(DecoderStage(channels, ratio, config))
            channels //= 2
        self.output_conv = CausalConv1d(channels, 1, config.last_kernel_size)

    def init_state(self, batch: int) -> SEANetDecoderState:
        """The state of `batch` rows before their first step."""
        stages = [stage.init_state(batch) for stage in self.stages if isinstance(stage, DecoderStage)]
        return SEANetDecoderState(self.input_conv.init_state(batch), stages, self.output_conv.init_state(batch))

    def forward(self, x: Tensor, state: SEANetDecoderState | None = None) -> Tensor:
        x = self.input_conv(x, state and state.input_conv)
        for index, stage in enumerate(self.stages):
            x = stage(x, state and state.stages[index])
        return self.output_conv(F.elu(x, inplace=True), state and state.output_conv)  # type: ignore[no-any-return]
