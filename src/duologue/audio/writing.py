"""Write recordings through libsndfile (`soundfile`), whole or not at all.

A file on disk is written under a temporary name in the same folder and renamed when it is whole, so that a crash,
Ctrl-C or a full disk leaves nothing half-written. Source of the wav layout: Microsoft and IBM, "Multimedia Programming
Interface and Data Specifications 1.0", 1991.
"""

import contextlib
import os
import secrets
import shutil
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
import soundfile
import torch
from torch import Tensor

from duologue.audio.reading import describe_error, native_name
from duologue.audio.signal import StreamResampler, check_rate
from duologue.errors import AudioError

AudioTarget = str | os.PathLike[str] | BinaryIO

_UNKNOWN_SIZE: Final = 0xFFFFFFFF
_WAV_HEADER_SIZE: Final = 44
_PCM16_SCALE: Final = 32_768
_PCM16_SIZE: Final = 2

_FORMATS: Final[dict[str, tuple[str, str]]] = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
_MP3_RATES: Final = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_ALLOWED_RATES: Final[dict[str, tuple[int, ...]]] = {
    "mp3": _MP3_RATES,
    "ogg": _MP3_RATES,  # libvorbis crashes the process at some rates outside its presets
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
}
_WRITE_SAMPLES: Final = 4_800  # libsndfile's opus encoder overflows its stack when given a long recording at once


def write_audio(target: AudioTarget, pcm: Tensor, sample_rate: int, format: str | None = None) -> None:
    """Write one recording whole, or nothing; `StreamWriter` says the rest.

    Args:
        target: a path or a binary file object.
        pcm: `[num_samples]` or `[1, num_samples]`, floating point; clipped to [-1, 1].
        sample_rate: in Hz.
        format: one of wav, flac, mp3, ogg, opus; None takes the path's suffix (wav for a file object).

    Raises:
        AudioError: unknown format, samples that are not numbers, or a target that cannot be written.
    """
    with StreamWriter(target, sample_rate, format=format) as writer:
        writer.write(pcm)


