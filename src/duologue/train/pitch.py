"""The pitch of recordings, which a decoder of harmonics is taught: the best path through normalized correlations.

Source: Talkin, "A robust algorithm for pitch tracking (RAPT)" (1995): a normalized cross-correlation for every lag, a
little in favour of short ones, and dynamic programming against jumps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from duologue.codec.analysis import between

# Of the recording; speech is compared with itself below this many Hz.
_BAND_HZ = 1800.0
_WINDOW_S = 0.03
# Half an octave of a step costs as much as the difference between full and no correlation.
_JUMP = 2.0
# What an octave down costs: every multiple of a period is one, too.
_LOW = 0.05
_VOICED = 0.5
# Power of the quietest voiced window, relative to full scale.
_FAINT = 1e-6


def pitch_loss(logits: Tensor, pitch: Tensor, is_voiced: Tensor, centres: Tensor) -> Tensor:
    """Cross-entropy, in nats over voiced steps, of `logits [B, N, P]` with a bell of one bin around the pitch `[B, N]`.

    0 where there is no voice at all.
    """
    spacing = (centres[-1] / centres[0]).log() / (len(centres) - 1)
    distance = (pitch[..., None] / centres).log() / spacing  # bins
    target = (-distance.square() / 2).softmax(dim=-1)
    each = -(target * logits.float().log_softmax(dim=-1)).sum(dim=-1)
    return (each * is_voiced).sum() / is_voiced.sum().clamp(min=1)


@torch.no_grad()
def track_pitch(pcm: Tensor, sample_rate: int, centres: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Of `pcm [B, S]`, for every `step` samples: the pitch `[B, S / step]` in Hz, and whether there is a voice, bool.

    `centres [P]` are the pitches, in Hz and evenly spaced on a logarithmic axis, among which the path is sought; the
    result lies between them. Without a voice the pitch is that of the path, which means little.
    """
    every = max(1, int(sample_rate / (4 * _BAND_HZ)))
    pcm = _low_pass(pcm.float(), sample_rate, _BAND_HZ)[:, ::every]
    rate, hop = sample_rate / every, step / every
    window, longest = round(_WINDOW_S * rate), math.ceil(rate / float(centres.min())) + 2
    count = math.floor(pcm.shape[1] / hop + 1e-6)
    length = window + longest
    middles = ((torch.arange(count, device=pcm.device) + 0.5) * hop).long()
    # The two windows that are compared, a lag apart, lie around the middle for the typical lag.
    padded = F.pad(pcm, (length // 2, length))
    frames = padded.unfold(1, length, 1)[:, middles]  # [B, N, length]
    correlations = _correlations(frames, window, longest)  # [B, N, longest + 1]
    lags = rate / centres
    values = between(correlations, lags)  # [B, N, P]
    octaves = (centres / centres.max()).log2()
    path = _best_path(values + _LOW * octaves, centres)
    pitch = _refined(values, path, centres)
    strength = values.gather(-1, path[..., None])[..., 0]
    loud = frames[..., : window + longest // 2].square().mean(dim=-1) > _FAINT
    return pitch, (strength > _VOICED) & loud


def _low_pass(pcm: Tensor, sample_rate: int, hz: float) -> Tensor:
    """`[..., S]`: what lies below `hz`, without delay; a twelfth power falls off above."""
    frequencies = torch.fft.rfftfreq(pcm.shape[-1], 1 / sample_rate, device=pcm.device)
    low: Tensor = torch.fft.irfft(torch.fft.rfft(pcm) / (1 + (frequencies / hz) ** 12), pcm.shape[-1])
    return low


def _correlations(frames: Tensor, window: int, longest: int) -> Tensor:
    """`sum x(n) x(n + lag)` over a window, divided by the norms of both parts: `[..., longest + 1]`."""
    size = 1 << (frames.shape[-1] + window - 1).bit_length()
    head = torch.fft.rfft(frames[..., :window], size)
    products: Tensor = torch.fft.irfft(torch.fft.rfft(frames, size) * head.conj(), size)[..., : longest + 1]
    energy = F.pad(frames.square().cumsum(dim=-1), (1, 0))
    own = energy[..., window : window + longest + 1] - energy[..., : longest + 1]
    return products / (own[..., :1] * own).clamp(min=1e-12).sqrt()


def _best_path(scores: Tensor, centres: Tensor) -> Tensor:
    """The bins `[B, N]` of the path of largest sum of `scores [B, N, P]` less what its jumps cost."""
    octaves = centres.log2()
    cost = 2 * _JUMP * (octaves[:, None] - octaves).abs().to(scores)
    total, origins = scores[:, 0], []
    for index in range(1, scores.shape[1]):
        best, origin = (total[:, :, None] - cost).max(dim=1)
        origins.append(origin)
        total = best + scores[:, index]
    place = total.argmax(dim=-1)
    path = [place]
    for origin in reversed(origins):
        place = origin.gather(1, place[:, None])[:, 0]
        path.append(place)
    return torch.stack(path[::-1], dim=1)


def _refined(values: Tensor, path: Tensor, centres: Tensor) -> Tensor:
    """The top of the parabola through the bins around the path's."""
    inner = path.clamp(1, len(centres) - 2)
    left, middle, right = (values.gather(-1, (inner + offset)[..., None])[..., 0] for offset in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = torch.where(bend < -1e-4, (left - right) / (2 * bend.clamp(max=-1e-4)), 0.0).clamp(-0.5, 0.5)
    spacing = (centres[-1] / centres[0]).log() / (len(centres) - 1)
    return centres[inner] * (offset * spacing).exp()
