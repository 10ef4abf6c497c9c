"""`duologue prepare` as a user runs it."""

import json
from pathlib import Path

import torch

from duologue.audio import write_audio
from duologue.data.shards import TurnStore
from tests.cli.conftest import Run

RATE = 24_000


def recordings(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        write_audio(folder / f"{number}.wav", 0.1 * torch.sin(0.05 * torch.arange(2 * RATE)), RATE)
        (folder / f"{number}.txt").write_text("Twelve words would be a little too much for two seconds here.")
    (folder / "2.wav").write_bytes(b"")
    return folder


def test_shards_summary_and_what_was_left_out(run: Run, tiny: Path, tmp_path: Path) -> None:
    source, out = recordings(tmp_path / "in"), tmp_path / "out"
    result = run("prepare", source, out, "--model", tiny, "--shard-size", 2)
    assert result.exit_code == 0
    assert "2 turns of 2 conversations, 1 voices" in result.stderr
    assert "left out: 1 (unreadable 1; see left_out.jsonl)" in result.stderr
    assert TurnStore(out).names == ["0.wav", "1.wav"]
    names = {path.name for path in out.iterdir()}
    assert {"index.json", "left_out.jsonl", "summary.json", "summary.png", "shard-00001.safetensors"} <= names


def test_a_program_reads_json(run: Run, tiny: Path, tmp_path: Path) -> None:
    source = recordings(tmp_path / "in")
    result = run("prepare", source, tmp_path / "out", "--model", tiny, "--json")
    figures = json.loads(result.stdout)
    assert (figures["turns"], figures["left_out"]) == (2, {"unreadable": 1})


def test_filters_are_options(run: Run, tiny: Path, tmp_path: Path) -> None:
    source = recordings(tmp_path / "in")
    (source / "0.txt").write_text("Hello there.")
    for options, kept in ((["--max-rate", 10], "0.wav"), (["--min-rate", 10], "1.wav")):
        out = tmp_path / str(options[0])
        assert run("prepare", source, out, "--model", tiny, *options).exit_code == 0
        assert TurnStore(out).names == [kept]


def test_bad_input_ends_with_one_line(run: Run, tiny: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, options, message in (
        (tmp_path / "nowhere", [], "does not exist"),
        (empty, [], "holds no recordings"),
        (recordings(tmp_path / "in"), ["--min-seconds", "3", "--max-seconds", "2"], "min_s"),
        (tmp_path / "in", ["--model", str(tmp_path / "no-model")], "no-model"),
    ):
        result = run("prepare", source, tmp_path / "out", *(options or ["--model", str(tiny)]))
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
