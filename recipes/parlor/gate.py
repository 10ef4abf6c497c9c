"""A short evaluation that a change has to pass: `python -m recipes.parlor.gate`, or `make eval-smoke`.

Speaks a short list with the bundled model and compares the figures with those that the model card records between its
`eval-smoke` marks. A figure fails where it is worse than the recorded 95 % interval: the same machine gives the same
figures, another processor draws other codes here and there. `--write` records the figures in the card instead.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duologue
from duologue.errors import DuologueError, EvaluationError
from duologue.eval.files import read_text, write_text
from duologue.eval.instruments import Instruments
from duologue.eval.markdown import figure_text
from duologue.eval.report import WHOLE, EvaluationReport, ReportedFigure, make_report
from duologue.eval.run import Progress, run
from duologue.eval.suites import find_suites
from duologue.eval.systems import ModelSystem

CARD: Final = Path(__file__).resolve().parents[2] / "docs" / "model-card.md"
LIMIT: Final = 4  # lines of each group
SUITES: Final = ("intelligibility", "similarity", "naturalness", "stopping")
GATED: Final = (
    ("intelligibility", "wer"),
    ("intelligibility", "failed"),
    ("similarity", "similarity"),
    ("naturalness", "overall"),
    ("stopping", "wer"),
    ("stopping", "cap"),
    ("stopping", "stops_badly"),
)
BEGIN: Final = "<!-- eval-smoke: begin -->"
END: Final = "<!-- eval-smoke: end -->"
_ROW: Final = re.compile(
    r"\| (?P<suite>\w+) \| (?P<metric>\w+) \| (?P<value>[-\d.]+) "
    r"\| (?P<low>[-\d.]+) to (?P<high>[-\d.]+) \| (?P<count>\d+) \|"
)
_HEADER: Final = ("| suite | measure | value | 95 % interval | n |", "|---|---|---|---|---|")


@dataclass(frozen=True)
class Recorded:
    """A figure of the card."""

    suite: str
    metric: str
    value: float
    low: float
    high: float
    count: int


def evaluate(folder: Path, system: ModelSystem, instruments: Instruments) -> EvaluationReport:
    """The report of the short list."""
    suites = find_suites(SUITES)

    def show(progress: Progress) -> None:
        if sys.stderr.isatty():
            print(f"\r{progress.doing} {progress.done + 1} of {progress.total}", end="", file=sys.stderr)

    results = run([system], suites, folder, instruments, limit=LIMIT, progress=show)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return make_report(results, [system], suites, instruments, command="make eval-smoke", seed=0, limit=LIMIT)


def gated(report: EvaluationReport) -> list[tuple[str, ReportedFigure]]:
    """The figures that count, with their suites."""
    found = {
        (suite.name, figure.metric): figure
        for suite in report.suites
        for figure in suite.figures
        if figure.group == WHOLE
    }
    return [(suite, found[suite, metric]) for suite, metric in GATED]


def read_card(text: str) -> list[Recorded]:
    """The figures between the marks; raises `EvaluationError` where the card has none."""
    table = text.partition(BEGIN)[2].partition(END)[0]
    rows = [
        Recorded(
            row["suite"], row["metric"], float(row["value"]), float(row["low"]), float(row["high"]), int(row["count"])
        )
        for row in _ROW.finditer(table)
    ]
    if {(row.suite, row.metric) for row in rows} != set(GATED):
        raise EvaluationError(f"the model card does not record all of the gate's figures between {BEGIN} and {END}")
    return rows


def write_card(text: str, figures: Sequence[tuple[str, ReportedFigure]]) -> str:
    """The card with these figures between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise EvaluationError(f"the model card has no {BEGIN} and {END}")
    rows = [
        f"| {suite} | {figure.metric} | {figure.value:.4f} | {figure.low:.4f} to {figure.high:.4f} | {figure.count} |"
        for suite, figure in figures
    ]
    return before + "\n".join([begin, *_HEADER, *rows, end]) + after


def worse(recorded: Recorded, measured: ReportedFigure) -> bool:
    """Whether the figure lies on the bad side of the recorded interval; also where there is none."""
    if measured.value is None or measured.count != recorded.count:
        return True
    if measured.better == "lower":
        return measured.value > recorded.high + 1e-4
    return measured.value < recorded.low - 1e-4


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.gate", description=__doc__)
    parser.add_argument("--card", type=Path, default=CARD, help="the model card (default: docs/model-card.md)")
    parser.add_argument("--out", type=Path, help="a folder for the clips and rows (default: a temporary one)")
    parser.add_argument("--write", action="store_true", help="record the figures in the card")
    options = parser.parse_args(arguments)
    try:
        card = read_text(options.card, "the model card")
        with tempfile.TemporaryDirectory(prefix="duologue-gate-") as temporary:
            system = ModelSystem("parlor", duologue.load, source="parlor")
            report = evaluate(options.out or Path(temporary), system, Instruments(Path(tempfile.gettempdir())))
        figures = gated(report)
        if options.write:
            write_text(options.card, write_card(card, figures))
        return _tell(read_card(read_text(options.card, "the model card")), figures)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _tell(card: Sequence[Recorded], figures: Sequence[tuple[str, ReportedFigure]]) -> int:
    recorded = {(row.suite, row.metric): row for row in card}
    failed = 0
    for suite, figure in figures:
        row = recorded[suite, figure.metric]
        is_worse = worse(row, figure)
        failed += is_worse
        measured = figure_text(figure.value, figure.low, figure.high, figure.count, unit=figure.unit)
        verdict = "WORSE than" if is_worse else "within"
        print(f"{suite}: {figure.title} {measured}; {verdict} the card's {row.value:g} ({row.low:g} to {row.high:g})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
