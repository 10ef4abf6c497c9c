"""`duologue rehearse` as a user runs it, and that `duologue train` takes what it wrote."""

import json
from pathlib import Path

import pytest

from duologue.cli import terminal
from duologue.data.shards import TurnStore
from tests.cli.conftest import Run


def test_lines_become_something_to_learn(run: Run, tmp_path: Path) -> None:
    lines, own = tmp_path / "lines.txt", tmp_path / "own"
    lines.write_text("Hello there.\n\n  Good morning.  \n", encoding="utf-8")
    result = run("rehearse", lines, own, "--unchecked")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"{own}: 2 of 2 lines;")
    again = run("rehearse", lines, own, "--unchecked", "--json")
    assert json.loads(again.stdout) == {"folder": str(own), "lines": 2, "kept": 2}
    tuned = tmp_path / "tuned"
    fast = ("--steps", 1, "--rows", 100, "--max-rows", 96)
    result = run("train", own, "--rehearse", own, "--rehearse-share", 0.5, "-o", tuned, *fast)
    assert result.exit_code == 0, result.stderr
    assert (tuned / "model").is_dir()


def test_a_first_model_speaks_for_a_second_one(run: Run, tmp_path: Path) -> None:
    lines, hers, tuned = tmp_path / "lines.txt", tmp_path / "hers", tmp_path / "tuned"
    lines.write_text("Hello there.\nGood morning.\n", encoding="utf-8")
    result = run("rehearse", lines, hers, "--unchecked", "--voice", "joe")
    assert result.exit_code == 0, result.stderr
    assert f"duologue train DATA --self-training {hers}" in result.stderr
    assert {turn.voice for turns in TurnStore(hers).conversations for turn in turns} == {"joe"}
    fast = ("--steps", 1, "--rows", 100, "--max-rows", 96, "-o", tuned)
    result = run("train", hers, "--rehearse", hers, "--self-training", hers, "--self-training-share", 0.7, *fast)
    assert result.exit_code == terminal.EXIT_BAD_INPUT
    assert "nothing is left of the data" in result.stderr
    result = run("train", hers, "--self-training", hers, *fast)
    assert result.exit_code == 0, result.stderr
    assert (tuned / "model").is_dir()


@pytest.mark.parametrize(
    ("text", "message"), [(None, "does not exist"), ("\n \n", "there are no lines")], ids=["no file", "no lines"]
)
def test_bad_input_ends_with_one_line(run: Run, tiny: Path, tmp_path: Path, text: str | None, message: str) -> None:
    lines = tmp_path / "lines.txt"
    if text is not None:
        lines.write_text(text, encoding="utf-8")
    result = run("rehearse", lines, tmp_path / "own", "--model", tiny, "--unchecked")
    assert result.exit_code == terminal.EXIT_BAD_INPUT
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
