"""Recordings in and out: wav, flac, mp3, ogg vorbis and opus, in also others; resampling, loudness and silence.

Inside Duologue audio is mono float32 in [-1, 1]; PCM16, channels and containers exist only here.
"""

from duologue.audio.containers import CONTAINER_SUFFIXES
from duologue.audio.reading import read_audio, read_channels
from duologue.audio.signal import (
    StreamResampler,
    is_silent,
    normalize_loudness,
    resample,
    trim_silence,
)
from duologue.audio.writing import StreamWriter, write_audio

__all__ = [
    "CONTAINER_SUFFIXES",
    "StreamResampler",
    "StreamWriter",
    "is_silent",
    "normalize_loudness",
    "read_audio",
    "read_channels",
    "resample",
    "trim_silence",
    "write_audio",
]
