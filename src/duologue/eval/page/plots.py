"""Figures with their intervals as SVG: a row for each group, a point with its interval for each system.

Colours come from the page's style sheet; a system's shape tells it apart where colour does not. Sources: Cleveland,
"The Elements of Graphing Data" (1994), for dot plots; Heckbert, "Nice numbers for graph labels" (1990), for the axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from duologue.eval.markdown import with_interval
from duologue.eval.page.markup import Html, element, join
from duologue.eval.report import WHOLE, ReportedFigure

NUM_LOOKS: Final = 6  # systems with colour and shape of their own; a seventh looks like the first

_WIDTH: Final = 500
_LEFT: Final = 112  # of the plotting area; group names stand before it
_RIGHT: Final = 484
_TOP: Final = 8
_POINT_STEP: Final = 13  # between the systems of one group
_GROUP_GAP: Final = 11
_AXIS_HEIGHT: Final = 38
_NUM_TICKS: Final = 6
LEAST_SIZE: Final = 1e-6  # of the largest figure; all that are smaller are 0
_LEAST_SPAN: Final = 0.02  # of an axis, as a share of its largest figure: no axis magnifies what is as good as equal
_MAX_LABEL: Final = 17  # characters of a group's name

# Path data around (0, 0), of about equal area.
_SHAPES: Final = (
    "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0Z",
    "M-3.7,-3.7H3.7V3.7H-3.7Z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0Z",
    "M0,-4.9L4.9,3.7H-4.9Z",
    "M0,4.9L-4.9,-3.7H4.9Z",
    "M-1.7,-4.6H1.7V-1.7H4.6V1.7H1.7V4.6H-1.7V1.7H-4.6V-1.7H-1.7Z",
)


def swatch(index: int) -> Html:
    """The sign of the system with this index, as it stands in the plots."""
    sign = _sign(index, 7, 7)
    return element("svg", sign, class_="swatch", width=14, height=14, viewBox="0 0 14 14", aria_hidden="true")


def point_plot(figures: Sequence[ReportedFigure], looks: Mapping[str, int]) -> Html:
    """One metric of one suite. `looks` gives the systems their index; the figures of others are left out.

    At least one figure has to have a value.
    """
    known = [figure for figure in figures if figure.value is not None and figure.system in looks]
    assert known, "nothing to draw"
    groups = list(dict.fromkeys(figure.group for figure in known))
    systems = sorted({figure.system for figure in known}, key=looks.__getitem__)
    first = known[0]
    low, high, step = axis_range(known)
    band = len(systems) * _POINT_STEP + _GROUP_GAP
    bottom = _TOP + len(groups) * band

    def x_of(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    marks = _grid(low, high, step, bottom, first)
    for number, group in enumerate(groups):
        top = _TOP + number * band
        if number:
            marks.append(element("line", class_="grid", x1=0, x2=_RIGHT, y1=top, y2=top))
        name = _shortened(group)
        weight = "whole" if group == WHOLE else "group"
        marks.append(
            element("text", name, class_=weight, x=_LEFT - 10, y=top + band / 2 + 4, text_anchor="end"),
        )
        for figure in known:
            if figure.group == group:
                y = top + _GROUP_GAP / 2 + (systems.index(figure.system) + 0.5) * _POINT_STEP
                marks.append(_point(figure, looks[figure.system], x_of, y))
    title = f"{first.title}: {len(groups)} groups" if len(groups) > 1 else first.title
    return element(
        "svg",
        marks,
        class_="plot",
        viewBox=f"0 0 {_WIDTH} {bottom + _AXIS_HEIGHT}",
        role="img",
        aria_label=f"{title}, a point and its interval for {', '.join(systems)}; the figures are in the tables",
    )


def _grid(low: float, high: float, step: float, bottom: float, figure: ReportedFigure) -> list[Html]:
    """Ticks, their lines, and the name of the axis."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = []
    for number in range(round((high - low) / step) + 1):
        x = _LEFT + number * step / (high - low) * (_RIGHT - _LEFT)
        marks.append(element("line", class_="grid", x1=x, x2=x, y1=_TOP, y2=bottom))
        marks.append(element("text", f"{low + number * step:.{digits}f}", x=x, y=bottom + 14, text_anchor="middle"))
    name = figure.title + (f", {figure.unit}" if figure.unit else "")
    marks.append(element("text", name, class_="axis", x=(_LEFT + _RIGHT) / 2, y=bottom + 31, text_anchor="middle"))
    return marks


def _point(figure: ReportedFigure, look: int, x_of: Callable[[float], float], y: float) -> Html:
    assert figure.value is not None
    lines = []
    if figure.low is not None and figure.high is not None:
        left, right = x_of(figure.low), x_of(figure.high)
        lines = [
            element("line", x1=left, x2=right, y1=y, y2=y),
            *(element("line", x1=x, x2=x, y1=y - 3, y2=y + 3) for x in (left, right)),
        ]
    return element(
        "g",
        element("title", f"{figure.system}, {figure.group}: {with_interval(figure)}"),
        lines,
        _sign(look, x_of(figure.value), y),
        class_=f"look-{look % NUM_LOOKS}",
    )


def _sign(index: int, x: float, y: float) -> Html:
    look = index % NUM_LOOKS
    return element("path", d=_SHAPES[look], transform=f"translate({x:.2f} {y:.2f})", class_=f"sign look-{look}")


def axis_range(figures: Sequence[ReportedFigure]) -> tuple[float, float, float]:
    """Low and high end and step of an axis on which all values and intervals lie; shares of a whole begin at 0."""
    ends = [end for f in figures for end in (f.value, f.low, f.high) if end is not None and math.isfinite(end)]
    least, most = min(ends, default=0.0), max(ends, default=1.0)
    if least >= 0 and (figures[0].unit in ("%", "ms") or least < most / 2):
        least = 0.0
    size = max(abs(least), abs(most))
    if size < LEAST_SIZE:
        least, most = 0.0, 1.0
    elif (lacking := _LEAST_SPAN * size - (most - least)) > 0:
        least, most = least - lacking / 2, most + lacking / 2
    step = _nice((most - least) / (_NUM_TICKS - 1))
    low, high = math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step
    return low, high, step


def _nice(size: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below `size`."""
    unit = 10.0 ** math.floor(math.log10(size))
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= size * (1 - 1e-9))


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_LABEL else name[: _MAX_LABEL - 1] + "…"


def legend(looks: Mapping[str, int]) -> Html:
    """The systems with their signs."""
    return element(
        "ul", (element("li", join(swatch(index), name, between=" ")) for name, index in looks.items()), class_="legend"
    )
