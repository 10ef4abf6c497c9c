"""Many listeners on one engine: everyone hears what they would hear alone, whoever comes, goes, waits or fails."""

import asyncio
import itertools
import math
import time
import weakref
from types import SimpleNamespace

import pytest
import torch

from duologue.codec.mimi import MimiDecoderState
from duologue.engine.conversation import Conversation
from duologue.engine.generator import SpeechRequest
from duologue.engine.sampling import BatchSampling, SamplingOptions
from duologue.engine.scheduler import Scheduler, _Order
from duologue.errors import BusyError, DuologueWarning, EngineError, OptionError, TextError, VoiceError

pytestmark = pytest.mark.filterwarnings("ignore:the speech was cut:duologue.DuologueWarning")
TEXTS = ["hello", "how are you today?", "a", "it rained all day, and then some", "yes", "no, never", "what?", "well"]


def options(index: int) -> dict[str, object]:
    return {"max_audio_length_ms": 240 + 160 * index, "seed": index, "guidance": 2.0 if index % 3 == 1 else 1.0}


def raise_short_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("out of memory")


@pytest.fixture
def scheduler(voiced):
    with Scheduler(voiced, max_streams=3, max_waiting=8) as made:
        yield made


def test_everyone_hears_what_they_hear_alone(voiced, scheduler):
    streams = [scheduler.submit(text, index % 2, **options(index)) for index, text in enumerate(TEXTS)]
    heard = [torch.cat(list(stream)) for stream in streams]
    for index, text in enumerate(TEXTS):
        alone = voiced.speak(text, index % 2, **options(index))
        result = streams[index].result
        assert result is not None and torch.equal(result.codes, alone.codes)
        assert (result.stop_reason, result.seed) == (alone.stop_reason, alone.seed)
        torch.testing.assert_close(heard[index], alone.audio, atol=1e-4, rtol=1e-4)
        assert torch.equal(heard[index], result.audio)
        assert result.first_audio_s is not None and 0 < result.first_audio_s <= result.total_s
    assert scheduler.num_speaking == 0 and scheduler.num_waiting == 0


def test_async_listeners(voiced, scheduler):
    async def listen(index: int) -> torch.Tensor:
        async with scheduler.submit(TEXTS[index], 0, **options(index)) as stream:
            return torch.cat([chunk async for chunk in stream])

    async def everyone() -> list[torch.Tensor]:
        return await asyncio.gather(*(listen(index) for index in range(6)))

    for index, audio in enumerate(asyncio.run(everyone())):
        torch.testing.assert_close(audio, voiced.generate(TEXTS[index], 0, **options(index)), atol=1e-4, rtol=1e-4)


def test_chunks_are_the_callers_own(scheduler):
    async def listen() -> None:
        async with scheduler.submit("hello", 0, **options(0)) as stream:
            async for chunk in stream:
                chunk.zero_()
            assert bool(stream.result.audio.any())

    asyncio.run(listen())
    stream = scheduler.submit("hello", 0, **options(0))
    for chunk in stream:
        chunk.zero_()
    assert bool(stream.result.audio.any())


def pieces_beside_another(scheduler, counts, monkeypatch, ample_s: float) -> list[int]:
    """Where among the passes through the backbone a long prompt was read, while another request spoke."""
    monkeypatch.setattr("duologue.engine.scheduler._MOST_PIECE_ROWS", 16)
    monkeypatch.setattr("duologue.engine.scheduler._FIRST_PIECE_ROWS", 16)
    monkeypatch.setattr("duologue.engine.scheduler._PIECE_S", 1e6)  # pieces of 16, however slow this machine is
    monkeypatch.setattr("duologue.engine.scheduler._AMPLE_S", ample_s)
    first = scheduler.submit("a tale", 0, max_audio_length_ms=8000, seed=1, voice="none")
    next(first)
    counts.clear()
    second = scheduler.submit("b " * 100, 0, max_audio_length_ms=240, seed=2, voice="none")
    list(second)
    first.cancel()
    pieces = [index for index, size in enumerate(counts) if size > 1]
    assert len(pieces) >= 200 // 16 and max(counts) <= 16
    return pieces


