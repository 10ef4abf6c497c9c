"""The decoder of harmonics: what it is told is what sounds, a stream is the whole, and nothing looks ahead."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import duologue
from duologue.audio import read_audio, resample
from duologue.checkpoints import load_codec, save_checkpoint
from duologue.codec.harmonic import Controls, HarmonicDecoder
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS, HarmonicConfig, MimiConfig
from duologue.errors import ConfigError

RATE = 24_000


def tiny(**options: int) -> MimiConfig:
    config = dataclasses.replace(MIMI_PRESETS["tiny"], ratios=(8, 6, 5, 4), resample_stride=2)
    return dataclasses.replace(config, harmonic=HarmonicConfig(num_channels=16, num_bands=24, **options))


@pytest.fixture(scope="module")
def decoder() -> HarmonicDecoder:
    torch.manual_seed(0)
    made = Mimi(tiny()).eval().decoder
    assert isinstance(made, HarmonicDecoder)
    return made


def say(decoder: HarmonicDecoder, harmonic: float, noise: float, pitch: torch.Tensor) -> torch.Tensor:
    """The sound of two flat envelopes, given by log amplitudes, at a pitch `[N]` in Hz."""
    shape = (1, len(pitch), decoder.config.num_bands)
    controls = Controls(torch.zeros(1), torch.full(shape, harmonic), torch.full(shape, noise))
    return decoder.synthesize(controls, pitch[None])[0, 0]


def spectrum(sound: torch.Tensor) -> torch.Tensor:
    """Magnitudes, one bin a Hz."""
    return torch.fft.rfft(sound[-RATE:] * torch.hann_window(RATE)).abs()


@pytest.mark.parametrize("hertz", [80, 137, 250, 523])
def test_a_pitch_sounds_as_its_harmonics(decoder: HarmonicDecoder, hertz: int) -> None:
    sound = say(decoder, -2.0, -14.0, torch.full((300,), float(hertz)))
    levels = spectrum(sound)
    harmonics = torch.arange(1, RATE // 2 // hertz)[:-1] * hertz
    between = harmonics + hertz // 2
    assert levels[harmonics].min() > 300 * levels[between].max()
    assert levels[harmonics].max() < 1.1 * levels[harmonics].min()  # a flat envelope
    assert sound[-RATE:].square().mean().sqrt() == pytest.approx(math.exp(-2), rel=0.02)


def test_noise_is_white_and_as_loud_as_told(decoder: HarmonicDecoder) -> None:
    sound = say(decoder, -14.0, -2.0, torch.full((400,), 100.0))
    assert sound[-RATE:].square().mean().sqrt() == pytest.approx(math.exp(-2), rel=0.04)
    octaves = [spectrum(sound)[low : 2 * low].square().mean() for low in (375, 750, 1500, 3000, 6000)]
    assert max(octaves) < 1.5 * min(octaves)


def test_filters_have_the_envelope_and_minimum_phase(decoder: HarmonicDecoder) -> None:
    bands, size = decoder.config.num_bands, decoder.config.fft_size
    levels = -3 + torch.cos(torch.arange(bands) / 4.0)
    response = decoder._responses(levels[None, None])[0, 0]
    expected = levels @ decoder.tables(levels.device).spread
    torch.testing.assert_close(response.abs().log(), expected, atol=0.05, rtol=0)
    impulse = torch.fft.irfft(response, size)
    # Of all filters with these magnitudes, the one whose energy comes first; the one of zero phase has half of it last.
    assert impulse[:120].square().sum() > 0.99 * impulse.square().sum()


def test_pitch_glides_without_a_click(decoder: HarmonicDecoder) -> None:
    sound = say(decoder, -2.0, -14.0, torch.linspace(100, 200, 200))
    low = torch.fft.irfft(torch.fft.rfft(sound)[:200], len(sound))  # below 200 Hz: the first harmonic
    assert low[2400:-2400].diff().abs().max() < 1.3 * low[2400:-2400].abs().max() * 2 * math.pi * 200 / RATE


def test_a_stream_of_controls_is_the_whole(decoder: HarmonicDecoder) -> None:
    torch.manual_seed(1)
    bands = decoder.config.num_bands
    controls = Controls(torch.zeros(2, 32, 1), torch.randn(2, 32, bands) - 3, torch.randn(2, 32, bands) - 3)
    pitch = 100 + 100 * torch.rand(2, 32)
    whole = decoder.synthesize(controls, pitch)
    state = decoder.init_state(2)
    pieces = []
    for start, end in ((0, 8), (8, 9), (9, 24), (24, 32)):
        piece = Controls(controls.pitch, controls.harmonic[:, start:end], controls.noise[:, start:end])
        pieces.append(decoder.synthesize(piece, pitch[:, start:end], state))
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, atol=1e-5, rtol=0)


def test_a_stream_of_codes_is_the_whole() -> None:
    torch.manual_seed(0)
    codec = Mimi(tiny()).eval()
    for codebook in (*codec.quantizer.semantic, *codec.quantizer.acoustic):
        codebook.embedding_sum.normal_()
    codes = torch.randint(0, codec.config.codebook_size, (2, codec.num_codebooks, 12))
    whole = codec.decode(codes)
    state = codec.init_decoder_state(2)
    streamed = torch.cat([codec.decode(codes[..., i : i + 1], state) for i in range(12)], dim=-1)
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=0)
    changed = codes.clone()
    changed[..., 8:] = (changed[..., 8:] + 1) % codec.config.codebook_size
    after = codec.decode(changed)
    kept = 8 * codec.frame_size
    torch.testing.assert_close(after[..., :kept], whole[..., :kept], atol=1e-5, rtol=0)
    assert not torch.allclose(after[..., kept:], whole[..., kept:], atol=1e-3)


def test_a_row_begins_anew_after_a_reset() -> None:
    torch.manual_seed(0)
    codec = Mimi(tiny()).eval()
    for codebook in (*codec.quantizer.semantic, *codec.quantizer.acoustic):
        codebook.embedding_sum.normal_()
    codes = torch.randint(0, codec.config.codebook_size, (2, codec.num_codebooks, 4))
    state = codec.init_decoder_state(2)
    first = codec.decode(codes, state)
    state.reset(torch.tensor([1]))
    second = codec.decode(codes, state)
    torch.testing.assert_close(second[1], first[1], atol=1e-4, rtol=0)
    assert (second[0] - first[0]).abs().max() > 0.1 * first.abs().max()


def test_gradients_reach_the_envelopes_and_not_the_pitch(decoder: HarmonicDecoder) -> None:
    levels = torch.full((1, 8, decoder.config.num_bands), -3.0, requires_grad=True)
    pitch = torch.full((1, 8), 120.0, requires_grad=True)
    decoder.synthesize(Controls(torch.zeros(1), levels, levels), pitch).square().mean().backward()
    assert levels.grad is not None and levels.grad.isfinite().all() and levels.grad.abs().sum() > 0
    assert pitch.grad is None


def test_steps_divide_the_hop() -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        dataclasses.replace(tiny(), harmonic=HarmonicConfig(ratios=(7,)))


def test_the_bundled_codec_streams_what_it_decodes_at_once() -> None:
    codec = duologue.load_codec("parlor", device="cpu")
    codes = torch.randint(0, codec.config.codebook_size, (8, 12, 250), generator=torch.Generator().manual_seed(4))
    state = codec.init_decoder_state(8)
    streamed = torch.cat([codec.decode(piece, state) for piece in codes.split(5, dim=-1)], dim=-1)
    torch.testing.assert_close(streamed, codec.decode(codes), atol=1e-5, rtol=0)


def test_a_recording_on_the_border_of_two_pitches_streams_as_it_decodes(corpus: Path) -> None:
    codec = duologue.load_codec("parlor", device="cpu")
    pcm = resample(*read_audio(corpus / "heldout" / "90-00002.opus"), codec.sample_rate)
    codes = codec.encode(pcm[None, None])
    state = codec.init_decoder_state()
    streamed = torch.cat([codec.decode(piece, state) for piece in codes.split(1, dim=-1)], dim=-1)
    torch.testing.assert_close(streamed, codec.decode(codes), atol=1e-5, rtol=0)


def test_a_steadied_decoder_is_stored_and_trained_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = Mimi(tiny()).eval()
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    assert codec.steadied() is codec and codec.decoder.output_conv.conv.weight.dtype == torch.float64
    assert codec.decode(torch.zeros(1, codec.num_codebooks, 3, dtype=torch.int64)).dtype == torch.float32
    stored = load_codec(save_checkpoint(tmp_path / "codec", "native", codec=codec)).state_dict()
    for name, tensor in before.items():
        torch.testing.assert_close(stored[name], tensor, atol=0, rtol=0)
    for name, tensor in codec.float().state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=0, rtol=0)


def test_a_decoder_without_harmonics_stays_as_it_is() -> None:
    codec = Mimi(MIMI_PRESETS["tiny"]).steadied()
    assert {parameter.dtype for parameter in codec.parameters()} == {torch.float32}
