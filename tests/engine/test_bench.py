"""Speed is measured on the streams that listeners hear; the figures fit together."""

import pytest
import torch

from duologue.engine import bench
from duologue.engine.bench import (
    Case,
    Latency,
    Load,
    frame_bytes,
    measure_latency,
    measure_load,
    measure_speaking,
    percentile,
)
from duologue.errors import OptionError


def test_percentiles_are_values_that_occurred():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 20, 50, 95, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]


def test_derived_figures():
    assert Latency(Case(), (0.1,), (0.02, 0.06), 0.08).real_time_factor == pytest.approx(0.5)
    load = Load(4, 12.0, 6.0, (0.1,), 0)
    assert load.aggregate == 2.0 and load.real_time_factor == 2.0


@pytest.mark.parametrize("is_cold", [True, False])
def test_a_turn_is_timed_after_its_history(voiced, monkeypatch, is_cold):
    spoken = []
    plan = voiced.plan_speech

    def watched(request):
        made = plan(request)
        spoken.append((sum(turn.codes.shape[1] for turn in request.context if turn.codes is not None), made))
        return made

    monkeypatch.setattr(voiced, "plan_speech", watched)
    (found,) = measure_latency(voiced, [Case(4.0, is_cold)], repeats=3, text="hello there")
    assert len(found.first_s) == 3 and 3 <= len(found.gaps_s) <= 36 and min(found.first_s + found.gaps_s) > 0
    assert found.case == Case(4.0, is_cold) and found.frame_s == 0.08
    turns = spoken[-3:] if is_cold else spoken[-5::2]  # before each, an answer
    assert all(frames == (50 if is_cold else 60) for frames, _ in turns)  # and two turns of 400 ms before
    assert all(bool(made.request.known) is not is_cold for _, made in turns)
    assert found.num_rows == len(turns[-1][1].request.rows)


def test_a_cold_turn_reads_its_voice_anew(voiced, monkeypatch):
    cleared = []
    monkeypatch.setattr(voiced.prefixes, "clear", lambda: cleared.append(1))
    measure_latency(voiced, [Case(is_cold=True)], repeats=2, text="a")
    assert len(cleared) == 2


def test_cases_are_timed_in_turns(voiced, monkeypatch):
    order = []
    fork = bench.Conversation.fork

    def watched(conversation):
        order.append(sum(turn.codes.shape[1] for turn, _ in conversation._turns))
        return fork(conversation)

    monkeypatch.setattr(bench.Conversation, "fork", watched)
    cases = [Case(2.0), Case(0.0, is_cold=True), Case(0.0)]
    found = measure_latency(voiced, cases, repeats=2, text="a")
    assert [one.case for one in found] == cases and all(len(one.first_s) == 2 for one in found)
    assert order == [30, 0, 5] * 2  # 400 ms of their own turn are known


def test_no_two_turns_of_a_history_are_alike(voiced):
    """So that what is read after some of them were left out is not taken for what was read before."""
    turns = bench._history(voiced, 18.0)
    assert len(turns) == 3 and sum(turn.codes.shape[1] for turn in turns) == 225
    assert not torch.equal(turns[0].codes, turns[2].codes)


def test_a_sentence_as_a_whole(voiced):
    factors = measure_speaking(voiced, repeats=2, text="hello there")
    assert len(factors) == 2 and min(factors) > 0


def test_listeners_at_once(voiced):
    load = measure_load(voiced, 3, seconds=0.8, text="hello there")
    assert load.num_streams == 3 and load.audio_s == pytest.approx(2.4) and len(load.first_s) == 3
    assert load.aggregate == pytest.approx(2.4 / load.total_s) and 0 <= load.underruns <= 27


def test_what_cannot_be_measured(voiced):
    with pytest.raises(OptionError, match=r"a history of 600 s does not fit the model's 512 rows"):
        measure_latency(voiced, [Case(600)])
    with pytest.raises(OptionError, match="repeats 0"):
        measure_latency(voiced, repeats=0)
    with pytest.raises(OptionError, match="repeats 0"):
        measure_speaking(voiced, repeats=0)


def test_the_bytes_of_a_frame(model):
    def size(module) -> int:
        return sum(weight.numel() for weight in module.parameters() if weight.dim() == 2)

    count = model.num_codebooks
    heads = model.codebook0_head.weight.numel() + model.audio_head.numel()
    expected = size(model.backbone) + (count - 1) * size(model.depth) + heads + count * size(model.projection)
    assert frame_bytes(model, 2.0) == 2 * expected


def test_bandwidth_is_that_of_memory(monkeypatch):
    monkeypatch.setattr(bench, "_PROBE_BYTES", 64 * 2**20)
    assert 1e8 < bench.bandwidth() < 1e13
