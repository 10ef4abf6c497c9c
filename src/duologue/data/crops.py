"""Random crops of recordings for the codec, aligned to frames, with a little augmentation.

The batch of a step depends on the seed and the step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from duologue.data.corpus import PcmStore
from duologue.errors import TrainingError


class CropSampler:
    """Draws crops of `num_frames` frames, each recording as often as its length and `weights` say."""

    def __init__(
        self,
        store: PcmStore,
        *,
        frame_size: int,
        num_frames: int,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        features: Path | None = None,
        feature_statistics: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        """`features` is a folder with one float16 `<recording stem>.npy` of `[T, F]`, one row a frame.

        `feature_statistics` are the mean and standard deviation `[F]` that standardize them. Raises `TrainingError`
        where there is nothing to draw from.
        """
        lengths = np.array([store.num_samples(i) for i in range(len(store))], dtype=np.float64)
        lengths[lengths < frame_size] = 0
        share = lengths * (np.asarray(weights) if weights is not None else 1.0)
        if not share.sum():
            raise TrainingError("no recording is as long as one frame: nothing to train on")
        self.store, self.share = store, share / share.sum()
        self.frame_size, self.num_frames, self.batch_size, self.seed = frame_size, num_frames, batch_size, seed
        self.features, self.feature_statistics = features, feature_statistics
        self.feature_dim = 0 if features is None else _feature_dim(features)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step: `pcm [B, 1, S]` and features `[B, T, F]`, zero where there are none."""
        random = np.random.default_rng((self.seed, step))
        pcm = np.zeros((self.batch_size, self.num_frames * self.frame_size), np.float32)
        teacher = np.zeros((self.batch_size, self.num_frames, self.feature_dim), np.float32)
        for row, position in enumerate(random.choice(len(self.share), self.batch_size, p=self.share)):
            frames = self.store.num_samples(int(position)) // self.frame_size
            first = int(random.integers(0, max(1, frames - self.num_frames + 1)))
            start = first * self.frame_size
            crop = self.store.read(int(position), start, start + pcm.shape[1])
            pcm[row] = augment(crop, random)
            if self.features is not None:
                known = self._features(int(position), first)
                teacher[row, : len(known)] = known
        return torch.from_numpy(pcm)[:, None], torch.from_numpy(teacher)

    def _features(self, position: int, first: int) -> npt.NDArray[np.float32]:
        assert self.features is not None
        path = self.features / f"{Path(self.store.names[position]).stem}.npy"
        if not path.exists():
            return np.zeros((0, self.feature_dim), np.float32)
        known: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")[first : first + self.num_frames]
        if self.feature_statistics is None:
            return known.astype(np.float32)
        mean, deviation = self.feature_statistics
        return (known.astype(np.float32) - mean) / deviation


def _feature_dim(folder: Path) -> int:
    for path in folder.glob("*.npy"):
        return int(np.load(path, mmap_mode="r").shape[1])
    raise TrainingError(f"no features in {folder}: compute them first")


def augment(crop: npt.NDArray[np.float32], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """A gain of -10 to +4 dB for most crops, faint noise on a tenth, a narrower band on another.

    Never above full scale.
    """
    if random.random() < 0.1:
        crop = low_pass(crop, random.uniform(0.15, 0.6))
    if random.random() < 0.7:
        crop = crop * 10 ** (random.uniform(-10, 4) / 20)
    if random.random() < 0.1:
        crop = crop + random.normal(0, 10 ** (random.uniform(-70, -50) / 20), crop.shape).astype(np.float32)
    peak = float(np.abs(crop).max(initial=1e-9))
    return (crop / max(1.0, peak / 0.99)).astype(np.float32)


def low_pass(crop: npt.NDArray[np.float32], cutoff: float) -> npt.NDArray[np.float32]:
    """Fades out what lies above `cutoff` of the band, over a twentieth of it: a telephone, an old recording."""
    spectrum = np.fft.rfft(crop)
    place = np.linspace(0, 1, len(spectrum))
    return np.fft.irfft(spectrum * np.clip((cutoff - place) / 0.05 + 1, 0, 1), len(crop)).astype(np.float32)
