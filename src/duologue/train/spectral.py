"""Spectral distances between waveforms, the reconstruction losses of the codec.

Levels are relative to full scale and to the width of a band: white noise of root mean square `r` has level `r` in every
band of every window. Logarithms have a floor. Below it lies nothing that is heard, and without it the near silence
between words has more than 99 % of the gradient: a logarithm's slope is one over the level.

Sources: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (2023), for the multi-scale mel loss;
Yamamoto et al., "Parallel WaveGAN" (2020), for the STFT terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of a difference of log10 levels: 2 dB. Without it the smallest error in silence would pull as hard as a large one.
_SMALL = 0.1


def mel_filters(num_mels: int, window_size: int, sample_rate: int) -> Tensor:
    """Triangular filters on the HTK mel scale, unit peak: float32 `[window_size / 2 + 1, num_mels]`."""
    highest = 2595.0 * math.log10(1 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10 ** (torch.linspace(0, highest, num_mels + 2) / 2595.0) - 1)  # Hz
    bins = torch.linspace(0, sample_rate / 2, window_size // 2 + 1)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class MultiScaleMel(nn.Module):
    """Mean difference of log10 mel levels over several window sizes: absolute, but squared where it is small."""

    def __init__(self, sample_rate: int, scales: tuple[tuple[int, int], ...], *, floor_db: float) -> None:
        """`scales` are `(window_size, num_mels)` pairs; the hop is a quarter of the window."""
        super().__init__()
        self.sizes, self.floor = [size for size, _ in scales], 10 ** (floor_db / 20)
        for size, num_mels in scales:
            filters = mel_filters(num_mels, size, sample_rate)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"filters_{size}", filters / filters.sum(dim=0).clamp(min=1e-6), persistent=False)

    def levels(self, pcm: Tensor, size: int) -> Tensor:
        """`[B, S] -> [B, frames, num_mels]`, mean magnitude in each band."""
        window, filters = self.get_buffer(f"window_{size}"), self.get_buffer(f"filters_{size}")
        return magnitudes(pcm, window, size // 4).transpose(1, 2) @ filters

    def logarithms(self, pcm: Tensor, size: int) -> Tensor:
        """`levels` as log10, softly cut at the floor."""
        return (self.levels(pcm, size) + self.floor).log10()

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Distance of two `[B, S]` waveforms, a scalar."""
        with torch.autocast(made.device.type, enabled=False):
            total = made.new_zeros((), dtype=torch.float32)
            for size in self.sizes:
                ours, theirs = self.logarithms(made.float(), size), self.logarithms(true.float(), size)
                total = total + F.smooth_l1_loss(ours, theirs, beta=_SMALL)
        return total / len(self.sizes)


class MultiScaleSTFT(nn.Module):
    """Spectral convergence and mean absolute difference of natural log magnitudes, averaged over window sizes."""

    def __init__(self, sizes: tuple[int, ...], *, floor_db: float) -> None:
        """Window `sizes` in samples; the hop is a quarter of each."""
        super().__init__()
        self.sizes, self.floor = sizes, 10 ** (floor_db / 20)
        for size in sizes:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Distance of two `[B, S]` waveforms, a scalar."""
        with torch.autocast(made.device.type, enabled=False):
            total = made.new_zeros((), dtype=torch.float32)
            for size in self.sizes:
                window = self.get_buffer(f"window_{size}")
                ours, theirs = (magnitudes(pcm.float(), window, size // 4) for pcm in (made, true))
                total = total + (ours - theirs).norm() / theirs.norm().clamp(min=self.floor)
                total = total + ((ours + self.floor).log() - (theirs + self.floor).log()).abs().mean()
        return total / max(1, len(self.sizes))


def magnitudes(pcm: Tensor, window: Tensor, hop: int) -> Tensor:
    """`[B, S] -> [B, window / 2 + 1, frames]`: magnitudes whose gradient is finite at silence, too."""
    stft = torch.stft(pcm, len(window), hop, window=window / window.norm(), return_complex=True, pad_mode="constant")
    return (stft.real.square() + stft.imag.square() + 1e-12).sqrt()
