"""The instruments against the packages behind them, called directly: the figures have to be the same.

DNSMOS is held twice to `speechmos`: each score on the same 16 kHz samples, and the means on files that `speechmos`
reads and resamples itself. Single scores of the latter differ, since its resampler gives one sample more, and DNSMOS
repeats what is shorter than 9 s: docs/calibration.md. The word error rate is held to `jiwer` over all texts at once.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from duologue.audio import resample, write_audio
from duologue.errors import EvaluationError
from duologue.eval.calibration.references import Reference
from duologue.eval.clips import Sound
from duologue.eval.measure import Row
from duologue.eval.metrics import METRICS
from duologue.eval.statistics import Figure
from duologue.eval.words import WordScorer

_RATE: Final = 16_000  # the only one that speechmos takes
_SCORES: Final = {"signal": "sig_mos", "background": "bak_mos", "overall": "ovrl_mos", "p808": "p808_mos"}

_MOST_SINGLE: Final = 40  # recordings whose scores are compared one by one

Scores = npt.NDArray[np.float64]
Show = Callable[[str], None]
Compare = Callable[[Sequence[Reference], Sequence[Row], Show], Figure]
"""The largest absolute difference, and of how many recordings; the function is told each text before it is compared."""


@dataclass(frozen=True)
class Agreement:
    """A row of the table: the difference that `compare` finds between untouched recordings' rows, in the recordings'
    order, and direct calls is at most `most`, in `unit`."""

    name: str
    title: str
    unit: str
    most: float
    compare: Compare


def _same_samples(references: Sequence[Reference], rows: Sequence[Row], show: Show) -> Figure:
    """The largest difference of any score of any recording; of some recordings, spread over all."""
    step = max(1, len(rows) // _MOST_SINGLE)
    ours, direct = _judged(
        references[::step], rows[::step], show, lambda sound: resample(sound.pcm, sound.sample_rate, _RATE).clamp(-1, 1)
    )
    return _figure(np.abs(ours - direct), len(ours))


def _files(references: Sequence[Reference], rows: Sequence[Row], show: Show) -> Figure:
    """The largest difference of the four scores' means."""
    with tempfile.TemporaryDirectory(prefix="duologue-") as folder:
        file = Path(folder) / "direct.wav"

        def written(sound: Sound) -> str:
            write_audio(file, sound.pcm.clamp(-1, 1), sound.sample_rate)
            return str(file)

        ours, direct = _judged(references, rows, show, written)
    return _figure(np.abs((ours - direct).mean(axis=0)) if len(ours) else ours, len(ours))


def _judged(
    references: Sequence[Reference], rows: Sequence[Row], show: Show, given: Callable[[Sound], Tensor | str]
) -> tuple[Scores, Scores]:
    """The rows' scores and those of a direct call with what `given` makes of each recording, both `[n, 4]`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of librosa's imports
            from speechmos import dnsmos
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    ours, direct = [], []
    for reference, row in zip(references, rows, strict=True):
        if row.overall is None:
            continue
        show(reference.text)
        sample = given(reference.sound)
        scores: dict[str, Any] = dnsmos.run(sample if isinstance(sample, str) else sample.numpy(), _RATE)
        ours.append([getattr(row, name) for name in _SCORES])
        direct.append([float(scores[key]) for key in _SCORES.values()])
    return np.asarray(ours, dtype=np.float64), np.asarray(direct, dtype=np.float64)


def _figure(differences: Scores, count: int) -> Figure:
    return Figure(float(differences.max()) if count else None, None, None, count)


def _word_error_rate(references: Sequence[Reference], rows: Sequence[Row], show: Show) -> Figure:
    """The difference of the figure over all rows, in percent."""
    try:
        import jiwer
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    normalize = WordScorer().normalize
    pairs = [(wanted, normalize(row.heard)) for row in rows if (wanted := normalize(row.text))]
    ours = METRICS["wer"].figure([row for row in rows if row.num_words]).value
    if not pairs or ours is None:
        return Figure(None, None, None, 0)
    direct = 100 * float(jiwer.wer([text for text, _ in pairs], [heard for _, heard in pairs]))
    return Figure(abs(ours - direct), None, None, len(pairs))


AGREEMENTS: tuple[Agreement, ...] = (
    Agreement("dnsmos", "DNSMOS, difference of means from direct calls of speechmos on files", "", 0.1, _files),
    Agreement("dnsmos-single", "DNSMOS, largest difference from speechmos, same samples", "", 0.001, _same_samples),
    Agreement("jiwer", "WER, difference from a direct call of jiwer", "%", 1e-6, _word_error_rate),
)
