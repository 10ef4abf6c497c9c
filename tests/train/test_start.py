"""A codec started from data passes the low band on before it has learned anything."""

import dataclasses

import pytest
import torch
from torch import Tensor

from duologue.codec.mimi import Mimi
from duologue.config import MimiConfig, mimi_transformer
from duologue.train.codec import initialise
from duologue.train.spectral import LowBand, low_pass
from duologue.train.start import start_codec

BAND_HZ = 120.0
RATE = 24_000


def make_codec(**changes: object) -> Mimi:
    config = MimiConfig(
        transformer=mimi_transformer(64, 1, 2, 128, 50),
        num_filters=8,
        dim=64,
        num_codebooks=3,
        codebook_size=16,
        codebook_dim=32,
    )
    torch.manual_seed(0)
    codec = Mimi(dataclasses.replace(config, **changes))  # type: ignore[arg-type]
    initialise(codec)
    return codec.eval()


def hums(count: int, seed: int, frames: int = 8) -> Tensor:
    """`[count, 1, S]`: low tones of random pitch, loudness and phase under a hiss."""
    generator = torch.Generator().manual_seed(seed)
    hertz, level, phase = torch.rand(3, count, 1, generator=generator)
    at = torch.arange(frames * 1920) / RATE
    tones = (0.02 + 0.1 * level) * torch.sin(2 * torch.pi * ((30 + 70 * hertz) * at + phase))
    return (tones + 0.005 * torch.randn(tones.shape, generator=generator))[:, None]


@torch.no_grad()
def error(codec: Mimi, pcm: Tensor) -> float:
    """Of the low band after a way through the latent, after the first frame, relative to the recording."""
    made = codec.decode_latent(codec.quantizer.acoustic.project(codec.encode_latent(pcm)))
    return float(LowBand(RATE, BAND_HZ)(made[:, 0, 1920:], pcm[:, 0, 1920:]))


@pytest.mark.parametrize("changes", [{}, {"ratios": (4, 5, 6, 8)}, {"ratios": (8, 5, 4, 3), "resample_stride": 4}])
def test_the_low_band_comes_through_with_its_phases(changes: dict[str, object]) -> None:
    codec, unheard = make_codec(**changes), hums(16, seed=1)
    assert error(codec, unheard) > 0.9
    start_codec(codec, hums(120, seed=0), BAND_HZ, seed=0)
    assert error(codec, unheard) < 0.5
    with torch.no_grad():
        latent = codec.quantizer.acoustic.input_proj(codec.encode_latent(unheard))
    assert 0.3 < float(latent.square().mean().sqrt()) < 3  # of order one


def test_the_start_is_the_same_for_the_same_seed() -> None:
    codecs = [make_codec(), make_codec()]
    for codec in codecs:
        start_codec(codec, hums(40, seed=0), BAND_HZ, seed=3)
    first, second = (codec.state_dict() for codec in codecs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_silence_gives_finite_weights() -> None:
    codec = make_codec()
    start_codec(codec, torch.zeros(4, 1, 4 * 1920), BAND_HZ, seed=0)
    assert all(bool(tensor.isfinite().all()) for tensor in codec.state_dict().values())


def test_what_lies_above_is_taken_away() -> None:
    at = torch.arange(RATE) / RATE
    low, high = (torch.sin(2 * torch.pi * hertz * at) for hertz in (100, 2000))
    torch.testing.assert_close(low_pass(low + high, RATE, 400), low, atol=1e-3, rtol=0)


def test_the_band_distance_is_0_for_the_same_and_1_for_silence() -> None:
    pcm, band = hums(4, seed=0)[:, 0], LowBand(RATE, BAND_HZ)
    assert float(band(pcm, pcm)) == 0.0
    assert float(band(torch.zeros_like(pcm), pcm)) == pytest.approx(1.0)
    assert float(band(1.1 * pcm, pcm)) == pytest.approx(0.01, rel=1e-3)
    # What is in other bands does not matter, nor how loud the recording is; faint rows count less.
    at = torch.arange(pcm.shape[-1]) / RATE
    assert float(band(pcm + 0.3 * torch.sin(2 * torch.pi * 3000 * at), pcm)) < 0.01
    assert float(band(0 * pcm, 0.5 * pcm)) == pytest.approx(1.0)
    assert float(band(0 * pcm, 1e-3 * pcm)) < 0.01
