"""Recordings that libsndfile does not know, as telephones, meetings and films leave them: through PyAV, where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from duologue.errors import AudioError

CONTAINER_SUFFIXES: Final = (".m4a", ".mp4", ".aac", ".mov", ".webm", ".mka", ".mkv", ".wma", ".amr", ".g722")


def container_blocks(path: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """The first audio stream of a file: its rate in Hz with `[num_samples, num_channels]` in [-1, 1], piece by piece.

    Raises `AudioError` without PyAV, for a file that is damaged, and for one without sound.
    """
    try:
        import av
    except ImportError:
        suffix = path[path.rfind(".") :]
        raise AudioError(f"{path}: {suffix} is read by PyAV: pip install 'duologue[prepare]', or give wav") from None
    try:
        with av.open(path) as container:
            streams = container.streams.audio
            if not streams:
                raise AudioError(f"{path} has no sound in it; give a recording")
            to_float = av.AudioResampler(format="fltp")  # only the samples' format; layout and rate stay
            for frame in container.decode(streams[0]):
                yield from _arrays(to_float.resample(frame))
            yield from _arrays(to_float.resample(None))
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"{path} is damaged or not audio ({error.args[-1]}); give a whole recording") from None


def _arrays(frames: list[Any]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    for frame in frames:
        yield frame.sample_rate, frame.to_ndarray().T
