"""Speed is measured on the streams that listeners hear; the figures fit together."""

import pytest

from duologue.engine import bench
from duologue.engine.bench import Latency, Load, frame_bytes, measure_latency, measure_load, percentile
from duologue.errors import OptionError


def test_percentiles_are_values_that_occurred():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (0, 20, 50, 95, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]


def test_derived_figures():
    assert Latency(0.0, (0.1,), (0.02, 0.06), 0.08).real_time_factor == pytest.approx(0.5)
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
    found = measure_latency(voiced, history_s=4.0, repeats=3, is_cold=is_cold, text="hello there")
    assert len(found.first_s) == 3 and 3 <= len(found.gaps_s) <= 36 and min(found.first_s + found.gaps_s) > 0
    assert found.history_s == 4.0 and found.frame_s == 0.08
    turns = spoken[-3:]
    assert all(frames == (50 if is_cold else 55) for frames, _ in turns)  # 400 ms of its own turn are known too
    assert all(bool(made.request.known) is not is_cold for _, made in turns)


def test_a_cold_turn_reads_its_voice_anew(voiced, monkeypatch):
    cleared = []
    monkeypatch.setattr(voiced.prefixes, "clear", lambda: cleared.append(1))
    measure_latency(voiced, repeats=2, is_cold=True, text="a")
    assert len(cleared) == 2


def test_listeners_at_once(voiced):
    load = measure_load(voiced, 3, seconds=0.8, text="hello there")
    assert load.num_streams == 3 and load.audio_s == pytest.approx(2.4) and len(load.first_s) == 3
    assert load.aggregate == pytest.approx(2.4 / load.total_s) and 0 <= load.underruns <= 27


def test_what_cannot_be_measured(voiced):
    with pytest.raises(OptionError, match=r"a history of 600 s does not fit the model's 512 rows"):
        measure_latency(voiced, history_s=600)
    with pytest.raises(OptionError, match="repeats 0"):
        measure_latency(voiced, repeats=0)


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
