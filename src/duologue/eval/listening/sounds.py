"""Clips as they go into the page: one rate, one loudness, one format for both systems.

All clips are decoded and encoded anew, so that neither format nor loudness tells the systems apart. MP3 is what
Chromium, Firefox and Safari all play (Safari plays Ogg Opus only since 18.4); at libmp3lame's default quality speech
takes about 8 kB a second, a sixth of wav at 24 kHz. Wav, which all three play as well, keeps every sample.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor

from duologue.audio import normalize_loudness, read_audio, resample, trim_silence, write_audio

SoundFormat = Literal["mp3", "wav"]

MAX_CLIP_SECONDS: Final = 300.0
MAX_SAMPLE_RATE: Final = 48_000

_MEDIA_TYPES: Final[dict[SoundFormat, str]] = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_NARROW_RATE: Final = 4_000  # leaves 2 kHz of band, less than a telephone
_NOISE_DB: Final = -3.0  # noise against speech: plain to hear on any loudspeaker


def load(path: Path, keep_loudness: bool) -> tuple[Tensor, int]:
    """`[num_samples]` float32 in [-1, 1] and its rate in Hz; the speech, without the silence around it, at one level.

    Raises `AudioError`, which names the file.
    """
    pcm, rate = read_audio(path, max_seconds=MAX_CLIP_SECONDS)
    speech = trim_silence(pcm, rate)
    if keep_loudness or not len(speech):
        return pcm, rate
    gain = float(normalize_loudness(speech).abs().max() / speech.abs().max())
    return (pcm * gain).clamp(-1.0, 1.0), rate


def data_uri(pcm: Tensor, from_rate: int, to_rate: int, sound_format: SoundFormat) -> str:
    """`[num_samples]` encoded at `to_rate` Hz as a `data:` URI. The same samples give the same URI."""
    buffer = io.BytesIO()
    write_audio(buffer, resample(pcm, from_rate, to_rate).clamp(-1.0, 1.0), to_rate, format=sound_format)
    return f"data:{_MEDIA_TYPES[sound_format]};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def degrade(pcm: Tensor, sample_rate: int, seed: int) -> Tensor:
    """`[num_samples]` as no one can prefer it: band limited to 2 kHz, under noise, as loud as before."""
    narrow = resample(resample(pcm, sample_rate, _NARROW_RATE), _NARROW_RATE, sample_rate)
    narrow = torch.nn.functional.pad(narrow, (0, max(0, len(pcm) - len(narrow))))[: len(pcm)]
    level = pcm.square().mean().sqrt()
    noise = torch.randn(len(pcm), generator=torch.Generator().manual_seed(seed))
    noisy = narrow + noise * level * 10 ** (_NOISE_DB / 20)
    scale = level / noisy.square().mean().sqrt().clamp_min(1e-8)
    return (noisy * scale).clamp(-1.0, 1.0)
