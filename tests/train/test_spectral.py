"""The mel distance against librosa-free facts: filters, identity, monotony, gradients."""

import pytest
import torch

from duologue.train.spectral import MultiScaleMel, MultiScaleSTFT, mel_filters

RATE = 24_000


def test_filters_cover_the_band_and_peak_in_order() -> None:
    filters = mel_filters(40, 1024, RATE)
    assert filters.shape == (513, 40)
    assert bool((filters >= 0).all())
    assert bool((filters <= 1).all())
    peaks = filters.argmax(dim=0)
    assert bool((peaks[1:] >= peaks[:-1]).all())


def test_a_tone_lights_its_band() -> None:
    mel = MultiScaleMel(RATE, ((2048, 80),), floor_db=-66)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)[None]
    band = int(mel.levels(tone, 2048).mean(dim=1).argmax())
    frequencies = torch.linspace(0, RATE / 2, 1025)
    centre = float(frequencies[mel_filters(80, 2048, RATE)[:, band].argmax()])
    assert centre == pytest.approx(1000, abs=60)


def test_distance_is_zero_for_equals_and_grows_with_noise() -> None:
    torch.manual_seed(0)
    mel = MultiScaleMel(RATE, ((256, 20), (1024, 40)), floor_db=-66)
    pcm = 0.1 * torch.randn(2, RATE // 2)
    distances = [float(mel(pcm + level * torch.randn_like(pcm), pcm)) for level in (0.0, 0.01, 0.1)]
    assert distances[0] == 0.0
    assert distances[0] < distances[1] < distances[2]


def test_silence_has_finite_gradients() -> None:
    mel = MultiScaleMel(RATE, ((256, 20),), floor_db=-66)
    pcm = torch.zeros(1, 4800, requires_grad=True)
    mel(pcm, torch.zeros(1, 4800)).backward()
    assert pcm.grad is not None
    assert bool(pcm.grad.isfinite().all())


def test_white_noise_has_its_level_in_every_band_of_every_window() -> None:
    torch.manual_seed(0)
    scales = ((256, 10), (1024, 40), (2048, 80))
    mel = MultiScaleMel(RATE, scales, floor_db=-66)
    noise = 0.03 * torch.randn(1, 20 * RATE)
    for size, _ in scales:
        levels = mel.levels(noise, size)[:, 4:-4].mean(dim=(0, 1))
        # The mean of a magnitude is sqrt(pi) / 2 of its root mean square.
        torch.testing.assert_close(levels / (0.03 * 0.886), torch.ones_like(levels), atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", [MultiScaleMel, MultiScaleSTFT])
def test_near_silence_does_not_drown_speech(kind: type[MultiScaleMel] | type[MultiScaleSTFT]) -> None:
    """Half of the recording is loud, half is near silence, whose inaudible error must not lead."""

    def ratio(floor_db: float) -> float:
        torch.manual_seed(0)
        is_mel = kind is MultiScaleMel
        distance = (
            MultiScaleMel(RATE, ((512, 40),), floor_db=floor_db)
            if is_mel
            else MultiScaleSTFT((512,), floor_db=floor_db)
        )
        half = RATE // 2
        loud = 0.05 * torch.randn(half)
        true = torch.cat((loud, 1e-6 * torch.randn(half)))[None]
        made = torch.cat((0.7 * loud, 1e-5 * torch.randn(half)))[None].requires_grad_()
        (gradient,) = torch.autograd.grad(distance(made, true), made)
        return float(gradient[0, half:].norm() / gradient[0, :half].norm())

    assert ratio(-66) < 25
    assert ratio(-140) > 1000
