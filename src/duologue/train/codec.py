"""Trains a Mimi from scratch: reconstruction, commitment, and words distilled into the semantic codebook.

Source: Defossez et al., "Moshi" (2024), section 3.3. The modules are those that run inference. The run has three
phases: first nothing is quantized while the latent takes shape; then the codebooks start from k-means of real latents,
and a falling share of sequences bypasses them; at the end all are quantized, with a random number of codebooks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.codec.mimi import Mimi
from duologue.codec.quantizer import Codebook, Quantized, ResidualVQ
from duologue.config import JsonConfig, MimiConfig
from duologue.nn.transformer import LayerScale
from duologue.train.codebooks import perplexity, start_codebook, update_codebook
from duologue.train.loop import LoopConfig, TrainingLoop
from duologue.train.spectral import MultiScaleMel


@dataclass(frozen=True)
class CodecTrainConfig(JsonConfig):
    """What is learned and how the terms are weighed.

    `quantize_from` is the progress at which quantization starts; `bypass` the share of sequences that then still skip
    it, falling to 0 at progress `bypass_until`. `dropout` is the share of sequences with a random number of codebooks.
    """

    model: MimiConfig
    loop: LoopConfig
    teacher_dim: int = 512
    mel_scales: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_bins: tuple[int, ...] = (20, 40, 80, 120)
    mel_weight: float = 15.0
    waveform_weight: float = 0.5
    commitment_weight: float = 0.25
    distillation_weight: float = 1.0
    quantize_from: float = 0.08
    bypass: float = 0.5
    bypass_until: float = 0.5
    dropout: float = 0.2
    codebook_decay: float = 0.99
    revive_below: float = 0.03
    kmeans_points: int = 16_384


@dataclass(frozen=True)
class CodecBatch:
    """Crops `pcm [B, 1, S]` of whole frames, and the teacher's features `[B, T, teacher_dim]`: zero where unknown."""

    pcm: Tensor
    teacher: Tensor


BatchFunction = Callable[[int], CodecBatch]


