"""Sides and order differ from rater to rater and lean to no side."""

from __future__ import annotations

from collections import Counter

from tests.eval.listening.chance import generator, plan_of, seed_of


def test_draws_are_even() -> None:
    draw = generator(seed_of("test/ada"))
    values = [draw() for _ in range(4_000)]
    assert all(0 <= value < 1 for value in values)
    counts = Counter(int(value * 8) for value in values)
    assert all(abs(count - 500) < 100 for count in counts.values())  # within 4.8 standard deviations


def test_raters_get_their_own_order_and_sides() -> None:
    trials = [{"id": f"t{n}", "clips": [f"a{n}", f"b{n}"], "context": n >= 6} for n in range(12)]
    content = {"test": "0123456789abcdef", "trials": trials}
    plans = [plan_of(content, f"rater {number}") for number in range(400)]
    assert plan_of(content, "rater 0") == plans[0]
    assert len({tuple(trial["id"] for trial, _, _ in plan) for plan in plans}) == 400
    on_the_left = Counter(left for plan in plans for _, left, _ in plan)
    assert all(140 <= on_the_left[clip] <= 260 for trial in trials for clip in trial["clips"])  # 200 expected
    first = Counter(plan[0][0]["id"] for plan in plans)
    assert set(first) == {f"t{n}" for n in range(6)} and min(first.values()) > 30  # 67 expected
    assert all(trial["context"] == (place >= 6) for plan in plans for place, (trial, _, _) in enumerate(plan))
