"""`duologue eval calibrate` through the program: what it writes, what it says, how it ends, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from duologue.eval.calibration import rows
from duologue.eval.calibration.rows import becomes, moves, scores, stays
from duologue.eval.instruments import Transcript
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of
from tests.eval.builders import Scripted, instruments
from tests.eval.calibration.builders import make_folder

HOLDING = (
    scores("overall", least=2.5),
    moves("softer", "level", most=-11.0),
    stays("softer", "wer", 0.0),
    becomes("silence", "long_silence", least=100.0),
)


class Interrupted(Scripted):
    """Somebody presses Ctrl-C while the tenth recording is heard."""

    def transcript(self, pcm: torch.Tensor, sample_rate: int) -> Transcript:
        if self.calls == 9:
            raise KeyboardInterrupt
        return super().transcript(pcm, sample_rate)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Scripted], None]:
    """Other instruments, which load nothing."""

    def use(scripted: Scripted) -> None:
        monkeypatch.setattr("duologue.eval.instruments.Instruments", lambda *_, **__: instruments(tmp_path, scripted))

    return use


@pytest.fixture(autouse=True)
def small_table(monkeypatch: pytest.MonkeyPatch, scripted: Callable[[Scripted], None]) -> None:
    """Four rows, which hold for a recogniser that hears the same in everything, and no direct calls."""
    scripted(Scripted("we all went home"))
    monkeypatch.setattr(rows, "ROWS", HOLDING)
    monkeypatch.setattr("duologue.eval.calibration.table.AGREEMENTS", ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "spoken")


def test_the_table_is_written_and_summed_up(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("eval", "calibrate", "--recordings", folder, "--out", "table", "--limit", 4)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert lines_of(result.stderr) == ["table/calibration.json: 4 of 4 rows hold; table/calibration.md to read"]
    made = json.loads(Path("table/calibration.json").read_text(encoding="utf-8"))
    assert made["schema"] == 1 and made["changed"] == made["untouched"] == 4 and made["limit"] == 4
    assert made["instruments"]["recognizer"] == "scripted" and made["versions"]["jiwer"]
    assert {row["name"]: row["holds"] for row in made["results"]} == {row.name: True for row in HOLDING}
    assert "| 12 dB softer | level |" in Path("table/calibration.md").read_text(encoding="utf-8")
    assert_nothing_left(Path("table"), ("calibration.json", "calibration.md"))


def test_a_row_that_does_not_hold_ends_with_1(  # type: ignore[no-untyped-def]
    run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "ROWS", (*HOLDING, scores("overall", least=4.0), stays("softer", "cap", 1.0)))
    result = run("eval", "calibrate", "--recordings", folder, "--out", "table", "--limit", 4)
    assert result.exit_code == 1
    assert lines_of(result.stderr) == [
        "note: untouched/overall/value does not hold: value 2.50; at least 4",
        "note: 1 rows could not be measured (softer/cap/difference)",
        "table/calibration.json: 4 of 6 rows hold; table/calibration.md to read",
    ]
    assert "| **no** |" in Path("table/calibration.md").read_text(encoding="utf-8")


def test_json(run, folder: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("eval", "calibrate", "--recordings", folder, "--out", "table", "--limit", 4, "--all", "--json")
    assert result.exit_code == 0 and result.stderr == ""
    assert json_of(result.stdout) == {
        "calibration": "table/calibration.json",
        "rows": 4,
        "failed": [],
        "unmeasured": [],
    }
    assert json.loads(Path("table/calibration.json").read_text(encoding="utf-8"))["untouched"] == 10


def test_ctrl_c_leaves_nothing(run, folder: Path, scripted: Callable[[Scripted], None]) -> None:  # type: ignore[no-untyped-def]
    scripted(Interrupted())
    result = run("eval", "calibrate", "--recordings", folder, "--out", "table")
    assert result.exit_code == 130 and lines_of(result.stderr) == ["interrupted"]
    assert_nothing_left(Path())


def test_bad_input_is_one_line(run, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert_refused(run("eval", "calibrate", "--recordings", "nowhere", "--out", "x"), "no manifest*.jsonl in nowhere")
    assert_refused(run("eval", "calibrate", "--recordings", "#x", "--out", "x"), "expected FOLDER or FOLDER#PATTERN")
    assert_refused(run("eval", "calibrate", "--recordings", f"{folder}#no*.jsonl", "--out", "x"), "no no*.jsonl in")
    assert_refused(run("eval", "calibrate", "--out", "x"), "Missing option '--recordings'")
    assert_refused(run("eval", "calibrate", "--recordings", folder), "Missing option '--out'")
    assert_refused(run("eval", "calibrate", "--recordings", folder, "--out", "x", "--limit", 1), "--limit")
    taken = tmp_path / "taken"
    taken.write_text("")
    assert_refused(run("eval", "calibrate", "--recordings", folder, "--out", taken), "is a file; give a folder")
    alone = make_folder(tmp_path / "alone", num_each=1)
    assert_refused(
        run("eval", "calibrate", "--recordings", alone, "--out", "x"),
        "alone has no recording of 1.5 s and 4 words or more besides the prompt of each voice",
    )
