"""The codec suite: recordings before and after a codec.

Mel distance is the mean absolute difference of log mel spectra, 80 bands to 12 kHz in windows of 43 ms, in dB. STOI is
that of Taal et al., "An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech" (2011),
through `pystoi`. A decoder that is late would be punished by both: Mimi is not.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Final

import numpy as np
import torch
from torch import Tensor

from duologue.audio import resample
from duologue.errors import EvaluationError
from duologue.eval.clips import Request, System
from duologue.eval.lines import load_lines, load_recording
from duologue.eval.measure import Heard
from duologue.eval.suites.suite import request_seed

_RATE: Final = 24_000
_WINDOW, _HOP, _BANDS = 1024, 256, 80
_FLOOR_DB: Final = -80.0  # of full scale: silence is not compared in depth


def codec_requests(system: System, *, limit: int | None, seed: int) -> list[Request]:
    """Every recording as it is, then every recording through the codec."""
    lines = load_lines("codec").limited(limit)
    return [
        Request(
            f"{group}/{line.id.replace('/', '-')}",
            group,
            line.text,
            request_seed(seed, line.text),
            original=load_recording(line),
            recode=group == "decoded",
        )
        for group in ("original", "decoded")
        for line in lines
    ]


def fidelity(heard: Heard) -> dict[str, float]:
    """What the codec has left of its original: `mel_distance_db`, `stoi`, `bitrate_kbps`; nothing for the original."""
    original, codes, size = heard.reference, heard.clip.codes, heard.clip.codebook_size
    if original is None or not codes or size is None:
        return {}
    before = resample(original.pcm, original.sample_rate, _RATE)
    after = resample(heard.clip.sound.pcm, heard.clip.sound.sample_rate, _RATE)
    length = min(len(before), len(after))
    bits = math.log2(size) * sum(len(row) for row in codes)
    return {
        "mel_distance_db": mel_distance_db(before[:length], after[:length]),
        "stoi": _stoi(before[:length], after[:length]),
        "bitrate_kbps": bits / original.duration_s / 1000,
    }


def mel_distance_db(first: Tensor, second: Tensor) -> float:
    """Of two recordings of one length, float32 `[num_samples]` at 24 kHz."""
    return float((_mel_db(first) - _mel_db(second)).abs().mean())


def _mel_db(pcm: Tensor) -> Tensor:
    window = torch.hann_window(_WINDOW)
    spectrum = torch.stft(pcm, _WINDOW, _HOP, window=window, return_complex=True).abs() / window.sum()
    return 20 * (_mel_bands() @ spectrum).clamp_min(10 ** (_FLOOR_DB / 20)).log10()  # [bands, T]


@functools.cache
def _mel_bands() -> Tensor:
    """Triangles between equal steps of HTK's mel scale, each of area 1: `[bands, bins]`."""
    top = 2595 * math.log10(1 + _RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, _BANDS + 2) / 2595) - 1)
    bins = torch.linspace(0, _RATE / 2, _WINDOW // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = torch.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)).clamp_min(0)
    # A low band may be narrower than one bin: it takes the nearest.
    nearest = torch.nn.functional.one_hot((bins - middle).abs().argmin(dim=1), len(bins)).float()
    triangles = torch.where(triangles.sum(dim=1, keepdim=True) > 0, triangles, nearest)
    return triangles / triangles.sum(dim=1, keepdim=True)


def _stoi(first: Tensor, second: Tensor) -> float:
    try:
        from pystoi import stoi
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of recordings shorter than its window, which score 1e-5
        return float(np.asarray(stoi(first.double().numpy(), second.double().numpy(), _RATE)))
