"""The program at toy size: a codec beside itself costs the same, and a larger one more."""

import dataclasses
import sys

import pytest
import torch

from benchmarks import codec
from benchmarks.codec_cost import Cost, as_loaded, compare, markdown
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS
from duologue.engine.packed import pack_products


def test_a_wider_codec_costs_more() -> None:
    small = MIMI_PRESETS["tiny"]
    torch.manual_seed(0)
    first, second = (Mimi(dataclasses.replace(small, num_filters=width)).eval() for width in (4, 64))
    ours, theirs = compare(first, second, frames=6, rounds=2)
    assert 0 < ours.offline_s < 0.7 * theirs.offline_s
    assert ours.streaming_s > 0


def test_mimi_is_packed_and_laid_out_as_a_codec_that_is_loaded() -> None:
    made, plain = as_loaded(MIMI_PRESETS["tiny"]), Mimi(MIMI_PRESETS["tiny"])
    assert not made.training and {weight.dtype for weight in made.parameters()} == {torch.float32}
    strides = [[weight.stride() for weight in codec.parameters()] for codec in (made, pack_products(plain))]
    assert [type(module) for module in made.modules()] == [type(module) for module in plain.modules()]
    assert strides[0] == strides[1] and any(not weight.is_contiguous() for weight in made.parameters())


def test_the_table_gives_factors_and_ratios() -> None:
    lines = markdown(Cost(0.1, 0.2, 0.3, 0.4), Cost(1.0, 1.0, 1.0, 1.0), seconds=10).splitlines()
    assert lines[4] == "| offline, real-time factor | 0.0300 | 0.2000 | 0.150 |"
    assert lines[7] == "| streaming, real-time factor | 0.0700 | 0.2000 | 0.350 |"


def test_four_programs_on_one_mimi(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("moshi")
    options = ["--seconds", "0.16", "--rounds", "1", "--codebooks", "8", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *options])
    assert codec.main() == 0
    page = capsys.readouterr().out
    for name in ("duologue", "transformers", "moshi"):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        figures = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert len(figures) == 4 and all(figure == "-" or float(figure) > 0 for figure in figures)
    assert "streaming decode over offline decode" in page
