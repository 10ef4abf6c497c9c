"""Spectral distances between waveforms, the reconstruction losses of the codec.

Sources: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (2023), for the multi-scale mel loss;
Yamamoto et al., "Parallel WaveGAN" (2020), for the STFT terms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_FLOOR = 1e-5


def mel_filters(num_mels: int, window_size: int, sample_rate: int) -> Tensor:
    """Triangular filters on the HTK mel scale, unit peak: float32 `[window_size / 2 + 1, num_mels]`."""
    highest = 2595.0 * math.log10(1 + sample_rate / 2 / 700.0)
    edges = 700.0 * (10 ** (torch.linspace(0, highest, num_mels + 2) / 2595.0) - 1)  # Hz
    bins = torch.linspace(0, sample_rate / 2, window_size // 2 + 1)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class MultiScaleMel(nn.Module):
    """Mean absolute difference of log10 mel spectra over several window sizes, and of their magnitudes."""

    def __init__(self, sample_rate: int, scales: tuple[tuple[int, int], ...]) -> None:
        """`scales` are `(window_size, num_mels)` pairs; the hop is a quarter of the window."""
        super().__init__()
        self.sizes = [size for size, _ in scales]
        for size, num_mels in scales:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"filters_{size}", mel_filters(num_mels, size, sample_rate), persistent=False)

    def spectra(self, pcm: Tensor, size: int) -> Tensor:
        """`[B, S] -> [B, frames, num_mels]`, linear magnitude."""
        window, filters = self.get_buffer(f"window_{size}"), self.get_buffer(f"filters_{size}")
        return magnitudes(pcm, window, size // 4).transpose(1, 2) @ filters

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Distance of two `[B, S]` waveforms, a scalar."""
        with torch.autocast(made.device.type, enabled=False):
            total = made.new_zeros((), dtype=torch.float32)
            for size in self.sizes:
                ours, theirs = self.spectra(made.float(), size), self.spectra(true.float(), size)
                total = total + (ours.clamp(min=_FLOOR).log10() - theirs.clamp(min=_FLOOR).log10()).abs().mean()
                total = total + (ours - theirs).abs().mean() / 10
        return total / len(self.sizes)


class MultiScaleSTFT(nn.Module):
    """Spectral convergence and mean absolute difference of natural log magnitudes, averaged over window sizes."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """Window `sizes` in samples; the hop is a quarter of each."""
        super().__init__()
        self.sizes = sizes
        for size in sizes:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Distance of two `[B, S]` waveforms, a scalar."""
        with torch.autocast(made.device.type, enabled=False):
            total = made.new_zeros((), dtype=torch.float32)
            for size in self.sizes:
                window = self.get_buffer(f"window_{size}")
                ours, theirs = (magnitudes(pcm.float(), window, size // 4) for pcm in (made, true))
                total = total + (ours - theirs).norm() / theirs.norm().clamp(min=_FLOOR)
                total = total + (ours.clamp(min=_FLOOR).log() - theirs.clamp(min=_FLOOR).log()).abs().mean()
        return total / max(1, len(self.sizes))


def magnitudes(pcm: Tensor, window: Tensor, hop: int) -> Tensor:
    """`[B, S] -> [B, window / 2 + 1, frames]`: magnitudes whose gradient is finite at silence, too."""
    stft = torch.stft(pcm, len(window), hop, window=window, return_complex=True, pad_mode="constant")
    return (stft.real.square() + stft.imag.square() + 1e-10).sqrt()