def test_a_prompt_is_read_between_the_frames_of_others(scheduler, counts, monkeypatch):
    pieces = pieces_beside_another(scheduler, counts, monkeypatch, math.inf)
    assert all(1 in counts[before:after] for before, after in itertools.pairwise(pieces))


def test_a_first_sound_comes_before_what_nobody_has_to_hear_yet(scheduler, counts, monkeypatch):
    """Where those who speak are ahead of their listeners, a prompt is read in one go."""
    pieces = pieces_beside_another(scheduler, counts, monkeypatch, -60.0)
    assert pieces == list(range(pieces[0], pieces[0] + len(pieces)))


def test_what_is_in_hand_is_counted_from_the_first_chunk(monkeypatch):
    now = 10.0
    monkeypatch.setattr("duologue.engine.scheduler.time.perf_counter", lambda: now)
    order = _Order(plan=None, speech=None, on_result=None)
    assert order.lead_s(12.5) == 0.0
    order.speaking, order.first_at = SimpleNamespace(frames=[None] * 25), 10.0
    assert order.lead_s(12.5) == pytest.approx(2.0)
    now = 13.0
    assert order.lead_s(12.5) == pytest.approx(-1.0)


class TestStopping:
    def test_cancelling_frees_the_place_for_the_next(self, scheduler, hold):
        speaking = [scheduler.submit("hello", 0, max_audio_length_ms=8000, seed=index) for index in range(3)]
        waiting = scheduler.submit("next", 0, max_audio_length_ms=240, seed=4)
        hold.set()
        assert all(len(next(stream)) for stream in speaking)
        speaking[1].cancel()
        speaking[1].cancel()  # harmless
        assert len(list(waiting)) == 3
        assert list(speaking[1]) == [] and speaking[1].result is None
        for index in (0, 2):
            speaking[index].cancel()

    def test_one_that_waits_can_be_cancelled(self, scheduler, hold):
        speaking = [scheduler.submit("hello", 0, max_audio_length_ms=320, seed=index) for index in range(3)]
        waiting = scheduler.submit("next", 0, seed=4)
        waiting.cancel()
        hold.set()
        assert list(waiting) == [] and waiting.result is None
        assert all(len(list(stream)) == 4 for stream in speaking)

    def test_leaving_the_block_cancels(self, scheduler):
        with scheduler.submit("hello", 0, max_audio_length_ms=8000, seed=1) as stream:
            next(stream)
        assert stream.result is None and list(stream) == []

    def test_interrupting_keeps_what_was_heard(self, voiced, scheduler):
        stream = scheduler.submit("hello", 0, max_audio_length_ms=8000, seed=1)
        chunks = [next(stream) for _ in range(4)]
        speech = stream.interrupt(3)
        assert speech.stop_reason == "interrupted" and torch.equal(speech.audio, torch.cat(chunks[:3]))
        assert stream.interrupt() is speech and list(stream) == []

    @pytest.mark.parametrize(("taken", "kept"), [(2, 2), (2, 1), (0, 0), (2, None), (2, 5)])
    def test_interrupting_what_was_made_before_it_was_heard(self, voiced, scheduler, taken, kept):
        conversation = Conversation(voiced, scheduler=scheduler)
        stream = conversation.stream_say("hello", 0, max_audio_length_ms=400, seed=1)
        chunks = [next(stream) for _ in range(taken)]
        while stream.result is None:
            time.sleep(0.001)
        assert conversation.segments == () and stream.result.stop_reason == "cap"
        for wrong in (-1, 6):
            with pytest.raises(OptionError, match="0 to 5"):
                stream.interrupt(wrong)
        speech = stream.interrupt(kept)
        length = 5 if kept is None else kept
        assert speech.stop_reason == ("cap" if length == 5 else "interrupted") and speech is stream.result
        assert speech.codes.shape == (4, length) and len(speech.audio) == length * voiced.codec.frame_size
        assert all(
            torch.equal(*pair) for pair in zip(chunks, speech.audio.split(voiced.codec.frame_size), strict=False)
        )
        turns = conversation.segments
        assert list(stream) == [] and stream.interrupt() is speech and len(turns) == (length > 0)
        assert all(torch.equal(turn.audio, speech.audio) for turn in turns)

    def test_leaving_what_was_made_before_it_was_heard_leaves_no_trace(self, voiced, scheduler):
        conversation = Conversation(voiced, scheduler=scheduler)
        with conversation.stream_say("hello", 0, max_audio_length_ms=400, seed=1) as stream:
            next(stream)
            while stream.result is None:
                time.sleep(0.001)
        assert conversation.segments == () and list(stream) == [] and stream.result is None

    def test_no_more_than_was_made_can_be_kept(self, scheduler, hold):
        stream = scheduler.submit("hello", 0, max_audio_length_ms=8000, seed=1)
        with pytest.raises(OptionError, match="0 to 0"):
            stream.interrupt(1)
        stream.cancel()
        with pytest.raises(OptionError, match="cancelled"):
            stream.interrupt()


