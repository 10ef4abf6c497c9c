"""What ends an utterance that the model does not end: each rule, that careful speech is left alone, and who is told."""

import dataclasses
import math

import pytest
import torch

import duologue
from duologue.engine.conversation import Conversation
from duologue.engine.scheduler import Scheduler
from duologue.engine.stopping import NO_POLICY, StopPolicy, StopWatch, spoken_bytes
from duologue.errors import DuologueWarning, OptionError

RATE = 12.5
LOUD, QUIET = torch.full((1920,), 0.1), torch.zeros(1920)


def over(policy: StopPolicy, frames: list[int], chunks: list[torch.Tensor], text: str = "a" * 400) -> tuple[int, str]:
    """The frame after which an utterance is over, counted from one, and the rule; frames go on from the first again."""
    watch = StopWatch(policy, text, RATE)
    for index in range(5000):
        reason = watch(torch.tensor([frames[index % len(frames)], 7]), chunks[min(index, len(chunks) - 1)])
        if reason is not None:
            return index + 1, reason
    return 0, ""


def only(**rule: float) -> StopPolicy:
    return dataclasses.replace(NO_POLICY, **rule)


SPOKEN = list(range(1, 60))  # a circle too wide to be taken for one


def test_a_text_has_a_longest_time():
    policy = only(seconds_per_byte=0.2)
    assert over(policy, SPOKEN, [LOUD], "hello") == (50, "length")  # 3 s and 5 times 0.2
    assert over(policy, SPOKEN, [LOUD], "你好")[0] == 52  # 6 bytes
    assert over(NO_POLICY, SPOKEN, [LOUD], "hello") == (0, "")
    assert spoken_bytes("in 1999") == 3 + 4 * 6


def test_silence_ends_what_was_speech():
    policy = only(silence_s=2.0)
    assert over(policy, SPOKEN, [LOUD] * 10 + [QUIET]) == (35, "silence")
    assert over(policy, SPOKEN, [QUIET]) == (25, "silence")  # nothing was ever said
    assert over(policy, SPOKEN, [LOUD] * 10 + [0.03 * LOUD]) == (0, "")
    assert over(policy, SPOKEN, [LOUD] * 10 + [0.01 * LOUD]) == (35, "silence")
    pauses = ([LOUD] + [QUIET] * 24) * 40  # just short enough
    assert over(policy, SPOKEN, pauses + [LOUD]) == (0, "")
    assert over(NO_POLICY, SPOKEN, [QUIET]) == (0, "")


@pytest.mark.parametrize("turn", [1, 2, 6])
def test_frames_in_a_circle_are_found(turn):
    policy = only(repetition_s=2.0)
    frames, reason = over(policy, SPOKEN[:turn], [LOUD])
    assert (frames, reason) == (turn + 25, "repetition")
    assert over(policy, SPOKEN[:7], [LOUD]) == (0, "")
    assert over(NO_POLICY, [3], [LOUD]) == (0, "")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"silence_s": 0}, "silence_s 0"),
        ({"silence_s": -1}, "silence_s -1"),
        ({"repetition_s": math.inf}, "repetition_s inf"),
        ({"seconds_per_byte": "fast"}, "seconds_per_byte 'fast'"),
        ({"end_bias": math.nan}, "end_bias nan"),
        ({"end_bias": None}, "end_bias None"),
    ],
)
def test_bad_rules(options, match):
    with pytest.raises(OptionError, match=match):
        StopPolicy(**options)


class TestInSpeech:
    def test_length_stops_speech_with_a_warning(self, voiced):
        policy = StopPolicy(seconds_per_byte=0.1, silence_s=None, repetition_s=None)
        with pytest.warns(DuologueWarning, match="longer than its text can take"):
            speech = voiced.speak("hello", seed=1, stopping=policy)
        assert speech.stop_reason == "length" and speech.codes.shape[1] == round((3 + 5 * 0.1) * RATE)
        assert len(speech.audio) == speech.codes.shape[1] * voiced.codec.frame_size

    def test_the_rules_change_nothing_before_they_act(self, voiced):
        with pytest.warns(DuologueWarning):
            freely = voiced.speak("hello", 0, [], 6000, seed=1, stopping=NO_POLICY)
            stopped = voiced.speak("hello", 0, [], 6000, seed=1, stopping=StopPolicy(0.1, None, None))
        assert freely.stop_reason == "cap" and stopped.stop_reason == "length"
        count = stopped.codes.shape[1]
        assert torch.equal(freely.codes[:, :count], stopped.codes)
        assert torch.equal(freely.audio[: len(stopped.audio)], stopped.audio)

    def test_a_bias_ends_speech_at_once(self, voiced):
        ended = voiced.speak("hello", seed=1, topk=1, stopping=StopPolicy(end_bias=100.0))
        frames = ended.codes
        assert ended.stop_reason == "end" or int(frames[0].abs().max()) == 0  # codebook 0 is all zeros at least

    def test_a_scheduler_follows_the_same_rules(self, voiced):
        policy = StopPolicy(seconds_per_byte=0.1)
        with pytest.warns(DuologueWarning):
            alone = voiced.speak("hello", seed=1, stopping=policy)
            with Scheduler(voiced, max_streams=2) as scheduler:
                streams = [scheduler.submit(text, seed=1, stopping=policy) for text in ("hello", "hello there")]
                for stream in streams:
                    list(stream)
        assert streams[0].result.stop_reason == alone.stop_reason == "length"
        assert torch.equal(streams[0].result.codes, alone.codes)
        assert streams[1].result.codes.shape[1] > alone.codes.shape[1]

    def test_a_conversation_takes_them_too(self, voiced):
        conversation = Conversation(voiced)
        with pytest.warns(DuologueWarning):
            speech = conversation.say("hello", seed=1, stopping=StopPolicy(seconds_per_byte=0.1))
        assert speech.stop_reason == "length" and len(conversation.segments) == 1

    def test_anything_else_is_refused(self, voiced):
        with pytest.raises(OptionError, match=r"stopping is dict; expected a duologue\.StopPolicy"):
            voiced.generate("hello", stopping={"silence_s": 2})


def test_the_policy_is_public():
    assert duologue.StopPolicy is StopPolicy
