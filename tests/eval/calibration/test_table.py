"""Verdicts on made-up rows, and the two files that they are written to."""

import dataclasses
import json
from pathlib import Path

import pytest

from duologue.errors import EvaluationError
from duologue.eval.calibration.agreement import AGREEMENTS, Agreement
from duologue.eval.calibration.conditions import CONDITIONS, UNTOUCHED
from duologue.eval.calibration.report import (
    SCHEMA,
    CalibrationReport,
    calibration_markdown,
    expectation,
    read_calibration,
    write_calibration,
)
from duologue.eval.calibration.rows import Expected, becomes, factor, moves, rows_for, scores, stays
from duologue.eval.calibration.table import judge, judge_agreement, movements_of
from duologue.eval.measure import Row
from duologue.eval.statistics import Figure
from tests.eval.calibration.builders import make_row

LEVELS = (-20.0, -22.0, -24.0)


def measured(by_db: tuple[float, ...] = (-6.0, -6.0, -6.0), **others: float) -> dict[str, list[Row]]:
    """Three recordings, and what became of their levels under the condition "softer"."""
    before = [make_row(n, level_db=level, pace=4.0) for n, level in enumerate(LEVELS)]
    besides = [make_row(9, level_db=-60.0, pace=9.0)]  # not changed: counts as untouched alone
    after = [make_row(n, level_db=LEVELS[n] + by, pace=5.0, **others) for n, by in enumerate(by_db)]
    return {UNTOUCHED: before + besides, "softer": after}


@pytest.mark.parametrize(
    ("expected", "value", "holds"),
    [
        (moves("softer", "level", most=-5.0), -6.0, True),
        (moves("softer", "level", most=-6.0), -6.0, True),
        (moves("softer", "level", most=-6.1), -6.0, False),
        (moves("softer", "level", least=1.0), -6.0, False),
        (stays("softer", "level", 6.0), -6.0, True),
        (stays("softer", "level", 5.9), -6.0, False),
        (factor("softer", "pace", 1.25, 0.0), 1.25, True),
        (factor("softer", "pace", 1.0, 0.1), 1.25, False),
        (becomes("softer", "level", most=-27.9), -28.0, True),
        (becomes("softer", "level", least=-27.9), -28.0, False),
        (scores("level", least=-31.5, most=-31.5), -31.5, True),
        (scores("level", least=-31.5, folder="elsewhere"), None, None),
        (stays("softer", "pitch", 1.0), None, None),
    ],
)
def test_verdicts(expected: Expected, value: float | None, holds: bool | None) -> None:
    result = judge(expected, measured())
    assert result.measured == (None if value is None else pytest.approx(value)) and result.holds is holds
    if expected.condition != UNTOUCHED and value is not None:
        assert result.before is not None and result.before.count == result.after.count == 3


def test_a_metric_that_moves_does_so_by_more_than_chance() -> None:
    uneven = measured((-20.0, 5.0, -6.0))
    assert judge(stays("softer", "level", 7.0), uneven).measured == pytest.approx(-7.0)
    assert judge(moves("softer", "level", most=-5.0), uneven).holds is False


def test_nan_is_not_measured() -> None:
    unjudged = [make_row(n, overall=float("nan")) for n in range(3)]
    assert judge(moves("softer", "overall", most=-1.0), {UNTOUCHED: unjudged, "softer": unjudged}).holds is None


def test_rows_of_a_folder_apply_where_it_is_there() -> None:
    assert {row.folder for row in rows_for(["heldout", "x"])} == {None, "heldout"}
    assert {row.folder for row in rows_for(["x"])} == {None}


@pytest.mark.parametrize(("value", "holds"), [(0.1, True), (0.11, False), (None, None)])
def test_a_direct_call_agrees_or_does_not(value: float | None, holds: bool | None) -> None:
    figure = Figure(value, None, None, 0 if value is None else 2)
    agreement = Agreement("dnsmos", "DNSMOS", "", 0.1, lambda references, rows, show: figure)
    result = judge_agreement(agreement, agreement.compare([], [], print))
    assert result.holds is holds and result.after == figure and result.name == "untouched/dnsmos/agreement"