class TestTooMany:
    def test_the_queue_is_bounded(self, voiced, hold):
        with Scheduler(voiced, max_streams=1, max_waiting=2) as scheduler:
            first = scheduler.submit("a", 0, max_audio_length_ms=240, seed=0)
            while scheduler.num_waiting:
                time.sleep(0.001)
            others = [scheduler.submit("b", 0, max_audio_length_ms=240, seed=index) for index in range(2)]
            with pytest.raises(BusyError, match="1 requests are being spoken and 2 wait"):
                scheduler.submit("c", 0)
            hold.set()
            assert all(len(list(stream)) == 3 for stream in (first, *others))
            assert len(list(scheduler.submit("c", 0, max_audio_length_ms=240, seed=1))) == 3

    def test_closing_finishes_what_is_queued_and_refuses_more(self, voiced):
        scheduler = Scheduler(voiced, max_streams=1)
        streams = [scheduler.submit("hello", 0, max_audio_length_ms=240, seed=index) for index in range(3)]
        scheduler.close()
        assert all(stream.result is not None and len(list(stream)) == 3 for stream in streams)
        with pytest.raises(BusyError, match="closed"):
            scheduler.submit("hello", 0)
        scheduler.close()  # harmless

    def test_closing_waits_no_longer_than_it_is_told(self, voiced, script_frames):
        script_frames([])
        scheduler = Scheduler(voiced, max_streams=1)
        streams = [scheduler.submit("hello", 0, voice="none", seed=index) for index in range(2)]
        next(streams[0])
        scheduler.close(timeout_s=0.01)
        assert all(stream.result is None and list(stream) == [] for stream in streams)


