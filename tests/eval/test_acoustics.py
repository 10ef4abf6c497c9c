"""What is told from the sound alone, on sounds made for it."""

import math

import pytest
import torch

from duologue.eval import acoustics

RATE = 24_000


def tone(seconds: float, hertz: float = 200.0, level: float = 0.3) -> torch.Tensor:
    """A buzz with harmonics, faded in and out over 50 ms."""
    time = torch.arange(round(seconds * RATE)) / RATE
    wave = torch.stack([torch.sin(2 * math.pi * hertz * n * time) / n for n in range(1, 8)]).sum(dim=0)
    ramp = torch.linspace(0, 1, RATE // 20)
    wave[: len(ramp)] *= ramp
    wave[-len(ramp) :] *= ramp.flip(0)
    return level * wave / wave.abs().max()


def silence(seconds: float) -> torch.Tensor:
    return torch.zeros(round(seconds * RATE))


def test_the_active_part_is_found() -> None:
    pcm = torch.cat([silence(0.5), tone(1.0), silence(0.2), tone(0.5), silence(1.5)])
    span = acoustics.active_span(pcm, RATE)
    assert span.start_s == pytest.approx(0.5, abs=0.03) and span.end_s == pytest.approx(2.2, abs=0.03)
    assert acoustics.trailing_silence_s(pcm, RATE) == pytest.approx(1.5, abs=0.03)


def test_noise_far_below_the_speech_is_silence() -> None:
    generator = torch.Generator().manual_seed(0)
    pcm = torch.cat([tone(1.0), silence(1.0)])
    noisy = pcm + 0.0005 * torch.randn(len(pcm), generator=generator)
    assert acoustics.trailing_silence_s(noisy, RATE) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("pcm", [torch.zeros(0), torch.zeros(RATE), 1e-5 * torch.ones(RATE)])
def test_silence_has_no_active_part(pcm: torch.Tensor) -> None:
    assert acoustics.active_span(pcm, RATE).duration_s == 0
    assert acoustics.trailing_silence_s(pcm, RATE) == len(pcm) / RATE
    assert acoustics.level_db(pcm, RATE) is None
    assert acoustics.pace("Hello there.", pcm, RATE) is None
    assert not acoustics.ends_abruptly(pcm, RATE)


def test_a_cut_is_abrupt_and_a_fade_is_not() -> None:
    whole = tone(1.0)
    assert not acoustics.ends_abruptly(whole, RATE)
    assert acoustics.ends_abruptly(whole[: RATE // 2], RATE)
    assert not acoustics.ends_abruptly(torch.cat([whole[: RATE // 2], silence(0.3)]), RATE)


@pytest.mark.parametrize("hertz", [90.0, 140.0, 220.0, 310.0])
def test_pitch_of_a_known_tone(hertz: float) -> None:
    assert acoustics.pitch_hz(tone(1.0, hertz), RATE) == pytest.approx(hertz, rel=0.01)


def test_noise_and_short_sounds_have_no_pitch() -> None:
    generator = torch.Generator().manual_seed(0)
    assert acoustics.pitch_hz(0.1 * torch.randn(RATE, generator=generator), RATE) is None
    assert acoustics.pitch_hz(tone(0.1), RATE) is None


def test_level_is_that_of_the_active_part() -> None:
    loud = torch.cat([silence(1.0), 0.1 * torch.ones(RATE), silence(1.0)])
    assert acoustics.level_db(loud, RATE) == pytest.approx(-20.0, abs=0.1)


@pytest.mark.parametrize(("text", "count"), [("Hello there.", 3), ("Banana!", 3), ("I have 22 cats.", 6), ("...", 0)])
def test_syllables(text: str, count: int) -> None:
    assert acoustics.count_syllables(text) == count


def test_pace_is_syllables_a_second_without_the_silence_around() -> None:
    pcm = torch.cat([silence(1.0), tone(1.5), silence(2.0)])
    assert acoustics.pace("Hello there.", pcm, RATE) == pytest.approx(2.0, rel=0.05)
