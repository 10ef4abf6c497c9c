"""The figures of a report as tables: all suites at a glance, one suite in full, what was not delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from duologue.eval.markdown import number
from duologue.eval.page.choice import clearly_best, find_figure
from duologue.eval.page.markup import Child, Html, element, join
from duologue.eval.page.plots import swatch
from duologue.eval.report import WHOLE, EvaluationReport, ReportedFigure, SuiteReport, headlines


def scrolling(table: Html, label: str) -> Html:
    """A table that scrolls sideways by itself where it is wider than the page."""
    return element("div", table, class_="scroll", tabindex=0, role="group", aria_label=label)


def system_heads(looks: Mapping[str, int]) -> list[Html]:
    """A column's header for each system, with its sign."""
    return [element("th", swatch(look), " ", name, scope="col") for name, look in looks.items()]


def summary_table(report: EvaluationReport, looks: Mapping[str, int]) -> Html:
    """The headline figures of every suite for every system."""
    bodies = []
    for place, suite in enumerate(report.suites, start=1):
        link = element("a", suite.name, href=f"#suite-{place}")
        name = join(link, element("span", suite.title, class_="question"))
        bodies.append(element("tbody", _summary_rows(suite, name, looks)))
    heads = element(
        "tr", element("th", "suite", scope="col"), element("th", "measure", scope="col"), system_heads(looks)
    )
    table = element("table", element("thead", heads), bodies, class_="figures")
    return scrolling(table, "the headline figures of every suite")


def _summary_rows(suite: SuiteReport, name: Html, looks: Mapping[str, int]) -> list[Html]:
    """One row, or one a group where the headline has no figure over all."""
    shown = headlines(suite)
    gaps = ["left out" if _is_skipped(suite, system) else None for system in looks]
    if not shown:
        cells = [element("td", gap or "–", class_="figure nothing") for gap in gaps]
        return [element("tr", element("th", name, scope="row"), element("td"), cells)]
    rows = []
    for group in dict.fromkeys(figure.group for figure in shown):
        found = {figure.system: figure for figure in shown if figure.group == group}
        figures = [found.get(system) for system in looks]
        title = shown[0].title if group == WHOLE else f"{shown[0].title}, {group}"
        measure = element("td", title, _direction(shown))
        rows.append([measure, *_figure_cells(figures, gaps)])
    head = element(
        "th", name, scope="rowgroup" if len(rows) > 1 else "row", rowspan=len(rows) if len(rows) > 1 else None
    )
    return [element("tr", head if index == 0 else None, cells) for index, cells in enumerate(rows)]


def _is_skipped(suite: SuiteReport, system: str) -> bool:
    return any(entry.system == system and entry.skipped is not None for entry in suite.systems)


def figures_tables(suite: SuiteReport, looks: Mapping[str, int]) -> Html:
    """All figures of a suite: those of the whole, and those of its groups where there are several.

    The groups stand open where some measure has no figure over all.
    """
    groups = list(dict.fromkeys(figure.group for figure in suite.figures if figure.group != WHOLE))
    whole = {figure.metric for figure in suite.figures if figure.group == WHOLE}
    shown = {name: look for name, look in looks.items() if any(figure.system == name for figure in suite.figures)}
    parts = []
    if whole:
        parts.append(_table_of(suite, shown, [WHOLE], f"{suite.name}: all figures"))
    if groups:
        parts.append(
            element(
                "details",
                element("summary", f"By group ({', '.join(groups)})"),
                _table_of(suite, shown, groups, f"{suite.name}: all figures by group"),
                open=any(figure.metric not in whole for figure in suite.figures),
            )
        )
    return join(*parts)


def _table_of(suite: SuiteReport, looks: Mapping[str, int], groups: Sequence[str], label: str) -> Html:
    by_group = groups != [WHOLE]
    bodies = []
    for metric in dict.fromkeys(figure.metric for figure in suite.figures):
        rows = []
        for group in groups:
            figures = [find_figure(suite, name, metric, group) for name in looks]
            known = [figure for figure in figures if figure is not None]
            if not known:
                continue
            head: list[Child] = []
            if not by_group:
                head = [element("th", known[0].title, _direction(known), scope="row")]
            else:
                head = [element("th", group, scope="row")]
            rows.append(element("tr", head, _figure_cells(figures)))
        if rows and by_group:
            title = next(figure.title for figure in suite.figures if figure.metric == metric)
            rows.insert(0, element("tr", element("th", title, scope="rowgroup", colspan=len(looks) + 1), class_="over"))
        if rows:
            bodies.append(element("tbody", rows))
    heads = element("tr", element("th", "group" if by_group else "measure", scope="col"), system_heads(looks))
    return scrolling(element("table", element("thead", heads), bodies, class_="figures"), label)


def _figure_cells(figures: Sequence[ReportedFigure | None], reasons: Sequence[str | None] | None = None) -> list[Html]:
    best = clearly_best(figures)
    cells = []
    for index, figure in enumerate(figures):
        if figure is None:
            reason = reasons[index] if reasons is not None else None
            cells.append(element("td", reason or "–", class_="figure nothing"))
        else:
            cells.append(_figure_cell(figure, is_best=figure is best))
    return cells


def _figure_cell(figure: ReportedFigure, is_best: bool) -> Html:
    """The value, and below it interval and count."""
    if figure.value is None:
        return element("td", "–", class_="figure nothing")
    shown = element("span", number(figure.value, figure.unit), class_="value")
    if is_best:
        shown = element("strong", shown, title="beyond the intervals of all others")
    spread = f"n = {figure.count}"
    if figure.low is not None and figure.high is not None:
        low, high = (number(end, figure.unit).removesuffix(figure.unit).strip() for end in (figure.low, figure.high))
        spread = f"{low} to {high}; {spread}"
    return element(
        "td", shown, " ", element("span", spread, class_="spread"), class_="figure best" if is_best else "figure"
    )


def _direction(figures: Sequence[ReportedFigure | None]) -> Html | None:
    """An arrow to the better side."""
    better = next((figure.better for figure in figures if figure is not None), "neither")
    sign = {"lower": "↓", "higher": "↑"}.get(better)
    if sign is None:
        return None
    return join("\u00a0", element("span", sign, class_="direction", title=f"{better} is better"))


def failures(suite: SuiteReport) -> Html | None:
    """How many utterances were not delivered, and why; None where all were."""
    failed = [(entry.system, row) for entry in suite.systems for row in entry.rows if row.failure is not None]
    if not failed:
        return None
    counts = [
        f"{name} {sum(1 for system, _ in failed if system == name)}" for name in dict.fromkeys(s for s, _ in failed)
    ]
    heads = element("tr", (element("th", name, scope="col") for name in ("system", "id", "text", "reason")))
    rows = [
        element(
            "tr",
            element("td", system),
            element("td", row.id, class_="id"),
            element("td", row.text),
            element("td", row.failure, class_="reason"),
        )
        for system, row in failed
    ]
    table = element("table", element("thead", heads), element("tbody", rows))
    plural = "utterance was" if len(failed) == 1 else "utterances were"
    return element(
        "details",
        element("summary", f"{len(failed)} {plural} not delivered: {', '.join(counts)}"),
        scrolling(table, f"{suite.name}: not delivered"),
        class_="failures",
    )
