"""Read recordings that libsndfile (`soundfile`) or, for a path, PyAV knows, and refuse bad ones with the reason.

Source of the wav layout: Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0", 1991.
"""

import io
import math
import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import soundfile
import torch
from torch import Tensor

from duologue.audio.containers import CONTAINER_SUFFIXES, container_blocks
from duologue.audio.signal import check_rate, resample
from duologue.errors import AudioError

AudioSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

MAX_SECONDS: Final = 3_600.0
MAX_BYTES: Final = 1 << 30

_MAX_CHANNELS: Final = 64
_MAX_PEAK: Final = 16.0  # a float file beyond it holds integers, not samples of [-1, 1]
_BLOCK_SAMPLES: Final = 1 << 16
_UNKNOWN_NUM_FRAMES: Final = 1 << 60  # libsndfile gives SF_COUNT_MAX for a stream whose header has no length
_MP3_PADDING: Final = 2 * 1152  # encoder delay and padding, which a decoder may or may not cut


def read_audio(
    source: AudioSource,
    sample_rate: int | None = None,
    *,
    max_seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_BYTES,
) -> tuple[Tensor, int]:
    """Read a recording as mono.

    Args:
        source: a path, the bytes of a file, or a binary file object (read to its end; it need not be seekable).
        sample_rate: resample to this rate in Hz; None keeps the file's.
        max_seconds: refuse what is longer, before it is decoded whole.
        max_bytes: refuse a stream (bytes, file object, pipe) that is larger.

    Returns:
        pcm `[num_samples]` float32 in [-1, 1], the mean over the channels, and its sample rate in Hz.

    Raises:
        AudioError: missing, empty, truncated, too long, not audio, or with samples that are not numbers.
    """
    if sample_rate is not None:
        check_rate(sample_rate, "sample_rate")
    handle: BinaryIO
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            status = os.stat(source)
        except FileNotFoundError:
            raise AudioError(f"audio file {name} does not exist; check the path") from None
        except (OSError, ValueError) as error:
            raise AudioError(f"audio file {name} cannot be read: {describe_error(error)}") from None
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{name} is a folder; give an audio file")
        try:
            with open(source, "rb") as file:
                if stat.S_ISREG(status.st_mode):
                    pcm, rate = _decode(file, name, max_seconds, path=name)
                else:
                    pcm, rate = _decode(io.BytesIO(_read_stream(file, name, max_bytes)), name, max_seconds)
        except OSError as error:
            raise AudioError(f"audio file {name} cannot be read: {describe_error(error)}") from None
    else:
        if isinstance(source, (bytes, bytearray, memoryview)):
            name, data = "the audio given as bytes", bytes(source)
        else:
            name = str(getattr(source, "name", "the audio stream"))
            data = _read_stream(source, name, max_bytes)
        if len(data) > max_bytes:
            raise AudioError(f"{name} is larger than {max_bytes} bytes; give a shorter recording")
        handle = io.BytesIO(data)
        pcm, rate = _decode(handle, name, max_seconds)
    if sample_rate is not None and sample_rate != rate:
        pcm, rate = resample(pcm, rate, sample_rate).clamp_(-1.0, 1.0), sample_rate
        if len(pcm) == 0:
            raise AudioError(f"{name} is too short to resample; give a longer recording")
    return pcm, rate


