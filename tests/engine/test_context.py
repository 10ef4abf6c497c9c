"""What stands in front of the text: rows, recordings, eviction, and what is refused."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.audio import write_audio
from duologue.engine import context
from duologue.engine.context import (
    MAX_CHARACTERS,
    CodedSegment,
    RecordingCodes,
    SegmentRows,
    build_prompt,
    check_audio,
    check_speaker,
    check_text,
    coded_segments,
    segment_rows,
)
from duologue.errors import AudioError, ContextError, OptionError, ScriptError, TextError
from duologue.frames import Segment, text_rows
from tests.engine.builders import tone

RATE = 24_000


@pytest.fixture
def recordings(codec) -> RecordingCodes:
    return RecordingCodes(codec, 4, capacity=3)


@pytest.fixture
def encoded(recordings, monkeypatch) -> list[int]:
    """Lengths of the recordings that were encoded from here on."""
    lengths: list[int] = []
    encode = recordings.codec.encode

    def counting(pcm, *args, **kwargs):
        lengths.append(pcm.shape[-1])
        return encode(pcm, *args, **kwargs)

    monkeypatch.setattr(recordings.codec, "encode", counting)
    return lengths


class TestRows:
    def test_text_then_audio_then_the_end_frame(self, tokenizer):
        codes = torch.arange(12).reshape(4, 3) + 1
        rows = segment_rows(CodedSegment(2, "hi", codes), tokenizer, 4)
        ids = tokenizer.encode("hi", 2)
        assert rows.tokens[: len(ids), -1].tolist() == ids
        assert rows.tokens[len(ids) :, :-1].tolist() == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12], [0, 0, 0, 0]]
        assert rows.mask[len(ids) :, :-1].all() and not rows.mask[len(ids) :, -1].any()

    def test_a_segment_without_audio_is_its_text_alone(self, tokenizer):
        rows = segment_rows(CodedSegment(0, "hi"), tokenizer, 4)
        assert len(rows) == len(tokenizer.encode("hi", 0)) and rows.mask[:, -1].all() and not rows.mask[:, :-1].any()

    def test_a_users_recording_gets_its_end_frame_too(self, tokenizer, recordings):
        (segment,) = coded_segments([Segment(0, "hi", tone(0.4))], recordings, 512)
        rows = segment_rows(segment, tokenizer, 4)
        assert len(rows) == len(tokenizer.encode("hi", 0)) + 5 + 1
        assert not rows.tokens[-1].any() and rows.mask[-1].tolist() == [True] * 4 + [False]

    def test_codes_of_more_codebooks_are_cut_to_the_models(self, tokenizer):
        rows = segment_rows(CodedSegment(0, "hi", torch.ones(6, 2, dtype=torch.int64)), tokenizer, 4)
        assert rows.tokens.shape[1] == 5


class TestRecordings:
    @pytest.mark.parametrize(
        "audio",
        [
            tone(0.2),
            tone(0.2)[None],
            tone(0.2)[:, None],
            tone(0.2).double(),
            tone(0.2).numpy(),
            tone(0.2).double().numpy(),
        ],
        ids=["1-d", "[1, S]", "[S, 1]", "float64", "numpy", "numpy float64"],
    )
    def test_accepted_forms(self, audio):
        samples = check_audio(audio, RATE, RATE)
        assert samples.dtype == torch.float32 and samples.shape == (4800,)
        torch.testing.assert_close(samples, tone(0.2))

    def test_a_read_only_array_is_accepted(self):
        array = tone(0.2).numpy().copy()
        array.setflags(write=False)
        assert len(check_audio(array, RATE, RATE)) == 4800

    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            (torch.zeros(0), "empty"),
            (torch.zeros(1, 0), "empty"),
            (torch.zeros(4800), "silent"),
            (tone(0.2, level=0.0005), "silent"),
            (torch.full((4800,), float("nan")), "NaN"),
            (tone(0.2) / 0, "NaN or infinite"),
            (tone(0.2) * 32_768, "expected float32 in"),
            ((tone(0.2) * 32_768).to(torch.int16), "torch.int16"),
            ((tone(0.2).numpy() * 32_768).astype(np.int16), "int16"),
            (torch.stack((tone(0.2), tone(0.2))), "mono"),
            (torch.tensor(0.5), "mono"),
            (tone(0.2).tolist(), "list"),
            ("a.wav", "str"),
            (tone(1.1), r"lasts 1.1 s, at most 1.0 s fit"),
        ],
    )
    def test_unusable_audio_is_refused(self, audio, message):
        with pytest.raises(AudioError, match=message) as caught:
            check_audio(audio, RATE, RATE)
        assert "\n" not in str(caught.value)

    def test_a_recording_is_encoded_once(self, recordings, encoded):
        audio = tone(0.4)
        context = [Segment(0, "a", audio), Segment(1, "b", tone(0.4, hertz=300.0)), Segment(0, "a", audio)]
        first = coded_segments(context, recordings, 512)
        coded_segments(context, recordings, 512)
        coded_segments([Segment(0, "the same samples", audio.clone()[None])], recordings, 512)
        assert len(encoded) == 2
        assert torch.equal(first[0].codes, first[2].codes) and first[0].codes.shape == (4, 5)

    def test_a_recording_that_was_changed_in_place_is_encoded_again(self, recordings, encoded):
        audio = tone(0.4)
        coded_segments([Segment(0, "a", audio)], recordings, 512)
        audio.mul_(0.5)
        coded_segments([Segment(0, "a", audio)], recordings, 512)
        assert len(encoded) == 2

    def test_only_the_newest_are_remembered(self, recordings, encoded):
        clips = [tone(0.1, hertz=100.0 * index) for index in range(1, 5)]
        for clip in clips:
            recordings.encode(clip)
        recordings.encode(clips[3])
        assert len(encoded) == 4
        recordings.encode(clips[0])
        assert len(encoded) == 5


class TestContextArgument:
    def test_forms(self, recordings):
        coded = CodedSegment(3, "x")
        assert coded_segments(None, recordings, 512) == []
        assert coded_segments((), recordings, 512) == []
        assert coded_segments((coded,), recordings, 512) == [coded]
        (only_text,) = coded_segments([Segment(np.int64(1), "hello")], recordings, 512)
        assert (only_text.speaker, only_text.text, only_text.codes) == (1, "hello", None)

    def test_messages_of_transformers(self, recordings, tmp_path):
        path = tmp_path / "a.wav"
        write_audio(path, tone(0.4, sample_rate=16_000), 16_000)
        segments = coded_segments(
            [
                {"role": "1", "content": [{"type": "text", "text": "hey"}, {"type": "audio", "path": str(path)}]},
                {
                    "role": "0",
                    "content": [{"type": "text", "text": "ho"}, {"type": "audio", "audio": tone(0.2).numpy()}],
                },
                {"role": "1", "content": "bye"},
            ],
            recordings,
            512,
        )
        assert [(item.speaker, item.text) for item in segments] == [(1, "hey"), (0, "ho"), (1, "bye")]
        assert [None if item.codes is None else item.codes.shape[1] for item in segments] == [5, 3, None]

    @pytest.mark.parametrize(
        ("context", "error", "message"),
        [
            ("hello", OptionError, "context is str"),
            (5, OptionError, "context is int"),
            (Segment(0, "a"), OptionError, "context is Segment"),
            ([Segment(0, "a"), "b"], OptionError, "context segment 1 is str"),
            ([Segment(-1, "a")], OptionError, "speaker -1"),
            ([Segment("0", "a")], OptionError, "speaker '0'"),
            ([Segment(0, "")], TextError, "neither text nor audio"),
            ([Segment(0, None)], TextError, "context segment 0"),
            ([Segment(0, "a" * (MAX_CHARACTERS + 1))], TextError, "at most"),
            ([Segment(0, "a", torch.zeros(4800))], AudioError, "context segment 0 is silent"),
            ([Segment(0, "a", tone(4.0))], AudioError, "lasts 4.0 s"),
            ([{"role": "0"}], ScriptError, "message 1 has no 'content'"),
            ([{"role": "0", "content": [{"type": "audio", "path": "/nowhere.wav"}]}], ScriptError, "no text"),
            ([Segment(0, "a"), {"role": "0", "content": "x"}], ScriptError, "message 1"),
        ],
    )
    def test_unusable_context_is_refused(self, recordings, context, error, message):
        with pytest.raises(error, match=message) as caught:
            coded_segments(context, recordings, 40)
        assert "\n" not in str(caught.value)

    def test_audio_without_a_known_text_is_accepted(self, recordings):
        (segment,) = coded_segments([Segment(0, "", tone(0.2))], recordings, 512)
        assert segment.codes is not None


class TestTextAndSpeaker:
    @pytest.mark.parametrize("text", ["", "   \n\t", "...", "🙂🙂", "\u200b", "—!?", "\ud800"])
    def test_unspeakable_text_is_refused(self, tokenizer, text):
        for normalize in (None, False):
            with pytest.raises(TextError) as caught:
                check_text(text, tokenizer, normalize)
            assert "\n" not in str(caught.value)

    def test_text_of_the_wrong_type_or_length_is_refused(self, tokenizer):
        with pytest.raises(TextError, match="not NoneType"):
            check_text(None, tokenizer)
        with pytest.raises(TextError, match=f"{MAX_CHARACTERS + 1} characters.*split"):
            check_text("a" * (MAX_CHARACTERS + 1), tokenizer)
        assert check_text("a" * MAX_CHARACTERS, tokenizer)

    @pytest.mark.parametrize("speaker", [-1, 1.0, "0", True, None])
    def test_bad_speakers_are_refused(self, speaker):
        with pytest.raises(OptionError, match=r"speaker .* expected a whole number from 0"):
            check_speaker(speaker)


def rows_of_length(segment: CodedSegment):
    """Rows for a segment whose text is the number of its rows."""
    return text_rows([1 + segment.speaker] * int(segment.text), 4)


def fit(speech: int, context: list[int], prompts: list[int] = (), *, max_rows: int = 400, max_frames: int = 1000):
    return build_prompt(
        CodedSegment(9, str(speech)),
        [CodedSegment(index % 5, str(length)) for index, length in enumerate(context)],
        lambda kept: [CodedSegment(7, str(length)) for length in prompts],
        rows_of_length,
        max_rows=max_rows,
        max_frames=max_frames,
        frame_rate=12.5,
    )


class TestEviction:
    def test_what_fits_stays(self):
        prompt = fit(20, [30, 40], [50])
        assert prompt.num_evicted == 0 and prompt.max_frames == 400 - 140
        assert prompt.rows.tokens[:, -1].tolist() == [8] * 50 + [1] * 30 + [2] * 40 + [10] * 20

    def test_whole_segments_leave_oldest_first_and_prompts_stay(self):
        prompt = fit(20, [100, 90, 80, 40], [60])
        # A quarter of 400 rows is kept for the speech: 300 for 60 + 20 and the newest of the context.
        assert prompt.num_evicted == 1
        assert prompt.rows.tokens[:, -1].tolist() == [8] * 60 + [2] * 90 + [3] * 80 + [4] * 40 + [10] * 20
        assert prompt.max_frames == 400 - 290

    def test_a_short_cap_keeps_less_room(self):
        assert fit(20, [100, 90, 80, 40], [60], max_frames=10).num_evicted == 0
        assert fit(20, [100, 90, 80, 40], [60], max_frames=10).max_frames == 10

    def test_a_long_text_keeps_more_room(self):
        long_text = "w" * 160  # 16 s at most: 200 frames
        prompt = build_prompt(
            CodedSegment(0, long_text),
            [CodedSegment(0, "100"), CodedSegment(0, "100")],
            lambda kept: [],
            lambda segment: text_rows([1] * (20 if segment.text == long_text else int(segment.text)), 4),
            max_rows=400,
            max_frames=1000,
            frame_rate=12.5,
        )
        assert prompt.num_evicted == 1 and prompt.max_frames == 280

    def test_less_room_is_better_than_none(self):
        prompt = fit(20, [10, 10], [350])
        assert prompt.num_evicted == 2 and prompt.max_frames == 30

    def test_a_text_that_does_not_fit_is_refused(self):
        with pytest.raises(TextError, match=r"takes 390 of the model's 400 rows.*split"):
            fit(390, [10])

    def test_voices_that_do_not_fit_are_refused(self):
        with pytest.raises(ContextError, match="take 395 of the model's 400 rows"):
            fit(20, [10], [375])

    def test_prompts_follow_what_is_kept(self):
        """A speaker whose last recording leaves is prompted from then on."""
        seen = []

        def prompts_for(kept):
            seen.append(len(kept))
            return [] if any(segment.speaker == 0 for segment in kept) else [CodedSegment(0, "30")]

        context = [CodedSegment(0, "200"), CodedSegment(1, "100"), CodedSegment(1, "50")]
        prompt = build_prompt(
            CodedSegment(0, "20"), context, prompts_for, rows_of_length, max_rows=400, max_frames=99, frame_rate=12.5
        )
        assert seen == [3, 2] and prompt.num_evicted == 1 and len(prompt.rows) == 30 + 100 + 50 + 20

    @settings(max_examples=100)
    @given(
        speech=st.integers(1, 100),
        context=st.lists(st.integers(1, 150), max_size=8),
        prompts=st.lists(st.integers(1, 60), max_size=3),
        max_frames=st.integers(1, 500),
    )
    def test_room_is_always_left_and_nothing_leaves_in_vain(self, speech, context, prompts, max_frames):
        prompt = fit(speech, context, prompts, max_frames=max_frames)
        reserve = min(max_frames, 100)
        assert 1 <= prompt.max_frames <= max_frames
        assert len(prompt.rows) + prompt.max_frames <= 400
        kept = context[prompt.num_evicted :]
        assert len(prompt.rows) == speech + sum(kept) + sum(prompts)
        if kept:
            assert len(prompt.rows) + reserve <= 400
        if prompt.num_evicted:
            assert len(prompt.rows) + context[prompt.num_evicted - 1] + reserve > 400


def test_rows_of_a_segment_are_made_once(monkeypatch, tokenizer):
    made = []
    monkeypatch.setattr(context, "segment_rows", lambda *given: made.append(given) or segment_rows(*given))
    rows_of, segment = SegmentRows(tokenizer, 4), CodedSegment(0, "hi", torch.ones(4, 2, dtype=torch.int64))
    first = rows_of(segment)
    assert rows_of(segment) is first and len(made) == 1
    assert torch.equal(first.tokens, segment_rows(segment, tokenizer, 4).tokens)
    rows_of(segment, False), rows_of(CodedSegment(0, "hi"))
    assert len(made) == 3
    del segment, made[:]
    gc.collect()
    assert not len(rows_of._rows)
