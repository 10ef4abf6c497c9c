"""The generator: its contract, streams, seeds, voices, context, caps, and every bad argument."""

import gc
import math
import warnings
import weakref
from itertools import islice

import pytest
import torch

import duologue
from duologue.config import MIMI_PRESETS
from duologue.engine.context import CodedSegment
from duologue.engine.generator import Generator
from duologue.engine.speech import unheard
from duologue.engine.stopping import NO_POLICY, StopPolicy
from duologue.errors import (
    AudioError,
    CheckpointError,
    ContextError,
    DuologueError,
    DuologueWarning,
    OptionError,
    TextError,
    VoiceError,
)
from duologue.frames import Segment
from tests.engine.builders import tiny_csm, tiny_mimi, tone

FRAME = MIMI_PRESETS["tiny"].frame_size
SHORT = {"max_audio_length_ms": 400, "seed": 5}

pytestmark = pytest.mark.filterwarnings("ignore:the speech was cut:duologue.DuologueWarning")


def text_of(generator: Generator, rows: torch.Tensor) -> str:
    """The text of a prompt's rows, audio left out."""
    return generator.tokenizer.decode([token for token in rows[:, -1].tolist() if token])


class TestContract:
    def test_generate_takes_sesames_arguments(self, generator):
        audio = generator.generate(
            text="Hello from Sesame.", speaker=0, context=[], max_audio_length_ms=400, temperature=0.9, topk=50
        )
        assert audio.dtype == torch.float32 and audio.shape == (5 * FRAME,)
        assert generator.sample_rate == 24_000
        assert generator.model is not None and generator.codec is not None and generator.tokenizer is not None

    def test_sesames_conversation_script(self, generator):
        context = [duologue.Segment(speaker=index % 2, text="hey", audio=tone(0.3)) for index in range(3)]
        assert len(generator.generate("And you?", 1, context, 400)) == 5 * FRAME

    def test_generate_equals_the_concatenated_stream(self, generator):
        context = [Segment(1, "so", tone(0.5))]
        for seed in range(3):
            whole = generator.generate("Hello!", 0, context, 1000, seed=seed)
            stream = generator.stream("Hello!", 0, context, 1000, seed=seed)
            assert stream.result is None
            chunks = list(stream)
            assert all(len(chunk) % FRAME == 0 and chunk.dim() == 1 for chunk in chunks) and len(chunks) > 1
            # The codec makes its sound in longer pieces where nobody listens, which rounds a little differently.
            torch.testing.assert_close(torch.cat(chunks), whole, atol=1e-5, rtol=0)
            assert stream.result is not None and torch.equal(stream.result.audio, torch.cat(chunks))

    def test_the_audio_is_that_of_the_codes(self, generator):
        speech = generator.speak("Hello!", **SHORT)
        offline = generator.codec.decode(speech.codes[None])[0, 0]
        assert speech.codes.shape == (4, 5) and speech.codes.dtype == torch.int64
        torch.testing.assert_close(speech.audio, offline, atol=1e-4, rtol=1e-4)

    def test_results_are_ordinary_tensors(self, generator):
        speech = generator.speak("Hello!", **SHORT)
        assert not speech.audio.is_inference() and not speech.codes.is_inference()
        speech.audio.mul_(0.5)
        assert not speech.audio.requires_grad

    def test_the_result_says_what_happened(self, generator):
        speech = generator.speak("Hello!", **SHORT)
        assert (speech.stop_reason, speech.seed, speech.num_evicted) == ("cap", 5, 0)
        assert speech.duration_s == pytest.approx(0.4) and speech.sample_rate == 24_000
        assert speech.first_audio_s is not None and 0 < speech.first_audio_s <= speech.total_s
        assert speech.real_time_factor == pytest.approx(speech.total_s / 0.4)

    def test_the_callers_time_is_not_counted(self, generator):
        import time

        started = time.perf_counter()
        stream = generator.stream("Hello!", **SHORT)
        for _ in stream:
            time.sleep(0.05)
        assert stream.result is not None
        assert stream.result.total_s < time.perf_counter() - started - 0.2

    def test_it_leaves_the_callers_modes_alone(self, generator):
        stream = generator.stream("Hello!", **SHORT)
        next(stream)
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        stream.close()

    def test_two_streams_may_take_turns(self, generator):
        alone = [torch.cat(list(generator.stream(text, **SHORT))) for text in ("Hello!", "Something else.")]
        streams = [generator.stream(text, **SHORT) for text in ("Hello!", "Something else.")]
        pieces = [[next(stream) for stream in streams] for _ in range(5)]
        for index in range(2):
            assert torch.equal(torch.cat([pair[index] for pair in pieces]), alone[index])


