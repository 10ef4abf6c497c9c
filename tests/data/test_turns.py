"""Turns out of recordings: known ones cut, unknown ones found, heard, told apart and filtered."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from duologue.audio import write_audio
from duologue.data.hearing import Span, SpeakerSeparator, join_spans
from duologue.data.sources import Conversation, Part, Utterance
from duologue.data.turns import Prepared, TurnConfig, TurnMaker, disagreement
from duologue.errors import ConfigError
from tests.data.conftest import Spoken

RATE = 24_000
# What is not under test here stays out of the way.
LENIENT = {"min_confidence": -10.0, "min_rate": 0.0, "max_rate": 1e9, "loudness_db": None}


def tone(seconds: float, level: float = 0.1) -> Tensor:
    return level * torch.sin(0.05 * torch.arange(round(seconds * RATE)))


def conversation(path: Path, *utterances: Utterance) -> Conversation:
    return Conversation(path.name, (Part(path, path.name, utterances),))


def prepared(path: Path, cache: Path, *utterances: Utterance, **options: object) -> Prepared:
    config = TurnConfig(**(LENIENT | options))  # type: ignore[arg-type]
    return TurnMaker(config, RATE, cache=cache)(conversation(path, *utterances))


def test_known_turns_are_cut_with_a_little_silence_and_nothing_of_their_neighbours(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, tone(4.0), RATE)
    turns = (Utterance("x", "one", 0.02, 1.0), Utterance("y", "two", 1.04, 2.0), Utterance("x", "three", 3.0, None))
    result = prepared(path, cache, *turns)
    assert [(turn.voice, turn.text) for turn in result.turns] == [("x", "one"), ("y", "two"), ("x", "three")]
    # 0.05 s before and 0.12 s after, where the recording and the neighbours leave room.
    expected = [1.04 - 0.0, 2.12 - 1.0, 4.0 - 2.95]
    assert [len(turn.pcm) / RATE for turn in result.turns] == pytest.approx(expected, abs=2 / RATE)
    assert result.seconds == pytest.approx(4.0)
    assert result.left_out == []


def test_each_voice_is_brought_to_one_loudness_and_keeps_its_dynamics(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, torch.cat((tone(1, 0.02), tone(1, 0.01), tone(2, 0.3))), RATE)
    turns = (Utterance("x", "a", 0, 1), Utterance("x", "b", 1, 2), Utterance("y", "c", 2, 4))
    result = prepared(path, cache, *turns, loudness_db=-22.0)

    def level(pcm: np.ndarray) -> float:
        return 10 * float(np.log10(np.square(pcm).mean()))

    x = np.concatenate([turn.pcm for turn in result.turns if turn.voice == "x"])
    assert level(x) == pytest.approx(-22, abs=0.1)
    assert level(result.turns[2].pcm) == pytest.approx(-22, abs=0.1)
    assert level(result.turns[0].pcm) - level(result.turns[1].pcm) == pytest.approx(6.0, abs=0.2)


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"min_s": 2.0}, "word", "too short: under 2 s"),
        ({"max_s": 0.9, "min_s": 0.1}, "word", "too long: over 0.9 s"),
        ({"max_rate": 3.0}, "a long word", "speech rate: not 0 to 3 letters a second"),
        ({"min_rate": 5.0}, "word", "speech rate: not 5 to 1e+09 letters a second"),
        ({"max_clipped": 0.2}, "word", "clipped: over 20 % of the samples at full scale"),
        ({}, "...", "no words"),
    ],
)
def test_what_is_left_out_and_why(
    tmp_path: Path, cache: Path, options: dict[str, float], text: str, reason: str
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, (3 * tone(1.0, 1.0)).clamp(-1, 1).numpy(), RATE)
    result = prepared(path, cache, Utterance("x", text, 0.0, 1.0), **({"max_clipped": 1.0} | options))
    assert result.turns == []
    assert result.left_out == [("a.wav at 0.00 s", reason)]


def test_silent_and_unreadable_recordings_are_named(tmp_path: Path, cache: Path) -> None:
    silent, broken = tmp_path / "silent.wav", tmp_path / "broken.wav"
    write_audio(silent, torch.zeros(RATE), RATE)
    broken.write_bytes(b"RIFF nothing of the kind")
    assert prepared(silent, cache).left_out == [("silent.wav", "silent: nothing above -60 dB")]
    ((name, reason),) = prepared(broken, cache).left_out
    assert name == "broken.wav"
    assert reason.startswith("unreadable: broken.wav")
    assert str(tmp_path) not in reason


def test_no_speech_in_a_tone(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, tone(3.0), RATE)
    assert prepared(path, cache).left_out == [("a.wav", "no speech found")]


def test_speech_is_found_cut_at_pauses_and_written_down(tmp_path: Path, cache: Path, spoken: dict[str, Spoken]) -> None:
    path = tmp_path / "a.wav"
    pause = torch.zeros(RATE)
    write_audio(path, torch.cat((pause, spoken["joe"].pcm, pause, spoken["high"].pcm, pause)), RATE)
    result = prepared(path, cache)
    assert [turn.voice for turn in result.turns] == ["a.wav", "a.wav"]
    heard = " ".join(turn.text for turn in result.turns)
    assert disagreement(f"{spoken['joe'].text} {spoken['high'].text}", heard) < 0.25
    for turn, name in zip(result.turns, ("joe", "high"), strict=True):
        assert len(turn.pcm) / RATE == pytest.approx(len(spoken[name].pcm) / RATE, abs=0.6)
    assert [turn.voice for turn in prepared(path, cache, voice="everyone").turns] == ["everyone", "everyone"]


def test_channels_are_speakers_in_the_order_of_their_turns(
    tmp_path: Path, cache: Path, spoken: dict[str, Spoken]
) -> None:
    path = tmp_path / "call.wav"
    left, right = spoken["joe"].pcm, spoken["high"].pcm
    gap = torch.zeros(RATE // 2)
    channels = torch.stack(
        (torch.cat((torch.zeros_like(right), gap, left)), torch.cat((right, gap, torch.zeros_like(left))))
    )
    soundfile.write(path, channels.T.numpy(), RATE)
    result = prepared(path, cache, speakers="channels")
    assert [turn.voice for turn in result.turns] == ["call.wav#1", "call.wav#0"]
    assert disagreement(spoken["joe"].text, result.turns[1].text) < 0.35


def test_voices_are_told_apart_by_their_sound(tmp_path: Path, cache: Path, spoken: dict[str, Spoken]) -> None:
    path = tmp_path / "talk.wav"
    gap = torch.zeros(RATE // 3)
    pieces = [spoken[name].pcm for name in ("low", "kathleen", "low", "kathleen")]
    write_audio(path, torch.cat([part for piece in pieces for part in (piece, gap)]), RATE)
    result = prepared(path, cache, speakers="diarize", num_speakers=2)
    assert [turn.voice for turn in result.turns] == [f"talk.wav#{n}" for n in (0, 1, 0, 1)]


def test_one_voice_is_not_torn_apart(tmp_path: Path, cache: Path, spoken: dict[str, Spoken]) -> None:
    path = tmp_path / "talk.wav"
    write_audio(path, torch.cat((spoken["joe"].pcm, torch.zeros(RATE), spoken["joe"].pcm)), RATE)
    assert {turn.voice for turn in prepared(path, cache, speakers="diarize").turns} == {"talk.wav"}


def test_text_is_checked_against_what_is_heard(tmp_path: Path, cache: Path, spoken: dict[str, Spoken]) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, spoken["joe"].pcm, RATE)
    right, wrong = (Utterance("j", text) for text in (spoken["joe"].text, "Something else entirely was said here."))
    assert [turn.text for turn in prepared(path, cache, right, check_text=True).turns] == [right.text]
    result = prepared(path, cache, wrong, check_text=True)
    assert result.left_out == [("a.wav at 0.00 s", "text and recognition disagree: over 30 % of the words")]


def test_doubtful_recognition_is_left_out(tmp_path: Path, cache: Path, spoken: dict[str, Spoken]) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, spoken["kathleen"].pcm, RATE)
    ((_, reason),) = prepared(path, cache, min_confidence=-1e-6).left_out
    assert reason.startswith("recognition in doubt")


def test_spans_join_by_speaker_pause_and_length() -> None:
    spans = [Span(0, 1), Span(1.2, 2), Span(2.1, 3, 1), Span(3.1, 4, 1), Span(5, 6, 1), Span(6.1, 9, 1)]
    joined = join_spans(spans, max_pause_s=0.5, max_s=3.5)
    assert joined == [Span(0, 2), Span(2.1, 4, 1), Span(5, 6, 1), Span(6.1, 9, 1)]


def test_a_span_is_cut_where_the_speaker_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    separator = SpeakerSeparator()
    monkeypatch.setattr(separator._encoder, "embed_utterance", lambda pcm: np.zeros(4))
    # Windows of 1.6 s every 0.4 s over 4 s: seven, of which the last three are another voice.
    monkeypatch.setattr(separator, "cluster", lambda voices: [5, 5, 5, 5, 2, 2, 2])
    first, second = separator(np.zeros(64_000, np.float32), [Span(0.0, 4.0)])
    assert (first.speaker, second.speaker) == (0, 1)
    assert first.end_s == second.start_s == pytest.approx((1.2 + 0.8 + 1.6 + 0.8) / 2)


def test_contradictory_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_s"):
        TurnConfig(min_s=3.0, max_s=2.0)
    with pytest.raises(ConfigError, match="num_speakers"):
        TurnConfig(num_speakers=0)