@pytest.mark.parametrize("agreement", AGREEMENTS, ids=lambda agreement: agreement.name)
def test_nothing_to_compare_is_not_measured(agreement: Agreement) -> None:
    assert agreement.compare([], [], print) == Figure(None, None, None, 0)


def make_report() -> CalibrationReport:
    rows = measured()
    expected = [
        scores("level", least=-40.0),
        moves("softer", "level", most=-5.0),
        moves("softer", "level", least=1.0),
        stays("softer", "pitch", 1.0),
        factor("softer", "pace", 1.25, 0.1),
    ]
    return CalibrationReport(
        schema=SCHEMA,
        created="2026-11-24T08:00:00+00:00",
        command="duologue eval calibrate --recordings a|b --out c",
        seed=0,
        limit=3,
        changed=3,
        untouched=4,
        recordings={"a": {"kind": "recordings", "recordings": 4, "manifests": "manifest*.jsonl"}},
        instruments={"recognizer": "scripted"},
        versions={"duologue": "0.1.0", "jiwer": None},
        results=tuple(judge(row, rows) for row in expected),
        movements=tuple(movements_of(rows)),
    )


def test_a_report_is_read_back_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    report = make_report()
    path = write_calibration(report, tmp_path / "new")
    assert read_calibration(path) == report
    assert [result.name for result in report.failed] == ["softer/level/difference"]
    assert [result.name for result in report.unmeasured] == ["softer/pitch/difference"]
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["results"][1]["difference"]["value"] == pytest.approx(-6.0)
    for content, reason in (
        (text[:100], "is not a calibration"),
        ("[]", "schema None"),
        (text.replace('"schema": 1', '"schema": 7'), "schema 7"),
        (text.replace('"seed": 0', '"seed": "x"'), "expected int"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(EvaluationError, match=reason):
            read_calibration(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match=r"cannot make the folder .*file/inside"):
        write_calibration(make_report(), tmp_path / "file" / "inside")


def test_the_page() -> None:
    page = calibration_markdown(make_report())
    lines = page.splitlines()
    assert lines[0].startswith("Made on 2026-11-24 by `duologue eval calibrate")
    assert "- a: 4 recordings, manifest*.jsonl" in lines and "- duologue 0.1.0" in lines
    softer = CONDITIONS["softer"].title
    assert (
        f"| {softer} | level | -22.0 dB | -28.0 dB (-30.0 to -26.0; n = 3) | -6.0 (-6.0 to -6.0) "
        "| falls by at least 5 dB | yes |" in lines
    )
    assert f"| {softer} | level | -22.0 dB |" in page and "rises by at least 1 dB | **no** |" in page
    assert "| stays within 1 Hz | not measured |" in page
    assert "+1.00 (+1.00 to +1.00), × 1.250 | moves: 1.125 to 1.375 times as before | yes |" in page
    assert lines[-1] == f"| {softer} | +0.0 | **+1.00** | **-6.0** |"  # ends cut: none before, none after
    assert len({line.count(" | ") for line in lines if line.startswith(f"| {softer} |")}) == 2  # of the two tables


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (scores("wer", most=10.0), "at most 10 %"),
        (scores("right_voice", least=95.0), "at least 95 %"),
        (stays("softer", "similarity", 0.1), "stays within 0.1"),
        (Expected("softer", "level", "moves", "difference", -12.2, -11.8), "moves by -12.2 to -11.8 dB"),
        (factor("softer", "pitch", 1.0, 0.02), "stays: 0.98 to 1.02 times as before"),
        (moves("softer", "overall", most=-0.3), "falls by at least 0.3"),
    ],
)
def test_expectations_in_words(expected: Expected, words: str) -> None:
    result = judge(expected, measured())
    assert expectation(result) == words
    assert expectation(dataclasses.replace(result, holds=None)) == words
