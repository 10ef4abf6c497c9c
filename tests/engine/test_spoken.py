"""A text that is still being written: spoken as it comes, as one sound, remembered and stopped exactly."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from duologue.engine import spoken
from duologue.engine.conversation import Conversation
from duologue.engine.scheduler import Scheduler
from duologue.engine.spoken import AsyncSpokenPieces
from duologue.errors import BusyError, OptionError, TextError

OPTIONS = {"max_audio_length_ms": 400, "seed": 3}  # five frames a clause
LONG = {"max_audio_length_ms": 8000, "seed": 3}
TEXT = ["Hello ", "there. How ", "are you", "? Fi", "ne."]
CLAUSES = ["Hello there.", "How are you?", "Fine."]

pytestmark = pytest.mark.filterwarnings("ignore::duologue.DuologueWarning")  # the clauses of a random model are cut


def num_frames(conversation: Conversation) -> list[int]:
    return [len(turn.audio) // conversation.generator.codec.frame_size for turn in conversation.segments]


def wait_until(is_so: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.001)


async def listen(stream: AsyncSpokenPieces, chunks: list[torch.Tensor]) -> None:
    async for chunk in stream:
        chunks.append(chunk)


def test_clauses_are_turns_of_one_sound(voiced):
    conversation, plain = Conversation(voiced), Conversation(voiced)
    stream = conversation.speak(iter(TEXT), **OPTIONS)
    audio = torch.cat(list(stream))
    assert stream.text == " ".join(CLAUSES) and [turn.text for turn in conversation.segments] == CLAUSES
    for index, (speech, clause) in enumerate(zip(stream.speeches, CLAUSES, strict=True)):
        expected = plain.say(clause, **{**OPTIONS, "seed": 3 + index})
        assert torch.equal(speech.codes, expected.codes)
    codes = torch.cat([speech.codes for speech in stream.speeches], dim=1)
    assert codes.shape[1] == 15
    torch.testing.assert_close(audio, voiced.codec.decode(codes[None])[0, 0], atol=1e-4, rtol=0)


def test_speech_begins_before_the_text_is_written(voiced):
    heard = threading.Event()

    def write():
        yield "Hello there. And"
        assert heard.wait(20), "nobody spoke"
        yield " more."

    stream = Conversation(voiced).speak(write(), **OPTIONS)
    next(stream)
    heard.set()
    assert len(list(stream)) == 9 and stream.text == "Hello there. And more."


def test_a_string_is_one_piece(voiced):
    stream = Conversation(voiced).speak("Hello there. Fine.", **OPTIONS)
    assert len(list(stream)) == 10


def test_nothing_to_say(voiced):
    conversation = Conversation(voiced)
    assert list(conversation.speak([], **OPTIONS)) == list(conversation.speak(["", " \n"], **OPTIONS)) == []
    assert conversation.segments == ()


def test_a_writer_that_fails_is_heard_up_to_there(voiced):
    def write():
        yield "Hello there. And th"
        raise ConnectionError("the model is gone")

    stream = Conversation(voiced).speak(write(), **OPTIONS)
    chunks = []
    with pytest.raises(ConnectionError, match="the model is gone"):
        for chunk in stream:
            chunks.append(chunk)
    assert len(chunks) == 10 and stream.text == "Hello there. And th"
    assert list(stream) == []


def test_a_writer_that_stalls_is_given_up(voiced):
    released = threading.Event()

    def write():
        yield "Hello there. And"
        released.wait(20)

    stream = Conversation(voiced).speak(write(), patience_s=0.05, **OPTIONS)
    chunks = []
    with pytest.raises(TextError, match=r"no text came for 0.05 s"):
        for chunk in stream:
            chunks.append(chunk)
    released.set()
    assert len(chunks) == 10


def test_a_text_without_an_end_has_one(voiced, monkeypatch):
    monkeypatch.setattr(spoken, "MAX_CHARACTERS", 30)
    stream = Conversation(voiced).speak(itertools.repeat("Yes. "), **OPTIONS)
    chunks = []
    with pytest.raises(TextError, match="more than 30 characters"):
        for chunk in stream:
            chunks.append(chunk)
    assert 20 <= len(chunks) <= 30
    for thread in threading.enumerate():
        if thread.name == "duologue-text":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("piece", [None, 3, b"bytes"])
def test_a_piece_that_is_no_text(voiced, piece):
    with pytest.raises(TextError, match="expected a string"):
        list(Conversation(voiced).speak([piece], **OPTIONS))


def test_bad_options_raise_before_anything_is_spoken(voiced):
    conversation = Conversation(voiced)
    with pytest.raises(OptionError, match="patience_s -1"):
        conversation.speak(["a"], patience_s=-1)
    with pytest.raises(OptionError, match="speaker"):
        conversation.speak(["a"], speaker=-1)
    for name, value in (("seed", -1), ("temperature", -1), ("topk", 0), ("guidance", 99)):
        with pytest.raises(OptionError, match=name):
            conversation.speak(["a"], **{name: value})


class TestInterruption:
    @pytest.mark.parametrize(
        ("taken", "kept", "expected"),
        [(7, None, [5, 2]), (7, 6, [5, 1]), (7, 5, [5]), (7, 3, [3]), (7, 0, []), (5, None, [5]), (12, 4, [4])],
    )
    def test_what_was_heard_is_remembered(self, voiced, taken, kept, expected):
        conversation = Conversation(voiced)
        stream = conversation.speak(TEXT, **OPTIONS)
        chunks = list(itertools.islice(stream, taken))
        stream.interrupt(kept)
        assert num_frames(conversation) == expected
        assert [speech.codes.shape[1] for speech in stream.speeches] == expected
        assert list(stream) == [] and len(chunks) == taken
        stream.interrupt(kept)  # again: harmless
        assert num_frames(conversation) == expected

    def test_more_than_there_is(self, voiced):
        conversation = Conversation(voiced)
        stream = conversation.speak(TEXT, **OPTIONS)
        list(itertools.islice(stream, 7))
        for wrong in (8, -1):
            with pytest.raises(OptionError, match=f"num_frames {wrong}"):
                stream.interrupt(wrong)
        assert len(list(stream)) == 8  # it goes on

    @pytest.mark.parametrize(("kept", "expected"), [(None, [5, 5, 5]), (15, [5, 5, 5]), (7, [5, 2]), (0, [])])
    def test_what_was_taken_and_not_played_can_still_be_cut(self, voiced, kept, expected):
        conversation = Conversation(voiced)
        with conversation.speak(TEXT, **OPTIONS) as stream:
            assert len(list(stream)) == 15
        with pytest.raises(OptionError, match="num_frames 16"):
            stream.interrupt(16)
        stream.interrupt(kept)
        assert num_frames(conversation) == expected
        assert [speech.codes.shape[1] for speech in stream.speeches] == expected

    def test_a_conversation_that_has_gone_on_is_not_cut(self, voiced):
        conversation = Conversation(voiced)
        stream = conversation.speak(TEXT, **OPTIONS)
        assert len(list(stream)) == 15
        conversation.hear(None, "I see", 1)
        with pytest.raises(OptionError, match="has gone on"):
            stream.interrupt(7)
        assert [turn.text for turn in conversation.segments] == [*CLAUSES, "I see"]

    def test_leaving_throws_the_clause_away(self, voiced):
        conversation = Conversation(voiced)
        with conversation.speak(TEXT, **OPTIONS) as stream:
            list(itertools.islice(stream, 7))
        assert num_frames(conversation) == [5] and list(stream) == []


class TestStoppedByAnother:
    """One thread or task listens, another stops it: the listener ends, and nothing is begun any more."""

    @pytest.mark.parametrize("stop", ["close", "interrupt"])
    def test_while_a_thread_waits_for_audio(self, voiced, script_frames, stop):
        script_frames([])
        with Scheduler(voiced) as scheduler, ThreadPoolExecutor() as pool:
            conversation = Conversation(voiced, scheduler=scheduler)
            stream, chunks = conversation.speak(["Hello there. And more."], **LONG), []
            listening = pool.submit(lambda: [chunks.append(chunk) for chunk in stream])
            wait_until(lambda: len(chunks) > 2)
            getattr(stream, stop)()
            listening.result(30)
            assert stream.text == "Hello there." and len(conversation.segments) == (stop == "interrupt")

    @pytest.mark.parametrize("stop", ["close", "interrupt"])
    def test_while_a_thread_waits_for_text(self, voiced, stop):
        released = threading.Event()

        def write():
            yield "Hello there. And more"
            released.wait(60)

        with ThreadPoolExecutor() as pool:
            conversation = Conversation(voiced)
            stream, chunks = conversation.speak(write(), **OPTIONS), []
            listening = pool.submit(lambda: [chunks.append(chunk) for chunk in stream])
            wait_until(lambda: len(conversation.segments) == 1)
            time.sleep(0.1)  # it waits by now
            getattr(stream, stop)()
            try:
                listening.result(30)
            finally:
                released.set()
            assert stream.text == "Hello there." and num_frames(conversation) == [5] and len(chunks) == 5

    @pytest.mark.parametrize("stop", ["close", "interrupt"])
    def test_while_a_task_waits_for_audio(self, voiced, script_frames, stop):
        script_frames([])

        async def write():
            yield "Hello there. And more."

        async def both(scheduler: Scheduler) -> None:
            conversation = Conversation(voiced, scheduler=scheduler)
            stream = conversation.speak(write(), **LONG)
            listening = asyncio.create_task(listen(stream, chunks := []))
            while len(chunks) < 3:
                await asyncio.sleep(0.001)
            getattr(stream, stop)()
            await asyncio.wait_for(listening, 30)
            assert stream.text == "Hello there." and len(conversation.segments) == (stop == "interrupt")

        with Scheduler(voiced) as scheduler:
            asyncio.run(both(scheduler))

    @pytest.mark.parametrize("stop", ["close", "interrupt"])
    def test_while_a_task_waits_for_text(self, voiced, stop):
        async def write():
            yield "Hello there. And more"
            await asyncio.sleep(60)

        async def both(scheduler: Scheduler) -> None:
            conversation = Conversation(voiced, scheduler=scheduler)
            stream = conversation.speak(write(), **OPTIONS)
            listening = asyncio.create_task(listen(stream, chunks := []))
            while not conversation.segments:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)  # it waits by now
            getattr(stream, stop)()
            await asyncio.wait_for(listening, 30)
            assert stream.text == "Hello there." and num_frames(conversation) == [5] and len(chunks) == 5

        with Scheduler(voiced) as scheduler:
            asyncio.run(both(scheduler))

    def test_an_engine_that_closes_ends_it(self, voiced, script_frames):
        script_frames([])
        scheduler = Scheduler(voiced)
        conversation = Conversation(voiced, scheduler=scheduler)
        stream = conversation.speak(["Hello there. And more."], **LONG)
        next(stream)
        scheduler.close(timeout_s=0)
        assert list(stream) == [] and conversation.segments == ()


class TestScheduled:
    @pytest.mark.parametrize(
        ("taken", "kept", "expected"), [(7, 6, [5, 1]), (7, 3, [3]), (7, None, [5, 5]), (7, 9, [5, 4]), (2, 0, [])]
    )
    def test_what_was_made_before_it_was_heard_is_cut(self, voiced, taken, kept, expected):
        with Scheduler(voiced) as scheduler:
            conversation = Conversation(voiced, scheduler=scheduler)
            stream = conversation.speak(TEXT, **OPTIONS)
            list(itertools.islice(stream, taken))
            wait_until(lambda: not scheduler.num_speaking)
            with pytest.raises(OptionError, match="num_frames 11"):
                stream.interrupt(11)
            stream.interrupt(kept)
            assert num_frames(conversation) == expected
            assert [speech.codes.shape[1] for speech in stream.speeches] == expected

    def test_leaving_throws_away_what_was_made_before_it_was_heard(self, voiced):
        with Scheduler(voiced) as scheduler:
            conversation = Conversation(voiced, scheduler=scheduler)
            with conversation.speak(TEXT, **OPTIONS) as stream:
                list(itertools.islice(stream, 7))
                wait_until(lambda: not scheduler.num_speaking)
            assert num_frames(conversation) == [5] and list(stream) == []

    def test_the_same_as_alone(self, voiced):
        alone = torch.cat(list(Conversation(voiced).speak(TEXT, **OPTIONS)))
        with Scheduler(voiced, max_streams=3) as scheduler:
            neighbour = scheduler.submit("hello hello", max_audio_length_ms=1200, seed=5)
            streams = [Conversation(voiced, scheduler=scheduler).speak(TEXT, **OPTIONS) for _ in range(2)]
            chunks = [list(stream) for stream in streams]
            assert len(list(neighbour)) == 15
        for one in chunks:
            torch.testing.assert_close(torch.cat(one), alone, atol=1e-4, rtol=0)

    def test_the_next_clause_comes_before_who_has_not_begun(self, voiced, hold):
        with Scheduler(voiced, max_streams=1, max_waiting=1) as scheduler, ThreadPoolExecutor() as pool:
            stream = Conversation(voiced, scheduler=scheduler).speak(TEXT, **OPTIONS)
            hold.set()
            assert len(list(itertools.islice(stream, 5))) == 5
            wait_until(lambda: not scheduler.num_speaking)
            hold.clear()
            others = [scheduler.submit("a", 0, max_audio_length_ms=240, seed=1)]
            wait_until(lambda: not scheduler.num_waiting)
            others.append(scheduler.submit("b", 0, max_audio_length_ms=240, seed=1))
            with pytest.raises(BusyError, match="1 wait, as many as may"):
                scheduler.submit("c", 0)
            rest = pool.submit(list, stream)
            wait_until(lambda: scheduler.num_waiting == 2 or rest.done())
            assert [order.goes_on for order in scheduler._waiting] == [True, False]
            hold.set()
            assert len(rest.result(30)) == 10 and [len(list(other)) for other in others] == [3, 3]

    def test_asynchronous_text(self, voiced):
        alone = torch.cat(list(Conversation(voiced).speak(TEXT, **OPTIONS)))

        async def write():
            for piece in TEXT:
                await asyncio.sleep(0)
                yield piece

        async def listen(scheduler: Scheduler) -> torch.Tensor:
            conversation = Conversation(voiced, scheduler=scheduler)
            stream = conversation.speak(write(), **OPTIONS)
            chunks = [chunk async for chunk in stream]
            assert stream.text == " ".join(CLAUSES) and num_frames(conversation) == [5, 5, 5]
            return torch.cat(chunks)

        async def both(scheduler: Scheduler) -> list[torch.Tensor]:
            return await asyncio.gather(listen(scheduler), listen(scheduler))

        with Scheduler(voiced, max_streams=2) as scheduler:
            for audio in asyncio.run(both(scheduler)):
                torch.testing.assert_close(audio, alone, atol=1e-4, rtol=0)

    def test_asynchronous_text_is_written_while_it_is_spoken(self, voiced):
        written, released = [], []

        async def write():
            try:
                for piece in itertools.chain(["Hello there. And"], itertools.repeat(" more")):
                    written.append(piece)
                    yield piece
            finally:
                released.append(True)

        async def both(scheduler: Scheduler) -> None:
            async with Conversation(voiced, scheduler=scheduler).speak(write(), **OPTIONS) as stream:
                await anext(stream)
                while len(written) < spoken._MAX_PIECES:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.05)
                assert len(written) <= spoken._MAX_PIECES + 2 and stream.text == "Hello there."

        async def fail():
            yield "Hello there. And"
            raise asyncio.CancelledError("the model was stopped")

        async def hear(scheduler: Scheduler) -> None:
            stream, chunks = Conversation(voiced, scheduler=scheduler).speak(fail(), **OPTIONS), []
            with pytest.raises(asyncio.CancelledError, match="the model was stopped"):
                await listen(stream, chunks)
            assert len(chunks) == 10

        with Scheduler(voiced) as scheduler:
            asyncio.run(both(scheduler))
            assert released
            asyncio.run(hear(scheduler))

    def test_asynchronous_text_that_fails_stalls_or_is_cut(self, voiced):
        async def fail():
            yield "Hello there. And"
            raise ConnectionError("gone")

        async def stall():
            yield "Hello there. And"
            await asyncio.sleep(60)

        async def listen(scheduler: Scheduler) -> None:
            for write, error in ((fail, ConnectionError), (stall, TextError)):
                stream = Conversation(voiced, scheduler=scheduler).speak(write(), patience_s=0.05, **OPTIONS)
                chunks = []
                with pytest.raises(error):
                    async for chunk in stream:
                        chunks.append(chunk)
                assert len(chunks) == 10
            conversation = Conversation(voiced, scheduler=scheduler)
            async with conversation.speak(stall(), **OPTIONS) as stream:
                for _ in range(3):
                    await anext(stream)
                stream.interrupt(2)
            assert num_frames(conversation) == [2]

        started = time.monotonic()
        with Scheduler(voiced) as scheduler:
            asyncio.run(listen(scheduler))
        assert time.monotonic() - started < 30

    def test_asynchronous_text_needs_a_scheduler(self, voiced):
        async def write():
            yield "a"

        with pytest.raises(OptionError, match="needs a conversation with a scheduler"):
            Conversation(voiced).speak(write())
