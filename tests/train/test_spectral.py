"""The mel distance against librosa-free facts: filters, identity, monotony, gradients."""

import pytest
import torch

from duologue.train.spectral import MultiScaleMel, mel_filters

RATE = 24_000


def test_filters_cover_the_band_and_peak_in_order() -> None:
    filters = mel_filters(40, 1024, RATE)
    assert filters.shape == (513, 40)
    assert bool((filters >= 0).all())
    assert bool((filters <= 1).all())
    peaks = filters.argmax(dim=0)
    assert bool((peaks[1:] >= peaks[:-1]).all())


def test_a_tone_lights_its_band() -> None:
    mel = MultiScaleMel(RATE, ((2048, 80),))
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE)[None]
    band = int(mel.spectra(tone, 2048).mean(dim=1).argmax())
    frequencies = torch.linspace(0, RATE / 2, 1025)
    centre = float(frequencies[mel_filters(80, 2048, RATE)[:, band].argmax()])
    assert centre == pytest.approx(1000, abs=60)


def test_distance_is_zero_for_equals_and_grows_with_noise() -> None:
    torch.manual_seed(0)
    mel = MultiScaleMel(RATE, ((256, 20), (1024, 40)))
    pcm = 0.1 * torch.randn(2, RATE // 2)
    distances = [float(mel(pcm + level * torch.randn_like(pcm), pcm)) for level in (0.0, 0.01, 0.1)]
    assert distances[0] == 0.0
    assert distances[0] < distances[1] < distances[2]


def test_silence_has_finite_gradients() -> None:
    mel = MultiScaleMel(RATE, ((256, 20),))
    pcm = torch.zeros(1, 4800, requires_grad=True)
    mel(pcm, torch.zeros(1, 4800)).backward()
    assert pcm.grad is not None
    assert bool(pcm.grad.isfinite().all())
