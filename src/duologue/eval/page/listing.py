"""All utterances as data for the page's table, which the page's script draws as far as it is looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from duologue.eval.measure import Row
from duologue.eval.page.markup import Html
from duologue.eval.report import EvaluationReport

COLUMNS: Final = ("system", "suite", "group", "id", "text", "heard", "WER, %", "SIM", "DNSMOS", "length, s", "failure")


def listing_json(report: EvaluationReport, anchors: Mapping[tuple[str, str, str], str]) -> Html:
    """`{"rows": [[...], ...]}` for a script element: the values of `COLUMNS`, and the anchor of the clip or null.

    Nothing in it can end the element or begin a comment.
    """
    rows = [
        [*_values(entry.system, row), anchors.get((suite.name, entry.system, row.id))]
        for suite in report.suites
        for entry in suite.systems
        for row in entry.rows
    ]
    content = json.dumps({"columns": COLUMNS, "rows": rows}, separators=(",", ":"))
    for character in "<>&":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return Html(content)


def _values(system: str, row: Row) -> list[Any]:
    rate = row.word_error_rate
    return [
        system,
        row.suite,
        row.group,
        row.id,
        row.text,
        row.heard,
        _rounded(None if rate is None else 100 * rate, 1),
        _rounded(row.similarity, 3),
        _rounded(row.overall, 2),
        _rounded(row.duration_s, 2),
        row.failure,
    ]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
