"""Caches that are used again: the same frames as from new ones, without copying what is there."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.engine.batch import FrameBatch, FrameRequest
from duologue.engine.sampling import SamplingOptions
from duologue.engine.spare import SpareBatch
from duologue.frames import join_rows
from duologue.nn.transformer import TransformerState
from tests.engine.builders import prompt, tiny_csm

MODEL = tiny_csm()


@pytest.fixture
def copied(monkeypatch) -> list[int]:
    """Positions that are copied from one state into another, by copy."""
    seen: list[int] = []
    original = TransformerState.take

    def counting(self, other, length, start=0):
        seen.append(length - start)
        original(self, other, length, start)

    monkeypatch.setattr(TransformerState, "take", counting)
    return seen


def finish(batch, speaking):
    """The frames of a request and what is known after it, which has left."""
    while speaking.stop_reason is None:
        batch.step()
    prefix = batch.prefix(speaking)
    batch.leave(speaking)
    return [frame.tolist() for frame in speaking.frames], prefix


def turn(rows, known, *, seed=0, guidance=2.0) -> FrameRequest:
    return FrameRequest(rows, SamplingOptions(seed=seed, guidance=guidance), 4, known)


def test_the_next_turn_of_a_conversation_copies_only_its_last(model, copied):
    spare = SpareBatch(model)
    batch, speaking = spare.join(turn(prompt(model, 6, 20, seed=0), []))
    _, prefix = finish(batch, speaking)
    spare.give_back(batch)
    copied.clear()
    rows = join_rows([prefix.rows, prompt(model, 5, 0, seed=1)])
    again, speaking = spare.join(turn(rows, [prefix]))
    assert again is batch
    # The first row goes on where it is. The one without text has the 20 frames before the first turn, not its text
    # and what it heard next to it.
    assert copied == [0, len(prefix.rows) - 20 - 1]
    # One that is given up half-way leaves the past where it is, for the turn that is tried instead.
    again.step()
    again.leave(speaking)
    spare.give_back(again)
    copied.clear()
    _, speaking = spare.join(turn(rows, [prefix]))
    assert copied[0] == 0 and copied[1] <= 1  # what both rows begin their new turn with
    fresh, expected = FrameBatch.alone(model, turn(rows, [prefix]))
    assert finish(again, speaking)[0] == finish(fresh, expected)[0]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["go on", "begin", "fork"]), st.sampled_from([1.0, 2.0]), st.integers(0, 5), st.booleans()
        ),
        min_size=1,
        max_size=7,
    )
)
def test_used_caches_give_what_new_ones_give(turns):
    spare, known = SpareBatch(MODEL), []
    for kind, guidance, seed, is_given_up in turns:
        rows = prompt(MODEL, 2 + seed, 3, seed=seed)
        if kind == "go on" and known:
            rows = join_rows([known[-1].rows, rows])
        elif kind == "fork" and known:
            rows = join_rows([known[seed % len(known)].rows[: 4 + seed], rows])
        request = turn(rows, list(known), seed=seed, guidance=guidance)
        batch, speaking = spare.join(request)
        if is_given_up:
            batch.step()
            batch.leave(speaking)
            spare.give_back(batch)
            continue
        fresh, expected = FrameBatch.alone(MODEL, request)
        ours, theirs = finish(batch, speaking), finish(fresh, expected)
        assert ours[0] == theirs[0]
        for (_, one), (_, other) in zip(ours[1].state.named_tensors(), theirs[1].state.named_tensors(), strict=True):
            assert torch.equal(one, other)
        spare.give_back(batch)
        known.append(ours[1])


def test_two_at_once_have_caches_of_their_own(model):
    spare, request = SpareBatch(model), turn(prompt(model, 6, 4, seed=0), [])
    (one, first), (two, second) = spare.join(request), spare.join(request)
    assert one is not two
    expected = finish(*FrameBatch.alone(model, request))[0]
    assert finish(one, first)[0] == expected
    assert finish(two, second)[0] == expected
    spare.give_back(one)
    spare.give_back(two)
    assert spare.join(request)[0] is two


@pytest.mark.filterwarnings("ignore:the speech was cut at its cap")
def test_streams_use_them_again_and_a_failure_leaves_none(voiced, monkeypatch):
    made = []
    original = FrameBatch.__init__

    def counting(self, *arguments, **options):
        made.append(threading.current_thread())
        original(self, *arguments, **options)

    monkeypatch.setattr(FrameBatch, "__init__", counting)
    first = voiced.speak("hello there", seed=0, max_audio_length_ms=400)
    stream = voiced.stream("hello there", seed=0, max_audio_length_ms=400)
    next(stream)
    stream.close()
    assert torch.equal(voiced.speak("hello there", seed=0, max_audio_length_ms=400).codes, first.codes)
    assert len(made) == 1
    with monkeypatch.context() as broken:
        broken.setattr(FrameBatch, "join", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            voiced.speak("hello there", seed=0, max_audio_length_ms=400)
    assert torch.equal(voiced.speak("hello there", seed=0, max_audio_length_ms=400).codes, first.codes)
    assert len(made) == 2