class StreamWriter:
    """Write a recording piece by piece.

    A path appears under its name only when `close` has been called, or the `with` block has ended, without an
    exception; else it is left as it was. A file object is written as the pieces come when the format is wav, with a
    header of unknown length that is corrected at the end if the object can seek; other formats come at the end.
    A path to a pipe or device is treated like a file object. mp3, ogg and opus allow a few sample rates only: others
    are resampled to the next higher one.
    """

    def __init__(self, target: AudioTarget, sample_rate: int, *, format: str | None = None) -> None:
        self.num_samples = 0
        self.sample_rate = sample_rate
        check_rate(sample_rate, "write")
        path = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
        self._name = path if path is not None else str(getattr(target, "name", "the audio stream"))
        self.format = _choose_format(path, format)
        rates = _ALLOWED_RATES.get(self.format, ())
        file_rate = sample_rate
        if rates and sample_rate not in rates:
            file_rate = min((rate for rate in rates if rate > sample_rate), default=max(rates))
        self._resampler = StreamResampler(sample_rate, file_rate) if file_rate != sample_rate else None
        self._stack = contextlib.ExitStack()
        self._final_path: str | None = None
        self._temporary_path: str | None = None
        self._stream: BinaryIO | None = None
        self._wav: _WavSink | None = None
        self._sound: soundfile.SoundFile | None = None
        self._is_open = True
        try:
            self._open(target, file_rate)
        except BaseException as error:
            self._abort_and_explain(error)
            raise

    def _open(self, target: AudioTarget, rate: int) -> None:
        if isinstance(target, (str, os.PathLike)):
            path = os.path.realpath(target)
            if os.path.isdir(path):
                raise AudioError(f"cannot write {self._name}: it is a folder; give a file name")
            folder = os.path.dirname(path)
            if not os.path.isdir(folder):
                raise AudioError(f"cannot write {self._name}: the folder {folder} does not exist; create it first")
            if os.path.exists(path) and not os.path.isfile(path):
                self._stream = self._stack.enter_context(_open_for_writing(path))
            else:
                self._final_path = path
                temporary = os.path.join(folder, f".duologue-{secrets.token_hex(8)}.part")
                self._temporary_path = temporary  # before it exists: Ctrl-C may come at any line
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        else:
            self._stream = target
        if self.format == "wav":
            if self._temporary_path is not None:
                self._wav = _WavSink(self._stack.enter_context(_open_for_writing(self._temporary_path)), rate)
            elif self._stream is not None:
                self._wav = _WavSink(self._stream, rate)
            return
        if self._temporary_path is None:
            handle, self._temporary_path = tempfile.mkstemp(prefix="duologue-")
            os.close(handle)
        container, encoding = _FORMATS[self.format]
        self._sound = soundfile.SoundFile(
            native_name(self._temporary_path), "w", samplerate=rate, channels=1, format=container, subtype=encoding
        )

    def write(self, pcm: Tensor) -> None:
        """Append `pcm`, `[num_samples]` or `[1, num_samples]`, floating point. On an error nothing is left behind."""
        if not self._is_open:
            raise AudioError(f"cannot write {self._name}: it is already closed; open a new writer")
        try:
            samples = _to_samples(pcm)
            self.num_samples += len(samples)
            if self._resampler is not None:
                samples = self._resampler.push(torch.from_numpy(samples)).numpy()
            self._write_samples(samples)
        except BaseException as error:
            self._abort_and_explain(error)
            raise

    def _write_samples(self, samples: np.ndarray[Any, Any]) -> None:
        samples = samples.clip(-1.0, 1.0)
        if self._wav is not None:
            self._wav.write(_to_pcm16(samples))
        elif self._sound is not None:
            if self.format == "flac":
                samples = _to_pcm16(samples)
            for start in range(0, len(samples), _WRITE_SAMPLES):
                self._sound.write(samples[start : start + _WRITE_SAMPLES])

    def close(self) -> None:
        """Finish the recording and give it its name. Closing twice does nothing."""
        if not self._is_open:
            return
        try:
            if self._resampler is not None:
                self._write_samples(self._resampler.finish().numpy())
            if self._wav is not None:
                self._wav.finish()
            if self._sound is not None:
                if self.num_samples == 0:
                    raise AudioError(f"cannot write {self._name}: {self.format} cannot hold 0 samples; use wav")
                self._sound.close()
                if self._stream is not None and self._temporary_path is not None:
                    with open(self._temporary_path, "rb") as encoded:
                        shutil.copyfileobj(encoded, self._stream)
            if self._stream is not None:
                self._stream.flush()
            self._stack.close()
            if self._final_path is not None and self._temporary_path is not None:
                os.replace(self._temporary_path, self._final_path)
                self._temporary_path = None
        except BaseException as error:
            self._abort_and_explain(error)
            raise
        self.abort()  # what is left by now is the temporary copy of a stream

    def abort(self) -> None:
        """Give up: remove the temporary file, leave the target's path as it was."""
        self._is_open = False
        for close in (self._stack.close, self._sound.close if self._sound is not None else None):
            if close is not None:
                with contextlib.suppress(OSError, ValueError, soundfile.SoundFileError):
                    close()
        if self._temporary_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary_path)
            self._temporary_path = None

    def _abort_and_explain(self, error: BaseException) -> None:
        """Undo, and turn what the system reports into an `AudioError`; any other error is left to the caller."""
        self.abort()
        if isinstance(error, (OSError, soundfile.SoundFileError, AssertionError)):
            reason = str(getattr(error, "error_string", "") or describe_error(error)).strip(" .")
            raise AudioError(
                f"cannot write {self._name}: {reason}; check the folder's permissions and the free space"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _open_for_writing(path: str) -> BinaryIO:
    return open(path, "wb")


class _WavSink:
    """PCM16 mono wav on a binary file: header first, sizes put right at the end where the file can seek."""

    def __init__(self, file: BinaryIO, rate: int) -> None:
        self._file = file
        self._rate = rate
        self._size = 0
        self._start: int | None = None
        with contextlib.suppress(OSError, AttributeError):
            self._start = file.tell() if file.seekable() else None
        file.write(_wav_header(rate, _UNKNOWN_SIZE))

    def write(self, samples: np.ndarray[Any, Any]) -> None:
        self._size += samples.size * _PCM16_SIZE
        self._file.write(samples.tobytes())

    def finish(self) -> None:
        if self._start is None:
            return
        if self._size + _WAV_HEADER_SIZE >= _UNKNOWN_SIZE:
            raise AudioError("a wav file holds at most 4 GiB; write flac")
        end = self._file.tell()
        self._file.seek(self._start)
        self._file.write(_wav_header(self._rate, self._size))
        self._file.seek(end)


def _wav_header(rate: int, data_size: int) -> bytes:
    """44 bytes: RIFF, fmt (PCM, 1 channel, 16 bits), data."""
    riff_size = min(data_size + _WAV_HEADER_SIZE - 8, _UNKNOWN_SIZE)
    format_chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * _PCM16_SIZE, _PCM16_SIZE, 16)
    return struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE") + format_chunk + struct.pack("<4sI", b"data", data_size)


def _choose_format(path: str | None, format: str | None) -> str:
    if format is None:
        format = Path(path).suffix.lower().removeprefix(".") if path is not None else "wav"
        if format not in _FORMATS:
            raise AudioError(
                f"cannot tell the audio format of {path} from its suffix; end it in one of "
                + ", ".join(f".{known}" for known in _FORMATS)
            )
    elif format not in _FORMATS:
        raise AudioError(f"unknown audio format {format!r}; expected one of " + ", ".join(_FORMATS))
    return format


def _to_samples(pcm: Tensor) -> np.ndarray[Any, Any]:
    """`[num_samples]` or `[1, ..., num_samples]` as a float32 array `[num_samples]`."""
    if not isinstance(pcm, Tensor) or not pcm.is_floating_point():
        kind = pcm.dtype if isinstance(pcm, Tensor) else type(pcm).__name__
        raise AudioError(f"audio to write is {kind}; expected a floating-point tensor in [-1, 1]")
    if pcm.dim() == 0 or pcm.numel() != pcm.shape[-1]:
        raise AudioError(f"audio to write has shape {tuple(pcm.shape)}; expected [num_samples] or [1, num_samples]")
    samples = pcm.detach().reshape(-1).to(device="cpu", dtype=torch.float32)
    if not torch.isfinite(samples).all():
        raise AudioError("audio to write has samples that are not finite numbers; nothing was written")
    array: np.ndarray[Any, Any] = samples.numpy()
    return array


def _to_pcm16(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 in [-1, 1] to little-endian int16; what was read from PCM16 comes back bit by bit."""
    return (samples * _PCM16_SCALE).round().clip(-_PCM16_SCALE, _PCM16_SCALE - 1).astype("<i2")
