"""`calibration.json` and `calibration.md`: the table, what it was made of, and what else moved."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from duologue.config import JsonConfig
from duologue.errors import EvaluationError
from duologue.eval.calibration.conditions import CONDITIONS, UNTOUCHED
from duologue.eval.calibration.table import MATRIX, Movement, Result
from duologue.eval.files import read_schema, write_text
from duologue.eval.markdown import figure_text, number, table
from duologue.eval.metrics import METRICS
from duologue.eval.statistics import Difference

SCHEMA: Final = 1
JSON_NAME, MARKDOWN_NAME = "calibration.json", "calibration.md"
_MARKS: Final = {True: "yes", False: "**no**", None: "not measured"}


@dataclass(frozen=True)
class CalibrationReport(JsonConfig):
    """All of a calibration. `changed` and `untouched` count the recordings that were changed, and left as they are."""

    schema: int
    created: str
    command: str
    seed: int
    limit: int
    changed: int
    untouched: int
    recordings: dict[str, Any]
    instruments: dict[str, Any]
    versions: dict[str, Any]
    results: tuple[Result, ...]
    movements: tuple[Movement, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """The rows that do not hold."""
        return tuple(result for result in self.results if result.holds is False)

    @property
    def unmeasured(self) -> tuple[Result, ...]:
        """The rows of which nothing could be measured."""
        return tuple(result for result in self.results if result.holds is None)


def now() -> str:
    """The time of a report, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_calibration(report: CalibrationReport, folder: Path) -> Path:
    """Writes both files into `folder`, each whole, and returns the path of the JSON. Raises `EvaluationError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"cannot make the folder {folder}: {error.strerror or error}; give another") from None
    path = folder / JSON_NAME
    write_text(path, json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / MARKDOWN_NAME, calibration_markdown(report))
    return path


def read_calibration(path: Path) -> CalibrationReport:
    """Reads a `calibration.json`. Raises `EvaluationError` for what is none of this schema."""
    return read_schema(path, CalibrationReport, SCHEMA, "a calibration")


def calibration_markdown(report: CalibrationReport) -> str:
    """The table, then how far every metric moved under every change."""
    lines = [
        f"Made on {report.created[:10]} by `{report.command}`: {report.changed} recordings changed, "
        f"{report.untouched} untouched, seed {report.seed}.",
        "",
        *(f"- {role.replace('_', ' ')}: {name}" for role, name in report.instruments.items()),
        "- " + ", ".join(f"{name} {version}" for name, version in report.versions.items() if version),
        *(
            f"- {name}: {about['recordings']} recordings, {about['manifests']}"
            for name, about in report.recordings.items()
        ),
        "",
        *table(
            ["what is changed", "measure", "before", "after (95 %; n)", "difference (95 %)", "expected", "holds"],
            [_row(result) for result in report.results],
        ),
        "",
        "How far each measure moved, whether a row asks for it or not; in bold where the interval leaves out zero:",
        "",
        *_matrix(report.movements),
    ]
    return "\n".join(lines) + "\n"


def _row(result: Result) -> list[str]:
    after, difference = result.after, result.difference
    title = result.title if result.folder is None else f"{result.title}, {result.folder}"
    if result.role == "agrees":
        value = "–" if after.value is None else f"{after.value:.2g} {result.unit}".strip()
        shown = f"{value} (n = {after.count})"
    else:
        shown = figure_text(after.value, after.low, after.high, after.count, unit=result.unit)
    return [
        result.change,
        title,
        "" if result.before is None else number(result.before.value, result.unit),
        shown,
        "" if difference is None else _moved_by(result, difference),
        expectation(result),
        _MARKS[result.holds],
    ]


def expectation(result: Result) -> str:
    """What a row expects, in words: "falls by at least 0.6", "stays within 5 %", "0.95 to 1.05 times as before"."""
    least, most, unit = result.least, result.most, f" {result.unit}" if result.unit else ""
    if result.quantity == "ratio":
        return f"{result.role}: {_shown(least)} to {_shown(most)} times as before"
    if result.quantity == "difference":
        if least is None and most is not None and most < 0:
            return f"falls by at least {_shown(-most)}{unit}"
        if most is None:
            return f"rises by at least {_shown(least)}{unit}"
        if result.role == "stays":
            return f"stays within {_shown(most)}{unit}"
        return f"moves by {_shown(least)} to {_shown(most)}{unit}"
    bounds = f"at most {_shown(most)}" if least is None else f"at least {_shown(least)}"
    return bounds + unit


def _shown(end: float | None) -> str:
    return "–" if end is None else f"{end:.4g}"


def _moved_by(result: Result, difference: Difference) -> str:
    shown = _difference(difference.value, difference.low, difference.high, result.unit)
    return f"{shown}, × {result.measured:.3f}" if result.quantity == "ratio" and result.measured is not None else shown


def _difference(value: float | None, low: float | None, high: float | None, unit: str) -> str:
    if value is None:
        return "–"
    digits = {"%": 1, "Hz": 0, "dB": 1}.get(unit, 2)
    shown, *ends = (f"{round(end, digits) + 0.0:+.{digits}f}" for end in (value, low, high) if end is not None)
    return f"{shown} ({ends[0]} to {ends[1]})" if len(ends) == 2 else shown


def _matrix(movements: Sequence[Movement]) -> list[str]:
    known = {(movement.condition, movement.metric): movement for movement in movements}
    names = [name for name in MATRIX if any(movement.metric == name for movement in movements)]
    header = ["what is changed", *(_headed(name) for name in names)]
    rows = [
        [condition.title, *(_moved(known.get((condition.name, name))) for name in names)]
        for condition in CONDITIONS.values()
        if condition.name != UNTOUCHED and any(key[0] == condition.name for key in known)
    ]
    return table(header, rows)


def _headed(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def _moved(movement: Movement | None) -> str:
    if movement is None or movement.difference.value is None:
        return ""
    shown = _difference(movement.difference.value, None, None, movement.unit)
    return f"**{shown}**" if movement.difference.significant else shown
