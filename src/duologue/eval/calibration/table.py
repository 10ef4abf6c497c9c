"""What came out against what had to: the rows of the calibration table with their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from duologue.config import JsonConfig
from duologue.eval.calibration.agreement import AGREEMENTS, Agreement
from duologue.eval.calibration.bench import JUDGED
from duologue.eval.calibration.conditions import CONDITIONS, UNTOUCHED
from duologue.eval.calibration.references import Sample
from duologue.eval.calibration.rows import Expected, rows_for
from duologue.eval.measure import Row
from duologue.eval.metrics import METRICS
from duologue.eval.statistics import Difference, Figure

_SLACK = 1e-9  # of figures that are exact but for rounding

MATRIX = (
    "wer",
    "cer",
    "similarity",
    "right_voice",
    *JUDGED,
    "trailing_silence",
    "cut",
    "loops",
    "pace",
    "pitch",
    "level",
)


@dataclass(frozen=True)
class Result(JsonConfig):
    """One row as measured. `holds` is None where nothing could be measured, such as voices in a folder without them.

    `before` and `after` are of the recordings that underwent the change, `difference` pairs them; where recordings are
    untouched, or an instrument is compared with a direct call, there is only `after`. `measured` is the quantity that
    has to lie from `least` to `most`: the value, the difference, the ratio, or the largest difference of a direct call.
    """

    name: str
    condition: str
    change: str
    metric: str
    title: str
    unit: str
    role: str
    quantity: str
    folder: str | None
    least: float | None
    most: float | None
    before: Figure | None
    after: Figure
    difference: Difference | None
    measured: float | None
    holds: bool | None


@dataclass(frozen=True)
class Movement(JsonConfig):
    """How far one metric moved under one condition, asked for or not."""

    condition: str
    metric: str
    unit: str
    before: Figure
    after: Figure
    difference: Difference


def judge(expected: Expected, measured: Mapping[str, Sequence[Row]]) -> Result:
    """The verdict on one row of the table."""
    metric = METRICS[expected.metric]
    changed, untouched = measured[expected.condition], measured[UNTOUCHED]
    after = metric.figure(changed, expected.folder)
    before: Figure | None = None
    difference: Difference | None = None
    if expected.condition != UNTOUCHED:
        before = metric.figure(_same(untouched, changed), expected.folder)
        difference = metric.difference(untouched, changed, expected.folder)
    value = _quantity(expected, before, after, difference)
    holds = None if value is None else _within(value, expected.least, expected.most)
    if holds and expected.role == "moves" and expected.quantity == "difference":
        holds = difference is not None and difference.significant
    return Result(
        name=expected.name,
        condition=expected.condition,
        change=CONDITIONS[expected.condition].title,
        metric=expected.metric,
        title=metric.title,
        unit=metric.unit,
        role=expected.role,
        quantity=expected.quantity,
        folder=expected.folder,
        least=expected.least,
        most=expected.most,
        before=before,
        after=after,
        difference=difference,
        measured=value,
        holds=holds,
    )


def judge_agreement(agreement: Agreement, figure: Figure) -> Result:
    """The verdict on an instrument that was compared with a direct call."""
    return Result(
        name=f"{UNTOUCHED}/{agreement.name}/agreement",
        condition=UNTOUCHED,
        change=CONDITIONS[UNTOUCHED].title,
        metric=agreement.name,
        title=agreement.title,
        unit=agreement.unit,
        role="agrees",
        quantity="largest difference",
        folder=None,
        least=None,
        most=agreement.most,
        before=None,
        after=figure,
        difference=None,
        measured=figure.value,
        holds=None if figure.value is None else _within(figure.value, None, agreement.most),
    )


def results_of(
    sample: Sample, measured: Mapping[str, Sequence[Row]], show: Callable[[str], None] = lambda text: None
) -> list[Result]:
    """All rows that apply to the sample's folders, the direct calls included."""
    made = [judge(expected, measured) for expected in rows_for(sample.folders)]
    agreed = [(agreement, agreement.compare(sample.untouched, measured[UNTOUCHED], show)) for agreement in AGREEMENTS]
    compared = [judge_agreement(agreement, figure) for agreement, figure in agreed]
    split = sum(result.condition == UNTOUCHED for result in made)
    return [*made[:split], *compared, *made[split:]]


def movements_of(measured: Mapping[str, Sequence[Row]]) -> list[Movement]:
    """Every metric of `MATRIX` under every change, as far as it was measured."""
    made = []
    for condition, changed in measured.items():
        if condition == UNTOUCHED:
            continue
        untouched = _same(measured[UNTOUCHED], changed)
        for name in MATRIX:
            metric = METRICS[name]
            before, after = metric.figure(untouched), metric.figure(changed)
            if before.value is not None and after.value is not None:
                difference = metric.difference(untouched, changed)
                made.append(Movement(condition, name, metric.unit, before, after, difference))
    return made


def _same(untouched: Sequence[Row], changed: Sequence[Row]) -> list[Row]:
    """The untouched rows of the recordings that were changed."""
    wanted = {(row.group, row.id) for row in changed}
    return [row for row in untouched if (row.group, row.id) in wanted]


def _quantity(expected: Expected, before: Figure | None, after: Figure, difference: Difference | None) -> float | None:
    if expected.quantity == "value":
        return after.value
    if expected.quantity == "difference":
        return None if difference is None else difference.value
    if before is None or not before.value or after.value is None:
        return None
    return after.value / before.value


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least - _SLACK) and (most is None or value <= most + _SLACK)
