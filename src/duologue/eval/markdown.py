"""A report as Markdown: a table a suite, systems side by side."""

from __future__ import annotations

from collections.abc import Sequence

from duologue.eval.report import WHOLE, ComparedFigure, EvaluationReport, ReportedFigure, SuiteReport


def number(value: float | None, unit: str) -> str:
    """A value as it is printed: as many digits as it deserves, and its unit."""
    if value is None:
        return "–"
    digits = {"%": 1, "points": 1, "ms": 0, "MB": 0, "Hz": 0, "dB": 1}.get(unit, 2)
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def figure_text(value: float | None, low: float | None, high: float | None, count: int, *, unit: str) -> str:
    """Value, interval and count: `12.3 % (8.1 to 17.0; n = 40)`."""
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{number(value, unit)} (n = {count})"
    ends = [number(end, unit).removesuffix(unit).strip() for end in (low, high)]
    return f"{number(value, unit)} ({ends[0]} to {ends[1]}; n = {count})"


def with_interval(figure: ReportedFigure) -> str:
    """`figure_text` of a figure in a report."""
    return figure_text(figure.value, figure.low, figure.high, figure.count, unit=figure.unit)


def report_markdown(report: EvaluationReport) -> str:
    """The whole report."""
    lines = ["# Evaluation", "", f"{report.created}, seed {report.seed}, {_limit(report.limit)}.", ""]
    lines += table(["system", "what it is"], [[name, _described(about)] for name, about in report.systems.items()])
    for suite in report.suites:
        lines += ["", f"## {suite.name}: {suite.title}", "", *_suite(suite, list(report.systems))]
    lines += ["", "## Made with", "", f"- `{report.command}`"]
    lines += [f"- {role.replace('_', ' ')}: {name}" for role, name in report.instruments.items()]
    lines.append("- " + ", ".join(f"{name} {about}" for name, about in report.machine.items() if about is not None))
    lines.append("- " + ", ".join(f"{name} {version}" for name, version in report.versions.items() if version))
    lines += [
        "",
        "Intervals are bootstrap 95 % over utterances. WER counts an utterance that was not delivered as silence.",
    ]
    return "\n".join(lines) + "\n"


def _suite(suite: SuiteReport, systems: Sequence[str]) -> list[str]:
    figures = {(figure.system, figure.group, figure.metric): figure for figure in suite.figures}
    shown = [name for name in systems if any(figure.system == name for figure in suite.figures)]
    lines = [f"{entry.system} was left out: {entry.skipped}." for entry in suite.systems if entry.skipped is not None]
    if not shown:
        return lines or ["Nothing was measured."]
    rows = []
    for metric, group in dict.fromkeys((figure.metric, figure.group) for figure in suite.figures):
        found = [figures.get((name, group, metric)) for name in shown]
        title = next(figure.title for figure in found if figure is not None)
        label = title if group == WHOLE else f"{title}, {group}"
        rows.append([label, *("" if figure is None else with_interval(figure) for figure in found)])
    lines += table(["measure", *shown], rows)
    if suite.notes:
        lines += ["", *(f"- {note}" for note in suite.notes)]
    failures = [(entry.system, row) for entry in suite.systems for row in entry.rows if row.failure is not None]
    if failures:
        lines += ["", "Not delivered:", ""]
        lines += [f"- {system}, {row.id}: {row.failure}" for system, row in failures]
    return lines


def comparison_markdown(compared: Sequence[ComparedFigure]) -> str:
    """Differences, the significant ones marked."""
    rows = []
    for item in compared:
        metric, difference = item.metric, item.difference
        names = item.first if item.first == item.second else f"{item.first} → {item.second}"
        interval = (
            "–"
            if difference.low is None or difference.high is None
            else f"{difference.low:+.3g} to {difference.high:+.3g}"
        )
        value = "–" if difference.value is None else f"{difference.value:+.3g}"
        rows.append(
            [
                names,
                item.suite,
                metric.title if item.group == WHOLE else f"{metric.title}, {item.group}",
                f"{value} {metric.unit}".strip(),
                interval,
                str(difference.count),
                verdict(item),
            ]
        )
    header = ["system", "suite", "measure", "difference", "95 % interval", "n", ""]
    return "\n".join(table(header, rows)) + "\n"


def verdict(item: ComparedFigure) -> str:
    """ "better" or "worse" where the interval leaves out zero, "differs" where neither is better, else nothing."""
    difference = item.difference
    if not difference.significant or difference.value is None:
        return ""
    if item.metric.better == "neither":
        return "differs"
    return "better" if (difference.value > 0) == (item.metric.better == "higher") else "worse"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; a cell becomes one line, whatever it holds."""
    return ["| " + " | ".join(_cell(cell) for cell in cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _described(about: object) -> str:
    if not isinstance(about, dict):
        return str(about)
    return ", ".join(f"{key} {value}" for key, value in about.items() if value not in (None, [], ""))


def _limit(limit: int | None) -> str:
    if limit is None:
        return "all lines"
    return "the first line of each group" if limit == 1 else f"the first {limit} lines of each group"
