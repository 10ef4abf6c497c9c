"""A conversation remembers its turns as the codes that were made."""

import pytest
import torch

from duologue.engine.context import CodedSegment
from duologue.engine.conversation import Conversation
from duologue.errors import AudioError, DuologueError, DuologueWarning, OptionError, TextError, VoiceError
from tests.engine.builders import tone
from tests.engine.test_generator import text_of

pytestmark = pytest.mark.filterwarnings("ignore:the speech was cut:duologue.DuologueWarning")
SHORT = {"max_audio_length_ms": 240, "seed": 5}


@pytest.fixture
def forbid_encoding(monkeypatch):
    def forbid(generator):
        monkeypatch.setattr(generator.codec, "encode", lambda *_, **__: pytest.fail("a turn was encoded again"))

    return forbid


def test_turns_enter_the_context_with_their_own_codes(generator, prompts, forbid_encoding):
    forbid_encoding(generator)
    conversation = Conversation(generator)
    first = conversation.say("hello", 0, **SHORT)
    second = conversation.say("hi there", 1, **SHORT)
    conversation.say("and now", 0, **SHORT)
    assert text_of(generator, prompts[2]) == "[0]hello[1]hi there[0]and now"
    audio = prompts[2][prompts[2][:, -1] == 0][:, :-1]
    end = torch.zeros(1, 4, dtype=torch.int64)
    assert torch.equal(audio, torch.cat((first.codes.T, end, second.codes.T, end)))


def test_segments_are_what_was_said(generator):
    conversation = Conversation(generator)
    speech = conversation.say("hello", 0, **SHORT)
    conversation.hear(tone(0.2)[None], "hi there", 1)
    conversation.hear(None, "silently", 2)
    segments = conversation.segments
    assert [(segment.speaker, segment.text) for segment in segments] == [(0, "hello"), (1, "hi there"), (2, "silently")]
    assert torch.equal(segments[0].audio, speech.audio)
    torch.testing.assert_close(segments[1].audio, tone(0.2))
    assert segments[2].audio is None


def test_the_first_turn_equals_the_generators(voiced):
    alone = voiced.speak("hello", 1, **SHORT)
    assert torch.equal(Conversation(voiced).say("hello", 1, **SHORT).codes, alone.codes)


def test_streaming_appends_when_the_stream_is_exhausted(generator):
    conversation = Conversation(generator)
    stream = conversation.stream_say("hello", 0, **SHORT)
    next(stream)
    assert conversation.segments == ()
    chunks = list(stream)
    assert len(conversation.segments) == 1 and len(chunks) == 2
    assert stream.result is not None and torch.equal(conversation.segments[0].audio, stream.result.audio)


def test_a_stream_that_is_closed_leaves_no_trace(voiced):
    conversation = Conversation(voiced)
    with conversation.stream_say("hello", 0, **SHORT) as stream:
        next(stream)
    assert conversation.segments == () and conversation.voices == {}


def test_voices_are_chosen_once_and_kept_in_front(voiced, prompts):
    conversation = Conversation(voiced, {1: "zoe"})
    conversation.say("a", 0, **SHORT)
    conversation.say("b", 1, **SHORT)
    conversation.say("c", 0, **SHORT)
    # Speaker 0's own would be zoe, who is taken; adam is next.
    assert {speaker: voice.name for speaker, voice in conversation.voices.items()} == {0: "adam", 1: "zoe"}
    assert text_of(voiced, prompts[0]) == "[0]i am adam[1]i am zoe[0]a"
    assert text_of(voiced, prompts[2]) == "[0]i am adam[1]i am zoe[0]a[1]b[0]c"


def test_a_heard_speaker_speaks_on_in_the_voice_that_was_heard(voiced, prompts):
    conversation = Conversation(voiced)
    conversation.hear(tone(0.4), "it is me", 0)
    conversation.say("me again", 0, **SHORT)
    assert text_of(voiced, prompts[0]) == "[0]it is me[0]me again"


