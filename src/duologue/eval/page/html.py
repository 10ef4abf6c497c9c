"""The document: everything in one file that may fetch nothing, the same bytes for the same report and clips.

Source: W3C, "Content Security Policy Level 3": the page's own script and style are allowed by their SHA-256 alone, so
that no markup that came in with a text, had it escaped the escaping, could run or be fetched.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from duologue.eval.page.choice import MIN_COUNT_TO_MARK, main_metrics
from duologue.eval.page.clips import AUDIO_BUDGET, ShownClips, clip_groups, show_clips
from duologue.eval.page.listing import listing_json
from duologue.eval.page.markup import Child, Html, element, join, text
from duologue.eval.page.plots import legend, point_plot, swatch
from duologue.eval.page.spectrogram import load_pillow
from duologue.eval.page.tables import failures, figures_tables, scrolling, summary_table
from duologue.eval.report import EvaluationReport, ReportedFigure, SuiteReport

_MAX_NAMES_IN_TITLE: Final = 3
_UNITS: Final = {"s": "s", "ms": "ms", "hz": "Hz", "gb": "GB", "mb": "MB"}


def report_html(report: EvaluationReport, folder: Path, *, audio_budget: int = AUDIO_BUDGET) -> str:
    """The page of a report whose clips lie in `folder`, the folder of the run; a clip that is not there is said to be.

    At most `audio_budget` bytes of it are sound. Raises `EvaluationError` where the extra `eval` is not installed.
    """
    load_pillow()  # before any work
    looks = {name: index for index, name in enumerate(report.systems)}
    clips = show_clips(report, folder, audio_budget)
    parts = {
        "title": text(_title(report)),
        "head": _head(report, looks).markup,
        "navigation": _navigation(report).markup,
        "summary": summary_table(report, looks).markup,
        "least": str(MIN_COUNT_TO_MARK),
        "suites": join(*(_suite(suite, number, looks) for number, suite in enumerate(report.suites, 1))).markup,
        "clips": _clips(report, clips, looks).markup,
        "foot": _foot(report).markup,
        "listing": listing_json(report, clips.anchors).markup,
        "style": _asset("page.css"),
        "script": _asset("page.js"),
    }
    parts |= {f"{name}-hash": _hash(parts[name]) for name in ("style", "script")}
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")


def _title(report: EvaluationReport) -> str:
    names = list(report.systems)
    if not names:
        return "Evaluation"
    if len(names) > _MAX_NAMES_IN_TITLE:
        return f"Evaluation of {len(names)} systems"
    return "Evaluation of " + " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _head(report: EvaluationReport, looks: Mapping[str, int]) -> Html:
    num_rows = sum(len(entry.rows) for suite in report.suites for entry in suite.systems)
    made = element("time", _date(report.created), datetime=report.created)
    facts = join(made, f"{num_rows} utterances", _limit(report.limit), f"seed {report.seed}", between=" · ")
    systems = [
        element("div", element("dt", swatch(looks[name]), " ", name), element("dd", _described(about)))
        for name, about in report.systems.items()
    ]
    return join(
        element("h1", _title(report)),
        element("p", facts, class_="aside"),
        element("dl", systems, class_="systems") if systems else None,
    )


def _date(created: str) -> str:
    """ISO 8601 to the minute, in UTC; as it is where it is something else."""
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        return created
    if moment.tzinfo is not None:
        return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return moment.strftime("%Y-%m-%d %H:%M")


def _limit(limit: int | None) -> str:
    if limit is None:
        return "all lines"
    return "the first line of each group" if limit == 1 else f"the first {limit} lines of each group"


def _described(about: Any) -> Child:
    """What a report says of a system: `kind model · cap s 20`."""
    if not isinstance(about, dict):
        return _value(about)
    known = [(key, value) for key, value in about.items() if value not in (None, [], {}, "")]
    return join(*(_named(key, value) for key, value in known), between=" · ")


def _named(key: str, value: Any) -> Html:
    """`cap_s` of 20.0 as "cap 20.0 s"."""
    words = key.split("_")
    unit = _UNITS.get(words[-1]) if len(words) > 1 else None
    name = " ".join(words if unit is None else words[:-1])
    return join(name, element("b", _value(value) if unit is None else f"{_value(value)} {unit}"), between=" ")


def _value(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _navigation(report: EvaluationReport) -> Html:
    links = [("#summary", "Summary")]
    links += [(f"#suite-{number}", suite.name) for number, suite in enumerate(report.suites, start=1)]
    links += [("#clips", "Clips"), ("#utterances", "Utterances"), ("#made", "How it was made")]
    return join(*(element("a", label, href=target) for target, label in links))


def _suite(suite: SuiteReport, number: int, looks: Mapping[str, int]) -> Html:
    skipped = [
        element("p", element("b", entry.system), f" was left out: {entry.skipped}.", class_="note")
        for entry in suite.systems
        if entry.skipped is not None
    ]
    measured = [figure for figure in suite.figures if figure.value is not None]
    parts: list[Child] = [element("h2", suite.name, element("span", suite.title, class_="question"))]
    if suite.lists:
        parts.append(element("p", "Lines: ", _lists(suite), ".", class_="aside"))
    parts += skipped
    parts += [element("p", note, class_="note") for note in suite.notes]
    if measured:
        parts += [_plots(suite, looks), figures_tables(suite, looks)]
    elif not skipped:
        parts.append(element("p", "Nothing was measured.", class_="note"))
    parts.append(failures(suite))
    return element("section", parts, id=f"suite-{number}", class_="suite")


def _lists(suite: SuiteReport) -> str:
    return ", ".join(
        f"{name} version {about.get('version', '?')}" if isinstance(about, dict) else f"{name} {about}"
        for name, about in suite.lists.items()
    )


def _plots(suite: SuiteReport, looks: Mapping[str, int]) -> Html:
    shown = {name: look for name, look in looks.items() if any(figure.system == name for figure in suite.figures)}
    plots = [
        _plot([figure for figure in suite.figures if figure.metric == metric], shown) for metric in main_metrics(suite)
    ]
    return join(legend(shown), element("div", plots, class_="plots"))


def _plot(figures: Sequence[ReportedFigure], looks: Mapping[str, int]) -> Html:
    better = figures[0].better
    note = None if better == "neither" else element("span", f"{better} is better", class_="aside")
    caption = element("figcaption", join(figures[0].title, note, between=" "))
    return element("figure", caption, point_plot(figures, looks))


def _clips(report: EvaluationReport, clips: ShownClips, looks: Mapping[str, int]) -> Html:
    notes: list[Child] = []
    if clips.num_left_out:
        notes.append(
            element(
                "p",
                f"{clips.num_left_out} of {clips.num_shown + clips.num_left_out} clips are not shown, "
                "since the sound of this page is limited to keep it light; the run's folder has them all.",
                class_="note",
            )
        )
    if not clips.num_shown:
        notes.append(element("p", "There are no clips.", class_="note"))
    return join(notes, clip_groups(report, clips, looks))


def _foot(report: EvaluationReport) -> Html:
    lists = {name: about for suite in report.suites for name, about in suite.lists.items()}
    facts: list[tuple[str, Child]] = [
        ("command", element("code", report.command)),
        ("seed", report.seed),
        ("limit", _limit(report.limit)),
        ("machine", _described(report.machine)),
        ("versions", _described(report.versions)),
        ("instruments", _described(report.instruments)),
        ("lists", join(*(join(name, " ", _described(about)) for name, about in lists.items()), between="; ")),
        ("report", f"schema {report.schema}"),
    ]
    rows = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts]
    return scrolling(element("table", element("tbody", rows), class_="facts"), "how the report was made")