class TestSeeds:
    def test_the_same_seed_gives_the_same_audio(self, generator):
        first = generator.generate("Hello!", **SHORT)
        torch.manual_seed(99)
        assert torch.equal(generator.generate("Hello!", **SHORT), first)
        assert not torch.equal(generator.generate("Hello!", max_audio_length_ms=400, seed=6), first)

    def test_no_seed_draws_one_and_reports_it(self, generator):
        fresh = generator.speak("Hello!", max_audio_length_ms=400)
        again = generator.speak("Hello!", max_audio_length_ms=400, seed=fresh.seed)
        assert torch.equal(fresh.codes, again.codes)
        assert generator.speak("Hello!", max_audio_length_ms=400).seed != fresh.seed

    def test_temperature_zero_needs_no_seed(self, generator):
        greedy = [generator.speak("Hello!", max_audio_length_ms=400, temperature=0, seed=seed) for seed in (1, 2)]
        assert torch.equal(greedy[0].codes, greedy[1].codes)


class TestStopping:
    def test_the_end_frame_ends_and_is_not_spoken(self, generator, script_frames, recwarn):
        script_frames([[0, 1, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]])
        speech = generator.speak("Hello!", seed=1)
        assert speech.stop_reason == "end" and speech.codes.T.tolist() == [[0, 1, 0, 0], [7, 0, 0, 0]]
        assert len(speech.audio) == 2 * FRAME and not recwarn.list

    def test_an_end_at_the_first_frame_gives_empty_audio(self, codec, tokenizer):
        silent = tiny_csm()
        silent.codebook0_head.weight.data.zero_()
        silent.audio_head.data.zero_()
        generator = Generator(silent, codec, tokenizer)
        speech = generator.speak("Hello!", temperature=0)
        assert speech.audio.shape == (0,) and speech.audio.dtype == torch.float32 and speech.codes.shape == (4, 0)
        assert (speech.stop_reason, speech.first_audio_s, speech.real_time_factor) == ("end", None, None)
        assert list(generator.stream("Hello!", temperature=0)) == []

    @pytest.mark.filterwarnings("default")
    def test_the_cap_holds_and_warns(self, generator, script_frames):
        script_frames([])
        with pytest.warns(DuologueWarning, match=r"cut at its cap of 0.8 s") as caught:
            speech = generator.speak("Hello!", max_audio_length_ms=800)
        assert speech.stop_reason == "cap" and len(speech.audio) == 10 * FRAME
        assert caught[0].filename == __file__

    @pytest.mark.parametrize(("milliseconds", "num_frames"), [(80, 1), (159.9, 1), (160, 2), (1000, 12)])
    def test_the_cap_is_in_whole_frames(self, generator, milliseconds, num_frames):
        assert len(generator.generate("Hello!", max_audio_length_ms=milliseconds)) == num_frames * FRAME

    def test_the_models_rows_are_a_cap_too(self, generator, script_frames, prompts):
        script_frames([])
        speech = generator.speak("Hello!", max_audio_length_ms=3_000_000, stopping=NO_POLICY)
        assert speech.codes.shape[1] == 512 - len(prompts[0]) and speech.stop_reason == "cap"


