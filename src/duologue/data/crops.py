"""Random crops of recordings for the codec, aligned to frames, with a little augmentation.

The batch of a step depends on the seed and the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor

from duologue.data.corpus import PcmStore
from duologue.errors import TrainingError

# In octaves: 0.82 to 1.22 times as fast.
_MOST_SHIFT = 0.29


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
        shifted: float = 0.0,
    ) -> None:
        """`features` is a folder with one float16 `<recording stem>.npy` of `[T, F]`, one row a frame.

        `feature_statistics` are the mean and standard deviation `[F]` that standardize them. A share `shifted` of the
        crops is played slower or faster, by up to a fifth: pitch and formants move together, as from another throat.
        Raises `TrainingError` where there is nothing to draw from.
        """
        lengths = np.array([store.num_samples(i) for i in range(len(store))], dtype=np.float64)
        lengths[lengths < frame_size] = 0
        share = lengths * (np.asarray(weights) if weights is not None else 1.0)
        if not share.sum():
            raise TrainingError("no recording is as long as one frame: nothing to train on")
        self.store, self.share = store, share / share.sum()
        self.frame_size, self.num_frames, self.batch_size, self.seed = frame_size, num_frames, batch_size, seed
        self.features, self.feature_statistics, self.shifted = features, feature_statistics, shifted
        self.feature_dim = 0 if features is None else _feature_dim(features)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of a step: `pcm [B, 1, S]` and features `[B, T, F]`, zero where there are none."""
        random = np.random.default_rng((self.seed, step))
        pcm = np.zeros((self.batch_size, self.num_frames * self.frame_size), np.float32)
        teacher = np.zeros((self.batch_size, self.num_frames, self.feature_dim), np.float32)
        for row, position in enumerate(random.choice(len(self.share), self.batch_size, p=self.share)):
            speed = float(np.exp2(random.uniform(-_MOST_SHIFT, _MOST_SHIFT))) if random.random() < self.shifted else 1.0
            needed = math.ceil(self.num_frames * speed)
            frames = self.store.num_samples(int(position)) // self.frame_size
            first = int(random.integers(0, max(1, frames - needed + 1)))
            start = first * self.frame_size
            crop = self.store.read(int(position), start, start + round(pcm.shape[1] * speed))
            pcm[row] = augment(at_speed(crop, speed, pcm.shape[1]), random)
            if self.features is not None:
                known = self._features(int(position), first, needed)
                places = np.floor((np.arange(self.num_frames) + 0.5) * speed).astype(int)  # whose middle is nearest
                places = places[places < len(known)]
                teacher[row, : len(places)] = known[places]
        return torch.from_numpy(pcm)[:, None], torch.from_numpy(teacher)

    def _features(self, position: int, first: int, count: int) -> npt.NDArray[np.float32]:
        assert self.features is not None
        path = self.features / f"{Path(self.store.names[position]).stem}.npy"
        if not path.exists():
            return np.zeros((0, self.feature_dim), np.float32)
        known: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")[first : first + count]
        if self.feature_statistics is None:
            return known.astype(np.float32)
        mean, deviation = self.feature_statistics
        return (known.astype(np.float32) - mean) / deviation


def _feature_dim(folder: Path) -> int:
    for path in folder.glob("*.npy"):
        return int(np.load(path, mmap_mode="r").shape[1])
    raise TrainingError(f"no features in {folder}: compute them first")


def at_speed(crop: npt.NDArray[np.float32], speed: float, num_samples: int) -> npt.NDArray[np.float32]:
    """`crop` played `speed` times as fast, cut or padded with silence to `num_samples`."""
    if speed != 1.0:
        crop = soxr.resample(crop, speed, 1.0)
    made = np.zeros(num_samples, np.float32)
    made[: len(crop)] = crop[:num_samples]
    return made


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