class TestFailures:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [(("",), TextError), (("a", -1), OptionError), (("a", 0, [], 1), OptionError)],
    )
    def test_bad_arguments_raise_at_once(self, scheduler, arguments, error):
        with pytest.raises(error):
            scheduler.submit(*arguments)
        with pytest.raises(VoiceError):
            scheduler.submit("a", voice="bob")
        assert len(list(scheduler.submit("a", 0, max_audio_length_ms=240, seed=1))) == 3

    def test_when_memory_is_short_the_newest_fails_and_the_others_go_on(self, voiced, scheduler, hold, monkeypatch):
        monkeypatch.setattr("duologue.engine.scheduler._PIECE_S", 10.0)  # on a slow machine too, prompts are read whole
        streams = [scheduler.submit("hello", 0, max_audio_length_ms=800, seed=index) for index in range(3)]
        forward = voiced.model.forward

        def short(tokens, *arguments, **options):
            if tokens.shape[0] > 2:
                raise torch.OutOfMemoryError("out of memory")
            return forward(tokens, *arguments, **options)

        monkeypatch.setattr(voiced.model, "forward", short)
        hold.set()
        with pytest.raises(torch.OutOfMemoryError):
            list(streams[2])
        for index in range(2):
            alone = voiced.speak("hello", 0, max_audio_length_ms=800, seed=index)
            list(streams[index])
            result = streams[index].result
            assert result is not None and torch.equal(result.codes, alone.codes)
            torch.testing.assert_close(result.audio, alone.audio, atol=1e-4, rtol=1e-4)

    def test_the_newest_is_the_last_to_join_whoever_left_before(self, voiced, scheduler, hold, monkeypatch):
        first = scheduler.submit("a", 0, max_audio_length_ms=80, seed=0)
        streams = [scheduler.submit("hello", 0, max_audio_length_ms=8000, seed=index) for index in (1, 2)]
        hold.set()
        assert len(list(first)) == 1  # gone: the last row moves into its place
        assert len(next(streams[1]))
        forward = voiced.model.forward

        def short(tokens, *arguments, **options):
            if tokens.shape[0] > 1:
                raise torch.OutOfMemoryError("out of memory")
            return forward(tokens, *arguments, **options)

        monkeypatch.setattr(voiced.model, "forward", short)
        with pytest.raises(torch.OutOfMemoryError):
            list(streams[1])
        assert len(next(streams[0]))
        streams[0].cancel()

    @pytest.mark.parametrize("where", ["before", "in the middle"])
    def test_no_frame_is_lost_when_decoding_fails_for_somebody(self, voiced, scheduler, hold, monkeypatch, where):
        streams = [scheduler.submit("hello", 0, max_audio_length_ms=800, seed=index) for index in range(2)]
        part = (voiced.codec, "decode_latent") if where == "before" else (voiced.codec.decoder.output_conv, "forward")
        decode = getattr(*part)

        def failing(codes, *arguments):
            if len(codes) > 1:
                raise torch.OutOfMemoryError("out of memory")
            return decode(codes, *arguments)

        monkeypatch.setattr(*part, failing)
        hold.set()
        with pytest.raises(torch.OutOfMemoryError):
            list(streams[1])
        list(streams[0])
        alone = voiced.speak("hello", 0, max_audio_length_ms=800, seed=0)
        result = streams[0].result
        assert result is not None and torch.equal(result.codes, alone.codes)
        torch.testing.assert_close(result.audio, alone.audio, atol=1e-4, rtol=1e-4)

    def test_one_whose_prompt_fails_fails_alone(self, voiced, scheduler, monkeypatch):
        forward, bad = voiced.model.forward, len(voiced.tokenizer.encode("a longer text", 0))

        def failing(tokens, *arguments, **options):
            if tokens.shape[1] == bad - 1:  # but for its last row
                raise RuntimeError("no")
            return forward(tokens, *arguments, **options)

        monkeypatch.setattr(voiced.model, "forward", failing)
        monkeypatch.setattr("duologue.engine.scheduler._PIECE_S", 1e6)  # in one piece, however slow this machine is
        other = scheduler.submit("a", 0, max_audio_length_ms=800, seed=1, voice="none")
        with pytest.raises(RuntimeError, match="no"):
            list(scheduler.submit("a longer text", 0, seed=1, voice="none"))
        assert len(list(other)) == 10

    def test_one_that_cannot_be_copied_at_its_end_ends(self, voiced, scheduler, monkeypatch):
        monkeypatch.setattr(scheduler._batch, "prefix", raise_short_of_memory)
        conversation = Conversation(voiced, {0: "zoe"}, scheduler=scheduler)
        for text in ("hello", "and"):
            assert conversation.say(text, 0, max_audio_length_ms=240, seed=5).codes.shape[1] == 3

    @pytest.mark.parametrize("where", ["arrange", "reset"])
    def test_one_that_cannot_join_fails_alone(self, voiced, scheduler, hold, monkeypatch, where):
        first = scheduler.submit("hello", 0, max_audio_length_ms=800, seed=0)
        while not scheduler._orders:
            time.sleep(0.001)
        if where == "arrange":
            make = BatchSampling.of
            monkeypatch.setattr(
                BatchSampling,
                "of",
                lambda options, *rest, **more: (
                    raise_short_of_memory() if len(options) > 1 else make(options, *rest, **more)
                ),
            )
        else:
            monkeypatch.setattr(MimiDecoderState, "reset", raise_short_of_memory)
        second = scheduler.submit("hello", 0, max_audio_length_ms=800, seed=1)
        hold.set()
        with pytest.raises(torch.OutOfMemoryError):
            list(second)
        list(first)
        monkeypatch.undo()
        alone = voiced.speak("hello", 0, max_audio_length_ms=800, seed=0)
        assert first.result is not None and torch.equal(first.result.codes, alone.codes)
        torch.testing.assert_close(first.result.audio, alone.audio, atol=1e-4, rtol=1e-4)
        assert len(list(scheduler.submit("a", 0, max_audio_length_ms=240, seed=1))) == 3

    def test_what_a_failed_step_has_computed_is_let_go_before_the_next(self, voiced, scheduler, hold, monkeypatch):
        streams = [scheduler.submit("hello", 0, max_audio_length_ms=800, seed=index) for index in range(3)]
        forward, computed, left = voiced.model.forward, [], []

        def short(tokens, *arguments, **options):
            if tokens.shape[0] > 2:
                large = torch.zeros(8)
                computed.append(weakref.ref(large))
                raise_short_of_memory()
            left.extend(reference() is not None for reference in computed)
            return forward(tokens, *arguments, **options)

        monkeypatch.setattr(voiced.model, "forward", short)
        hold.set()
        assert [len(list(stream)) for stream in streams[:2]] == [10, 10]
        assert computed and left and not any(left)
        with pytest.raises(torch.OutOfMemoryError):
            list(streams[2])

    def test_a_callers_own_error_is_theirs(self, voiced, scheduler):
        plan = voiced.voice_plan(0, None)

        def fail(*_: object) -> None:
            raise ValueError("mine")

        stream = scheduler.stream_request(SpeechRequest("a", 0, [], plan, SamplingOptions(seed=1), 240), on_result=fail)
        with pytest.raises(ValueError, match="mine"):
            list(stream)
        assert len(list(scheduler.submit("a", 0, max_audio_length_ms=240, seed=1))) == 3

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_if_the_thread_dies_all_are_told(self, voiced, monkeypatch):
        scheduler = Scheduler(voiced, max_streams=2)
        monkeypatch.setattr(scheduler, "_release", lambda: (_ for _ in ()).throw(RuntimeError("broken")))
        stream = scheduler.submit("a", 0, seed=1)
        with pytest.raises(EngineError, match="broken"):
            list(stream)
        scheduler.close()  # the thread is gone, and what it says of itself belongs to this test
        with pytest.raises(BusyError):
            scheduler.submit("a", 0)

    @pytest.mark.filterwarnings("default")
    def test_the_cap_is_warned_of_where_the_speech_is_heard(self, scheduler, script_frames):
        script_frames([])
        stream = scheduler.submit("hello", 0, max_audio_length_ms=240, seed=1)
        with pytest.warns(DuologueWarning, match="cut at its cap") as caught:
            list(stream)
        assert caught[0].filename == __file__
        list(stream)  # no second time


def test_a_conversation_on_a_scheduler(voiced, scheduler):
    short = {"max_audio_length_ms": 240, "seed": 5}
    alone, shared = Conversation(voiced, {0: "zoe"}), Conversation(voiced, {0: "zoe"}, scheduler=scheduler)
    for text in ("hello", "and", "so on"):
        expected, speech = alone.say(text, 0, **short), shared.say(text, 0, **short)
        assert torch.equal(speech.codes, expected.codes)
    stream = shared.fork().stream_say("more", 0, max_audio_length_ms=8000, seed=5)
    next(stream)
    stream.interrupt(1)
    assert [segment.text for segment in shared.segments] == ["hello", "and", "so on"]
