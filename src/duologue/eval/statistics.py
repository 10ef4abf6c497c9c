"""Figures with their count and interval: percentile bootstrap over utterances, single or paired.

Sources: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; Bisani and Ney, "Bootstrap
estimates for confidence intervals in ASR performance evaluation" (2004), for corpus-level word error rates, whose
numerator and denominator are drawn together. The draws are seeded: the same rows give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from duologue.config import JsonConfig

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 20_260_000

Column = npt.NDArray[np.float64]
Statistic = Callable[..., Column]
"""Columns `[..., n]`, one value an utterance, to the statistic `[...]` over the last axis."""


@dataclass(frozen=True)
class Figure(JsonConfig):
    """A measured value with its bootstrap 95 % interval and the number of utterances behind it.

    `value` is None where nothing was measured, `low` and `high` where one utterance or none was.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Difference(JsonConfig):
    """How much the second of two paired measurements lies above the first, with its interval."""

    value: float | None
    low: float | None
    high: float | None
    count: int

    @property
    def significant(self) -> bool:
        """Whether the 95 % interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean(values: Column) -> Column:
    """The mean of `[..., n]`."""
    return np.asarray(values.mean(axis=-1))


def median(values: Column) -> Column:
    """The median of `[..., n]`."""
    return np.asarray(np.median(values, axis=-1))


def percentile(share: float) -> Statistic:
    """The statistic that is the percentile at `share`, in [0, 100]."""
    return lambda values: np.asarray(np.percentile(values, share, axis=-1))


def maximum(values: Column) -> Column:
    """The largest of `[..., n]`."""
    return np.asarray(values.max(axis=-1))


def ratio(numerators: Column, denominators: Column) -> Column:
    """Sum over sum, as in a corpus-level word error rate; NaN where the denominators are all zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerators.sum(axis=-1) / denominators.sum(axis=-1))


def correlation(first: Column, second: Column) -> Column:
    """Pearson's correlation of two columns; NaN where one of them does not vary."""
    first, second = (x - x.mean(axis=-1, keepdims=True) for x in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(
            (first * second).sum(axis=-1) / np.sqrt(np.square(first).sum(axis=-1) * np.square(second).sum(axis=-1))
        )


def slope(first: Column, second: Column) -> Column:
    """How much the second rises for each one of the first, along the least-squares line; NaN where that is upright."""
    centred = first - first.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((centred * second).sum(axis=-1) / np.square(centred).sum(axis=-1))


def estimate(statistic: Statistic, *columns: Sequence[float] | Column) -> Figure:
    """The statistic of columns of equal length, one value an utterance, with its interval."""
    data = [np.asarray(column, dtype=np.float64) for column in columns]
    count = len(data[0])
    if count == 0:
        return Figure(None, None, None, 0)
    value = _number(statistic(*data))
    if count == 1 or value is None:
        return Figure(value, None, None, count)
    low, high = interval(statistic(*(column[draws(count)] for column in data)))
    return Figure(value, low, high, count)


def compare(statistic: Statistic, first: Sequence[Column], second: Sequence[Column]) -> Difference:
    """`statistic(second) - statistic(first)` where entry i of either side is the same utterance, drawn together."""
    sides = [[np.asarray(column, dtype=np.float64) for column in side] for side in (first, second)]
    count = len(sides[0][0])
    assert all(len(column) == count for side in sides for column in side), "paired columns have one length"
    if count == 0:
        return Difference(None, None, None, 0)
    value = _number(np.asarray(statistic(*sides[1]) - statistic(*sides[0])))
    if count == 1 or value is None:
        return Difference(value, None, None, count)
    drawn = draws(count)
    before, after = (statistic(*(column[drawn] for column in side)) for side in sides)
    low, high = interval(np.asarray(after - before))
    return Difference(value, low, high, count)


def draws(count: int) -> npt.NDArray[np.int64]:
    """The bootstrap's samples of `count` utterances: indices `[RESAMPLES, count]`, the same each time."""
    return np.random.default_rng((_SEED, count)).integers(0, count, size=(RESAMPLES, count))


def interval(values: Column) -> tuple[float | None, float | None]:
    """The bootstrap percentiles; resamples in which the statistic is undefined are left out."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def _number(value: Column) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
