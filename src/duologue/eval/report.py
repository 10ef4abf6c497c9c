"""The report of a run: every figure with count and interval, every row behind it, and what it was made with.

`report.json` is the report; the Markdown and HTML pages are views of it, and `compare` reads nothing else.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from duologue.config import JsonConfig
from duologue.engine.machine import processor_name
from duologue.errors import EvaluationError
from duologue.eval.clips import System
from duologue.eval.files import read_schema, write_text
from duologue.eval.instruments import Instruments
from duologue.eval.lines import load_lines
from duologue.eval.measure import Row
from duologue.eval.metrics import METRICS, Metric
from duologue.eval.run import Results
from duologue.eval.statistics import Difference
from duologue.eval.suites.suite import Suite

SCHEMA = 1
WHOLE = "all"
_PACKAGES = (
    "duologue",
    "torch",
    "ctranslate2",
    "faster-whisper",
    "jiwer",
    "whisper-normalizer",
    "Resemblyzer",
    "speechmos",
    "onnxruntime",
    "pocketsphinx",
    "pystoi",
    "praat-parselmouth",
)


@dataclass(frozen=True)
class ReportedFigure(JsonConfig):
    """One figure of one system in one group of a suite ("all": the suite as a whole)."""

    system: str
    group: str
    metric: str
    title: str
    unit: str
    better: str
    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class SystemRows(JsonConfig):
    """The utterances of one system in a suite; `skipped` says why there are none, where there are none by design."""

    system: str
    skipped: str | None
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class SuiteReport(JsonConfig):
    """One suite: its figures, and the rows that they are made of."""

    name: str
    title: str
    headline: str
    notes: tuple[str, ...]
    lists: dict[str, Any]
    figures: tuple[ReportedFigure, ...]
    systems: tuple[SystemRows, ...]


@dataclass(frozen=True)
class EvaluationReport(JsonConfig):
    """All of a run. `machine` and `versions` say what it was made on, `command` how to make it again."""

    schema: int
    created: str
    command: str
    seed: int
    limit: int | None
    machine: dict[str, Any]
    versions: dict[str, Any]
    instruments: dict[str, Any]
    systems: dict[str, Any]
    suites: tuple[SuiteReport, ...]


def make_report(
    results: Results,
    systems: Sequence[System],
    suites: Sequence[Suite],
    instruments: Instruments,
    *,
    command: str,
    seed: int,
    limit: int | None,
) -> EvaluationReport:
    """Adds up the rows of a run."""
    return EvaluationReport(
        schema=SCHEMA,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        seed=seed,
        limit=limit,
        machine=describe_machine(),
        versions=installed_versions(),
        instruments=_instrument_names(instruments, results, suites),
        systems={system.name: system.describe() for system in systems},
        suites=tuple(_suite_report(suite, results) for suite in suites),
    )


def _instrument_names(instruments: Instruments, results: Results, suites: Sequence[Suite]) -> dict[str, Any]:
    """What was used, by what for; what no suite of the run listens with is not loaded for its name."""
    listening = [suite.name for suite in suites if suite.listens]
    rows = [row for by_suite in results.rows.values() for name in listening for row in by_suite.get(name, [])]
    names: dict[str, Any] = {}
    if rows:
        names["recognizer"] = instruments.recognizer.name
        names["speaker_encoder"] = instruments.speaker_encoder.name
        names["quality_judge"] = instruments.quality_judge.name
    if any("word_found" in row.measures for row in rows):
        names["pronunciation_judge"] = instruments.pronunciation_judge.name
    return names


def _suite_report(suite: Suite, results: Results) -> SuiteReport:
    figures: list[ReportedFigure] = []
    systems: list[SystemRows] = []
    for system, by_suite in results.rows.items():
        rows = by_suite.get(suite.name, [])
        systems.append(SystemRows(system, results.skipped[system].get(suite.name), tuple(rows)))
        if rows:
            metrics = [METRICS[name] for name in suite.metrics]
            figures += figures_of(system, rows, metrics, has_conditions=suite.has_conditions)
    lists = {
        name: {"version": load_lines(name).version, "fingerprint": load_lines(name).fingerprint} for name in suite.lists
    }
    return SuiteReport(suite.name, suite.title, suite.headline, suite.notes(), lists, tuple(figures), tuple(systems))


def figures_of(
    system: str, rows: Sequence[Row], metrics: Iterable[Metric], *, has_conditions: bool = False
) -> list[ReportedFigure]:
    """Every metric over all rows, and over each group where there are several and it has something to count.

    Where the groups are conditions, what counts in them has no figure over all.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    made = []
    for metric in metrics:
        parts = [_reported(system, group, metric, rows) for group in groups] if len(groups) > 1 else []
        counted = [figure for figure in parts if figure.count]
        if not (has_conditions and counted):
            made.append(_reported(system, WHOLE, metric, rows))
        made += counted
    return made


