"""What a speech recogniser hears: features of Whisper's encoder, averaged to the codec's frame rate.

They teach the semantic codebook (Defossez et al., "Moshi", 2024, section 3.3.2, with Whisper in WavLM's place). Runs in
CTranslate2; for weights without a download see `checkpoints.whisper`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from duologue.audio import resample
from duologue.checkpoints.whisper import torch_threads_kept
from duologue.data.corpus import PcmStore
from duologue.errors import TrainingError

_WHISPER_RATE = 16_000
_WINDOW_SECONDS = 30
_STEPS_PER_SECOND = 50
_PAUSE_FRAMES = 2


class WhisperTeacher:
    """`features(pcm) -> [T, dim]` for up to 30 s at 16 kHz; loads its model once."""

    def __init__(self, folder: Path, *, frame_rate: float, threads: int = 2) -> None:
        """`folder` holds a CTranslate2 Whisper; raises `TrainingError` where the extra `train` is not installed."""
        try:
            import ctranslate2
            from faster_whisper.feature_extractor import FeatureExtractor
        except ImportError as error:
            raise TrainingError(f"{error.name} is not installed: pip install 'duologue[train]'") from error
        self._ctranslate2 = ctranslate2
        with torch_threads_kept():
            self._model = ctranslate2.models.Whisper(
                str(folder), device="cpu", compute_type="int8", intra_threads=threads
            )
        self._mel = FeatureExtractor()
        self.frame_rate = frame_rate

    def __call__(self, pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`[S]` at 16 kHz, at most 30 s, `-> [30 s * frame_rate, dim]` float32."""
        padded = np.pad(pcm, (0, _WINDOW_SECONDS * _WHISPER_RATE - len(pcm)))
        mel = self._mel(padded)[:, : _WINDOW_SECONDS * 100]
        view = self._ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], dtype=np.float32))
        encoded = np.array(self._model.encode(view, to_cpu=True))[0].astype(np.float32)  # [1500, dim]
        group = round(_STEPS_PER_SECOND / self.frame_rate)
        features: npt.NDArray[np.float32] = encoded.reshape(-1, group, encoded.shape[-1]).mean(axis=1)
        return features


def write_features(
    store: PcmStore,
    folder: Path,
    teacher: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    *,
    frame_rate: float,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """One `<recording stem>.npy` `[T, dim]` float16 a recording; those there already are kept.

    Short recordings share a window of 30 s; one that is longer is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo = [i for i in range(len(store)) if not feature_path(folder, store.names[i]).exists()]
    done = len(store) - len(todo)
    for window in _windows(store, todo, frame_rate):
        pieces, places, at = [], [], 0
        for position, num_frames in window:
            pcm = torch.from_numpy(store.read(position, 0, store.num_samples(position)))
            length = round((num_frames + _PAUSE_FRAMES) * _WHISPER_RATE / frame_rate)
            heard = resample(pcm, store.sample_rate, _WHISPER_RATE).numpy()[:length]
            pieces.append(np.pad(heard, (0, length - len(heard))))
            places.append((position, at, num_frames))
            at += num_frames + _PAUSE_FRAMES
        features = teacher(np.concatenate(pieces)[: _WINDOW_SECONDS * _WHISPER_RATE])
        for position, first, num_frames in places:
            path = feature_path(folder, store.names[position])
            fresh = path.with_suffix(".part.npy")
            np.save(fresh, features[first : first + num_frames].astype(np.float16))
            os.replace(fresh, path)
        done += len(window)
        if progress is not None:
            progress(done, len(store))


def feature_statistics(folder: Path, *, every: int = 20) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation `[dim]` of each feature over every `every`-th file of the folder.

    Whisper's features have a large mean in common, which says nothing about the words: a cosine between raw features is
    mostly that. Raises `TrainingError` for a folder without features.
    """
    paths = sorted(folder.glob("*.npy"))[::every]
    if not paths:
        raise TrainingError(f"no features in {folder}: compute them first")
    features = np.concatenate([np.load(path) for path in paths]).astype(np.float32)
    return features.mean(axis=0), features.std(axis=0) + 1e-3


def feature_path(folder: Path, name: str) -> Path:
    """Where the features of the recording called `name` lie."""
    return folder / f"{Path(name).stem}.npy"


def _windows(store: PcmStore, positions: Sequence[int], frame_rate: float) -> Iterator[list[tuple[int, int]]]:
    """Recordings `(position, num_frames)` that fit one window together."""
    room = limit = int(_WINDOW_SECONDS * frame_rate)
    window: list[tuple[int, int]] = []
    for position in positions:
        num_frames = int(np.ceil(store.num_samples(position) / store.sample_rate * frame_rate))
        if num_frames > limit:
            continue
        if num_frames > room:
            yield window
            window, room = [], limit
        window.append((position, num_frames))
        room -= num_frames + _PAUSE_FRAMES
    if window:
        yield window