class CodecTraining(nn.Module):
    """The codec with what only training needs: the head that predicts the teacher from the semantic code."""

    def __init__(self, config: CodecTrainConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = Mimi(config.model)
        self.teacher_head = nn.Linear(config.model.dim, config.teacher_dim)
        self.mel = MultiScaleMel(config.model.sample_rate, tuple(zip(config.mel_scales, config.mel_bins, strict=True)))
        initialise(self.codec)

    def forward(self, batch: CodecBatch, progress: float) -> dict[str, Tensor]:
        """Losses of one batch; also updates the codebooks. `progress` selects the phase."""
        config = self.config
        latent = self.codec.encode_latent(batch.pcm)  # [B, T, D]
        if progress < config.quantize_from:
            quantizer = self.codec.quantizer
            semantic = quantizer.semantic.project(latent)
            made = self.codec.decode_latent(semantic + quantizer.acoustic.project(latent))
            losses = {}
        else:
            split = self._quantize(latent, progress)
            made = self.codec.decode_latent(split[0].output + split[1].output)
            semantic = split[0].output
            losses = {"commitment": split[0].commitment + split[1].commitment}
        losses["mel"] = self.mel(made[:, 0], batch.pcm[:, 0])
        losses["waveform"] = (made.float() - batch.pcm).abs().mean()
        losses["distillation"] = self._distillation(semantic, batch.teacher)
        losses["loss"] = (
            config.mel_weight * losses["mel"]
            + config.waveform_weight * losses["waveform"]
            + config.distillation_weight * losses["distillation"]
            + config.commitment_weight * losses.get("commitment", torch.zeros(()))
        )
        return losses

    def _quantize(self, latent: Tensor, progress: float) -> tuple[Quantized, Quantized]:
        config, batch = self.config, latent.shape[0]
        quantizer = self.codec.quantizer
        span = max(config.bypass_until - config.quantize_from, 1e-9)
        share = config.bypass * max(0.0, 1 - (progress - config.quantize_from) / span)
        bypass = torch.rand(batch) < share
        count = self.codec.num_codebooks - 1
        active = draw_active(batch, count, config.dropout)
        semantic = quantizer.semantic.quantize(latent, torch.ones_like(active), bypass)
        acoustic = quantizer.acoustic.quantize(latent, active, bypass)
        if self.training:
            generator = torch.Generator().manual_seed(torch.initial_seed())
            for stack, result in ((quantizer.semantic, semantic), (quantizer.acoustic, acoustic)):
                for index, codebook in enumerate(stack):
                    update_codebook(
                        codebook,
                        result.inputs[index].flatten(0, 1),
                        result.codes[:, index].flatten(),
                        decay=config.codebook_decay,
                        revive_below=config.revive_below,
                        generator=generator,
                    )
        return semantic, acoustic

    def _distillation(self, semantic: Tensor, teacher: Tensor) -> Tensor:
        known = teacher.abs().amax(dim=-1) > 0  # [B, T]
        similarity = F.cosine_similarity(self.teacher_head(semantic).float(), teacher.float(), dim=-1)
        return 1 - (similarity * known).sum() / known.sum().clamp(min=1)

    @torch.no_grad()
    def start_codebooks(self, batches: BatchFunction, *, seed: int) -> None:
        """K-means over the latents of as many fresh batches as `kmeans_points` asks for, codebook after codebook."""
        latents, count, index = [], 0, 0
        while count < self.config.kmeans_points:
            latent = self.codec.encode_latent(batches(index).pcm).float().flatten(0, 1)  # [B * T, D]
            latents.append(latent)
            count += latent.shape[0]
            index += 1
        points = torch.cat(latents)
        generator = torch.Generator().manual_seed(seed)
        with torch.autocast(points.device.type, enabled=False):
            for stack in (self.codec.quantizer.semantic, self.codec.quantizer.acoustic):
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
        codec.decoder.output_conv.conv.weight.mul_(0.1)  # quiet at first: loud noise takes long to unlearn


def hidden_matrices(codec: Mimi, *, prefix: str = "") -> list[str]:
    """Names of the weights between the first and the last layer that mix channels: those that suit Muon."""
    edges = ("encoder.input_conv.", "decoder.output_conv.", "upsample.")
    return [
        prefix + name
        for name, parameter in codec.named_parameters()
        if parameter.dim() >= 2 and not name.startswith(edges)
    ]


def train_codec(
    config: CodecTrainConfig,
    batches: BatchFunction,
    folder: Path,
    *,
    evaluate: Callable[[Mimi, int], dict[str, float]] | None = None,
    quiet: bool = False,
) -> Mimi:
    """Trains, or resumes what `folder` holds, and returns the codec with its averaged weights.

    `batches(index)` gives the batch of a step and must depend on nothing but `index`; `evaluate(codec, step)` returns
    named figures for the log. Raises `TrainingError`.
    """
    torch.manual_seed(config.loop.seed)
    training = CodecTraining(config)
    loop = TrainingLoop(
        config.loop,
        training,
        folder,
        description={"config": config.to_dict()},
        hidden_matrices=hidden_matrices(training.codec, prefix="codec."),
    )
    resumed = loop.resume()
    started = resumed and loop.progress >= config.quantize_from

    def step(index: int, progress: float) -> dict[str, Tensor]:
        nonlocal started
        if progress >= config.quantize_from and not started:
            training.start_codebooks(batches, seed=config.loop.seed)
            started = True
        return training(batches(index), progress)  # type: ignore[no-any-return]

    def measure(index: int) -> dict[str, float]:
        books = enumerate(_codebooks(training.codec))
        figures = {f"perplexity_{k}": perplexity(book.cluster_usage) for k, book in books}
        with loop.averaged():
            return figures | (evaluate(training.codec, index) if evaluate is not None else {})

    loop.run(step, evaluate=measure, quiet=quiet)
    loop.assign_average()
    return training.codec.eval()


def _codebooks(codec: Mimi) -> list[Codebook]:
    return [*codec.quantizer.semantic, *codec.quantizer.acoustic]
