"""The encoder that measures: levels and periods are what they should be, and a stream is the whole."""

import dataclasses
import math

import pytest
import torch

from duologue.codec.analysis import HarmonicEncoder, between
from duologue.codec.harmonic import pitch_bins
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS, HarmonicConfig, MimiConfig

RATE, STEP = 24_000, 120


def small() -> MimiConfig:
    harmonic = HarmonicConfig(num_channels=16)
    return dataclasses.replace(MIMI_PRESETS["tiny"], ratios=(8, 6, 5, 4), resample_stride=2, harmonic=harmonic)


@pytest.fixture(scope="module")
def codec() -> Mimi:
    torch.manual_seed(0)
    return Mimi(small()).eval()


@pytest.fixture(scope="module")
def encoder(codec: Mimi) -> HarmonicEncoder:
    assert isinstance(codec.encoder, HarmonicEncoder)
    return codec.encoder


def measured(encoder: HarmonicEncoder, pcm: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log10 levels `[N, M]` and periodicities `[N, P]` of `pcm [S]`, after the first windows."""
    rows = encoder.measure(pcm[None])[0, 12:]
    levels, periodic = rows.split([encoder.config.num_bands, encoder.config.num_pitches], dim=-1)
    return 1.5 * levels - 4.5, periodic


def test_white_noise_has_its_power_at_every_place(encoder: HarmonicEncoder) -> None:
    torch.manual_seed(0)
    levels, periodic = measured(encoder, 0.05 * torch.randn(10 * RATE))
    found = (10**levels).mean(dim=0)
    torch.testing.assert_close(found, torch.full_like(found, 0.05**2), rtol=0.15, atol=0)
    assert periodic.mean() == pytest.approx(0, abs=0.05)


def test_a_tone_is_loudest_at_its_place(encoder: HarmonicEncoder) -> None:
    hertz = 1000.0
    levels, _ = measured(encoder, 0.3 * torch.sin(2 * math.pi * hertz / RATE * torch.arange(RATE)))
    mel = 2595 * math.log10(1 + hertz / 700) / (2595 * math.log10(1 + RATE / 2 / 700))
    assert (levels.argmax(dim=-1) - mel * (encoder.config.num_bands - 1)).abs().max() <= 1


@pytest.mark.parametrize("hertz", [75, 120, 210, 400])
def test_a_voice_repeats_itself_at_its_pitch_and_not_between(encoder: HarmonicEncoder, hertz: int) -> None:
    pulses = torch.zeros(RATE)
    pulses[:: RATE // hertz] = 0.5
    _, periodic = measured(encoder, pulses + 1e-4 * torch.randn(RATE))
    bins = pitch_bins(encoder.config)
    at = int((bins - hertz).abs().argmin())
    assert periodic[:, at].min() > 0.7  # half a bin beside the peak
    # A fifth above it neither a period nor a whole number of them has passed.
    other = int((bins - 1.5 * hertz).abs().argmin())
    assert periodic[:, other].max() < 0.3
    assert periodic.max() < 1.1


def test_silence_is_at_the_floor_and_has_no_period(encoder: HarmonicEncoder) -> None:
    levels, periodic = measured(encoder, torch.zeros(RATE))
    torch.testing.assert_close(levels, torch.full_like(levels, -6.6))
    assert not periodic.any()


def test_a_step_hears_what_ends_with_it(encoder: HarmonicEncoder) -> None:
    torch.manual_seed(0)
    pcm = 0.1 * torch.randn(1, 40 * STEP)
    changed = pcm.clone()
    changed[:, 20 * STEP :] += 0.1
    before, after = encoder.measure(pcm), encoder.measure(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


def test_a_stream_is_the_whole(codec: Mimi) -> None:
    torch.manual_seed(0)
    pcm = 0.1 * torch.randn(2, 1, 12 * codec.frame_size)
    whole = codec.encode_latent(pcm)
    state = codec.init_encoder_state(2)
    pieces = [codec.encode_latent(piece, state) for piece in pcm.split([1920, 3840, 1920, 15_360], dim=-1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-4, rtol=0)
    state.reset()
    again = codec.encode_latent(pcm[..., :3840], state)
    torch.testing.assert_close(again, whole[:, :2], atol=1e-4, rtol=0)


def test_gradients_reach_every_weight_of_the_encoder(codec: Mimi) -> None:
    codec.encode_latent(0.1 * torch.randn(1, 1, 4 * codec.frame_size)).square().mean().backward()
    for name, parameter in codec.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_between_is_exact_for_parabolas() -> None:
    values = torch.arange(10.0).square()[None]
    places = torch.tensor([2.0, 3.25, 6.9])
    torch.testing.assert_close(between(values, places)[0], places.square())
