"""Learning curves: runs in a row, and a straight line over the logarithm of time."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import learning_curves
from benchmarks.learning_curves import Point, extrapolation, per_doubling, read_run


def write_log(path: Path, losses: dict[int, tuple[float, float]], step_s: float = 6.0) -> Path:
    lines = [{"step": 1, "elapsed_s": step_s, "codebook0": 9.0}]
    for step, (codebook0, depth) in losses.items():
        lines.append({"step": step, "elapsed_s": step_s * step, "eval_codebook0": codebook0, "eval_depth": depth})
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_run_goes_on_where_the_one_before_ended(tmp_path):
    first = read_run("one", write_log(tmp_path / "one", {10: (3.0, 6.0), 20: (2.5, 5.5)}), 0.0)
    second = read_run("two", write_log(tmp_path / "two", {20: (2.0, 5.0)}), first[-1].minutes)
    assert [(point.minutes, point.at_end) for point in first + second] == [(1, False), (2, True), (4, True)]
    assert per_doubling([first[-1], second[-1]], "eval_depth") == pytest.approx(0.5)


def test_the_extrapolation_is_a_line_over_the_logarithm_of_time():
    ends = [
        Point("", 0, minutes, {"eval_codebook0": 3 - math.log2(minutes), "eval_depth": 5.0}, True)
        for minutes in (15, 60)
    ]
    last = extrapolation(ends)[-2].split("|")
    assert [cell.strip() for cell in last[1:5]] == ["8 times as long", "8", f"{3 - math.log2(480):.3g}", "5"]


def test_the_program(tmp_path, monkeypatch, capsys):
    one, two = write_log(tmp_path / "one", {10: (3.0, 6.0)}), write_log(tmp_path / "two", {10: (2.0, 5.0)})
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["learning_curves", "--run", f"a={one}", "--run", f"b={two}", "--out", str(out)])
    assert learning_curves.main() == 0
    page = out.read_text(encoding="utf-8")
    assert "| b | 10 | 2 | 2 | 5 |" in page and str(tmp_path) not in page
    assert out.with_suffix(".png").stat().st_size > 1000
    monkeypatch.setattr("sys.argv", ["learning_curves", "--run", f"a={tmp_path / 'none'}"])
    assert learning_curves.main() == 2 and "none" in capsys.readouterr().err
