"""TensorBoard: the figures of a run, what its codec makes to listen to, and pictures of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from duologue.errors import TrainingError
from duologue.train.spectral import MultiScaleMel

_WINDOW = 1024
_BANDS = 80
_FLOOR_DB, _CEILING_DB = -80.0, 20.0


class Board:
    """Writes event files that `tensorboard --logdir FOLDER` shows."""

    def __init__(self, folder: Path) -> None:
        """Raises `TrainingError` where the extra `train` is not installed."""
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise TrainingError("tensorboard is not installed: pip install 'duologue[train]'") from error
        self._writer = SummaryWriter(str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Each figure as a curve; `eval_...` and `perplexity_...` in groups of their own."""
        for name, value in values.items():
            group, _, rest = name.partition("_")
            grouped = group in ("eval", "perplexity") and rest
            self._writer.add_scalar(f"{group}/{rest}" if grouped else f"train/{name}", value, step)

    def sound(self, name: str, pcm: Tensor, sample_rate: int, step: int) -> None:
        """`pcm [S]` in [-1, 1] as a player, and its mel spectrogram as a picture, low frequencies at the bottom."""
        self._writer.add_audio(f"{name}/sound", pcm[None].cpu(), step, sample_rate=sample_rate)
        self._writer.add_image(f"{name}/spectrogram", mel_picture(pcm.cpu(), sample_rate), step)
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def mel_picture(pcm: Tensor, sample_rate: int) -> Tensor:
    """`[S] -> [1, bands, frames]` in 0..1, grey: mel magnitudes in decibels."""
    mel = MultiScaleMel(sample_rate, ((_WINDOW, _BANDS),), floor_db=_FLOOR_DB)
    with torch.no_grad():
        decibels = 20 * mel.logarithms(pcm[None].float(), _WINDOW)[0]  # [frames, bands]
    scaled = ((decibels - _FLOOR_DB) / (_CEILING_DB - _FLOOR_DB)).clamp(0, 1)
    return scaled.T.flip(0)[None]
