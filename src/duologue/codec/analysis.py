"""What a voice does, measured: the encoder's counterpart of a decoder of harmonics.

For every few milliseconds, from the samples so far: the spectrum's envelope, as logarithms of levels at places evenly
spaced in mel, and how well the sound repeats itself at the period of each pitch. A network at a low rate makes the
latent of both. Nothing has to be learned about samples, which is what an encoder at 24 kHz spends its training on.

Sources: Boersma, "Accurate short-term analysis of the fundamental frequency" (1993), for the autocorrelation divided by
the window's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.codec.harmonic import pitch_bins, spread
from duologue.codec.seanet import EncoderStage, EncoderStageState
from duologue.config import HarmonicConfig, MimiConfig
from duologue.nn.conv import CausalConv1d, ConvState
from duologue.nn.state import State

# Seconds: the window of the envelope, and that of the pitch, which holds three periods of the lowest voice.
_ENVELOPE_S, _PITCH_S = 0.025, 0.06
# Pitch is looked for in the sound below this many Hz, which fades out from two thirds of it on.
_BAND_HZ = 3000.0
# Levels are power of full scale; what lies below the floor is as good as silence.
_FLOOR = 10**-6.6
# Of log10 of levels of speech: about their mean and deviation.
_MEAN, _DEVIATION = -4.5, 1.5


@dataclass(frozen=True)
class AnalysisTables:
    """Constants: the windows `envelope [We]` and `pitch [Wp]`; `places [Fe, M]`, averages of an FFT's bins.

    Of pitch: the FFT's `size`; `band [Fp]`, weights of the bins where it is looked for; `lags [P]` in samples of the
    band's lower rate, and at them `own [P]`, the window's own correlation.
    """

    envelope: Tensor
    pitch: Tensor
    places: Tensor
    size: int
    band: Tensor
    lags: Tensor
    own: Tensor


@dataclass
class HarmonicEncoderState(State):
    """What the encoder remembers: samples `past [B, Wp - step]`, and the states of its convolutions."""

    past: Tensor
    input_conv: ConvState
    stages: list[EncoderStageState]
    output_conv: ConvState


class HarmonicEncoder(nn.Module):
    """`[B, 1, S] -> [B, D, S / hop]`, with the signature of SEANet's encoder."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        assert config.harmonic is not None
        self.config = harmonic = config.harmonic
        self.sample_rate = config.sample_rate
        self.step = config.hop // math.prod(harmonic.ratios)  # samples
        channels = harmonic.num_channels // 2 ** len(harmonic.ratios)
        self.input_conv = CausalConv1d(harmonic.num_bands + harmonic.num_pitches, channels, config.kernel_size)
        self.stages = nn.ModuleList()
        for ratio in reversed(harmonic.ratios):
            self.stages.append(EncoderStage(channels, ratio, config))
            channels *= 2
        self.output_conv = CausalConv1d(channels, config.dim, config.last_kernel_size)

    def tables(self, device: torch.device) -> AnalysisTables:
        """The constants of this encoder, on a device."""
        return _tables(self.config, self.sample_rate, device)

    def init_state(self, batch: int) -> HarmonicEncoderState:
        """The state of `batch` rows before their first sample."""
        stages = [stage.init_state(batch) for stage in self.stages if isinstance(stage, EncoderStage)]
        weight = self.input_conv.conv.weight
        past = torch.zeros(batch, round(_PITCH_S * self.sample_rate) - self.step, device=weight.device)
        return HarmonicEncoderState(past, self.input_conv.init_state(batch), stages, self.output_conv.init_state(batch))

    def forward(self, x: Tensor, state: HarmonicEncoderState | None = None) -> Tensor:
        measured = self.measure(x[:, 0], state).transpose(1, 2)
        x = self.input_conv(measured.to(self.input_conv.conv.weight), state and state.input_conv)
        for index, stage in enumerate(self.stages):
            x = stage(x, state and state.stages[index])
        return self.output_conv(F.elu(x), state and state.output_conv)  # type: ignore[no-any-return]

    @torch.no_grad()
    def measure(self, pcm: Tensor, state: HarmonicEncoderState | None = None) -> Tensor:
        """`[B, S] -> [B, S / step, M + P]`: levels around 0, then how periodic the sound is, 1 at most.

        Row `i` is about the samples that end with step `i`.
        """
        tables = self.tables(pcm.device)
        with torch.autocast(pcm.device.type, enabled=False):
            past = pcm.new_zeros(len(pcm), len(tables.pitch) - self.step) if state is None else state.past
            heard = torch.cat((past, pcm), dim=1).float()
            if state is not None:
                state.past.copy_(heard[:, -state.past.shape[1] :])
            frames = heard.unfold(1, len(tables.pitch), self.step)  # [B, N, Wp]
            return torch.cat((_levels(frames, tables), _periodicity(frames, tables)), dim=-1)


