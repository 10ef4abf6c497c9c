"""The program at toy size: a codec beside itself costs the same, and a larger one more."""

import dataclasses

import torch

from benchmarks.codec_cost import Cost, compare, markdown
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS


def test_a_wider_codec_costs_more() -> None:
    small = MIMI_PRESETS["tiny"]
    torch.manual_seed(0)
    first, second = (Mimi(dataclasses.replace(small, num_filters=width)).eval() for width in (4, 64))
    ours, theirs = compare(first, second, frames=6, rounds=2)
    assert 0 < ours.offline_s < 0.7 * theirs.offline_s
    assert ours.streaming_s > 0


def test_the_table_gives_factors_and_ratios() -> None:
    lines = markdown(Cost(0.1, 0.2, 0.3, 0.4), Cost(1.0, 1.0, 1.0, 1.0), seconds=10).splitlines()
    assert lines[4] == "| offline, real-time factor | 0.0300 | 0.2000 | 0.150 |"
    assert lines[7] == "| streaming, real-time factor | 0.0700 | 0.2000 | 0.350 |"
