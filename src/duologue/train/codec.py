"""Trains a Mimi: words in its semantic codebook, sound in its acoustic ones, and a decoder that discriminators polish.

Source: Defossez et al., "Moshi" (2024), section 3.3. The modules are those that run inference. The recipe makes a codec
in three steps, each from the weights of the one before:

1. A run with `bottleneck="noise"`: nothing acoustic is quantized. Noise of the size that codebooks will leave stands in
   for them (Balle et al., "End-to-end optimized image compression", 2017), and the latent is held near order one. Large
   steps are safe.
2. `start_codebooks`: k-means of that latent, which keeps nearly all of it.
3. A run with `learn="decoder"`: encoder and codebooks rest, so the codes are final; with an adversary where there is
   one. Alone, on other recordings, this adapts a codec without making the speech models over it invalid.

`bottleneck="codes"` with `learn="all"` trains encoder and codebooks together instead, as Mimi was: moving averages
follow the latent from k-means on, a falling share of sequences bypasses them, some use a random number of them. Here it
made codecs worse, not better: the latent gives way to its codebooks (dev/LOG.md).

The semantic codebook learns from its teacher while the encoder does; without a teacher it is one more acoustic one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from duologue.codec.harmonic import HarmonicDecoder
from duologue.codec.mimi import Mimi
from duologue.codec.quantizer import Codebook, Quantized, ResidualVQ
from duologue.config import JsonConfig, MimiConfig
from duologue.errors import TrainingError
from duologue.nn.transformer import LayerScale
from duologue.train.balancer import GradientShare
from duologue.train.board import Board
from duologue.train.codebooks import perplexity, start_codebook, update_codebook
from duologue.train.distributed import World
from duologue.train.loop import LoopConfig, TrainingLoop, described, weights_digest
from duologue.train.optimizers import Rival
from duologue.train.pitch import pitch_loss, track_pitch
from duologue.train.reconstruction import DISCRIMINATION, Reconstruction, ReconstructionConfig
from duologue.train.semantic import SemanticConfig, SemanticTeacher

_DECODING = ("decoder", "upsample", "quantizer.semantic.output_proj", "quantizer.acoustic.output_proj")
# A codebook of which less than this share is in use has collapsed.
_COLLAPSED_SHARE = 1 / 16
# Of a recording: about the root mean square of speech at -22 dB and quieter.
_AMPLITUDE = 0.05


@dataclass(frozen=True)
class QuantizerConfig(JsonConfig):
    """How the acoustic codebooks learn.

    `noise` is that of the first run, relative to the latent's root mean square: the mean over sequences, each of which
    draws its own from 0 to twice it. `bypass` is the share of sequences that skip quantization at first, falling to 0
    at progress `bypass_until`; `dropout` the share that uses a random number of codebooks. `kmeans_points` latents
    start the codebooks; with 0 they go on as they are.
    """

    noise: float = 0.3
    scale_weight: float = 0.1
    commitment_weight: float = 0.25
    bypass: float = 0.5
    bypass_until: float = 0.5
    dropout: float = 0.3
    decay: float = 0.98
    revive_below: float = 0.01
    kmeans_points: int = 32_768


@dataclass(frozen=True)
class CodecTrainConfig(JsonConfig):
    """One run: what learns, what stands between encoder and decoder, and how the terms are weighed.

    `pitch_weight` is that of the pitch, in nats, which a decoder of harmonics learns; others have none.
    """

    model: MimiConfig
    loop: LoopConfig
    learn: Literal["all", "decoder"] = "all"
    bottleneck: Literal["noise", "codes"] = "codes"
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    pitch_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.learn == "decoder" and self.bottleneck == "noise":
            raise TrainingError('learn="decoder" trains on codes: set bottleneck to "codes"')


@dataclass(frozen=True)
class CodecBatch:
    """Crops `pcm [B, 1, S]` of whole frames, and the teacher's features `[B, T, F]`: zero where unknown."""

    pcm: Tensor
    teacher: Tensor

    def to(self, device: torch.device | str) -> CodecBatch:
        """The batch on a device."""
        return CodecBatch(self.pcm.to(device, non_blocking=True), self.teacher.to(device, non_blocking=True))


