"""From judged references to the figures of each pair: a threshold from some voices, its accuracy on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from duologue.errors import EvaluationError
from duologue.eval import statistics
from duologue.eval.phones import PairAccuracy

LEAST_CORRECT: Final = 0.85
LEAST_LOW: Final = 0.70
_DIGITS: Final = 4

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One reference: the variant that was said, 0 or 1, and how much likelier the first is than the second.

    `advantage` is in nats per frame of the word, without a threshold; None where the judge gave no answer.
    """

    voice: str
    line: str
    word: str
    variants: tuple[str, ...]
    said: int
    advantage: float | None


def choose_threshold(first: Numbers, second: Numbers) -> float:
    """The threshold that tells the advantages of references of the first variant from those of the second.

    It has the highest mean of the two shares of right answers; 0 if that is one of the best, else the middle of the
    widest range of best ones. Both arrays are `[num_references]`, and neither may be empty.
    """
    values = np.unique(np.concatenate([first, second]))
    candidates = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    widths = np.concatenate([[0.0], np.diff(values), [0.0]])

    def right(threshold: float) -> float:
        return float(np.mean(first > threshold) + np.mean(second <= threshold))

    scores = np.array([right(candidate) for candidate in candidates])
    best = scores.max()
    if right(0.0) >= best:
        return 0.0
    return round(float(candidates[np.argmax(np.where(scores == best, widths, -1.0))]), _DIGITS)


def measure_pair(judged: Sequence[Judged], tuned_on: Sequence[str], measured_on: Sequence[str]) -> PairAccuracy:
    """The figures of one word's references; raises `EvaluationError` where a variant was never heard by the judge."""
    word, variants = judged[0].word, judged[0].variants
    first, second = (_advantages(judged, tuned_on, said) for said in (0, 1))
    if not len(first) or not len(second):
        raise EvaluationError(f"{word}: no reference of one variant by {', '.join(tuned_on)} could be judged")
    threshold = choose_threshold(first, second)
    right = [
        (_advantages(judged, measured_on, 0) > threshold).astype(np.float64),
        (_advantages(judged, measured_on, 1) <= threshold).astype(np.float64),
    ]
    asked = sum(entry.voice in measured_on for entry in judged)
    figure = statistics.estimate(statistics.mean, np.concatenate(right))
    if not all(map(len, right)) or figure.value is None or figure.low is None or figure.high is None:
        raise EvaluationError(f"{word}: no reference of one variant by {', '.join(measured_on)} could be judged")
    correct = tuple(round(float(answers.mean()), _DIGITS) for answers in right)
    return PairAccuracy(
        word=word,
        variants=variants,
        threshold=threshold,
        count=figure.count,
        counts=tuple(map(len, right)),
        correct=correct,
        unaligned=round(1 - figure.count / asked, _DIGITS),
        accuracy=round(figure.value, _DIGITS),
        low=round(figure.low, _DIGITS),
        high=round(figure.high, _DIGITS),
        separable=min(correct) >= LEAST_CORRECT and figure.low > LEAST_LOW,
    )


def _advantages(judged: Sequence[Judged], voices: Sequence[str], said: int) -> Numbers:
    return np.array(
        [
            entry.advantage
            for entry in judged
            if entry.voice in voices and entry.said == said and entry.advantage is not None
        ],
        dtype=np.float64,
    )
