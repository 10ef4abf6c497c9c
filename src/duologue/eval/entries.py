"""Which numbers of which rows a figure is made of: of each row by itself, or of rows that belong together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from duologue.eval.measure import Row

Key = tuple[str, ...]
Entries = Callable[[Sequence[Row]], dict[Key, tuple[float, ...]]]
"""One entry for each column of a statistic, by a key that finds the same utterance in another report; the group of the
utterance is the key's first part where it counts in a group."""
Values = Callable[[Row], tuple[float, ...] | None]
"""The columns' entries of one row, or None where the metric does not apply to it."""
Amount = Callable[[Row, Row], float | None]
"""What one row has more than another."""


def each(values: Values) -> Entries:
    """Every row by itself, by group and id."""

    def entries(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
        return {(row.group, row.id): entry for row in rows if (entry := values(row)) is not None}

    return entries


def plain(name: str) -> Entries:
    """A measure of the row by its name; a yes counts one, a no nothing."""

    def values(row: Row) -> tuple[float, ...] | None:
        value = getattr(row, name)
        return None if value is None else (float(value),)

    return each(values)


def besides(name: str) -> Entries:
    """A measure that only some suites have."""
    return each(lambda row: (row.measures[name],) if name in row.measures else None)


def step(amount: Amount) -> Entries:
    """How far each row is from the own turn before it, which is another row."""

    def entries(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
        turns = {row.id: row for row in rows}
        made: dict[Key, tuple[float, ...]] = {}
        for row in rows:
            turn = turns.get(str(row.facts.get("own_turn")))
            value = None if turn is None else amount(row, turn)
            if value is not None:
                made[row.group, row.id] = (value,)
        return made

    return entries


def ratio(name: str) -> Amount:
    """The logarithm of one row's measure over the other's."""

    def amount(row: Row, other: Row) -> float | None:
        ours, theirs = getattr(row, name), getattr(other, name)
        return math.log(ours / theirs) if ours and theirs else None

    return amount


def levels(row: Row, other: Row) -> float | None:
    """Decibels that one is louder."""
    return _minus(row.level_db, other.level_db)


def by_line(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """The rows of each line by group: those whose ids end alike."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row.id.partition("/")[2]][row.group] = row
    return found


def carry(low: str, high: str, amount: Amount, change: float) -> Entries:
    """How far an answer's measure follows the history from `low` to `high`, which are `change` apart."""

    def entries(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
        made: dict[Key, tuple[float, ...]] = {}
        for line, groups in by_line(rows).items():
            value = amount(groups[high], groups[low]) if low in groups and high in groups else None
            if value is not None:
                made[line,] = (value / change,)
        return made

    return entries


def beside_history(name: str, factors: Mapping[str, float], *, answer: str | None = None) -> Entries:
    """Two columns: the measure of the own turn before as it was heard, and of the answer.

    `factors` has the groups that count, with how much the measure of the history was multiplied by there. With
    `answer`, the answer is each time that of the line in this group instead.
    """

    def entries(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
        turns = {row.id: row for row in rows}
        made: dict[Key, tuple[float, ...]] = {}
        for line, groups in by_line(rows).items():
            for group, factor in factors.items():
                said = groups.get(answer or group)
                turn = turns.get(str(groups[group].facts.get("own_turn"))) if group in groups else None
                if said is None or turn is None:
                    continue
                before, after = getattr(turn, name), getattr(said, name)
                if before is not None and after is not None:
                    made[line, group] = (before * factor, after)
        return made

    return entries


def absolute(amount: Amount, scale: float = 1.0) -> Amount:
    """The amount without its sign, `scale` times."""

    def absolute(row: Row, other: Row) -> float | None:
        value = amount(row, other)
        return None if value is None else abs(value) * scale

    return absolute


def rise(name: str) -> Entries:
    """How much a measure of each recording rises by the codec, `original` against `decoded`."""
    return carry("original", "decoded", lambda row, other: _minus(getattr(row, name), getattr(other, name)), 1.0)


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def added_errors(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
    """Word errors of each recording after the codec less those before, and its words."""
    return {
        (line,): (float(groups["decoded"].word_errors - groups["original"].word_errors), groups["original"].num_words)
        for line, groups in by_line(rows).items()
        if "original" in groups and "decoded" in groups
    }


def consistency(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
    """Whether each answer says its word as the turn before it did."""
    variants = {row.id: row.measures["variant"] for row in rows if "variant" in row.measures}
    made: dict[Key, tuple[float, ...]] = {}
    for row in rows:
        before = variants.get(str(row.facts.get("word_before")))
        if before is not None and row.id in variants:
            made[row.group, row.id] = (float(before == variants[row.id]),)
    return made


def drift(rows: Sequence[Row]) -> dict[Key, tuple[float, ...]]:
    """The number of each turn and its similarity to the voice's prompt."""
    return {
        (row.group, row.id): (float(row.facts["turn"]), row.similarity)
        for row in rows
        if "turn" in row.facts and row.similarity is not None
    }
