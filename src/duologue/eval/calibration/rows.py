"""The calibration table: what has to come out of which change, each row with its own test.

A row names a condition, a metric, and the bounds of a quantity: the value itself, the paired difference from the
untouched recordings, or the ratio to their value. Bounds are those of the issue where it gives them, and otherwise lie
well inside what was measured on the corpus (docs/calibration.md), so that a broken instrument crosses them and chance
does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from duologue.eval.calibration.conditions import (
    GAIN_DB,
    PACE_FAST,
    PACE_SLOW,
    SEMITONES,
    SILENCE_S,
    UNTOUCHED,
)

Role = Literal["scores", "moves", "stays"]
Quantity = Literal["value", "difference", "ratio"]

_OCTAVE = 12
_FACTOR = 2 ** (SEMITONES / _OCTAVE)


@dataclass(frozen=True)
class Expected:
    """One row: `quantity` of `metric` under `condition` lies from `least` to `most`, in the metric's unit.

    `role` is "scores" for a bound of true recordings, "moves" for a metric that the change has to move, "stays" for one
    that it has to leave alone. A difference that "moves" also needs an interval that leaves out zero. `folder` confines
    the row to the recordings of a folder of that name, where there is one.
    """

    condition: str
    metric: str
    role: Role
    quantity: Quantity
    least: float | None = None
    most: float | None = None
    folder: str | None = None

    @property
    def name(self) -> str:
        """`condition/metric/quantity`, and the folder where there is one; unique in the table."""
        return "/".join([self.condition, self.metric, self.quantity, *([self.folder] if self.folder else [])])


def scores(
    metric: str, *, least: float | None = None, most: float | None = None, folder: str | None = None
) -> Expected:
    """True recordings score like this."""
    return Expected(UNTOUCHED, metric, "scores", "value", least, most, folder)


def becomes(condition: str, metric: str, *, least: float | None = None, most: float | None = None) -> Expected:
    """The value after the change."""
    return Expected(condition, metric, "moves", "value", least, most)


def moves(condition: str, metric: str, *, least: float | None = None, most: float | None = None) -> Expected:
    """How far it rises (`least`), or falls (`most`, below zero)."""
    return Expected(condition, metric, "moves", "difference", least, most)


def stays(condition: str, metric: str, within: float) -> Expected:
    """It rises or falls no further than this."""
    return Expected(condition, metric, "stays", "difference", -within, within)


def factor(condition: str, metric: str, by: float, within: float) -> Expected:
    """It is `by` times the value before, within that share of it; it stays where `by` is 1."""
    return Expected(condition, metric, "stays" if by == 1 else "moves", "ratio", by * (1 - within), by * (1 + within))


ROWS: tuple[Expected, ...] = (
    scores("wer", most=10.0),
    scores("wer", most=10.0, folder="heldout"),
    scores("wer", most=6.0, folder="kathleen"),
    scores("misunderstood", most=5.0),
    scores("similarity", least=0.8),
    scores("right_voice", least=95.0),
    scores("overall", least=2.7),
    scores("cut", most=5.0),
    scores("long_silence", most=1.0),
    scores("loops", most=1.0),
    becomes("shuffled-texts", "wer", least=80.0),
    becomes("shuffled-texts", "misunderstood", least=90.0),
    moves("swapped-voices", "similarity", most=-0.15),
    becomes("swapped-voices", "right_voice", most=5.0),
    stays("swapped-voices", "wer", 0.0),
    moves("white-noise", "background", most=-0.6),
    moves("white-noise", "overall", most=-0.3),
    moves("white-noise", "p808", most=-0.4),
    moves("white-noise", "similarity", most=-0.05),
    stays("white-noise", "wer", 10.0),
    factor("white-noise", "pitch", 1.0, 0.05),
    moves("speech-noise", "wer", least=10.0),
    moves("speech-noise", "background", most=-1.5),
    moves("speech-noise", "signal", most=-0.8),
    moves("speech-noise", "overall", most=-1.0),
    moves("speech-noise", "similarity", most=-0.15),
    moves("telephone", "p808", most=-0.15),
    moves("telephone", "overall", most=-0.01),
    stays("telephone", "wer", 5.0),
    factor("telephone", "pitch", 1.0, 0.05),
    moves("low-pass", "wer", least=25.0),
    moves("low-pass", "similarity", most=-0.08),
    moves("low-pass", "p808", most=-0.4),
    moves("low-pass", "signal", most=-0.08),
    moves("low-pass", "overall", most=-0.08),
    Expected("softer", "level", "moves", "difference", GAIN_DB - 0.2, GAIN_DB + 0.2),
    stays("softer", "wer", 5.0),
    stays("softer", "overall", 0.3),
    factor("softer", "pitch", 1.0, 0.02),
    becomes("cut", "cut", least=75.0),
    becomes("cut", "stops_badly", least=75.0),
    Expected("silence", "trailing_silence", "moves", "difference", SILENCE_S - 0.02, SILENCE_S + 0.02),
    becomes("silence", "long_silence", least=100.0),
    stays("silence", "wer", 5.0),
    stays("silence", "cut", 5.0),
    factor("silence", "pace", 1.0, 0.01),
    becomes("loop", "loops", least=75.0),
    becomes("stuck", "loops", least=75.0),
    moves("stuck", "wer", least=20.0),
    factor("slower", "pace", PACE_SLOW, 0.1),
    factor("slower", "pitch", 1.0, 0.03),
    stays("slower", "wer", 5.0),
    stays("slower", "similarity", 0.1),
    factor("faster", "pace", PACE_FAST, 0.1),
    factor("faster", "pitch", 1.0, 0.03),
    stays("faster", "wer", 8.0),
    factor("higher", "pitch", _FACTOR, 0.05),
    factor("higher", "pace", 1.0, 0.02),
    moves("higher", "similarity", most=-0.02),
    stays("higher", "wer", 5.0),
    factor("lower", "pitch", 1 / _FACTOR, 0.05),
    factor("lower", "pace", 1.0, 0.02),
    moves("lower", "similarity", most=-0.02),
    stays("lower", "wer", 5.0),
)


def rows_for(folders: Sequence[str]) -> list[Expected]:
    """The rows that apply to recordings of these folders."""
    return [row for row in ROWS if row.folder is None or row.folder in folders]
