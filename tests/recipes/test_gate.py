"""The gate on the model card: what it reads, what it writes, and which way is worse."""

from pathlib import Path

import pytest

from duologue.errors import EvaluationError
from duologue.eval.report import ReportedFigure
from recipes.parlor.gate import BEGIN, CARD, END, GATED, Recorded, main, read_card, worse, write_card


def figure(metric: str, value: float | None, better: str = "lower", count: int = 12) -> ReportedFigure:
    return ReportedFigure("parlor", "all", metric, metric, "%", better, value, 0.0, 40.0, count)


def recorded(value: float, low: float, high: float) -> Recorded:
    return Recorded("intelligibility", "wer", value, low, high, 12)


def test_the_card_of_the_bundled_model_has_all_figures() -> None:
    rows = read_card(CARD.read_text(encoding="utf-8"))
    assert [(row.suite, row.metric) for row in rows] == list(GATED)
    assert all(row.low <= row.value <= row.high and row.count > 0 for row in rows)


def test_what_is_written_is_read_back() -> None:
    figures = [(suite, figure(metric, 12.34567)) for suite, metric in GATED]
    card = write_card(f"before\n{BEGIN}\nold\n{END}\nafter", figures)
    assert card.startswith("before\n") and card.endswith("\nafter") and "old" not in card
    assert {row.value for row in read_card(card)} == {12.3457}
    with pytest.raises(EvaluationError, match="the model card has no <!-- eval-smoke: begin"):
        write_card("nothing", figures)
    with pytest.raises(EvaluationError, match="does not record all of the gate's figures"):
        read_card(card.replace("stops_badly", "stops_well"))


@pytest.mark.parametrize(
    ("value", "better", "count", "is_worse"),
    [
        (20.0, "lower", 12, False),
        (30.0, "lower", 12, False),
        (30.1, "lower", 12, True),
        (5.0, "lower", 12, False),
        (5.0, "higher", 12, True),
        (35.0, "higher", 12, False),
        (20.0, "lower", 11, True),
        (None, "lower", 12, True),
    ],
)
def test_only_the_bad_side_of_the_interval_is_worse(
    value: float | None, better: str, count: int, is_worse: bool
) -> None:
    assert worse(recorded(20.0, 10.0, 30.0), figure("wer", value, better, count)) is is_worse


def test_a_card_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--card", str(tmp_path / "none.md")]) == 2
    assert "none.md does not exist" in capsys.readouterr().err