class TestStreams:
    def test_closing_early_frees_everything(self, generator):
        stream = generator.stream("Hello!", **SHORT)
        next(stream)
        batch, state = stream._batch, weakref.ref(stream._state.transformer)
        stream.close()
        gc.collect()
        assert state() is None and stream._state is None
        assert batch.speaking == () and stream._batch is None  # the generator's again
        assert stream.result is None and list(stream) == []
        stream.close()

    def test_chunks_are_the_callers_own(self, generator):
        stream = generator.stream("Hello!", max_chunk_frames=2, **SHORT)
        for chunk in stream:
            chunk.zero_()
        assert bool(stream.result.audio.any())

    def test_chunks_grow_as_far_as_they_may(self, generator):
        options = {"seed": 0, "stopping": NO_POLICY, "max_audio_length_ms": 2000}
        plain, grown = (generator.stream("Hello!", max_chunk_frames=most, **options) for most in (1, 8))
        frame_by_frame, chunks = list(plain), list(grown)
        assert [len(chunk) // FRAME for chunk in chunks] == [1, 2, 4, 8, 8, 2]
        torch.testing.assert_close(torch.cat(chunks), torch.cat(frame_by_frame), atol=1e-5, rtol=0)
        assert torch.equal(grown.result.codes, plain.result.codes)
        assert torch.equal(grown.result.audio, torch.cat(chunks))
        whole = generator.speak("Hello!", **options)
        assert list(islice(unheard(), 4)) == [1, 16, 16, 16]
        torch.testing.assert_close(whole.audio, plain.result.audio, atol=1e-5, rtol=0)
        assert torch.equal(whole.codes, plain.result.codes) and whole.stop_reason == "cap"

    @pytest.mark.parametrize("cap", [6, 7, 20])
    @pytest.mark.parametrize("num_frames", [0, 1, 5, 6, 7, 8, 20])
    @pytest.mark.parametrize("rule_frames", [5, 6, 7, 30])
    def test_grown_chunks_end_where_frames_would(self, generator, script_frames, num_frames, rule_frames, cap):
        script_frames([*([[2, 1, 0, 3]] * num_frames), [0, 0, 0, 0]])
        policy = StopPolicy(None, None, rule_frames * 0.08)
        options = {"stopping": policy, "max_audio_length_ms": 80 * cap}
        expected, got = (generator.stream("Hello!", max_chunk_frames=most, **options) for most in (1, 16))
        for stream in (expected, got):
            heard = list(stream)
            assert sum(len(chunk) for chunk in heard) == len(stream.result.audio)
        assert torch.equal(got.result.codes, expected.result.codes)
        assert got.result.stop_reason == expected.result.stop_reason

    @pytest.mark.parametrize("bad", [0, -1, 1.5, "two"])
    def test_chunks_of_nothing_are_refused(self, generator, bad):
        with pytest.raises(OptionError, match=r"max_chunk_frames .*expected a whole number from 1"):
            generator.stream("Hello!", max_chunk_frames=bad)

    def test_a_with_block_closes(self, generator):
        with generator.stream("Hello!", **SHORT) as stream:
            next(stream)
        assert list(stream) == []

    def test_an_exhausted_stream_frees_everything_and_stays_exhausted(self, generator):
        stream = generator.stream("Hello!", **SHORT)
        list(stream)
        assert stream._batch is None and stream._state is None and stream.result is not None
        assert next(stream, None) is None

    def test_a_failing_step_closes_the_stream(self, generator, monkeypatch):
        stream = generator.stream("Hello!", **SHORT)
        next(stream)
        monkeypatch.setattr(generator.codec, "decode_latent", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(stream)
        assert list(stream) == [] and stream.result is None

    def test_bad_arguments_raise_before_the_first_chunk(self, generator):
        with pytest.raises(TextError):
            generator.stream("")


class TestContext:
    def test_segments_reach_the_model_in_order(self, generator, prompts):
        context = [Segment(0, "one", tone(0.2)), Segment(1, "two"), Segment(0, "three", tone(0.1))]
        generator.generate("four", 1, context, **SHORT)
        (rows,) = prompts
        assert text_of(generator, rows) == "[0]one[1]two[0]three[1]four"
        audio = rows[rows[:, -1] == 0]
        assert len(audio) == 3 + 1 + 2 + 1 and not audio[3].any() and not audio[6].any()

    def test_recordings_are_encoded_once_over_all_calls(self, generator, monkeypatch):
        calls = []
        encode = generator.codec.encode
        monkeypatch.setattr(generator.codec, "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
        context = [Segment(0, "one", tone(0.2)), Segment(1, "two", tone(0.3))]
        for _ in range(3):
            generator.generate("three", 0, context, **SHORT)
        assert len(calls) == 2

    @pytest.mark.filterwarnings("default")
    def test_what_does_not_fit_leaves_with_a_warning(self, generator, prompts, script_frames):
        script_frames([[1, 1, 1, 1], [0, 0, 0, 0]])
        context = [Segment(index % 2, f"number {index}", tone(8.0, hertz=100.0 + index)) for index in range(6)]
        with pytest.warns(DuologueWarning, match=r"3 of 6 context segments, the oldest, were left out") as caught:
            speech = generator.speak("and then", 0, context, seed=1)
        assert speech.num_evicted == 3 and caught[0].filename == __file__
        assert text_of(generator, prompts[0]) == "[1]number three[0]number four[1]number five[0]and then"
        assert len(prompts[0]) <= 512 * 3 // 4

    def test_normalisation_can_be_turned_off(self, generator, prompts):
        generator.generate("It's 5.", **SHORT)
        generator.generate("It's 5.", normalize=False, **SHORT)
        assert text_of(generator, prompts[0]) == "[0]it's five."
        assert text_of(generator, prompts[1]).startswith("[0]it's 5")


class TestVoices:
    def test_a_speaker_without_a_recording_gets_the_shipped_voice_of_that_number(self, voiced, prompts):
        for speaker in (0, 1, 2, 3):
            voiced.generate("hello", speaker, **SHORT)
        assert [text_of(voiced, rows) for rows in prompts] == [
            "[0]i am zoe[0]hello",
            "[1]i am adam[1]hello",
            "[2]i am bea[2]hello",
            "[3]i am zoe[3]hello",
        ]
        audio = prompts[0][prompts[0][:, -1] == 0]
        assert len(audio) == 15 + 1 and not audio[-1].any()

    def test_every_speaker_of_the_context_keeps_a_voice_in_a_stable_order(self, voiced, prompts):
        voiced.generate("hello", 1, [Segment(2, "so"), Segment(0, "well")], **SHORT)
        assert text_of(voiced, prompts[0]) == "[0]i am zoe[1]i am adam[2]i am bea[2]so[0]well[1]hello"

    def test_a_recording_in_the_context_is_voice_enough(self, voiced, prompts):
        voiced.generate("hello", 1, [Segment(1, "so", tone(0.2)), Segment(0, "well")], **SHORT)
        assert text_of(voiced, prompts[0]) == "[0]i am zoe[1]so[0]well[1]hello"

    @pytest.mark.filterwarnings("ignore:.*were left out")
    def test_a_speaker_whose_recordings_left_gets_a_voice_back(self, voiced, prompts):
        context = [Segment(0, "a", tone(8.0)), *(Segment(1, "b", tone(8.0, hertz=300.0 + i)) for i in range(4))]
        speech = voiced.speak("hello", 0, context, **SHORT)
        assert speech.num_evicted >= 1
        assert text_of(voiced, prompts[0]).startswith("[0]i am zoe[1]b")

    def test_a_named_voice(self, voiced, prompts):
        voiced.generate("hello", 0, voice="bea", **SHORT)
        voiced.generate("hello", 0, [Segment(0, "so", tone(0.2))], voice=voiced.voices.get("bea"), **SHORT)
        assert text_of(voiced, prompts[0]) == "[0]i am bea[0]hello"
        assert text_of(voiced, prompts[1]) == "[0]i am bea[0]so[0]hello"

    def test_none_turns_voices_off(self, voiced, prompts):
        voiced.generate("hello", 0, [Segment(1, "so")], voice="none", **SHORT)
        assert text_of(voiced, prompts[0]) == "[1]so[0]hello"

    def test_unknown_and_unfit_voices(self, voiced, generator):
        with pytest.raises(VoiceError, match=r"no voice 'bob'; known are: zoe, adam, bea"):
            voiced.generate("hello", voice="bob")
        with pytest.raises(VoiceError, match="known are: none"):
            generator.generate("hello", voice="bob")
        with pytest.raises(VoiceError, match="voice is int"):
            voiced.generate("hello", voice=3)
        other = Generator(voiced.model, tiny_mimi(seed=9), voiced.tokenizer)
        with pytest.raises(VoiceError, match="another codec"):
            other.generate("hello", voice=voiced.voices.get("bea"))

    def test_a_voice_too_long_for_the_model(self, voiced):
        from duologue.engine.voices import Voice, VoiceSegment

        codes = torch.ones(4, 510, dtype=torch.int64)
        voice = Voice("long", "", (VoiceSegment("so long", codes),), voiced.voices.fingerprint)
        with pytest.raises(ContextError, match="use a shorter voice"):
            voiced.generate("hello", voice=voice)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"text": ""}, TextError),
        ({"text": "?!"}, TextError),
        ({"text": None}, TextError),
        ({"text": "a" * 4097}, TextError),
        ({"text": "a" * 600}, TextError),  # more rows than the tiny model has
        ({"speaker": -1}, OptionError),
        ({"speaker": "A"}, OptionError),
        ({"speaker": 1.5}, OptionError),
        ({"temperature": math.nan}, OptionError),
        ({"temperature": -1}, OptionError),
        ({"topk": 0}, OptionError),
        ({"topk": 2.5}, OptionError),
        ({"seed": -1}, OptionError),
        ({"max_audio_length_ms": 79}, OptionError),
        ({"max_audio_length_ms": 0}, OptionError),
        ({"max_audio_length_ms": math.nan}, OptionError),
        ({"max_audio_length_ms": math.inf}, OptionError),
        ({"max_audio_length_ms": "1000"}, OptionError),
        ({"max_audio_length_ms": True}, OptionError),
        ({"context": "before"}, OptionError),
        ({"context": [Segment(0, "x", torch.zeros(2400))]}, AudioError),
        ({"context": [Segment(0, "x", tone(60.0))]}, AudioError),
        ({"voice": "../../etc/passwd"}, VoiceError),
    ],
)
def test_bad_arguments_give_one_clear_line(generator, arguments, error):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error) as caught:
            generator.generate(**{"text": "hello", **arguments})
    assert isinstance(caught.value, DuologueError)
    assert str(caught.value) and "\n" not in str(caught.value)


