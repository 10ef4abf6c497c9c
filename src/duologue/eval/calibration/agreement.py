"""The instruments against the packages behind them, called directly: the figures have to be the same.

A direct call goes the way of somebody who has the packages alone: DNSMOS from a 16-bit file that `speechmos` reads and
resamples itself, the word error rate from `jiwer` over all texts at once.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from duologue.audio import write_audio
from duologue.errors import EvaluationError
from duologue.eval.calibration.references import Reference
from duologue.eval.measure import Row
from duologue.eval.metrics import METRICS
from duologue.eval.statistics import Figure
from duologue.eval.words import WordScorer

_RATE: Final = 16_000  # the only one that speechmos takes
_SCORES: Final = {"signal": "sig_mos", "background": "bak_mos", "overall": "ovrl_mos", "p808": "p808_mos"}

Compare = Callable[[Sequence[Reference], Sequence[Row], Callable[[str], None]], list[float]]
"""The absolute differences, one for each comparison; the function is told each text before it is compared."""


@dataclass(frozen=True)
class Agreement:
    """A row of the table: the largest difference that `compare` finds is at most `most`, in `unit`."""

    name: str
    title: str
    unit: str
    most: float
    compare: Compare

    def figure(
        self, references: Sequence[Reference], rows: Sequence[Row], show: Callable[[str], None] = lambda text: None
    ) -> Figure:
        """The largest difference, and of how many; `rows` are those of `references`, in the same order."""
        found = self.compare(references, rows, show)
        return Figure(max(found, default=None), None, None, len(found))


def _dnsmos(references: Sequence[Reference], rows: Sequence[Row], show: Callable[[str], None]) -> list[float]:
    """The largest of the four scores' differences, for each recording."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of librosa's imports
            from speechmos import dnsmos
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    differences = []
    with tempfile.TemporaryDirectory(prefix="duologue-") as folder:
        for reference, row in zip(references, rows, strict=True):
            if row.overall is None:
                continue
            show(reference.text)
            file = Path(folder) / "direct.wav"
            write_audio(file, reference.sound.pcm.clamp(-1, 1), reference.sound.sample_rate)
            direct: dict[str, Any] = dnsmos.run(str(file), _RATE)
            differences.append(max(abs(getattr(row, ours) - float(direct[key])) for ours, key in _SCORES.items()))
    return differences


def _word_error_rate(references: Sequence[Reference], rows: Sequence[Row], show: Callable[[str], None]) -> list[float]:
    """One difference, in percent: of the figure over all rows."""
    try:
        import jiwer
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    normalize = WordScorer().normalize
    pairs = [(wanted, normalize(row.heard)) for row in rows if (wanted := normalize(row.text))]
    ours = METRICS["wer"].figure([row for row in rows if row.num_words]).value
    if not pairs or ours is None:
        return []
    return [abs(ours - 100 * float(jiwer.wer([text for text, _ in pairs], [heard for _, heard in pairs])))]


AGREEMENTS: tuple[Agreement, ...] = (
    Agreement("dnsmos", "DNSMOS, largest difference from a direct call of speechmos", "", 0.1, _dnsmos),
    Agreement("jiwer", "WER over all, difference from a direct call of jiwer", "%", 1e-6, _word_error_rate),
)
