"""What of a report is shown where there is not room for all: a suite's main measures, and its worst and best clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from duologue.eval.measure import Row
from duologue.eval.metrics import METRICS, Metric
from duologue.eval.report import WHOLE, EvaluationReport, ReportedFigure, SuiteReport

NUM_WORST: Final = 3
NUM_BEST: Final = 2
MAX_PLOTS: Final = 4  # measures of one suite that are drawn
MIN_COUNT_TO_MARK: Final = 5  # utterances; the bootstrap interval of fewer says too little to call a system better

FALLBACK: Final = "wer"
_COUNT_OF_FAILURES: Final = "failed"  # stands in every suite, and is the main measure of none

Side = Literal["worst", "best"]


@dataclass(frozen=True)
class Candidate:
    """An utterance that may be shown: the `rank`-th of its side, from 0, and its `value` of the ranking metric."""

    suite: str
    system: str
    row: Row
    side: Side
    rank: int
    metric: Metric
    value: float


def main_metrics(suite: SuiteReport) -> list[str]:
    """The names of the metrics that are plotted, the headline first; empty where nothing was measured."""
    known = {figure.metric: figure for figure in suite.figures if figure.value is not None}
    names = [
        name for name, figure in known.items() if name != _COUNT_OF_FAILURES and figure.better in ("lower", "higher")
    ]
    if suite.headline in known:
        names = [suite.headline, *(name for name in names if name != suite.headline)]
    return (names or list(known))[:MAX_PLOTS]


def find_figure(suite: SuiteReport, system: str, metric: str, group: str = WHOLE) -> ReportedFigure | None:
    """The figure of one system, or None where it has none."""
    wanted = (system, metric, group)
    return next((f for f in suite.figures if (f.system, f.metric, f.group) == wanted), None)


def clearly_best(figures: Iterable[ReportedFigure | None]) -> ReportedFigure | None:
    """The figure whose interval lies wholly beyond those of all the others, where each has enough utterances."""
    known = [figure for figure in figures if figure is not None and figure.value is not None]
    if len(known) < 2 or any(f.low is None or f.high is None or f.count < MIN_COUNT_TO_MARK for f in known):
        return None
    for one in known:
        others = [other for other in known if other is not one]
        if one.better == "lower" and all(_ends(one)[1] < _ends(other)[0] for other in others):
            return one
        if one.better == "higher" and all(_ends(one)[0] > _ends(other)[1] for other in others):
            return one
    return None


def _ends(figure: ReportedFigure) -> tuple[float, float]:
    assert figure.low is not None and figure.high is not None
    return figure.low, figure.high


def candidates(report: EvaluationReport) -> list[Candidate]:
    """The clips that are worth hearing, in the order in which they get a share of the room that there is.

    Every suite and system gets its worst before any gets its best, and both before any gets its second worst.
    """
    found = [
        candidate
        for suite in report.suites
        for entry in suite.systems
        for candidate in _ranked(suite, entry.system, entry.rows)
    ]
    return sorted(found, key=lambda item: (item.rank, item.side == "best"))  # stable: suites and systems in their order


def _ranked(suite: SuiteReport, system: str, rows: Sequence[Row]) -> list[Candidate]:
    """The worst, the worst of all first, and the best, the best of all first; no utterance is both."""
    metric, known = _valued(suite, [row for row in rows if row.failure is None])
    ordered = sorted(known, key=lambda item: (_badness(metric, item[1]), *_word_badness(item[0]), item[0].id))
    worst = ordered[::-1][:NUM_WORST]
    best = ordered[: max(0, min(NUM_BEST, len(ordered) - len(worst)))]
    sides: tuple[tuple[Side, list[tuple[Row, float]]], ...] = (("worst", worst), ("best", best))
    return [
        Candidate(suite.name, system, row, side, rank, metric, value)
        for side, chosen in sides
        for rank, (row, value) in enumerate(chosen)
    ]


def _valued(suite: SuiteReport, rows: Sequence[Row]) -> tuple[Metric, list[tuple[Row, float]]]:
    """The first of the main metrics that says something of one of `rows`, else the word error rate, and what it says.

    Rows of which it says nothing are left out.
    """
    for name in [*main_metrics(suite), FALLBACK]:
        metric = METRICS.get(name)
        if metric is not None and metric.better != "neither":
            known = [(row, value) for row in rows if (value := metric.figure([row]).value) is not None]
            if known:
                return metric, known
    return METRICS[FALLBACK], []


def _badness(metric: Metric, value: float) -> float:
    return value if metric.better == "lower" else -value


def _word_badness(row: Row) -> tuple[float, int]:
    """Decides between utterances that the metric calls equal."""
    return row.word_error_rate or 0.0, row.word_errors
