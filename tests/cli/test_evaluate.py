"""`duologue eval` through the program: what it writes, what it says, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest

from duologue.audio import write_audio
from duologue.cli import evaluate
from tests.eval.builders import buzz, instruments


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    lines = []
    for index, text in enumerate(("Hello there.", "Hello there, you.", "Hello there again.")):
        write_audio(folder / f"{index}.wav", buzz(1.0 + index), 16_000)
        lines.append(json.dumps({"file": f"{index}.wav", "text": text, "voice": "ann"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("duologue.eval.instruments.Instruments", lambda *_, **__: instruments(tmp_path))


def test_a_report_is_written_and_summed_up(run, recordings: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "report"
    result = run("eval", "--suite", "all", "--system", f"real=recordings:{recordings}", "--out", str(out))
    assert result.exit_code == 0, result.stderr
    assert "real, intelligibility: WER 25.0 %" in result.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["limit"] is None and {suite["name"] for suite in report["suites"]} >= {"intelligibility", "stopping"}
    assert "real was left out: its recordings were not made in this run." in (out / "report.md").read_text()


def test_two_runs_compared(run, recordings: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("a", "b"):
        run("eval", "--system", f"real=recordings:{recordings}", "--suite", "naturalness", "-o", str(tmp_path / name))
    shown = run("eval", "compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert shown.exit_code == 0 and "| real | naturalness | DNSMOS OVRL | +0 |" in shown.stdout
    as_json = json.loads(run("eval", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json").stdout)
    assert {item["verdict"] for item in as_json["differences"]} == {""}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--out", "x"), "no system to measure; give --model parlor"),
        (("--model", "parlor"), "say where the report goes, with --out FOLDER"),
        (("--suite", "none", "--model", "parlor", "--out", "x"), "unknown suite 'none'"),
        (("--system", "espeak", "--out", "x"), "system 'espeak'; expected NAME=KIND:WHAT"),
        (("--system", "a=tape:x", "--out", "x"), "expected NAME=KIND:WHAT"),
        (("--system", "../a=command:x {text} {wav}", "--out", "x"), "expected NAME=KIND:WHAT"),
        (("--system", "a=command:say {text}", "--out", "x"), "needs {text} and {wav}"),
        (("--system", "a=server:http://127.0.0.1?speed=2", "--out", "x"), "has 'speed' behind its ?"),
        (("--system", "a=recordings:nowhere", "--out", "x"), "no manifest*.jsonl in nowhere"),
        (("compare", "nowhere.json", "elsewhere.json"), "nowhere.json does not exist"),
    ],
)
def test_bad_input_is_one_line(  # type: ignore[no-untyped-def]
    run, arguments: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("eval", *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert reason in line
    assert not (tmp_path / "x" / "report.json").exists()


def test_the_command_is_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/duologue", "eval", "--system", "a=command:x {text}"])
    assert evaluate._command() == "duologue eval --system 'a=command:x {text}'"