def test_default_voices_can_be_turned_off(voiced, prompts):
    Conversation(voiced, default_voices=False).say("a", 0, **SHORT)
    Conversation(voiced, {0: "none"}).say("a", 0, **SHORT)
    assert [text_of(voiced, rows) for rows in prompts] == ["[0]a", "[0]a"]


@pytest.mark.filterwarnings("ignore:.*were left out")
def test_voices_stay_when_turns_leave(voiced, prompts):
    conversation = Conversation(voiced)
    for index in range(8):
        conversation.hear(tone(8.0, hertz=100.0 + index), f"turn {'abcdefgh'[index]}", 1)
    conversation.say("x", 0, **SHORT)
    speech = conversation.say("y", 1, **SHORT)
    assert speech.num_evicted > 0
    assert text_of(voiced, prompts[-1]).startswith("[0]i am zoe[1]turn")
    assert len(conversation.segments) == 10


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        (lambda c: c.say("", 0), TextError),
        (lambda c: c.say("a", -1), OptionError),
        (lambda c: c.say("a", 0, temperature=-1), OptionError),
        (lambda c: c.stream_say("a", 0, max_audio_length_ms=1), OptionError),
        (lambda c: c.hear(torch.zeros(100), "a", 0), AudioError),
        (lambda c: c.hear(None, "", 0), TextError),
        (lambda c: c.hear(tone(0.2), "a", "B"), OptionError),
    ],
)
def test_a_bad_turn_leaves_no_trace(voiced, turn, error):
    conversation = Conversation(voiced)
    with pytest.raises(error) as caught:
        turn(conversation)
    assert isinstance(caught.value, DuologueError)
    assert conversation.segments == () and conversation.voices == {}


def test_unknown_voices_are_refused(voiced):
    with pytest.raises(VoiceError, match="known are"):
        Conversation(voiced, {0: "bob"})
    with pytest.raises(OptionError):
        Conversation(voiced, {"A": "zoe"})


def full(generator, speakers: list[int]) -> Conversation:
    """One turn of each speaker, "turn a", "turn b" and so on; not more than two fit into the model."""
    conversation = Conversation(generator)
    num_frames = round(0.3 * generator.max_rows)
    for index, speaker in enumerate(speakers):
        codes = torch.full((generator.model.num_codebooks, num_frames), index + 1)
        turn = CodedSegment(speaker, f"turn {'abcdef'[index]}", codes)
        conversation.append(turn, torch.zeros(num_frames * generator.codec.frame_size))
    return conversation


def test_what_is_said_after_cutting_evicted_turns_is_seen(generator, prompts):
    conversation = full(generator, [1, 1, 1, 1])
    with pytest.warns(DuologueWarning, match="2 of 4 context segments"):
        conversation.say("x", 0, **SHORT)
    for _ in range(3):
        conversation.truncate(0)
    assert conversation.say("y", 0, **SHORT).num_evicted == 0
    assert text_of(generator, prompts[-1]) == "[1]turn a[1]turn b[0]y"
    conversation.truncate(0)
    conversation.truncate(0)
    assert conversation.say("y", 0, **SHORT).num_evicted == conversation.say("z", 0, **SHORT).num_evicted == 0
    assert text_of(generator, prompts[-1]) == "[1]turn a[0]y[0]z"


@pytest.mark.filterwarnings("ignore:.*were left out")
def test_a_speaker_whose_last_recording_left_gets_a_default_voice(voiced, prompts):
    conversation = full(voiced, [0, 1, 1, 1])
    conversation.say("x", 0, **SHORT)  # the recording leaves for this very turn
    assert text_of(voiced, prompts[-1]).startswith("[0]i am zoe[1]turn")
    assert {speaker: voice.name for speaker, voice in conversation.voices.items()} == {0: "zoe"}
    conversation = full(voiced, [0, 1, 1, 1])
    conversation.say("x", 1, **SHORT)  # still heard
    assert text_of(voiced, prompts[-1]).startswith("[1]turn") and conversation.voices == {}
    conversation.say("y", 0, **SHORT)
    conversation.say("z", 0, **SHORT)
    assert text_of(voiced, prompts[-1]).startswith("[0]i am zoe[1]turn")