def _levels(frames: Tensor, tables: AnalysisTables) -> Tensor:
    window = tables.envelope
    spectra = torch.fft.rfft(frames[..., -len(window) :] * window, 2 * (len(tables.places) - 1))
    power = (spectra.real.square() + spectra.imag.square()) @ tables.places
    levels: Tensor = ((power + _FLOOR).log10() - _MEAN) / _DEVIATION
    return levels


def _periodicity(frames: Tensor, tables: AnalysisTables) -> Tensor:
    spectra = torch.fft.rfft(frames * tables.pitch, tables.size)[..., : len(tables.band)]
    power = (spectra.real.square() + spectra.imag.square()) * tables.band
    correlations: Tensor = torch.fft.irfft(power.to(torch.complex64))
    # With a floor, so that silence is not periodic.
    total = correlations[..., :1] + _FLOOR * tables.band.mean() * tables.pitch.square().sum()
    periodicity: Tensor = between(correlations, tables.lags) / (total * tables.own)
    return periodicity


def between(values: Tensor, places: Tensor) -> Tensor:
    """`values [..., L]` at `places [P]` that are no whole numbers, by Catmull-Rom splines: `[..., P]`."""
    whole = places.floor().long()
    t = places - whole
    before, first, second, after = (values[..., whole + offset] for offset in (-1, 0, 1, 2))
    slope = (second - before) / 2
    end = (after - first) / 2
    cubic = 2 * (first - second) + slope + end
    square = 3 * (second - first) - 2 * slope - end
    return ((cubic * t + square) * t + slope) * t + first


@cache
def _tables(config: HarmonicConfig, sample_rate: int, device: torch.device) -> AnalysisTables:
    envelope, pitch = (torch.hann_window(round(seconds * sample_rate)) for seconds in (_ENVELOPE_S, _PITCH_S))
    weights = spread(config, sample_rate, _power_of_two(len(envelope))).T
    places = weights / weights.sum(dim=0).clamp(min=1e-6) / envelope.square().sum()
    # Fewer samples a second will do for the band: a whole number of times fewer, so that an FFT gives them.
    fewer = 2 ** int(math.log2(sample_rate / 2 / _BAND_HZ))
    lags = sample_rate / fewer / pitch_bins(config)
    size = _power_of_two(len(pitch) + fewer * (math.ceil(sample_rate / fewer / config.lowest_hz) + 2))
    hertz = torch.linspace(0, sample_rate / 2 / fewer, size // 2 // fewer + 1)
    band = ((_BAND_HZ - hertz) / (_BAND_HZ / 3)).clamp(0, 1)
    correlation = torch.fft.irfft(torch.fft.rfft(pitch, size).abs().square())
    own = between(correlation / correlation[0], lags * fewer)
    envelope, pitch, places, band, lags, own = (
        table.to(device) for table in (envelope, pitch, places, band, lags, own)
    )
    return AnalysisTables(envelope, pitch, places, size, band, lags, own)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
