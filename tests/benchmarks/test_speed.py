"""The benchmarks of speed run, and their pages say on what."""

import sys
from pathlib import Path

import pytest

from benchmarks import latency, memory, stopping, throughput, vs_transformers
from duologue.checkpoints import save_checkpoint
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_tokenizer().save(folder / "tokenizer.json")
    tokenizer = folder / "tokenizer.json"
    return save_checkpoint(folder / "model", "native", model=tiny_csm(), codec=tiny_mimi(), tokenizer_path=tokenizer)


@pytest.mark.parametrize(
    ("program", "options", "lines"),
    [
        (latency, ["--history", "0", "2", "--repeats", "2"], 4),
        (throughput, ["--streams", "1", "2", "--seconds", "0.4", "--quantize", "int8"], 2),
        (memory, ["--seconds", "0.4", "--quantize", "int8"], 1),
    ],
)
def test_pages(monkeypatch, capsys, tmp_path, tiny, program, options, lines):
    page = tmp_path / "results" / "page.md"
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", "--model", str(tiny), "--out", str(page), "--threads", "1", *options]
    )
    assert program.main() == 0
    text = page.read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "torch 2" in text and "1 threads" in text
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) == lines


@pytest.mark.parametrize("program", [latency, throughput, memory])
def test_a_model_that_is_not_there(monkeypatch, capsys, tmp_path, program):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--model", str(tmp_path / "none")])
    assert program.main() == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_beside_transformers_at_a_small_shape(monkeypatch, capsys):
    pytest.importorskip("transformers")
    from tests.parity.test_csm_transformers import Shape, build

    theirs = build(Shape(codebooks=4), seed=1)
    # The reserved ids, which our engine never says, must not be the likeliest.
    theirs.lm_head.weight.data[64:] = 0
    theirs.depth_decoder.codebooks_head.weight.data[..., 64:] = 0
    monkeypatch.setattr(vs_transformers, "build_theirs", lambda layers: theirs)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--frames", "3", "--rounds", "1", "--threads", "1", "--bfloat16"])
    assert vs_transformers.main() == 0
    page = capsys.readouterr().out
    assert "are the same" in page and page.count("duologue, ") == 3


def test_stopping(monkeypatch, capsys, tmp_path, tiny):
    own = ["--model", str(tiny), "--lines", "4", "--cap", "6", "--streams", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *own])
    assert stopping.main() == 0
    page = capsys.readouterr().out
    (free,) = [line for line in page.splitlines() if line.startswith("| no rule |")]
    assert free.split("|")[-2].strip() == "4"  # a random model never ends
    assert "100.0% without the rules" in page
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--lines", "99999"])
    assert stopping.main() == 2