def test_parts_that_do_not_belong_together_are_refused(model, codec, tokenizer):
    import dataclasses

    config = dataclasses.replace(model.config, num_codebooks=6)
    with pytest.raises(CheckpointError, match="6 codebooks of 64 codes, but the codec has 4 of 64"):
        Generator(tiny_csm(config=config), codec, tokenizer)
    with pytest.raises(CheckpointError, match="tokens, but the model knows 20"):
        Generator(tiny_csm(config=dataclasses.replace(model.config, text_vocab_size=20)), codec, tokenizer)


def test_fewer_codebooks_than_the_codec_has(codec, tokenizer, model):
    import dataclasses

    generator = Generator(tiny_csm(config=dataclasses.replace(model.config, num_codebooks=3)), codec, tokenizer)
    speech = generator.speak("hello", 0, [Segment(0, "so", tone(0.2))], **SHORT)
    assert speech.codes.shape == (3, 5) and len(speech.audio) == 5 * FRAME


def test_a_bfloat16_model_speaks_float32_audio(codec, tokenizer):
    generator = Generator(tiny_csm().to(torch.bfloat16), codec, tokenizer)
    assert generator.generate("hello", 0, [Segment(1, "so", tone(0.2))], **SHORT).dtype == torch.float32


def test_coded_segments_may_be_context(generator, prompts):
    codes = torch.full((4, 3), 9)
    generator.generate("hello", 0, [CodedSegment(1, "so", codes)], **SHORT)
    audio = prompts[0][prompts[0][:, -1] == 0]
    assert audio[:, :-1].tolist() == [[9] * 4] * 3 + [[0] * 4]


@pytest.mark.gpu
def test_a_generator_on_a_gpu_says_the_same(generator, codec, tokenizer):
    context = [Segment(1, "so", tone(0.3))]
    expected = generator.speak("hello", 0, context, **SHORT)
    on_gpu = Generator(tiny_csm().cuda(), tiny_mimi().cuda(), tokenizer).speak("hello", 0, context, **SHORT)
    assert on_gpu.audio.device.type == on_gpu.codes.device.type == "cpu"
    assert torch.equal(on_gpu.codes, expected.codes)
    torch.testing.assert_close(on_gpu.audio, expected.audio, atol=1e-3, rtol=1e-3)
