"""The page's draws once more, in Python: which trials a rater gets in which order, with which clip on which side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
_WORD = 0xFFFFFFFF


def seed_of(text: str) -> int:
    """FNV-1a over UTF-16 code units, mixed as in MurmurHash3."""
    value = 0x811C9DC5
    data = text.encode("utf-16-le")
    for unit in (int.from_bytes(data[index : index + 2], "little") for index in range(0, len(data), 2)):
        value = (value ^ unit) * 0x01000193 & _WORD
    value = (value ^ value >> 16) * 0x85EBCA6B & _WORD
    value = (value ^ value >> 13) * 0xC2B2AE35 & _WORD
    return value ^ value >> 16


def generator(seed: int) -> Callable[[], float]:
    """Mulberry32: numbers in [0, 1)."""
    state = seed

    def draw() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) & _WORD
        mixed = (state ^ state >> 15) * (1 | state) & _WORD
        mixed = ((mixed + ((mixed ^ mixed >> 7) * (61 | mixed) & _WORD)) & _WORD) ^ mixed
        return (mixed ^ mixed >> 14) / 2**32

    return draw


def shuffled(items: Sequence[Item], draw: Callable[[], float]) -> list[Item]:
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        other = int(draw() * (last + 1))
        result[last], result[other] = result[other], result[last]
    return result


def plan_of(content: dict[str, Any], rater: str) -> list[tuple[dict[str, Any], str, str]]:
    """The trials of the page's content in the rater's order, each with its left and its right clip."""
    draw = generator(seed_of(f"{content['test']}/{rater}"))
    plain = shuffled([trial for trial in content["trials"] if not trial["context"]], draw)
    in_context = shuffled([trial for trial in content["trials"] if trial["context"]], draw)
    plan = []
    for trial in plain + in_context:
        left, right = trial["clips"] if draw() < 0.5 else trial["clips"][::-1]
        plan.append((trial, left, right))
    return plan