def read_channels(path: str | os.PathLike[str], *, max_seconds: float = MAX_SECONDS) -> tuple[Tensor, int]:
    """Read a file with its channels apart: `[num_channels, num_samples]` float32 in [-1, 1], and its rate in Hz.

    Raises `AudioError` for what `read_audio` refuses.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            pcm, rate = _decode(file, name, max_seconds, path=name, mix=False)
    except OSError as error:
        raise AudioError(f"audio file {name} cannot be read: {describe_error(error)}") from None
    return pcm.T.contiguous(), rate


def _read_stream(file: BinaryIO, name: str, max_bytes: int) -> bytes:
    try:
        data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise AudioError(f"{name} cannot be read: {describe_error(error)}") from None
    if not isinstance(data, bytes):
        raise AudioError(f"{name} is opened as text; open it in binary mode")
    if len(data) > max_bytes:
        raise AudioError(f"{name} is larger than {max_bytes} bytes; give a shorter recording")
    return data


def _decode(
    file: BinaryIO, name: str, max_seconds: float, path: str | None = None, *, mix: bool = True
) -> tuple[Tensor, int]:
    """Decode block by block. With `path`, libsndfile opens the file itself, which is faster than through Python.

    Gives `[num_samples]` where channels are to `mix`, else `[num_samples, num_channels]`.
    """
    if not file.read(1):
        raise AudioError(f"{name} is empty (0 bytes); give a recording")
    if path is not None and Path(path).suffix.lower() in CONTAINER_SUFFIXES:
        return _decode_container(path, max_seconds, mix)
    file.seek(0)
    _check_wav_is_whole(file, name)
    file.seek(0)
    try:
        with soundfile.SoundFile(native_name(path) if path is not None else file) as sound:
            rate, num_frames, num_channels = sound.samplerate, sound.frames, sound.channels
            check_rate(rate, name)
            _check_channels(num_channels, name)
            max_frames = math.floor(max_seconds * rate)
            if max_frames < num_frames < _UNKNOWN_NUM_FRAMES:
                raise AudioError(_too_long(name, num_frames / rate, max_seconds))
            # soundfile seeks after every block of a seekable file: lossy at best, and an error without a known length.
            sound.seekable = lambda: False
            blocks = []
            num_decoded = 0
            while True:
                block = sound.read(max(1, _BLOCK_SAMPLES // num_channels), dtype="float32", always_2d=True)
                if len(block) == 0:
                    break
                num_decoded += len(block)
                if num_decoded > max_frames:
                    raise AudioError(_too_long(name, num_decoded / rate, max_seconds))
                blocks.append(_checked(block, name, mix))
            is_mp3 = sound.format == "MP3"
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", "")).strip(" .") or "unknown format"
        raise AudioError(
            f"{name} is damaged or not audio ({reason}); give a whole wav, flac, mp3, ogg or opus file"
        ) from None
    if num_decoded == 0:
        raise AudioError(_no_samples(name))
    if num_decoded + (_MP3_PADDING if is_mp3 else 0) < num_frames < _UNKNOWN_NUM_FRAMES:
        raise AudioError(_truncated(name, num_frames / rate, num_decoded / rate))
    return torch.from_numpy(np.concatenate(blocks)), rate


def _decode_container(path: str, max_seconds: float, mix: bool) -> tuple[Tensor, int]:
    """As `_decode`, through PyAV."""
    blocks: list[np.ndarray[Any, Any]] = []
    rate = num_decoded = 0
    for rate, block in container_blocks(path):
        if not blocks:
            check_rate(rate, path)
            _check_channels(block.shape[1], path)
        num_decoded += len(block)
        if num_decoded > max_seconds * rate:
            raise AudioError(_too_long(path, num_decoded / rate, max_seconds))
        if len(block):
            blocks.append(_checked(block, path, mix))
    if not blocks:
        raise AudioError(_no_samples(path))
    return torch.from_numpy(np.concatenate(blocks)), rate


def _check_channels(num_channels: int, name: str) -> None:
    if num_channels > _MAX_CHANNELS:
        raise AudioError(f"{name} has {num_channels} channels; give one with at most {_MAX_CHANNELS}")


def _checked(block: np.ndarray[Any, Any], name: str, mix: bool) -> np.ndarray[Any, Any]:
    """`[num_frames, num_channels]`, or `[num_frames]` where channels are to `mix`, checked and clipped."""
    peak = float(np.abs(block).max())  # NaN where any sample is
    if not math.isfinite(peak):
        raise AudioError(f"{name} has samples that are not finite numbers; export it again as 16-bit PCM")
    if peak > _MAX_PEAK:
        raise AudioError(f"{name} has samples up to {peak:g}, expected -1 to 1; scale it or export it as 16-bit PCM")
    mixed: np.ndarray[Any, Any] = block.mean(axis=1, dtype=np.float32) if mix else block
    return mixed.clip(-1.0, 1.0)


def _check_wav_is_whole(file: BinaryIO, name: str) -> None:
    """libsndfile quietly mends the length of a wav file that was cut, so the header is compared here.

    A length of 0 or of about 2**31 or 2**32 is what programs write that stream wav to a pipe: it says nothing.
    """
    header = file.read(12)
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        return
    frame_size, byte_rate = 1, 0
    while len(chunk := file.read(8)) == 8:
        kind, size = struct.unpack("<4sI", chunk)
        if kind == b"data":
            start = file.tell()
            available = file.seek(0, io.SEEK_END) - start
            if 0 < size < 0x7FFFF000 and available // frame_size < size // frame_size:
                if byte_rate:
                    raise AudioError(_truncated(name, size / byte_rate, available / byte_rate))
                raise AudioError(f"{name} is truncated: {available} of {size} bytes are there; get the whole file")
            return
        if kind == b"fmt " and size >= 16:
            _, _, _, byte_rate, frame_size, _ = struct.unpack("<HHIIHH", file.read(16).ljust(16, b"\0"))
            frame_size = max(1, frame_size)
            size -= 16
        file.seek(size + size % 2, io.SEEK_CUR)


def _truncated(name: str, promised_seconds: float, present_seconds: float) -> str:
    return (
        f"{name} is truncated: its header says {promised_seconds:.2f} s, {present_seconds:.2f} s are there; "
        "get the whole file"
    )


def _no_samples(name: str) -> str:
    return f"{name} holds no samples (0 s); give a longer recording"


def _too_long(name: str, seconds: float, max_seconds: float) -> str:
    return f"{name} is too long: {seconds:.1f} s or more, at most {max_seconds:g} s are expected; cut it"


def native_name(path: str) -> str | bytes:
    """A path as libsndfile is to be given it: soundfile refuses names that are not UTF-8, but not their bytes."""
    return os.fsencode(path) if os.name == "posix" else path


def describe_error(error: BaseException) -> str:
    """What the system says, without the error number."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
