"""Discriminators: networks that learn to tell a codec's speech from recordings, and so teach it what gives it away.

Sources: Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec, 2022), section 3.4, for the one that looks
at complex spectra; Kong et al., "HiFi-GAN" (2020), section 2.3, for the one that folds the waveform by a period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

_SLOPE = 0.2


@dataclass(frozen=True)
class Judgement:
    """What one discriminator made of a batch: its `logits`, high for a recording, and the activations on the way."""

    logits: Tensor
    features: list[Tensor]


class ConvolutionStack(nn.Module):
    """Convolutions with leaky rectifiers between them; the last gives logits."""

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)

    def forward(self, x: Tensor) -> Judgement:
        """Judges images `[B, C, H, W]`."""
        features = []
        for layer in list(self.layers)[:-1]:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return Judgement(self.layers[-1](x), features)


class STFTDiscriminator(nn.Module):
    """Judges a complex spectrogram, its real and imaginary parts as two channels of an image of time and frequency."""

    window: Tensor

    def __init__(self, window_size: int, filters: int) -> None:
        """`window_size` is in samples; the hop is a quarter of it."""
        super().__init__()
        self.window_size = window_size
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)
        wide, square = (3, 9), (3, 3)
        layers = [nn.Conv2d(2, filters, wide, stride=(1, 2), padding=(1, 4))]
        layers += [
            nn.Conv2d(filters, filters, wide, stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            for dilation in (1, 2, 4)
        ]
        layers += [nn.Conv2d(filters, width, square, padding=(1, 1)) for width in (filters, 1)]
        self.stack = ConvolutionStack(layers)

    def forward(self, pcm: Tensor) -> Judgement:
        """`[B, 1, S]` in [-1, 1]."""
        size = self.window_size
        with torch.autocast(pcm.device.type, enabled=False):
            spectrum = torch.stft(
                pcm[:, 0].float(), size, size // 4, window=self.window, normalized=True, return_complex=True
            )  # [B, size / 2 + 1, frames]
            image = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, frames, bins]
        judgement: Judgement = self.stack(image)
        return judgement


class PeriodDiscriminator(nn.Module):
    """Judges the waveform folded into rows of `period` samples: what repeats stands in columns."""

    def __init__(self, period: int, filters: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, filters, 4 * filters, 8 * filters]
        layers = [nn.Conv2d(before, after, (5, 1), stride=(3, 1), padding=(2, 0)) for before, after in pairwise(widths)]
        layers.append(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))
        self.stack = ConvolutionStack(layers)

    def forward(self, pcm: Tensor) -> Judgement:
        """`[B, 1, S]` in [-1, 1]."""
        padded = F.pad(pcm, (0, -pcm.shape[-1] % self.period), mode="reflect")
        judgement: Judgement = self.stack(padded.unflatten(-1, (-1, self.period)))
        return judgement
