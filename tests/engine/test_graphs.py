"""CUDA graphs: the frames of the eager backend, from recordings that do not pile up.

Without a GPU what is recorded is run again each time, over the same memory that a graph would read and write.
"""

import gc
import weakref

import pytest
import torch

from duologue.engine import graphs
from duologue.engine.backends import EAGER, find_backend
from duologue.engine.batch import FrameBatch, FrameRequest
from duologue.engine.generator import Generator
from duologue.engine.graphs import graphs_backend, record_on_gpu, repeat_run
from duologue.engine.sampling import SamplingOptions
from duologue.engine.scheduler import Scheduler
from duologue.errors import OptionError
from duologue.nn.transformer import Transformer
from tests.engine.builders import prompt, tiny_csm, tiny_mimi, tiny_tokenizer

DEVICES = [
    pytest.param("cpu", id="cpu"),
    pytest.param(
        "cuda", id="gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
    ),
]


@pytest.fixture(autouse=True)
def one_attention_for_all_rows(monkeypatch):
    """As on a GPU; on a CPU rows that have come unevenly far are read in calls of their own."""
    monkeypatch.setattr(Transformer, "_go_by_row", lambda self, x, state: False)


def backend_on(device: str):
    return graphs_backend(record_on_gpu if device == "cuda" else repeat_run)


def requests() -> list[FrameRequest]:
    """Guided and not, of unequal lengths, one whose end is made likelier."""
    model = tiny_csm()
    return [
        FrameRequest(prompt(model, 3, 0, seed=1), SamplingOptions(seed=1, guidance=2.0), 9),
        FrameRequest(prompt(model, 9, 4, seed=2), SamplingOptions(seed=2, guidance=1.0), 5),
        FrameRequest(prompt(model, 6, 1, seed=3), SamplingOptions(0.0, 1, seed=3, guidance=1.5), 12),
        FrameRequest(prompt(model, 2, 2, seed=4), SamplingOptions(seed=4, guidance=1.0), 6, end_bias=0.5),
    ]


def frames_of(model, backend, rounds: int = 1) -> list[list[list[int]]]:
    """What requests say that join a frame apart and leave when they are over; all of it `rounds` times in one batch."""
    batch, said = FrameBatch(model, 8, 64, backend=backend), []
    for _ in range(rounds):
        waiting, speaking = requests(), []
        while waiting or batch.speaking:
            if waiting:
                speaking.append(batch.join(waiting.pop(0)))
            batch.step()
            for one in batch.speaking:
                if one.stop_reason is not None:
                    batch.leave(one)
        said += [[frame.tolist() for frame in one.frames] for one in speaking]
    return said


@pytest.mark.parametrize("device", DEVICES)
def test_frames_are_the_eager_frames_whoever_comes_and_goes(device, monkeypatch):
    monkeypatch.setattr(graphs, "EXTENT_STEP", 8)  # crossed by these requests
    model = tiny_csm().to(device)
    expected = frames_of(model, EAGER)
    assert frames_of(model, backend_on(device)) == expected and len(expected) == 4


def test_the_same_company_is_recorded_once(monkeypatch):
    monkeypatch.setattr(graphs, "EXTENT_STEP", 8)
    recorded = []

    def record(run, reset, device):
        recorded.append(run)
        return repeat_run(run, reset, device)

    model, backend = tiny_csm(), graphs_backend(record)
    once = frames_of(model, backend)
    count = len(recorded)
    # Another batch has caches of its own; in the same one nothing new is met.
    assert frames_of(model, backend, rounds=3) == 3 * once
    assert len(recorded) <= 2 * count


def test_only_so_many_graphs_are_kept(monkeypatch):
    monkeypatch.setattr(graphs, "_MAX_GRAPHS", 2)
    model, backend = tiny_csm(), graphs_backend(repeat_run)
    assert frames_of(model, backend) == frames_of(model, EAGER)
    assert backend.first_code.num_graphs(model) == 2


def test_a_graph_keeps_neither_its_model_nor_its_caches():
    def record(run, reset, device):
        return run(), lambda: None  # as a CUDA graph, which knows addresses alone

    model, backend = tiny_csm(), graphs_backend(record)
    batch = FrameBatch(model, 2, backend=backend)
    batch.join(requests()[0])
    batch.step()
    batch.step()
    assert backend.first_code.num_graphs(model) == 1
    gone = [weakref.ref(model), weakref.ref(batch._state.layers[0].keys)]
    del model, batch
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_recording_leaves_no_trace_in_states():
    model, calls = tiny_csm(), []

    def twice(run, reset, device):
        run()
        reset()
        calls.append(1)
        return repeat_run(run, reset, device)

    assert frames_of(model, graphs_backend(twice)) == frames_of(model, EAGER) and calls


def test_a_recording_that_fails_may_be_tried_again():
    model, failures = tiny_csm(), [torch.OutOfMemoryError("no memory for this")]

    def record(run, reset, device):
        run()
        if failures:
            raise failures.pop()
        return repeat_run(run, reset, device)

    request = requests()[0]
    batch = FrameBatch(model, 2, backend=graphs_backend(record))
    speaking = batch.join(request)
    with pytest.raises(torch.OutOfMemoryError):
        batch.step()
    while speaking.stop_reason is None:
        batch.step()
    expected, other = FrameBatch.alone(model, request)
    while other.stop_reason is None:
        expected.step()
    assert torch.equal(torch.stack(speaking.frames), torch.stack(other.frames))


@pytest.mark.filterwarnings("ignore::duologue.errors.DuologueWarning")
@pytest.mark.parametrize("device", DEVICES)
def test_speech_is_the_eager_speech(device):
    model, codec = tiny_csm().to(device), tiny_mimi().to(device)
    eager = Generator(model, codec, tiny_tokenizer())
    other = Generator(model, codec, tiny_tokenizer(), backend=backend_on(device))
    for seed in range(3):
        options = {"seed": seed, "guidance": 1.0 + seed, "max_audio_length_ms": 800}
        expected, got = eager.speak("hello there", **options), other.speak("hello there", **options)
        assert torch.equal(got.codes, expected.codes) and got.codes.shape[1] > 1
        torch.testing.assert_close(got.audio, expected.audio, atol=1e-5, rtol=0)
        streamed = torch.cat(list(other.stream("hello there", **options)))
        torch.testing.assert_close(streamed, expected.audio, atol=1e-5, rtol=0)
    with Scheduler(other, max_streams=2) as scheduler:
        streams = [scheduler.submit("hello there", seed=seed, max_audio_length_ms=800) for seed in (0, 1, 2)]
        for seed, stream in enumerate(streams):
            list(stream)
            alone = eager.speak("hello there", seed=seed, max_audio_length_ms=800)
            assert stream.result is not None and torch.equal(stream.result.codes, alone.codes)


def test_it_is_for_gpus():
    with pytest.raises(OptionError, match="'cuda-graphs' is for CUDA; on cpu 'compiled' is fastest"):
        find_backend("cuda-graphs", torch.device("cpu"))
    assert find_backend("cuda-graphs", torch.device("cuda")) is find_backend("cuda-graphs", torch.device("cuda"))
