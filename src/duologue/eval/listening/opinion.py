"""The comparative mean opinion score (CMOS) of two systems, with an interval over raters and items.

The mean rating, oriented so that a value above 0 means that the second system was preferred. The interval is that of
the pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007): raters and items are
drawn anew, independently, and a rating counts as often as its rater and its item were drawn together. Ratings of one
rater, or of one item, are not independent, and a bootstrap over single ratings would give too narrow an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from duologue.config import JsonConfig
from duologue.errors import EvaluationError
from duologue.eval.listening.key import Key, Trial
from duologue.eval.listening.ratings import Answer, RaterFile
from duologue.eval.statistics import LEVEL, RESAMPLES

ALL_CONDITIONS: Final = "all"
CONDITIONS: Final = ("no context", "context")

_MOST_FOR_IDENTICAL: Final = 1  # "slightly better" for the same sound is a slip that listeners make
_LEAST_FOR_SPOILED: Final = 1

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConditionOpinion(JsonConfig):
    """CMOS of one condition, in [-3, 3], with its bootstrap 95 % interval and what it rests on.

    `value` is None where nothing was rated, `low` and `high` also where it was one item by one rater. The last three
    count the ratings by what they prefer.
    """

    condition: str
    value: float | None
    low: float | None
    high: float | None
    num_ratings: int
    num_raters: int
    num_items: int
    num_second_better: int
    num_same: int
    num_first_better: int


@dataclass(frozen=True)
class ItemOpinion(JsonConfig):
    """The mean rating of one pair in one condition."""

    item: str
    condition: str
    value: float
    num_ratings: int


@dataclass(frozen=True)
class FailedRater(JsonConfig):
    """Who failed more attention checks than allowed, of those answered, and whether they count all the same."""

    rater: str
    num_failed: int
    num_checks: int
    counted: bool


@dataclass(frozen=True)
class Comparison(JsonConfig):
    """How much the second system is preferred to the first.

    `num_unanswered` counts the questions that counted raters left out, `mean_right_over_left` the mean rating whatever
    the system: far from 0, raters lean to one side.
    """

    test: str
    title: str
    first_system: str
    second_system: str
    num_raters: int
    num_unanswered: int
    mean_right_over_left: float
    failed_raters: tuple[FailedRater, ...]
    conditions: tuple[ConditionOpinion, ...]
    items: tuple[ItemOpinion, ...]


@dataclass(frozen=True)
class _Score:
    rater: str
    item: str
    condition: str
    value: int


def compare_opinions(
    key: Key,
    ratings: Sequence[RaterFile],
    *,
    allowed_failures: int = 0,
    include_failed: bool = False,
    seed: int = 0,
) -> Comparison:
    """CMOS per condition and over all, and the mean of each item; the same ratings and seed give the same figures.

    A rater who fails more than `allowed_failures` attention checks is left out, or counted with `include_failed`.
    Raises `EvaluationError` where no rater is left, or those who are rated no pair.
    """
    if allowed_failures < 0:
        raise EvaluationError(f"{allowed_failures} failures were allowed; expected 0 or more")
    if seed < 0:
        raise EvaluationError(f"the seed is {seed}; expected a whole number from 0")
    trials = {trial.id: trial for trial in key.trials}
    failed: list[FailedRater] = []
    counted: list[RaterFile] = []
    for rater in sorted(ratings, key=lambda item: item.rater):
        checks = [(trials[answer.trial], answer) for answer in rater.answers if trials[answer.trial].kind != "pair"]
        num_failed = sum(1 for trial, answer in checks if not passes(trial, answer))
        if num_failed > allowed_failures:
            failed.append(FailedRater(rater.rater, num_failed, len(checks), include_failed))
        if num_failed <= allowed_failures or include_failed:
            counted.append(rater)
    if not counted:
        raise EvaluationError(
            f"none of {len(ratings)} raters passed the attention checks; ask others, or count them all the same with "
            "--include-failed"
        )
    pairs = [
        (rater.rater, trials[answer.trial], answer)
        for rater in counted
        for answer in rater.answers
        if trials[answer.trial].kind == "pair"
    ]
    if not pairs:
        raise EvaluationError("the ratings answer attention checks only; give files in which pairs are rated")
    scores = [_Score(rater, trial.item, trial.condition, answer.score(trial)) for rater, trial, answer in pairs]
    asked = [name for name in CONDITIONS if any(t.condition == name and t.kind == "pair" for t in key.trials)]
    conditions = [_opinion(name, [score for score in scores if score.condition == name], seed) for name in asked]
    return Comparison(
        test=key.test,
        title=key.title,
        first_system=key.first_system,
        second_system=key.second_system,
        num_raters=len(counted),
        num_unanswered=sum(len(key.trials) - len(rater.answers) for rater in counted),
        mean_right_over_left=float(np.mean([answer.rating for _, _, answer in pairs])),
        failed_raters=tuple(failed),
        conditions=(*conditions, _opinion(ALL_CONDITIONS, scores, seed)),
        items=_items(scores, asked),
    )


def passes(trial: Trial, answer: Answer) -> bool:
    """Whether an attention check was answered as by somebody who listens; always true of a pair."""
    if trial.kind == "identical":
        return abs(answer.rating) <= _MOST_FOR_IDENTICAL
    return trial.kind == "pair" or -answer.score(trial) >= _LEAST_FOR_SPOILED


def _opinion(condition: str, scores: Sequence[_Score], seed: int) -> ConditionOpinion:
    values = np.array([score.value for score in scores], dtype=np.float64)
    raters = sorted({score.rater for score in scores})
    items = sorted({score.item for score in scores})
    low, high = _interval(scores, raters, items, seed) if len(raters) * len(items) > 1 else (None, None)
    return ConditionOpinion(
        condition=condition,
        value=float(values.mean()) if len(values) else None,
        low=low,
        high=high,
        num_ratings=len(values),
        num_raters=len(raters),
        num_items=len(items),
        num_second_better=int((values > 0).sum()),
        num_same=int((values == 0).sum()),
        num_first_better=int((values < 0).sum()),
    )


def _interval(scores: Sequence[_Score], raters: list[str], items: list[str], seed: int) -> tuple[float, float]:
    totals = np.zeros((len(raters), len(items)))  # [R, I], the sum of the ratings
    counts = np.zeros_like(totals)  # [R, I], how many they are: two where both conditions are counted
    row = {rater: index for index, rater in enumerate(raters)}
    column = {item: index for index, item in enumerate(items)}
    for score in scores:
        totals[row[score.rater], column[score.item]] += score.value
        counts[row[score.rater], column[score.item]] += 1
    generator = np.random.default_rng((seed, len(raters), len(items)))
    rater_weights, item_weights = _weights(generator, len(raters)), _weights(generator, len(items))  # [N, R], [N, I]
    numerators = ((rater_weights @ totals) * item_weights).sum(axis=1)  # [N]
    denominators = ((rater_weights @ counts) * item_weights).sum(axis=1)  # [N]
    drawn = denominators > 0  # where raters rated different items, a draw may hold no rating
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(numerators[drawn] / denominators[drawn], [tail, 100 - tail])
    return float(low), float(high)


def _weights(generator: np.random.Generator, count: int) -> Matrix:
    """How often each of `count` was drawn, `[RESAMPLES, count]`."""
    return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def _items(scores: Sequence[_Score], conditions: Sequence[str]) -> tuple[ItemOpinion, ...]:
    grouped: dict[tuple[int, str], list[int]] = {}
    for score in scores:
        grouped.setdefault((conditions.index(score.condition), score.item), []).append(score.value)
    return tuple(
        ItemOpinion(item, conditions[index], float(np.mean(values)), len(values))
        for (index, item), values in sorted(grouped.items())
    )
