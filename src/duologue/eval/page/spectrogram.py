"""Mel spectrograms as small pictures: dark on light, one scale of time, pitch and loudness for all clips of a page.

Sources: O'Shaughnessy, "Speech Communication" (1987), for the mel scale, 2595 log10(1 + f / 700); Boersma and Weenink,
"Praat", for grey on white and for the range of 70 dB below the loudest point.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from duologue.errors import EvaluationError

SAMPLE_RATE: Final = 24_000  # Hz; all clips are brought to it
TOP_HZ: Final = SAMPLE_RATE / 2
NUM_BANDS: Final = 96
MAX_COLUMNS: Final = 800  # 96 rows of 800 columns in half a byte each are less than 40 kB, however they compress
COLUMNS_PER_SECOND: Final = 110
RANGE_DB: Final = 70.0

_LEAST_WINDOW_S: Final = 0.03
_NUM_GREYS: Final = 16
_DARKEST: Final = 16  # of 255
_PADDING: Final = 2  # of the transform: narrow low bands find a bin of their own

Floats = npt.NDArray[np.float32]


def to_mel(hertz: float) -> float:
    """The mel scale, on which equal steps sound about equal."""
    return 2595.0 * float(np.log10(1.0 + hertz / 700.0))


def num_columns(num_samples: int) -> int:
    """Columns of the picture of a clip at `SAMPLE_RATE`; a long clip has fewer a second."""
    return max(1, min(MAX_COLUMNS, round(num_samples / SAMPLE_RATE * COLUMNS_PER_SECOND)))


def mel_levels(pcm: Floats) -> Floats:
    """`[num_samples]` at `SAMPLE_RATE` to `[NUM_BANDS, num_columns]`: 0 at the loudest point, 1 at `RANGE_DB` below.

    The lowest band comes first. Silence is 1 throughout.
    """
    columns = num_columns(len(pcm))
    hop = len(pcm) / columns
    window = max(round(_LEAST_WINDOW_S * SAMPLE_RATE), round(hop))
    padded = np.pad(pcm, (window // 2, window))
    starts = (np.arange(columns) * hop + hop / 2).astype(np.int64)  # of windows whose middle is the column's
    frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32)  # [C, window]
    size = _PADDING * 2 ** int(np.ceil(np.log2(window)))
    power = np.square(np.abs(np.fft.rfft(frames, size)))  # [C, bins]
    bands = power @ _filters(size).T  # [C, NUM_BANDS]
    loudest = float(bands.max())
    if loudest <= 0:
        return np.ones((NUM_BANDS, columns), dtype=np.float32)
    floor = loudest * 10 ** (-RANGE_DB / 10)
    levels = -10 * np.log10(np.maximum(bands, floor) / loudest) / RANGE_DB
    return np.asarray(levels.T, dtype=np.float32)


def _filters(size: int) -> npt.NDArray[np.float64]:
    """Triangles of equal width in mel and equal area in Hz, `[NUM_BANDS, size // 2 + 1]`."""
    edges = 700.0 * (10 ** (np.linspace(0, to_mel(TOP_HZ), NUM_BANDS + 2) / 2595.0) - 1)
    bins = np.linspace(0, TOP_HZ, size // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles / triangles.sum(axis=1, keepdims=True))


def picture(pcm: Floats) -> bytes:
    """The spectrogram of `[num_samples]` at `SAMPLE_RATE` as a PNG, low frequencies at the bottom.

    Raises `EvaluationError` where the extra `eval` is not installed.
    """
    images = load_pillow()
    levels = np.round(mel_levels(pcm)[::-1] * (_NUM_GREYS - 1)).astype(np.uint8)
    greys = np.linspace(_DARKEST, 255, _NUM_GREYS).round().astype(int).repeat(3)
    image = images.fromarray(levels)
    image.putpalette(greys.tolist())
    file = io.BytesIO()
    image.save(file, "png", bits=4, optimize=True)
    return file.getvalue()


def load_pillow() -> Any:
    """Pillow's `Image`. Raises `EvaluationError` where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EvaluationError("pillow is not installed: pip install 'duologue[eval]'") from error
    return Image
