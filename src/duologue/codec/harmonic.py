"""Harmonics plus noise: a decoder that synthesizes speech from what a voice does, instead of sample by sample.

A network at a low rate says, for every few milliseconds, the pitch and two spectral envelopes. A train of pulses of
that pitch and white noise, each through the minimum-phase filter of its envelope, make the sound. Pitch needs no phases
in the codes and is heard from the first minutes of training; the synthesis costs next to nothing.

Sources: Serra and Smith, "Spectral modeling synthesis" (1990), for the split; Morise et al., "WORLD" (2016), for pulses
and minimum phase; Engel et al., "DDSP" (2020), for learning through it; Kim et al., "CREPE" (2018), for pitch as bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.codec.seanet import DecoderStage, DecoderStageState
from duologue.config import HarmonicConfig, MimiConfig
from duologue.nn.conv import CausalConv1d, ConvState
from duologue.nn.state import State

# White noise comes from a table, so that a sample's depends on its place alone: about 2.7 s before it repeats.
_NOISE_SIZE = 65_536
# Natural logarithm of the amplitude of a band: silence, and the most there can be.
_SILENT, _LOUDEST = -14.0, 4.0
# Of the window over pitch bins around the likeliest one, and the steps of a pitch in a bin: 3 cents in parlor's.
_REACH, _PITCH_STEPS = 3, 16
# Radians: a float64 sine is exact to many places here, and nothing is divided by zero.
_SINGULAR = 1e-9


@dataclass(frozen=True)
class Tables:
    """Constants: `pitches [P]` of the bins in Hz; `spread [M, fft_size / 2 + 1]`, from the places of an envelope to an
    FFT's bins; white `noise [_NOISE_SIZE]`; and `fade [R]`, which ends a filter's response smoothly.
    """

    pitches: Tensor
    spread: Tensor
    noise: Tensor
    fade: Tensor


@dataclass
class Controls:
    """What the network says for each of `N` steps: logits of the pitch `[B, N, P]`, two log amplitudes `[B, N, M]`."""

    pitch: Tensor
    harmonic: Tensor
    noise: Tensor


@dataclass
class HarmonicState(State):
    """What the decoder remembers.

    `phase [B]` float64 in cycles, `place [B]` int64 in the table of noise; of the last step its pitch in Hz `[B]` and
    its log amplitudes `[B, M]`; `owed [B, fft_size - step]`, the rest of the filters' responses. `started [B]` bool.
    """

    input_conv: ConvState
    stages: list[DecoderStageState]
    output_conv: ConvState
    phase: Tensor
    place: Tensor
    pitch: Tensor
    harmonic: Tensor
    noise: Tensor
    owed: Tensor
    started: Tensor


class HarmonicDecoder(nn.Module):
    """`[B, D, T] -> [B, 1, T * hop]`, with the signature of SEANet's decoder."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        assert config.harmonic is not None
        self.config = harmonic = config.harmonic
        self.sample_rate = config.sample_rate
        channels = harmonic.num_channels
        self.input_conv = CausalConv1d(config.dim, channels, config.kernel_size)
        self.stages = nn.ModuleList()
        for ratio in harmonic.ratios:
            self.stages.append(DecoderStage(channels, ratio, config))
            channels //= 2
        self.step = config.hop // math.prod(harmonic.ratios)  # samples
        outputs = harmonic.num_pitches + 2 * harmonic.num_bands
        self.output_conv = CausalConv1d(channels, outputs, config.last_kernel_size)
        self._constants: Tables | None = None

    def tables(self, device: torch.device) -> Tables:
        """The constants of this decoder, on a device."""
        if self._constants is None or self._constants.noise.device != device:
            self._constants = _tables(self.config, self.sample_rate, self.step, device)
        return self._constants

    def init_state(self, batch: int) -> HarmonicState:
        """The state of `batch` rows before their first step."""
        stages = [stage.init_state(batch) for stage in self.stages if isinstance(stage, DecoderStage)]
        weight = self.output_conv.conv.weight
        self.tables(weight.device)  # now, so that no step has to make them

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(batch, *shape, device=weight.device, dtype=dtype)

        bands = self.config.num_bands
        return HarmonicState(
            self.input_conv.init_state(batch),
            stages,
            self.output_conv.init_state(batch),
            phase=zeros(dtype=torch.float64),
            place=zeros(dtype=torch.int64),
            pitch=zeros(),
            harmonic=zeros(bands),
            noise=zeros(bands),
            owed=zeros(self.config.fft_size - self.step),
            started=zeros(dtype=torch.bool),
        )

    def forward(self, x: Tensor, state: HarmonicState | None = None) -> Tensor:
        controls = self.controls(x, state)
        return self.synthesize(controls, self.pitch(controls.pitch), state)

    def controls(self, x: Tensor, state: HarmonicState | None = None) -> Controls:
        """`[B, D, T]` -> what to synthesize in each of `T * hop / step` steps."""
        x = self.input_conv(x, state and state.input_conv)
        for index, stage in enumerate(self.stages):
            x = stage(x, state and state.stages[index])
        x = self.output_conv(F.elu(x), state and state.output_conv).transpose(1, 2)
        bands = self.config.num_bands
        pitch, harmonic, noise = x.split([self.config.num_pitches, bands, bands], dim=-1)
        # Only the pitch is ever asked for in more than float32 (see `Mimi.steadied`).
        exact = torch.promote_types(pitch.dtype, torch.float32)
        return Controls(pitch.to(exact), _bounded(harmonic.float()), _bounded(noise.float()))

    def pitch(self, logits: Tensor) -> Tensor:
        """`[..., P]` -> Hz `[...]`: the mean over the bins around the likeliest one, in sixteenths of a bin.

        The phase is a sum of pitches: steps that rounding errors seldom cross keep a stream equal to the whole, and in
        float64 hardly ever. The steps are float32 whatever the logits are.
        """
        best = logits.argmax(dim=-1, keepdim=True)
        bins = torch.arange(logits.shape[-1], device=logits.device)
        near = logits.masked_fill((bins - best).abs() > _REACH, -torch.inf)
        place = (near.softmax(dim=-1) @ bins.to(logits)).mul(_PITCH_STEPS).round() / _PITCH_STEPS
        return pitch_at(self.config, place.float())

    def synthesize(self, controls: Controls, pitch: Tensor, state: HarmonicState | None = None) -> Tensor:
        """The sound of `controls` at a `pitch [B, N]` in Hz: `[B, 1, N * step]`; no gradient reaches the pitch."""
        batch, steps = pitch.shape
        state = state if state is not None else self._beginning(batch)
        first = ~state.started
        pulses = self._pulses(pitch.detach(), state, first)  # [B, N, step]
        noise = self._noise(steps, state)
        size = self.config.fft_size
        rise = torch.linspace(0, 1, self.step + 1, device=pitch.device)[1:]
        spectrum = 0
        for source, levels, before in (
            (pulses, controls.harmonic, state.harmonic),
            (noise, controls.noise, state.noise),
        ):
            start = torch.where(first[:, None], levels[:, 0], before)[:, None]
            responses = self._responses(torch.cat((start, levels), dim=1))  # [B, N + 1, size / 2 + 1]
            rising, falling = (torch.fft.rfft(source * ramp, size) for ramp in (rise, 1 - rise))
            spectrum = spectrum + rising * responses[:, 1:] + falling * responses[:, :-1]
        blocks = torch.fft.irfft(spectrum, size)  # [B, N, size]
        sound = self._overlap_add(blocks)  # [B, N * step + size - step]
        sound = torch.cat((sound[:, : state.owed.shape[1]] + state.owed, sound[:, state.owed.shape[1] :]), dim=1)
        state.owed.copy_(sound[:, steps * self.step :].detach())
        for kept, last in ((state.pitch, pitch), (state.harmonic, controls.harmonic), (state.noise, controls.noise)):
            kept.copy_(last[:, -1].detach())
        state.started.fill_(True)
        return sound[:, None, : steps * self.step]

    def _beginning(self, batch: int) -> HarmonicState:
        state = self.init_state(batch)
        if self.training:
            # Nothing is to be learned by heart about one table.
            state.place.random_(0, _NOISE_SIZE)
            state.phase.uniform_()
        return state

    def _pulses(self, pitch: Tensor, state: HarmonicState, first: Tensor) -> Tensor:
        """All harmonics below half the sample rate, of equal size and together of power one: `[B, N, step]`."""
        before = torch.where(first, pitch[:, 0], state.pitch)[:, None]
        start = torch.cat((before, pitch[:, :-1]), dim=1)
        ramp = torch.arange(1, self.step + 1, device=pitch.device, dtype=torch.float64) / self.step
        hertz = start[..., None].double() + (pitch - start)[..., None].double() * ramp
        cycles = (hertz / self.sample_rate).flatten(1).cumsum(dim=1) + state.phase[:, None]
        state.phase.copy_(cycles[:, -1].remainder(1))
        angle = math.pi * (cycles.remainder(1) - 0.5)  # a pulse at 0, in -pi / 2 .. pi / 2
        count = (self.sample_rate / 2 / hertz.flatten(1)).floor()
        angle = torch.where(angle.abs() < _SINGULAR, _SINGULAR, angle)
        kernel = ((2 * count + 1) * angle).sin() / angle.sin()  # Dirichlet's: 1 + 2 cos 2a + .. + 2 cos 2na
        pulses = (kernel - 1) / (2 * count).sqrt()
        steps: Tensor = pulses.float().unflatten(1, (-1, self.step))
        return steps

    def _noise(self, steps: int, state: HarmonicState) -> Tensor:
        table = self.tables(state.place.device).noise
        places = torch.arange(steps * self.step, device=table.device) + state.place[:, None]
        state.place.copy_((state.place + steps * self.step) % _NOISE_SIZE)
        noise: Tensor = table[places % _NOISE_SIZE].unflatten(1, (-1, self.step))
        return noise

    def _responses(self, levels: Tensor) -> Tensor:
        """Log amplitudes `[B, N, M]` -> spectra `[B, N, size / 2 + 1]` of causal filters of minimum phase."""
        size, tables = self.config.fft_size, self.tables(levels.device)
        cepstrum = torch.fft.irfft((levels @ tables.spread).to(torch.complex64), size)[..., : size // 2 + 1]
        # Folded: what comes before time zero is moved after it.
        folded = torch.cat((cepstrum[..., :1], 2 * cepstrum[..., 1:-1], cepstrum[..., -1:]), dim=-1)
        filters = torch.fft.irfft(torch.fft.rfft(folded, size).exp(), size)
        responses: Tensor = torch.fft.rfft(filters[..., : len(tables.fade)] * tables.fade, size)
        return responses

    def _overlap_add(self, blocks: Tensor) -> Tensor:
        batch, steps, size = blocks.shape
        length = steps * self.step + size - self.step
        columns = blocks.transpose(1, 2)
        folded = F.fold(columns, (1, length), kernel_size=(1, size), stride=(1, self.step))
        return folded.view(batch, length)


@cache
def _tables(config: HarmonicConfig, sample_rate: int, step: int, device: torch.device) -> Tables:
    noise = torch.randn(_NOISE_SIZE, generator=torch.Generator().manual_seed(0))
    length = config.fft_size - step + 1
    fade = torch.ones(length)
    fade[length // 2 :] = 0.5 + 0.5 * torch.cos(torch.linspace(0, math.pi, length - length // 2))
    tables = (pitch_bins(config), spread(config, sample_rate, config.fft_size), noise, fade)
    return Tables(*(table.to(device) for table in tables))


def _bounded(levels: Tensor) -> Tensor:
    """Log amplitudes from silence to the loudest; smoothly, so that there always is a gradient."""
    levels = _LOUDEST - F.softplus(_LOUDEST - levels)
    return _SILENT + F.softplus(levels - _SILENT)


def pitch_bins(config: HarmonicConfig) -> Tensor:
    """The pitches `[P]` in Hz, evenly spaced on a logarithmic axis."""
    return pitch_at(config, torch.arange(config.num_pitches, dtype=torch.float32))


def pitch_at(config: HarmonicConfig, places: Tensor) -> Tensor:
    """In Hz, at `places [...]` counted in bins, between them as well."""
    low, high = math.log(config.lowest_hz), math.log(config.highest_hz)
    return (low + places * ((high - low) / (config.num_pitches - 1))).exp()


def spread(config: HarmonicConfig, sample_rate: int, size: int) -> Tensor:
    """From levels at `M` places, evenly spaced in mel, to those of an FFT's bins: `[M, size / 2 + 1]`, linearly."""
    highest = 2595.0 * math.log10(1 + sample_rate / 2 / 700.0)
    frequencies = torch.linspace(0, sample_rate / 2, size // 2 + 1)
    places = 2595.0 * torch.log10(1 + frequencies / 700.0) / highest * (config.num_bands - 1)  # 0 .. M - 1
    return (1 - (places - torch.arange(config.num_bands)[:, None]).abs()).clamp(min=0)