class TestNothingIsReadTwice:
    """The model reads a turn once; forks, interruptions and cuts go on from what was read."""

    @staticmethod
    def text_rows(generator, text: str, speaker: int) -> int:
        return len(generator.tokenizer.encode(text, speaker))

    def test_a_turn_reads_its_text_and_the_rows_before_it_that_are_new(self, voiced, counts):
        conversation = Conversation(voiced, {0: "zoe", 1: "adam"})
        conversation.say("hello", 0, **SHORT)  # 3 frames at its cap, the last of which is not read
        counts.clear()
        conversation.say("hi there", 1, **SHORT)
        assert counts == [2 + self.text_rows(voiced, "hi there", 1), 1, 1]
        conversation.hear(tone(0.4), "it is me", 0)
        counts.clear()
        conversation.say("ah", 1, **SHORT)
        heard = self.text_rows(voiced, "it is me", 0) + 5 + 1
        assert counts == [2 + heard + self.text_rows(voiced, "ah", 1), 1, 1]

    def test_what_is_said_is_what_a_fresh_reading_says(self, voiced):
        conversation = Conversation(voiced, {0: "zoe", 1: "adam"})
        spoken = [conversation.say(text, index % 2, **SHORT) for index, text in enumerate(("a", "be", "see", "dee"))]
        conversation._read = None
        voiced.prefixes.clear()
        conversation._turns = conversation._turns[:3]
        again = conversation.say("dee", 1, **SHORT)
        assert torch.equal(again.codes, spoken[3].codes)
        torch.testing.assert_close(again.audio, spoken[3].audio)

    def test_voices_are_read_once_for_all_conversations(self, voiced, counts):
        Conversation(voiced, {0: "zoe"}).say("hello", 0, **SHORT)
        counts.clear()
        Conversation(voiced, {0: "zoe"}).say("other words", 0, **SHORT)
        voiced.generate("and more", 0, voice="zoe", **SHORT)
        assert counts == [self.text_rows(voiced, "other words", 0), 1, 1, self.text_rows(voiced, "and more", 0), 1, 1]

    def test_forks_share_the_past_and_go_their_own_ways(self, voiced, counts):
        conversation = Conversation(voiced)
        conversation.say("hello", 0, **SHORT)
        fork = conversation.fork()
        counts.clear()
        one = conversation.say("yes", 0, **SHORT)
        other = fork.say("no", 0, max_audio_length_ms=240, seed=6)
        assert max(counts) <= 2 + self.text_rows(voiced, "yes", 0)
        assert [segment.text for segment in conversation.segments] == ["hello", "yes"]
        assert [segment.text for segment in fork.segments] == ["hello", "no"] and fork.voices == conversation.voices
        assert torch.equal(fork.fork().say("x", 0, **SHORT).codes, fork.say("x", 0, **SHORT).codes)
        assert not torch.equal(one.codes, other.codes)

    def test_truncating_equals_never_having_made_the_frames(self, voiced, counts):
        cut, short = Conversation(voiced, {0: "zoe"}), Conversation(voiced, {0: "zoe"})
        made = cut.say("hello", 0, max_audio_length_ms=800, seed=5)
        cut.truncate(3)
        short.say("hello", 0, max_audio_length_ms=240, seed=5)
        assert torch.equal(cut.segments[0].audio, made.audio[: 3 * voiced.codec.frame_size])
        counts.clear()
        after_cut = cut.say("go on", 0, **SHORT)
        assert counts[0] == 1 + self.text_rows(voiced, "go on", 0)  # the end frame and the text
        after_short = short.say("go on", 0, **SHORT)
        assert torch.equal(after_cut.codes, after_short.codes)
        torch.testing.assert_close(after_cut.audio, after_short.audio)

    def test_truncating_can_tell_which_words_were_heard(self, voiced, prompts):
        conversation = Conversation(voiced, default_voices=False)
        conversation.say("hello you", 0, **SHORT)
        conversation.truncate(2, "hello")
        conversation.say("and", 0, **SHORT)
        assert text_of(voiced, prompts[-1]) == "[0]hello[0]and"
        conversation.truncate(0)
        assert [segment.text for segment in conversation.segments] == ["hello"]

    @pytest.mark.parametrize("num_frames", [-1, 4])
    def test_no_more_than_there_is_can_be_kept(self, voiced, num_frames):
        conversation = Conversation(voiced)
        with pytest.raises(OptionError, match="no spoken turn"):
            conversation.truncate(0)
        conversation.say("hello", 0, **SHORT)
        with pytest.raises(OptionError, match="0 to 3"):
            conversation.truncate(num_frames)
        conversation.hear(None, "silently", 1)
        with pytest.raises(OptionError, match="no spoken turn"):
            conversation.truncate(0)

    def test_an_interrupted_turn_holds_what_was_heard(self, voiced, counts):
        conversation = Conversation(voiced, {0: "zoe"})
        stream = conversation.stream_say("a long tale", 0, max_audio_length_ms=800, seed=5)
        chunks = [next(stream) for _ in range(4)]
        speech = stream.interrupt(2)
        assert speech.stop_reason == "interrupted" and speech.codes.shape[1] == 2
        assert torch.equal(speech.audio, torch.cat(chunks[:2])) and next(stream, None) is None
        assert stream.interrupt() is speech and stream.result is speech
        assert torch.equal(conversation.segments[0].audio, speech.audio)
        counts.clear()
        conversation.say("go on", 0, **SHORT)
        assert counts[0] == 1 + self.text_rows(voiced, "go on", 0)

    def test_interrupting_at_once_leaves_no_turn(self, voiced):
        conversation = Conversation(voiced)
        stream = conversation.stream_say("hello", 0, **SHORT)
        assert stream.interrupt().codes.shape[1] == 0 and conversation.segments == ()

    def test_interrupting_at_once_forgets_nothing(self, voiced, counts):
        conversation = Conversation(voiced, {0: "zoe"})
        conversation.say("hello", 0, max_audio_length_ms=400, seed=5)
        conversation.stream_say("no", 0, **SHORT).interrupt()
        fork = conversation.fork()
        counts.clear()
        conversation.say("go on", 0, **SHORT)
        assert counts[0] == 2 + self.text_rows(voiced, "go on", 0)
        fork.truncate(2)
        fresh = fork.fork()
        fresh._read = None
        counts.clear()
        speech = fork.say("go on", 0, **SHORT)
        assert counts[0] == 1 + self.text_rows(voiced, "go on", 0)
        assert torch.equal(speech.codes, fresh.say("go on", 0, **SHORT).codes)

    def test_a_closed_stream_cannot_be_interrupted(self, voiced):
        stream = Conversation(voiced).stream_say("hello", 0, **SHORT)
        next(stream)
        with pytest.raises(OptionError, match="0 to 1"):
            stream.interrupt(2)
        stream.close()
        with pytest.raises(OptionError, match="closed"):
            stream.interrupt()

    @pytest.mark.filterwarnings("ignore:.*were left out")
    def test_when_the_model_is_full_room_for_several_turns_is_made(self, voiced, counts):
        conversation = Conversation(voiced, {0: "zoe", 1: "adam"})
        largest, evicted = [], []
        for index in range(60):
            conversation.hear(tone(1.6, hertz=100.0 + index), "mhm", 1)
            counts.clear()
            evicted.append(conversation.say("go on", 0, **SHORT).num_evicted)
            largest.append(max(counts))
        emptied = [index for index in range(1, 60) if evicted[index] > evicted[index - 1]]
        assert 2 <= len(emptied) <= 15
        new = self.text_rows(voiced, "mhm", 1) + 21 + self.text_rows(voiced, "go on", 0) + 2
        assert all(largest[index] <= new for index in range(1, 60) if index not in emptied)
        assert all(evicted[index] - evicted[index - 1] >= 4 for index in emptied)
