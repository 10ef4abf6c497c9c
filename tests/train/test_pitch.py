"""The pitch tracker on signals whose pitch is known, and the loss that teaches it."""

import math

import pytest
import torch

from duologue.train.pitch import pitch_loss, track_pitch

RATE, STEP = 24_000, 120
PITCHES = torch.linspace(math.log(50), math.log(550), 96).exp()


def voice(hertz: torch.Tensor, *, formant: float = 700.0) -> torch.Tensor:
    """Harmonics of a pitch `[S]` up to 4 kHz, strongest around a formant: `[1, S]`."""
    phase = 2 * math.pi * (hertz.double() / RATE).cumsum(0)
    sound = torch.zeros_like(phase)
    for number in range(1, 60):
        level = torch.exp(-((number * hertz - formant) / 600).square()) + 0.02
        sound += torch.where(number * hertz < 4000, level * torch.cos(number * phase + number), 0.0)
    return (0.05 * sound.float())[None]


@pytest.mark.parametrize("hertz", [62, 95, 140, 210, 330, 480])
def test_a_steady_voice_has_its_pitch(hertz: int) -> None:
    pcm = voice(torch.full((RATE,), float(hertz)))
    pitch, is_voiced = track_pitch(pcm, RATE, PITCHES, STEP)
    assert pitch.shape == (1, RATE // STEP) and is_voiced[0, 8:-8].all()
    assert (pitch[0, 8:-8] / hertz - 1).abs().max() < 0.005


def test_a_glide_is_followed_in_time() -> None:
    hertz = torch.linspace(100, 250, RATE)
    pitch, is_voiced = track_pitch(voice(hertz), RATE, PITCHES, STEP)
    true = hertz.unflatten(0, (-1, STEP)).mean(dim=1)
    assert is_voiced[0, 8:-8].all()
    assert (pitch[0, 8:-8] / true[8:-8] - 1).abs().max() < 0.02


def test_a_missing_fundamental_is_heard() -> None:
    pcm = voice(torch.full((RATE,), 120.0), formant=1200.0)
    pitch, _ = track_pitch(pcm, RATE, PITCHES, STEP)
    assert (pitch[0, 8:-8] / 120 - 1).abs().max() < 0.01


def test_noise_and_silence_have_no_voice() -> None:
    noise = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert track_pitch(noise, RATE, PITCHES, STEP)[1].float().mean() < 0.05
    assert not track_pitch(torch.zeros(1, RATE), RATE, PITCHES, STEP)[1].any()


def test_noise_on_a_voice_does_not_move_it_and_rows_are_apart() -> None:
    pcm = torch.cat((voice(torch.full((RATE,), 110.0)), voice(torch.full((RATE,), 220.0))))
    pcm = pcm + 0.005 * torch.randn(pcm.shape, generator=torch.Generator().manual_seed(0))
    pitch, is_voiced = track_pitch(pcm, RATE, PITCHES, STEP)
    assert is_voiced[:, 8:-8].all()
    assert (pitch[:, 8:-8] / torch.tensor([[110.0], [220.0]]) - 1).abs().max() < 0.01


def test_the_loss_is_least_at_the_pitch_and_deaf_without_a_voice() -> None:
    pitch, voiced = torch.full((1, 4), 120.0), torch.tensor([[True, True, False, False]])
    spacing = (PITCHES[1] / PITCHES[0]).log()

    def bell(hertz: float) -> torch.Tensor:
        return -((PITCHES / hertz).log() / spacing).square().expand(1, 4, 96) / 2

    losses = [float(pitch_loss(bell(hertz), pitch, voiced, PITCHES)) for hertz in (110, 120, 130)]
    assert losses[1] == pytest.approx(1.42, abs=0.02)  # the entropy of a bell of one bin
    assert min(losses[0], losses[2]) > losses[1] + 1
    logits = torch.zeros(1, 4, 96, requires_grad=True)
    pitch_loss(logits, pitch, voiced, PITCHES).backward()
    assert logits.grad is not None and logits.grad[0, 0].abs().sum() > 0 and not logits.grad[0, 2:].any()
    assert pitch_loss(logits.detach(), pitch, torch.zeros_like(voiced), PITCHES) == 0
