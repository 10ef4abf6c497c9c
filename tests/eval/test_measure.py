"""One clip, one row: what each field comes from, and what is left out where there is nothing to measure."""

from pathlib import Path

import pytest
import torch

from duologue.eval.clips import Chunk, Clip, Request, Sound
from duologue.eval.measure import Meter, Row, underruns
from duologue.eval.metrics import METRICS
from tests.eval.builders import RATE, Scripted, Speaker, buzz, instruments


def make_meter(tmp_path: Path, heard: str = "hello there") -> Meter:
    scripted, speaker = Scripted(heard), Speaker()
    prompts = {}
    for voice in speaker.voices():
        prompt = speaker.prompt(voice)
        assert prompt is not None
        prompts[voice] = scripted.voice(prompt.pcm, RATE)
    return Meter(instruments(tmp_path, scripted), prompts=prompts)  # type: ignore[arg-type]


def request(text: str = "Hello there.", **facts: object) -> Request:
    return Request("plain/001", "plain", text, seed=7, facts=dict(facts))


def test_a_clip_is_measured_in_every_way(tmp_path: Path) -> None:
    pcm = torch.cat([buzz(1.0, 150.0), torch.zeros(RATE)])
    clip = Clip(Sound(pcm, RATE), 0.5, (Chunk(0.2, 1.0), Chunk(0.4, 1.0)), "end")
    row = make_meter(tmp_path, "hello bear").measure("suite", request(), clip, voice="low")
    assert (row.suite, row.group, row.id, row.seed, row.heard) == ("suite", "plain", "plain/001", 7, "hello bear")
    assert (row.num_words, row.substitutions, row.word_error_rate) == (2, 1, 0.5)
    assert row.similarity == pytest.approx(1.0, abs=1e-3) and row.right_voice_first is True
    assert (row.signal, row.background, row.overall, row.p808) == (3.0, 4.0, 2.5, 3.5)
    assert row.duration_s == 2.0 and row.real_time_factor == 0.25 and row.first_audio_s == 0.2
    assert row.trailing_silence_s == pytest.approx(1.0, abs=0.05) and row.ends_abruptly is False
    assert row.pitch_hz == pytest.approx(150.0, rel=0.02)
    assert row.pace == pytest.approx(3.0, rel=0.1)
    assert row.underruns == 0 and row.stop_reason == "end"
    assert Row.from_dict(row.to_dict()) == row


def test_another_voice_is_told(tmp_path: Path) -> None:
    row = make_meter(tmp_path).measure("s", request(), Clip(Sound(buzz(1.0, 250.0), RATE)), voice="low")
    assert row.right_voice_first is False and row.similarity is not None and row.similarity < 0.95


@pytest.mark.parametrize("pcm", [torch.zeros(RATE), buzz(0.1)])
def test_a_clip_without_speech_is_not_understood(tmp_path: Path, pcm: torch.Tensor) -> None:
    meter = make_meter(tmp_path)
    row = meter.measure("s", request(), Clip(Sound(pcm, RATE)), voice="low")
    assert row.heard == "" and row.deletions == row.num_words == 2 and row.failure is None
    assert row.overall is None and row.similarity is None and row.pace is None


def test_the_nearest_accepted_reading_counts(tmp_path: Path) -> None:
    meter = make_meter(tmp_path, "call five oh one")
    clip = Clip(Sound(buzz(), RATE))
    accepted = ("call five zero one", "call five oh one")
    assert meter.measure("s", request("Call 501.", accepted=accepted), clip).word_errors == 0
    assert meter.measure("s", request("Call 777."), clip).word_errors > 0


def test_what_was_not_delivered_counts_as_silence(tmp_path: Path) -> None:
    missed = Request("plain/002", "plain", "We went home early.", seed=7)
    row = make_meter(tmp_path).failed("s", missed, "no free slot", voice="low")
    assert row.failure == "no free slot" and row.deletions == row.num_words == 4
    good = make_meter(tmp_path).measure("s", request(), Clip(Sound(buzz(), RATE), stop_reason="end"))
    figures = {name: METRICS[name].figure([row, good]) for name in METRICS}
    assert figures["failed"].value == 50 and figures["failed"].count == 2
    assert figures["wer"].value == pytest.approx(100 * 4 / 6)
    assert figures["overall"].count == figures["cap"].count == figures["cut"].count == 1


def test_underruns_of_a_player() -> None:
    assert underruns([Chunk(0.5, 0.08)]) == 0
    assert underruns([Chunk(0.5, 0.08), Chunk(0.57, 0.08), Chunk(0.65, 0.08)]) == 0
    assert underruns([Chunk(0.5, 0.08), Chunk(0.60, 0.08), Chunk(0.70, 0.08)]) == 2
    assert underruns([Chunk(0.5, 0.08), Chunk(5.0, 0.08), Chunk(5.01, 0.08)]) == 1


def make_row(**values: object) -> Row:
    base: dict[str, object] = {"suite": "s", "group": "g", "id": "i", "text": "t", "seed": 0}
    return Row(**(base | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "badly"),
    [
        ({"stop_reason": "end", "trailing_silence_s": 0.2, "last_word_heard": True}, 0),
        ({"stop_reason": "cap"}, 100),
        ({"trailing_silence_s": 1.5}, 100),
        ({"last_word_heard": False}, 100),
        ({"ends_abruptly": True}, 100),
        ({"loops": True}, 100),
    ],
)
def test_ways_to_end_badly(values: dict[str, object], badly: float) -> None:
    assert METRICS["stops_badly"].figure([make_row(**values)]).value == badly


def test_a_difference_pairs_utterances_by_group_and_id() -> None:
    first = [make_row(id=str(n), overall=2.0 + 0.1 * n) for n in range(10)]
    second = [make_row(id=str(n), overall=2.5 + 0.1 * n) for n in range(3, 14)]
    difference = METRICS["overall"].difference(first, second)
    assert difference.count == 7 and difference.value == pytest.approx(0.5) and difference.significant
    elsewhere = [make_row(id=str(n), group="other", overall=1.0) for n in range(10)]
    assert METRICS["overall"].difference(first, elsewhere).count == 0