def _reported(system: str, group: str, metric: Metric, rows: Sequence[Row]) -> ReportedFigure:
    figure = metric.figure(rows, None if group == WHOLE else group)
    return ReportedFigure(
        system=system,
        group=group,
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        better=metric.better,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        count=figure.count,
    )


def headlines(suite: SuiteReport) -> list[ReportedFigure]:
    """Each system's figures of the metric that a reader looks for first: over all, or by group where there is none."""
    found = [figure for figure in suite.figures if figure.metric == suite.headline]
    whole = [figure for figure in found if figure.group == WHOLE]
    return whole or found


def write_report(report: EvaluationReport, folder: Path) -> Path:
    """Writes `report.json` into `folder`, whole, and returns its path."""
    path = folder / "report.json"
    write_text(path, json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return path


def read_report(path: Path) -> EvaluationReport:
    """Reads `report.json`, or the one in a folder. Raises `EvaluationError` for what is not a report of this schema."""
    path = path / "report.json" if path.is_dir() else path
    return read_schema(path, EvaluationReport, SCHEMA, "a report")


@dataclass(frozen=True)
class ComparedFigure:
    """One metric in one suite: how far the second lies above the first, on the utterances that both measured."""

    suite: str
    group: str
    metric: Metric
    first: str
    second: str
    difference: Difference


def compare_reports(first: EvaluationReport, second: EvaluationReport) -> list[ComparedFigure]:
    """Pairs the systems of two reports by name, or the only system of each, suite by suite and metric by metric.

    Raises `EvaluationError` where no system pairs or no suite is in both.
    """
    names = [(name, name) for name in first.systems if name in second.systems]
    if len(first.systems) == len(second.systems) == 1:
        names = [(next(iter(first.systems)), next(iter(second.systems)))]
    if not names:
        raise EvaluationError(
            f"the reports share no system: {', '.join(first.systems)} in one, {', '.join(second.systems)} in the other"
        )
    later = {suite.name: suite for suite in second.suites}
    shared = [(suite, later[suite.name]) for suite in first.suites if suite.name in later]
    if not shared:
        raise EvaluationError("the reports share no suite: there is nothing to compare")
    made = []
    for before, after in shared:
        wanted = _compared(before)
        for old_name, new_name in names:
            old, new = _rows(before, old_name), _rows(after, new_name)
            for metric, group in wanted:
                difference = metric.difference(old, new, None if group == WHOLE else group)
                if difference.count:
                    made.append(ComparedFigure(before.name, group, metric, old_name, new_name, difference))
    return made


def _compared(suite: SuiteReport) -> list[tuple[Metric, str]]:
    """Every metric of the report with "all", or with its groups where it has no figure over all."""
    groups = dict.fromkeys((figure.metric, figure.group) for figure in suite.figures if figure.metric in METRICS)
    whole = {name for name, group in groups if group == WHOLE}
    return [(METRICS[name], group) for name, group in groups if group == WHOLE or name not in whole]


def _rows(suite: SuiteReport, system: str) -> tuple[Row, ...]:
    return next((entry.rows for entry in suite.systems if entry.system == system), ())


def describe_machine() -> dict[str, Any]:
    """The processor, its cores and torch's threads, the memory, the accelerator."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None


def installed_versions() -> dict[str, Any]:
    """Versions of the packages that the figures depend on; None for one that is not installed."""
    versions: dict[str, Any] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