BatchFunction = Callable[[int], CodecBatch]


class CodecTraining(nn.Module):
    """The codec with what only training needs: the semantic teacher and the judges of what it makes."""

    def __init__(
        self,
        config: CodecTrainConfig,
        codec: Mimi,
        *,
        teacher: SemanticTeacher | None = None,
        world: World | None = None,
        compiled: bool = False,
    ) -> None:
        """`codec` and `teacher` are trained in place; a decoder's run has no use for a teacher.

        `compiled` runs encoder and decoder through torch's compiler, which takes a minute or two before the first step.
        """
        super().__init__()
        self.config, self.world, self.codec = config, world or World(), codec
        self.encode: Callable[[Tensor], Tensor] = codec.encode_latent
        self.decode: Callable[[Tensor], Tensor] = codec.decode_latent
        if compiled:
            self.encode, self.decode = (torch.compile(work, dynamic=False) for work in (self.encode, self.decode))
        self.reconstruction = Reconstruction(config.reconstruction, codec.sample_rate, world=self.world)
        self.semantic = teacher if config.learn == "all" else None
        self.shares = nn.ModuleDict()
        if self.semantic is not None:
            weights = {"words": config.semantic.share, "sound": 1.0}
            self.shares = nn.ModuleDict({name: GradientShare(size, world=world) for name, size in weights.items()})
        if config.learn == "decoder":
            for name, parameter in codec.named_parameters():
                parameter.requires_grad_(name.startswith(_DECODING))
        if teacher is not None and teacher.num_units != codec.config.codebook_size:
            raise TrainingError(
                f"{teacher.num_units} units for a codebook of {codec.config.codebook_size} codes: each code is one unit"
            )

    @property
    def rivals(self) -> list[Rival]:
        """The discriminators, if there are any."""
        adversary = self.config.reconstruction.adversary
        if adversary is None:
            return []
        return [Rival("reconstruction.adversary.", DISCRIMINATION, adversary.learning_rate)]

    def forward(self, batch: CodecBatch, progress: float) -> dict[str, Tensor]:
        """Losses of one batch by name; in training mode also updates the codebooks."""
        config, quantizer = self.config, self.codec.quantizer
        terms: dict[str, Tensor] = {}
        if config.learn == "decoder":
            with torch.no_grad():
                codes = quantizer.encode(self.encode(batch.pcm).float(), self.codec.num_codebooks)
            decoded = self._dequantize(codes)
            loss = decoded.new_zeros(())
        else:
            latent = self.encode(batch.pcm)  # [B, T, D]
            heard, seen = (self.shares[name](latent) if self.shares else latent for name in ("words", "sound"))
            semantic, loss = self._semantic(heard, batch.teacher, progress, terms)
            bottleneck = self._noise if config.bottleneck == "noise" else self._quantize
            acoustic, cost = bottleneck(seen, progress, terms)
            decoded, loss = semantic + acoustic, loss + cost
        if isinstance(self.codec.decoder, HarmonicDecoder):
            made, terms["pitch"] = self._sing(self.codec.decoder, decoded, batch.pcm)
            loss = loss + config.pitch_weight * terms["pitch"]
        else:
            made = self.decode(decoded)
        distance, parts = self.reconstruction(made, batch.pcm)
        losses: dict[str, Tensor] = {"loss": loss + distance} | terms | parts
        return losses

    def _sing(self, decoder: HarmonicDecoder, decoded: Tensor, pcm: Tensor) -> tuple[Tensor, Tensor]:
        """What a decoder of harmonics makes at the recording's own pitch, and how far its own is, in nats."""
        controls = decoder.controls(self.codec.decode_hidden(decoded))
        centres = decoder.tables(pcm.device).pitches
        pitch, is_voiced = track_pitch(pcm[:, 0], self.codec.sample_rate, centres, decoder.step)
        loss = pitch_loss(controls.pitch, pitch, is_voiced, centres)
        with torch.autocast(pcm.device.type, enabled=False):
            made = decoder.synthesize(controls, torch.where(is_voiced, pitch, decoder.pitch(controls.pitch)))
        return made, loss

    def _semantic(
        self, latent: Tensor, teacher: Tensor, progress: float, terms: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        stack = self.codec.quantizer.semantic
        if self.semantic is None:
            result = self._through(stack, latent, torch.ones(len(latent), device=latent.device), progress)
            return result.output, self.config.quantizer.commitment_weight * result.commitment
        self.semantic.write(stack)
        codes, losses = self.semantic(stack.input_proj(latent), teacher)
        terms |= {"unit": losses.unit, "unit_accuracy": losses.unit_accuracy, "distillation": losses.distillation}
        weights = self.config.semantic
        loss = weights.unit_weight * losses.unit + weights.feature_weight * losses.distillation
        return stack.output_proj(self.semantic.vectors.detach()[codes]), loss

    def _noise(self, latent: Tensor, progress: float, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        config, stack = self.config.quantizer, self.codec.quantizer.acoustic
        projected = stack.input_proj(latent)
        scale = projected.float().square().mean().clamp(min=1e-12).sqrt()
        size = 2 * config.noise * torch.rand(len(projected), 1, 1, device=projected.device)
        noisy = projected + size * scale * torch.randn_like(projected)
        terms["latent_scale"] = scale.detach()
        return stack.output_proj(noisy), config.scale_weight * scale.log().square()

    def _quantize(self, latent: Tensor, progress: float, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        config = self.config.quantizer
        active = draw_active(len(latent), self.codec.num_codebooks - 1, config.dropout).to(latent.device)
        result = self._through(self.codec.quantizer.acoustic, latent, active, progress)
        terms["commitment"] = result.commitment
        return result.output, config.commitment_weight * result.commitment

    def _through(self, stack: ResidualVQ, latent: Tensor, active: Tensor, progress: float) -> Quantized:
        config = self.config.quantizer
        share = config.bypass * max(0.0, 1 - progress / max(config.bypass_until, 1e-9))
        if self.config.bottleneck == "noise":
            share = 1.0
        result = stack.quantize(latent, active, torch.rand(len(latent), device=latent.device) < share)
        if self.training and self.config.bottleneck == "codes":
            generator = torch.Generator().manual_seed(torch.initial_seed())
            for index, codebook in enumerate(stack):
                update_codebook(
                    codebook,
                    result.inputs[index].flatten(0, 1),
                    result.codes[:, index].flatten(),
                    decay=config.decay,
                    revive_below=config.revive_below,
                    generator=generator,
                    world=self.world,
                )
        return result

    def _dequantize(self, codes: Tensor) -> Tensor:
        """`[B, K, T] -> [B, T, D]`, some rows from their first codebooks only."""
        quantizer, (batch, count, _) = self.codec.quantizer, codes.shape
        active = draw_active(batch, count - 1, self.config.quantizer.dropout).to(codes.device)
        (semantic,) = quantizer.semantic
        acoustic = torch.stack(
            [
                codebook.decode(codes[:, index]) * (index <= active)[:, None, None]
                for index, codebook in enumerate(quantizer.acoustic, start=1)
            ]
        ).sum(dim=0)
        decoded: Tensor = quantizer.semantic.output_proj(semantic.decode(codes[:, 0]))
        return decoded + quantizer.acoustic.output_proj(acoustic)  # type: ignore[no-any-return]

    @torch.no_grad()
    def write_semantic(self) -> None:
        """Gives the semantic codebook what its teacher has learned: before the codec is used or saved."""
        if self.semantic is not None:
            self.semantic.write(self.codec.quantizer.semantic)


@torch.no_grad()
def start_codebooks(
    codec: Mimi, batches: BatchFunction, num_points: int, *, seed: int, with_semantic: bool = False
) -> None:
    """K-means over at least `num_points` latents of `batches`, acoustic codebook after codebook.

    `with_semantic` starts the semantic codebook, too: one without a teacher.
    """
    latents: list[Tensor] = []
    while sum(map(len, latents)) < num_points:
        latents.append(codec.encode_latent(batches(len(latents)).pcm).float().flatten(0, 1))
    points = torch.cat(latents)
    generator = torch.Generator().manual_seed(seed)
    stacks = [codec.quantizer.acoustic]
    if with_semantic:
        stacks.append(codec.quantizer.semantic)
    for stack in stacks:
        start_stack(stack, points, generator)


def draw_active(batch: int, count: int, share: float) -> Tensor:
    """Quantizer dropout: how many of `count` codebooks a sequence uses, `[B]`; a `share` of them draws 0..`count`."""
    limited = torch.rand(batch) < share
    return torch.where(limited, torch.randint(0, count + 1, (batch,)), count)


@torch.no_grad()
def start_stack(stack: ResidualVQ, latents: Tensor, generator: torch.Generator) -> None:
    """Starts every codebook of a stack from what the ones before leave of `latents [N, D]`."""
    residual = stack.input_proj(latents)
    for codebook in stack:
        start_codebook(codebook, residual, generator=generator)
        residual = residual - codebook.decode(codebook.encode(residual))


def initialise(codec: Mimi) -> None:
    """Weights to start from: variance kept through convolutions and transformers, resampling near averaging."""
    for module in codec.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if isinstance(module, nn.ConvTranspose1d):
                with torch.no_grad():
                    # Each output sees kernel / stride taps of every input channel of its group.
                    taps = module.kernel_size[0] / module.stride[0] * module.in_channels / module.groups
                    module.weight.normal_(std=taps**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.scale, 0.1)
    with torch.no_grad():
        codec.downsample.conv.weight.mul_(0.5)
        eye = torch.eye(codec.config.dim)[:, :, None]
        codec.downsample.conv.weight.add_(eye / codec.downsample.conv.kernel_size[0])
        codec.upsample.conv.weight.normal_(mean=0.5, std=0.3)
        # From the waveform to activations of order one, and back.
        if isinstance(codec.decoder, HarmonicDecoder):
            _, levels = codec.decoder.output_conv.conv.bias.tensor_split([codec.decoder.config.num_pitches])  # type: ignore[union-attr]
            levels.fill_(math.log(_AMPLITUDE))
        else:
            codec.encoder.input_conv.conv.weight.div_(_AMPLITUDE)
            codec.decoder.output_conv.conv.weight.mul_(_AMPLITUDE)


def hidden_matrices(codec: Mimi, *, prefix: str = "") -> list[str]:
    """Names of the weights between the first and the last layer that mix channels: those that suit Muon."""
    edges = ("encoder.input_conv.", "decoder.output_conv.", "upsample.")
    return [
        prefix + name
        for name, parameter in codec.named_parameters()
        if parameter.dim() >= 2 and not name.startswith(edges)
    ]


def rate_factors(codec: Mimi, *, prefix: str = "") -> dict[str, float]:
    """Learning rates of the first and the last layer, in those of the others: as their weights are larger or smaller.

    With one rate for all, a step would be as large as the weights of the last layer themselves.
    """
    if codec.config.harmonic is not None:
        return {}
    factors = {"encoder.input_conv.": 1 / _AMPLITUDE, "decoder.output_conv.": _AMPLITUDE}
    return {
        prefix + name: factor
        for name, _ in codec.named_parameters()
        for layer, factor in factors.items()
        if name.startswith(layer) and not (name.endswith("bias") and factor > 1)
    }


def train_codec(
    config: CodecTrainConfig,
    batches: BatchFunction,
    folder: Path,
    *,
    initial: Mimi | None = None,
    teacher: SemanticTeacher | None = None,
    evaluate: Callable[[Mimi, int], dict[str, float]] | None = None,
    device: torch.device | str = "cpu",
    world: World | None = None,
    board: Board | None = None,
    compiled: bool = False,
    quiet: bool = False,
) -> Mimi:
    """Trains, or resumes what `folder` holds, and returns the codec with its averaged weights.

    It runs on `device` and gives the codec back on the CPU. Starts from `initial`, which is left as it is, or from
    random weights. `teacher` is trained along, in place: the
    next run goes on with it. `batches(index)` gives the batch of a step and must depend on nothing but `index` and the
    process; `evaluate(codec, step)` returns figures for the log. For `compiled` see `CodecTraining`. Warns of codebooks
    that have collapsed. Raises `TrainingError`.
    """
    if initial is not None and initial.config != config.model:
        raise TrainingError("the codec to start from is not of the configured model")
    if initial is None and config.learn == "decoder":
        raise TrainingError('learn="decoder" needs a codec to start from')
    torch.manual_seed(config.loop.seed)
    codec = Mimi(config.model) if initial is None else deepcopy(initial).float()
    if initial is None:
        initialise(codec)
    training = CodecTraining(config, codec, teacher=teacher, world=world, compiled=compiled).to(device)

    def on_device(index: int) -> CodecBatch:
        return batches(index).to(device)

    loop = TrainingLoop(
        config.loop,
        training,
        folder,
        description={
            "config": described(config),
            "num_units": 0 if teacher is None else teacher.num_units,
            "starting_weights": weights_digest(None if initial is None else initial.state_dict()),
        },
        hidden_matrices=hidden_matrices(codec, prefix="codec."),
        rate_factors=rate_factors(codec, prefix="codec."),
        rivals=training.rivals,
        world=world,
        board=board,
    )
    is_quantizing = config.learn == "all" and config.bottleneck == "codes"
    if not loop.resume() and is_quantizing and config.quantizer.kmeans_points:
        start_codebooks(
            codec,
            on_device,
            config.quantizer.kmeans_points,
            seed=config.loop.seed,
            with_semantic=training.semantic is None,
        )

    def measure(index: int) -> dict[str, float]:
        in_use = {number: perplexity(codebook.cluster_usage) for number, codebook in _learning(training).items()}
        _warn_of_collapse(in_use, config.model.codebook_size)
        figures = {f"perplexity_{number}": value for number, value in in_use.items()}
        with loop.averaged():
            training.write_semantic()
            return figures | (evaluate(codec, index) if evaluate is not None else {})

    loop.run(lambda index, progress: training(on_device(index), progress), evaluate=measure, quiet=quiet)
    loop.assign_average()
    training.write_semantic()
    training.cpu()
    for parameter in codec.parameters():
        parameter.requires_grad_(True)
    return codec.eval()


def _learning(training: CodecTraining) -> dict[int, Codebook]:
    """The codebooks that follow moving averages, whose usage is therefore counted, by number."""
    if training.config.learn == "decoder" or training.config.bottleneck == "noise":
        return {}
    quantizer = training.codec.quantizer
    first = {} if training.semantic is not None else dict(enumerate(quantizer.semantic))
    return first | dict(enumerate(quantizer.acoustic, start=1))


def _warn_of_collapse(in_use: dict[int, float], size: int) -> None:
    for number, value in in_use.items():
        if value < size * _COLLAPSED_SHARE:
            warnings.warn(
                f"codebook {number} has collapsed: {value:.0f} of its {size} codes are in use; raise "
                "quantizer.revive_below, or lower the learning rates",
                stacklevel=3,
            )
