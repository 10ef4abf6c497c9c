"""What raters handed over: files that the page exported, held against the key of that page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from duologue.config import JsonConfig
from duologue.errors import ConfigError, EvaluationError
from duologue.eval.files import read_text
from duologue.eval.listening.key import Key, Trial

RATINGS_FORMAT: Final = "duologue-listening-ratings"
VERSION: Final = 1
MAX_RATING: Final = 3  # "B is much better"; the scale is symmetric about 0

_EXPECTED: Final = "a file that the listening page exported"


@dataclass(frozen=True)
class Answer(JsonConfig):
    """One answer: `rating` is above 0 where the clip on the right was better. `seconds` were spent on the question."""

    trial: str
    position: int
    left: str
    right: str
    rating: int
    plays_left: int
    plays_right: int
    seconds: float

    def __post_init__(self) -> None:
        if not -MAX_RATING <= self.rating <= MAX_RATING:
            raise ConfigError(f"rating {self.rating}; expected a whole number from -{MAX_RATING} to {MAX_RATING}")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ConfigError(f"seconds {self.seconds}; expected a number from 0")

    def score(self, trial: Trial) -> int:
        """The rating, above 0 where the trial's `second` clip was better."""
        return self.rating if self.right == trial.second else -self.rating


@dataclass(frozen=True)
class RaterFile(JsonConfig):
    """All answers of one rater, who may have stopped before the last of `num_trials`. Times are in ISO 8601."""

    format: str
    version: int
    test: str
    rater: str
    seed: int
    started: str
    exported: str
    num_trials: int
    answers: tuple[Answer, ...]

    def __post_init__(self) -> None:
        if self.format != RATINGS_FORMAT or self.version != VERSION:
            raise ConfigError(f"format {self.format!r} version {self.version}; expected {RATINGS_FORMAT!r} {VERSION}")
        if not self.answers:
            raise ConfigError("no answers")


def read_ratings(paths: Sequence[Path], key: Key) -> tuple[RaterFile, ...]:
    """One file a rater, in the order of `paths`.

    Raises `EvaluationError`, naming the file: missing, damaged, from another page, with answers that are not of this
    page, or the second file of the same rater.
    """
    if not paths:
        raise EvaluationError("no ratings were given; give the files that the raters downloaded")
    trials = {trial.id: trial for trial in key.trials}
    raters: dict[str, Path] = {}
    found = []
    for path in paths:
        ratings = _read(path)
        _check(path, ratings, key, trials)
        if ratings.rater in raters:
            raise EvaluationError(
                f"{raters[ratings.rater]} and {path} are both from rater {ratings.rater!r}; keep the whole one"
            )
        raters[ratings.rater] = path
        found.append(ratings)
    return tuple(found)


def _read(path: Path) -> RaterFile:
    try:
        return RaterFile.from_json(read_text(path, _EXPECTED), str(path))
    except (ConfigError, ValueError, RecursionError) as error:
        raise EvaluationError(f"{path} holds no ratings that can be read ({error}); give {_EXPECTED}") from None


def _check(path: Path, ratings: RaterFile, key: Key, trials: dict[str, Trial]) -> None:
    if ratings.test != key.test:
        raise EvaluationError(
            f"{path} was rated on another page (test {ratings.test!r}, the key is of {key.test!r}); "
            "give the key of that page"
        )
    seen: set[str] = set()
    for answer in ratings.answers:
        trial = trials.get(answer.trial)
        if trial is None or {answer.left, answer.right} != {trial.first, trial.second}:
            raise EvaluationError(
                f"{path} answers trial {answer.trial!r}, which the page does not ask; give {_EXPECTED}"
            )
        if answer.trial in seen:
            raise EvaluationError(f"{path} answers trial {answer.trial!r} twice; give {_EXPECTED}")
        seen.add(answer.trial)
