"""Sample rates, loudness and silence of mono PCM. Rates change in libsoxr (`soxr`), recipe HQ."""

import math
from typing import Final

import numpy as np
import soxr
import torch
from torch import Tensor

from duologue.errors import AudioError

MIN_SAMPLE_RATE: Final = 4_000
MAX_SAMPLE_RATE: Final = 384_000


def check_rate(rate: int, what: str) -> None:
    """Raise `AudioError` unless `rate` is a sample rate that recordings have."""
    if isinstance(rate, bool) or not isinstance(rate, int) or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"{what}: sample rate {rate} Hz; expected a whole number from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )


def resample(pcm: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """`[..., num_samples]` float32 at `from_rate` Hz to `[..., round(num_samples * to_rate / from_rate)]` at `to_rate`.

    The same tensor when the rates are equal. Values may overshoot [-1, 1] a little.
    """
    check_rate(from_rate, "resample from")
    check_rate(to_rate, "resample to")
    if from_rate == to_rate:
        return pcm
    num_samples = round(pcm.shape[-1] * to_rate / from_rate)
    if num_samples == 0 or pcm.numel() == 0:
        return pcm.new_zeros((*pcm.shape[:-1], num_samples))
    channels = pcm.detach().to(device="cpu", dtype=torch.float32).reshape(-1, pcm.shape[-1])  # [C, S]
    resampled = [
        torch.from_numpy(soxr.resample(channel.numpy(), from_rate, to_rate, quality="HQ")) for channel in channels
    ]
    stacked = torch.stack([_fit(channel, num_samples) for channel in resampled])  # [C, S']
    return stacked.reshape(*pcm.shape[:-1], num_samples).to(pcm.device)


def _fit(pcm: Tensor, num_samples: int) -> Tensor:
    """Cut, or pad with zeros, to `num_samples`."""
    if len(pcm) < num_samples:
        return torch.nn.functional.pad(pcm, (0, num_samples - len(pcm)))
    return pcm[:num_samples]


class StreamResampler:
    """`resample` piece by piece: the pieces it returns, concatenated, equal the offline result.

    The first pieces come out short: the filter holds back some milliseconds until `finish`.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        check_rate(from_rate, "resample from")
        check_rate(to_rate, "resample to")
        self.from_rate = from_rate
        self.to_rate = to_rate
        self._stream = (
            soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ") if from_rate != to_rate else None
        )
        self._num_in = 0
        self._num_out = 0

    def push(self, pcm: Tensor) -> Tensor:
        """`[num_samples]` float32 in; what is ready, `[num_ready]` float32, out."""
        if self._stream is None or pcm.numel() == 0:
            return pcm
        self._num_in += len(pcm)
        ready = torch.from_numpy(self._stream.resample_chunk(pcm.detach().cpu().contiguous().numpy()))
        self._num_out += len(ready)
        return ready

    def finish(self) -> Tensor:
        """The rest, `[num_ready]`; afterwards the resampler starts afresh."""
        if self._stream is None or self._num_in == 0:
            return torch.zeros(0)
        tail = torch.from_numpy(self._stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
        num_left = max(0, round(self._num_in * self.to_rate / self.from_rate) - self._num_out)
        self._stream.clear()
        self._num_in = self._num_out = 0
        return _fit(tail, num_left)


def is_silent(pcm: Tensor, threshold_db: float = -60.0) -> bool:
    """Whether no sample of `pcm` (any shape, in [-1, 1]) exceeds `threshold_db` dB of full scale, or there is none."""
    return pcm.numel() == 0 or float(pcm.abs().max()) <= 10 ** (threshold_db / 20)


def trim_silence(
    pcm: Tensor, sample_rate: int, *, threshold_db: float = -40.0, margin_ms: float = 100.0, window_ms: float = 10.0
) -> Tensor:
    """Cut the silence before and after speech, `[num_samples]` to `[num_kept]`, a view; pauses inside stay.

    A window is silent when its RMS lies `threshold_db` below that of the loudest window. `margin_ms` of what is cut
    stays on either side. A recording that is silent throughout comes back empty.
    """
    if is_silent(pcm):
        return pcm[:0]
    window = max(1, round(window_ms * sample_rate / 1000))
    num_windows = math.ceil(len(pcm) / window)
    power = _fit(pcm.float(), num_windows * window).square().reshape(num_windows, window).mean(dim=1)
    (loud,) = torch.nonzero(power >= power.max() * 10 ** (threshold_db / 10), as_tuple=True)
    margin = round(margin_ms * sample_rate / 1000)
    start = max(0, int(loud[0]) * window - margin)
    end = min(len(pcm), (int(loud[-1]) + 1) * window + margin)
    return pcm[start:end]


def normalize_loudness(pcm: Tensor, target_db: float = -22.0, *, max_peak: float = 0.99) -> Tensor:
    """Scale `pcm` so that its RMS is `target_db` dB of full scale, or less where a peak would exceed `max_peak`.

    Silence comes back as it is.
    """
    if is_silent(pcm):
        return pcm
    gain = 10 ** (target_db / 20) / float(pcm.float().square().mean().sqrt())
    return pcm * min(gain, max_peak / float(pcm.abs().max()))
