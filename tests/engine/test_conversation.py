"""A conversation remembers its turns as the codes that were made."""

import pytest
import torch

from duologue.engine.conversation import Conversation
from duologue.errors import AudioError, DuologueError, OptionError, TextError, VoiceError
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
