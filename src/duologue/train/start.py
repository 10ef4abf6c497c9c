"""Starts a codec from data, as a transform coder: before its first step it passes the lowest band of speech on.

From random weights a codec learns the envelope of the spectrum first, as coloured noise. There it stays: nothing in its
latent tells phases or pitch, so nothing in the decoder can use them, and no gradient asks for them. Here every layer
starts from what reaches it through the layers before:

- in the encoder, half of a layer's channels are principal components of its input, each with both signs, since ELU
  passes one of the two; the others stay random;
- part of the latent, and of what the acoustic codebooks see, are the directions that tell most of the waveform below
  `band_hz` (reduced-rank regression: Izenman, "Reduced-rank regression for the multivariate linear model", 1975);
- in the decoder, the channels that mirror the encoder's components are least-squares estimates of these, as the
  recording has them when all above the band is taken away.

Starting from data, layer by layer: Krahenbuhl et al., "Data-dependent initializations of convolutional neural networks"
(2016), there for scales only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from duologue.codec.mimi import Mimi
from duologue.codec.seanet import DecoderStage, EncoderStage
from duologue.config import JsonConfig
from duologue.nn.conv import CausalConv1d
from duologue.train.spectral import low_pass

# Rows that a layer is fitted to.
_ROWS = 20_000
# Recordings computed at once.
_CHUNK = 16
# Components are scaled by their variance to this power: between keeping their sizes and making all alike.
_WHITENING = -0.25
_RIDGE = 0.01
_LEAST_VARIANCE = 1e-8
# Relative to the latent: enough that estimates do not lean on its smallest components.
_NOISE = 0.2
_PAIRED_SHARE, _LINEAR_SHARE, _BAND_SHARE = 1 / 2, 7 / 8, 5 / 8
_RESIDUAL_SCALE = 0.1

Places = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StartConfig(JsonConfig):
    """How many batches a new codec starts from, none for random weights, and the band that it passes on at first."""

    batches: int = 60
    band_hz: float = 400.0


@torch.no_grad()
def start_codec(codec: Mimi, pcm: Tensor, band_hz: float, *, seed: int) -> None:
    """Sets the weights of a codec that was initialised at random, from crops `pcm [N, 1, S]` of whole frames.

    Needs some hundred crops: the layers that mix most channels have about a thousand weights an output.
    """
    starter = _Starter(codec, pcm, torch.Generator().manual_seed(seed), band_hz)
    latents = starter.encoder()
    starter.decoder(starter.bottleneck(latents))


class _Starter:
    """Goes through the codec's layers in order, with what they have made of the crops so far, in chunks."""

    def __init__(self, codec: Mimi, pcm: Tensor, generator: torch.Generator, band_hz: float) -> None:
        self.codec, self.generator = codec.eval(), generator
        self.pcm = list(pcm.split(_CHUNK))
        self.low = [low_pass(chunk, codec.sample_rate, band_hz) for chunk in self.pcm]
        self.band_hz = band_hz
        self.paired: list[int] = []  # of each of the encoder's convolutions, the channels that are components

    def encoder(self) -> list[Tensor]:
        """Starts it; gives what reaches the downsampling, `[N, D, T]` in chunks."""
        encoder, transformer = self.codec.encoder, self.codec.encoder_transformer
        x = self.pcm
        self.paired.append(self._components(encoder.input_conv, x, _PAIRED_SHARE, signs=True))
        x = [encoder.input_conv(chunk) for chunk in x]
        for stage in encoder.stages:
            assert isinstance(stage, EncoderStage)
            stage.residual.conv2.conv.weight.mul_(_RESIDUAL_SCALE)
            x = [F.elu(stage.residual(chunk)) for chunk in x]
            self.paired.append(self._components(stage.downsample, x, _PAIRED_SHARE, signs=True))
            x = [stage.downsample(chunk) for chunk in x]
        x = [F.elu(chunk) for chunk in x]
        self._components(encoder.output_conv, x, _LINEAR_SHARE, signs=False)
        return [transformer(encoder.output_conv(chunk).transpose(1, 2)).transpose(1, 2) for chunk in x]

    def bottleneck(self, x: list[Tensor]) -> list[Tensor]:
        """Starts the downsampling and what the acoustic codebooks see; gives the latter with noise, `[N, T', C]`."""
        down, project = self.codec.downsample, self.codec.quantizer.acoustic.input_proj
        self._components(down, x, _LINEAR_SHARE, signs=False)
        kernel, (stride,) = down.conv.kernel_size[0], down.conv.stride
        places = self._places([chunk[..., ::stride] for chunk in x])
        seen = _windows(x, places, kernel, stride)
        width, count = project.weight.shape[0], round(_BAND_SHARE * project.weight.shape[0])
        chosen = self._telling(seen, places, count)  # [D * kernel, count]
        count = chosen.shape[1]
        down.conv.weight[:count] = chosen.T.unflatten(1, down.conv.weight.shape[1:])
        latents = [down(chunk).transpose(1, 2) for chunk in x]
        rest = torch.cat([chunk[..., count:].flatten(0, 1) for chunk in latents])
        matrix = torch.zeros(width, latents[0].shape[-1], device=rest.device)
        matrix[:count, :count] = torch.eye(count)
        matrix[count:, count:], _ = _principal(rest[self._pick(len(rest))], width - count)
        project.weight.copy_(matrix.view_as(project.weight))
        projected = [project(chunk) for chunk in latents]
        size = _NOISE * torch.cat([chunk.flatten() for chunk in projected]).square().mean().sqrt()
        return [chunk + size * self._normal(chunk) for chunk in projected]

    def _telling(self, seen: Tensor, places: Places, count: int) -> Tensor:
        """The directions of `seen [R, I]` that tell most of each frame's waveform in the band, `[I, count]`."""
        step = _decimation(self.codec.frame_size, self.codec.sample_rate / (2.4 * self.band_hz))
        frames = [chunk[:, 0, ::step].unflatten(-1, (-1, self.codec.frame_size // step)) for chunk in self.low]
        told = torch.cat([chunk[n, t] for chunk, (n, t) in zip(frames, places, strict=True)])
        loudness = told.square().mean(dim=1, keepdim=True).sqrt()
        weight = 1 / (loudness + 0.1 * loudness.mean() + 1e-9)  # quiet frames count, too
        matrix, _ = _least_squares(seen * weight, told * weight)
        fitted = seen @ matrix
        variances, vectors = _eigen(fitted.T @ fitted / len(fitted), min(count, told.shape[1]))
        matrix = matrix @ vectors * variances**_WHITENING
        return matrix / (seen @ matrix).square().mean().clamp(min=_LEAST_VARIANCE).sqrt()

    def decoder(self, codes: list[Tensor]) -> None:
        """Starts it from what the acoustic codebooks see."""
        codec, decoder = self.codec, self.codec.decoder
        stride, groups = codec.config.resample_stride, codec.config.dim // codec.config.resample_stride
        # A step of the latent brings as many steps of the decoder, each in channels of its own.
        goal = self._goal(len(decoder.stages))
        rows = torch.cat([chunk.transpose(1, 2).flatten(0, 1) for chunk in goal])
        matrix, offset = _principal(rows[self._pick(len(rows))], groups, whitening=0.0)
        parts = [(chunk.transpose(1, 2) @ matrix.T + offset).unflatten(1, (-1, stride)).flatten(2) for chunk in goal]
        project = codec.quantizer.acoustic.output_proj
        weight, _ = _least_squares(*(torch.cat([chunk.flatten(0, 1) for chunk in part]) for part in (codes, parts)))
        used = groups * stride
        project.weight.view(-1, weight.shape[0])[:used] = weight.T
        up = codec.upsample.conv.weight  # [D, 1, 2 * stride]
        up.copy_(0.1 * self._normal(up))
        for place in range(stride):
            up[place * groups : (place + 1) * groups, 0, place] += 1
        y = [codec.upsample(project(chunk).transpose(1, 2)).transpose(1, 2) for chunk in codes]
        y = [codec.decoder_transformer(chunk).transpose(1, 2) for chunk in y]

        conv = decoder.input_conv.conv
        places = self._places(y)
        weight, bias = _least_squares(_windows(y, places, conv.kernel_size[0], 1), _windows(goal, places, 1, 1))
        count = weight.shape[1]
        conv.weight[:count] = weight.T.unflatten(1, conv.weight.shape[1:])
        assert conv.bias is not None
        conv.bias[:count] = bias
        y = [decoder.input_conv(chunk) for chunk in y]
        for level, stage in zip(reversed(range(len(decoder.stages))), decoder.stages, strict=True):
            assert isinstance(stage, DecoderStage)
            y = [F.elu(chunk) for chunk in y]
            self._upsampling(stage, y, self._goal(level))
            stage.residual.conv2.conv.weight.mul_(_RESIDUAL_SCALE)
            y = [stage.residual(stage.upsample(chunk)) for chunk in y]
        y = [F.elu(chunk) for chunk in y]
        conv, places = decoder.output_conv.conv, self._places(y)
        weight, bias = _least_squares(_windows(y, places, conv.kernel_size[0], 1), _windows(self.pcm, places, 1, 1))
        conv.weight.copy_(weight.T.unflatten(1, conv.weight.shape[1:]))
        assert conv.bias is not None
        conv.bias.copy_(bias)

    def _goal(self, level: int) -> list[Tensor]:
        """The components of the encoder's convolution number `level`, for the low band alone: `[N, C, T]`."""
        encoder = self.codec.encoder

        def run(x: Tensor) -> Tensor:
            x = encoder.input_conv(x)
            for stage in list(encoder.stages)[:level]:
                x = stage(x)
            return x[:, : self.paired[level]]

        return [run(chunk) for chunk in self.low]

    def _upsampling(self, stage: DecoderStage, x: list[Tensor], goal: list[Tensor]) -> None:
        conv = stage.upsample.conv
        (ratio,), count = conv.stride, goal[0].shape[1]
        places = self._places(x)
        weight, bias = _least_squares(_windows(x, places, 2, 1), _windows(goal, places, ratio, ratio))
        weight = weight.view(x[0].shape[1], 2, count, ratio)  # of the step before, and of the step itself
        conv.weight[:, :count, ratio:], conv.weight[:, :count, :ratio] = weight[:, 0], weight[:, 1]
        assert conv.bias is not None
        conv.bias[:count] = bias.view(count, ratio).mean(dim=1)

    def _components(self, conv: CausalConv1d, x: list[Tensor], share: float, *, signs: bool) -> int:
        """Makes a share of the output channels principal components of the input; tells how many."""
        layer = conv.conv
        kernel, (stride,), weight = layer.kernel_size[0], layer.stride, layer.weight
        rows = _windows(x, self._places([chunk[..., ::stride] for chunk in x]), kernel, stride)
        matrix, offset = _principal(rows, min(int(share * len(weight)) // (2 if signs else 1), rows.shape[1]))
        if signs:
            matrix, offset = torch.cat((matrix, -matrix)), torch.cat((offset, -offset))
        weight[: len(matrix)] = matrix.unflatten(1, weight.shape[1:])
        if layer.bias is not None:
            layer.bias[: len(matrix)] = offset
        return len(matrix)

    def _places(self, x: Sequence[Tensor]) -> Places:
        """Random rows and steps of each chunk `[N, C, T]`, without the first step."""
        steps, count = x[0].shape[-1], -(-_ROWS // len(x))

        def draw(most: int, least: int = 0) -> Tensor:
            return torch.randint(least, most, (count,), generator=self.generator).to(x[0].device)

        return [(draw(len(chunk)), draw(steps, min(1, steps - 1))) for chunk in x]

    def _pick(self, total: int) -> Tensor:
        return torch.randperm(total, generator=self.generator)[:_ROWS]

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like.device)


def _windows(x: Sequence[Tensor], places: Places, kernel: int, stride: int) -> Tensor:
    """What a causal convolution sees of chunks `[N, C, T]` at some of its steps, `[R, C * kernel]`."""
    rows = []
    for chunk, (n, t) in zip(x, places, strict=True):
        view = F.pad(chunk, (kernel - stride, 0)).unfold(-1, kernel, stride)  # [N, C, T', kernel]
        rows.append(view.transpose(1, 2)[n, t].flatten(1))
    return torch.cat(rows)


def _principal(rows: Tensor, count: int, *, whitening: float = _WHITENING) -> tuple[Tensor, Tensor]:
    """The first components of `rows [R, I]` as a layer, `[count, I]` and `[count]`: outputs of mean square one."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    variances, vectors = _eigen(centred.T @ centred / len(rows), count)
    scales = variances**whitening
    matrix = vectors.T * (scales / (variances * scales.square()).mean().sqrt())[:, None]
    return matrix, -(matrix @ mean)


def _eigen(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a symmetric matrix, `[count]`, and their vectors, `[I, count]`."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return values.flip(0)[:count].float().clamp(min=_LEAST_VARIANCE), vectors.flip(1)[:, :count].float()


def _least_squares(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """`[I, O]` and `[O]` such that `inputs [R, I] @ matrix + offset` is nearest `outputs [R, O]`, a little shrunk."""
    mean_in, mean_out = inputs.mean(dim=0), outputs.mean(dim=0)
    x, y = (inputs - mean_in).double(), (outputs - mean_out).double()
    normal = x.T @ x / len(x)
    normal += torch.eye(len(normal), device=normal.device) * (_RIDGE * normal.diagonal().mean() + 1e-9)
    matrix = torch.linalg.solve(normal, x.T @ y / len(x)).float()
    return matrix, mean_out - mean_in @ matrix


def _decimation(frame_size: int, most: float) -> int:
    """The largest divisor of a frame's length that is not above `most`."""
    return max(step for step in range(1, max(1, int(most)) + 1) if frame_size % step == 0)
