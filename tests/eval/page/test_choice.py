"""Which clips are shown, and which figure is called best."""

from __future__ import annotations

import dataclasses
import math

import pytest

from duologue.eval.page.choice import candidates, clearly_best, main_metrics
from tests.eval.page import builders
from tests.eval.page.builders import figure, row


def test_the_worst_and_the_best_by_the_main_measure() -> None:
    rows = [row(number, substitutions=errors) for number, errors in enumerate((1, 4, 0, 2, 3, 0, 4))]
    chosen = [c for c in candidates(builders.report(builders.suite(rows))) if c.system == "one"]
    assert [(c.side, c.rank, c.row.id[-3:], c.value) for c in chosen] == [
        ("worst", 0, "006", 100),
        ("best", 0, "002", 0),
        ("worst", 1, "001", 100),
        ("best", 1, "005", 0),
        ("worst", 2, "004", 75),
    ]


@pytest.mark.parametrize("count", range(6))
def test_no_utterance_is_both(count: int) -> None:
    chosen = candidates(builders.report(builders.suite([row(n) for n in range(count)], systems=["one"])))
    assert len({c.row.id for c in chosen}) == len(chosen) == min(count, 5)


def test_higher_is_better_where_the_metric_says_so_and_words_are_the_last_resort() -> None:
    similar = builders.suite([row(number) for number in range(6)], name="similarity", systems=["one"])
    figures = (figure("one", 1.0), figure("one", 0.9, metric="similarity", better="higher", unit=""))
    similar = dataclasses.replace(similar, figures=figures, headline="similarity")
    worst = candidates(builders.report(similar))[0]
    assert worst.metric.name == "similarity" and worst.row.id == "plain/000"
    unknown = dataclasses.replace(similar, figures=(figure("one", 1.0, metric="of another version"),))
    assert candidates(builders.report(unknown))[0].metric.name == "wer"


def test_main_metrics_leave_out_what_has_no_better_side() -> None:
    figures = [
        figure("one", 1.0, metric=name, better=better)
        for name, better in (("failed", "lower"), ("pace", "neither"), ("cap", "lower"), ("stops_badly", "lower"))
    ]
    suite = dataclasses.replace(builders.suite([]), figures=tuple(figures), headline="stops_badly")
    assert main_metrics(suite) == ["stops_badly", "cap"]
    assert main_metrics(dataclasses.replace(suite, headline="of another version")) == ["cap", "stops_badly"]
    assert main_metrics(dataclasses.replace(suite, figures=())) == []


def test_best_only_beyond_the_intervals_of_all_others() -> None:
    low, near, far = figure("one", 10.0), figure("two", 11.5), figure("three", 20.0)
    assert clearly_best([low, far]) is low
    assert clearly_best([low, near, far]) is None
    assert clearly_best([low]) is None and clearly_best([low, None]) is None
    assert clearly_best([low, figure("two", 20.0, spread=None)]) is None
    assert clearly_best([low, figure("two", 20.0, count=4)]) is None
    assert clearly_best([figure("one", 1.0, better="neither"), figure("two", 9.0, better="neither")]) is None
    highs = [figure("one", 1.0, better="higher"), figure("two", 9.0, better="higher")]
    assert clearly_best(highs) is highs[1]
    assert math.isclose(highs[1].value or 0, 9.0)
