"""What the changes do to a sound, to the sample, the decibel and the hertz."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from duologue.errors import EvaluationError
from duologue.eval import acoustics, changes
from tests.eval.builders import RATE, buzz


def rms(pcm: Tensor) -> float:
    return float(pcm.double().square().mean().sqrt())


def power_share(pcm: Tensor, low_hz: float, high_hz: float) -> float:
    """The share of the power that lies between two frequencies."""
    power = torch.fft.rfft(pcm.double()).abs().square()
    frequencies = torch.fft.rfftfreq(len(pcm), 1 / RATE)
    return float(power[(frequencies >= low_hz) & (frequencies < high_hz)].sum() / power.sum())


def hiss(seconds: float = 2.0) -> Tensor:
    """White noise: every frequency there is."""
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(5))


ALL: dict[str, Callable[[Tensor], Tensor]] = {
    "white noise": lambda pcm: changes.add_noise(pcm, RATE, snr_db=10),
    "speech noise": lambda pcm: changes.add_noise(pcm, RATE, snr_db=10, spectrum="speech"),
    "low-pass": lambda pcm: changes.low_pass(pcm, RATE, limit_hz=1000),
    "telephone": lambda pcm: changes.telephone(pcm, RATE),
    "gain": lambda pcm: changes.gain(pcm, RATE, by_db=-6),
    "cut": lambda pcm: changes.cut_end(pcm, RATE, seconds=0.3),
    "silence": lambda pcm: changes.append_silence(pcm, RATE, seconds=0.5),
    "repeat": lambda pcm: changes.repeat(pcm, RATE, start_s=0.2, end_s=0.4, times=3),
    "speed": lambda pcm: changes.change_speed(pcm, RATE, factor=1.25),
    "pitch": lambda pcm: changes.shift_pitch(pcm, RATE, semitones=3),
}


@pytest.mark.parametrize("name", ALL)
def test_the_argument_stays_as_it_is_and_the_same_comes_out_again(name: str) -> None:
    pcm = buzz(1.0)
    first, again = ALL[name](pcm), ALL[name](pcm)
    assert torch.equal(pcm, buzz(1.0)) and torch.equal(first, again)
    assert first.dtype == torch.float32 and first.ndim == 1 and first.isfinite().all()


@pytest.mark.parametrize("spectrum", ["white", "speech"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_has_the_level_that_was_asked_for(spectrum: changes.Spectrum, snr_db: float) -> None:
    pcm = torch.cat([torch.zeros(RATE), buzz(1.0)])  # silence before it counts for nothing
    noise = changes.add_noise(pcm, RATE, snr_db=snr_db, spectrum=spectrum) - pcm
    level = acoustics.level_db(pcm, RATE)
    assert level is not None and level - 20 * math.log10(rms(noise)) == pytest.approx(snr_db, abs=0.01)


def test_noise_is_white_or_as_the_speech_is() -> None:
    pcm = buzz(2.0, 200.0)  # partials to 1 kHz
    white, shaped = (changes.add_noise(pcm, RATE, snr_db=0, spectrum=name) - pcm for name in ("white", "speech"))
    assert power_share(white, 4000, 8000) == pytest.approx(0.5, abs=0.03)
    assert power_share(shaped, 0, 1100) > 0.999
    magnitudes = [torch.fft.rfft(sound).abs() for sound in (pcm, shaped)]
    scaled = magnitudes[1][1:-1] * (magnitudes[0].norm() / magnitudes[1].norm())
    assert torch.allclose(scaled, magnitudes[0][1:-1], atol=1e-3 * float(magnitudes[0].max()))


def test_another_seed_gives_other_noise() -> None:
    pcm = buzz()
    assert not torch.equal(
        changes.add_noise(pcm, RATE, snr_db=20, seed=1), changes.add_noise(pcm, RATE, snr_db=20, seed=2)
    )


def test_noise_against_silence_is_refused() -> None:
    with pytest.raises(EvaluationError, match="silent recording; give one with speech"):
        changes.add_noise(torch.zeros(RATE), RATE, snr_db=20)


def test_a_low_pass_takes_all_above_it_and_nothing_far_below() -> None:
    pcm = hiss()
    low = changes.low_pass(pcm, RATE, limit_hz=1000)
    assert len(low) == len(pcm) and power_share(low, 1000, RATE) < 1e-9
    before, after = (torch.fft.rfft(sound)[: 949 * 2] for sound in (pcm, low))
    assert torch.allclose(after, before, atol=1e-3)


def test_a_telephone_ends_at_4_khz_and_keeps_what_is_below() -> None:
    pcm = hiss()
    heard = changes.telephone(pcm, RATE)
    assert len(heard) == len(pcm) and power_share(heard, 4100, RATE) < 1e-3
    below = changes.low_pass(pcm, RATE, limit_hz=3000)
    error = changes.low_pass(heard, RATE, limit_hz=3000) - below
    assert 30 < 20 * math.log10(rms(below) / rms(error)) < 50  # eight bits of mu-law


def test_gain_is_exact() -> None:
    pcm = buzz()
    assert torch.equal(changes.gain(pcm, RATE, by_db=20), 10 * pcm)
    assert 20 * math.log10(rms(changes.gain(pcm, RATE, by_db=-12)) / rms(pcm)) == pytest.approx(-12)


def test_a_cut_counts_from_the_last_sound() -> None:
    pcm = torch.cat([buzz(1.5), torch.zeros(RATE)])
    end_s = acoustics.active_span(pcm, RATE).end_s
    short = changes.cut_end(pcm, RATE, seconds=0.3)
    assert len(short) == round((end_s - 0.3) * RATE) and torch.equal(short, pcm[: len(short)])
    assert acoustics.ends_abruptly(short, RATE) and not acoustics.ends_abruptly(pcm, RATE)
    assert len(changes.cut_end(pcm, RATE, seconds=5.0)) == 0


def test_silence_comes_after() -> None:
    pcm = buzz(1.0)
    longer = changes.append_silence(pcm, RATE, seconds=2.0)
    assert torch.equal(longer[: len(pcm)], pcm) and not longer[len(pcm) :].any() and len(longer) == 3 * RATE


def test_a_part_is_said_several_times() -> None:
    pcm = hiss(1.0)
    said = changes.repeat(pcm, RATE, start_s=0.25, end_s=0.5, times=3)
    quarters = pcm.split(RATE // 4)
    assert torch.equal(said, torch.cat([quarters[0], *[quarters[1]] * 3, *quarters[2:]]))


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.5, 2.0])
def test_speed_changes_the_length_and_not_the_pitch(factor: float) -> None:
    pcm = buzz(2.0, 160.0)
    changed = changes.change_speed(pcm, RATE, factor=factor)
    assert len(changed) == pytest.approx(len(pcm) / factor, rel=0.02)
    assert acoustics.pitch_hz(changed, RATE) == pytest.approx(160.0, rel=0.01)


@pytest.mark.parametrize("factor", [0.3, 0.0, -1.0, math.nan])
def test_a_speed_that_praat_does_not_do_is_refused(factor: float) -> None:
    with pytest.raises(EvaluationError, match=r"speed factor .*; expected at least 0\.33"):
        changes.change_speed(buzz(), RATE, factor=factor)


@pytest.mark.parametrize("semitones", [-5.0, -2.0, 0.0, 4.0, 7.0])
def test_pitch_changes_by_semitones_and_the_length_stays(semitones: float) -> None:
    pcm = buzz(2.0, 160.0)
    changed = changes.shift_pitch(pcm, RATE, semitones=semitones)
    assert len(changed) == pytest.approx(len(pcm), abs=0.02 * RATE)
    assert acoustics.pitch_hz(changed, RATE) == pytest.approx(160.0 * 2 ** (semitones / 12), rel=0.01)
