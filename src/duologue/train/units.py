"""Teaches words to the semantic codebook of a codec that already sounds right.

Each code of the semantic codebook comes to stand for one unit of a speech recogniser's features, their k-means centres
as in Hsu et al., "HuBERT" (2021), section II.B. A code is the nearest vector, and the nearest vector is the largest of
`x . v - |v|^2 / 2`: a linear classifier, which cross-entropy can train on the unit that the teacher heard. Only the
encoder learns, and what it gives to the acoustic codebooks is held where it was; so nothing needs to be decoded, and no
codebook has to follow a moving target. `decoder` then trains the other half on the new codes.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.codec.mimi import Mimi
from duologue.codec.quantizer import ResidualVQ
from duologue.config import JsonConfig
from duologue.train.codebooks import kmeans, nearest
from duologue.train.codec import CodecBatch
from duologue.train.loop import LoopConfig, TrainingLoop

_TRAINED = ("encoder", "downsample", "quantizer.semantic.input_proj", "quantizer.acoustic.input_proj")
_FIRST_SPREAD = 0.1
_FAR = 10.0


@dataclass(frozen=True)
class UnitTrainConfig(JsonConfig):
    """How the terms are weighed: the right unit, the teacher's features, and keeping the acoustic latent."""

    loop: LoopConfig
    unit_weight: float = 1.0
    distillation_weight: float = 5.0
    acoustic_weight: float = 30.0


def find_units(features: Tensor, count: int, *, seed: int, iterations: int = 15) -> Tensor:
    """The k-means centres `[count, F]` of features `[N, F]`."""
    generator = torch.Generator().manual_seed(seed)
    centres, _ = kmeans(features, count, iterations=iterations, generator=generator)
    return centres


class UnitClassifier(nn.Module):
    """Vectors of the semantic codebook that are learned as the weights of a classifier.

    `U` units share a codebook of at least as many codes; the codes left over lie far from everything and are never
    chosen. `scale` is the size of the projected latent, set once by `fit_scale`, so that the learned vectors are of
    order one whatever the size of the latent.
    """

    centres: Tensor
    scale: Tensor

    def __init__(self, centres: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("centres", centres.float())
        self.register_buffer("scale", torch.ones(()))
        self.vectors = nn.Parameter(torch.randn(centres.shape[0], dim) * _FIRST_SPREAD)

    @torch.no_grad()
    def fit_scale(self, projected: Tensor) -> None:
        """Takes the root mean square of `projected`, of any shape, as the scale."""
        self.scale.copy_(projected.float().square().mean().sqrt().clamp(min=1e-6))

    def forward(self, projected: Tensor, teacher: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats and share of right units over the `known [B, T]` frames.

        `projected [B, T, C]` is what the codebook quantizes, `teacher [B, T, F]` the features that the centres were
        found in. A batch in which nothing is known gives zeros.
        """
        if not known.any():
            return projected.sum() * 0.0, projected.new_zeros(())
        x = projected.float()[known] / self.scale
        logits = F.linear(x, self.vectors) - self.vectors.square().sum(dim=-1) / 2  # [N, U]
        labels = nearest(teacher.float()[known], self.centres)
        right = (logits.detach().argmax(dim=-1) == labels).float().mean()
        return F.cross_entropy(logits, labels), right

    @torch.no_grad()
    def write(self, stack: ResidualVQ) -> None:
        """Gives the codebook of the semantic stack the learned vectors."""
        (codebook,) = stack
        vectors = torch.full_like(codebook.embedding_sum, _FAR * self.vectors.abs().max().item())
        vectors[: len(self.vectors)] = self.vectors
        codebook.cluster_usage.fill_(1.0)
        codebook.embedding_sum.copy_(vectors * self.scale)


class UnitTraining(nn.Module):
    """A codec whose encoder learns, the same codec as it was, and the two heads that only training needs."""

    def __init__(self, config: UnitTrainConfig, codec: Mimi, units: Tensor) -> None:
        super().__init__()
        self.config, self.codec = config, deepcopy(codec)
        self.reference = deepcopy(codec).requires_grad_(False).eval()
        for name, parameter in self.codec.named_parameters():
            parameter.requires_grad_(name.startswith(_TRAINED))
        stack = self.codec.quantizer.semantic
        self.units = UnitClassifier(units, codec.config.codebook_dim)
        self.teacher_head = nn.Linear(codec.config.codebook_dim, units.shape[1])
        self.register_buffer("variance", torch.ones(()))
        nn.init.normal_(stack.input_proj.weight, std=codec.config.dim**-0.5)

    variance: Tensor

    @torch.no_grad()
    def start(self, batch: CodecBatch) -> None:
        """Fits scales to the latents of a batch, and the decoder's side of the semantic codebook to the old one's."""
        latent = self.reference.encode_latent(batch.pcm)
        projected = self.codec.quantizer.semantic.input_proj(latent)
        self.units.fit_scale(projected)
        acoustic = self.reference.quantizer.acoustic.input_proj(latent).flatten(0, 1)
        self.variance.copy_(acoustic.var(dim=0, correction=0).mean().clamp(min=1e-9))
        # What the decoder has been given of the acoustic codebooks tells the size that it expects.
        expected = self.reference.quantizer.acoustic.project(latent).square().mean().sqrt() / 2
        stack = self.codec.quantizer.semantic
        std = expected / self.units.scale * stack.output_proj.in_features**-0.5
        stack.output_proj.weight.normal_().mul_(std)

    def forward(self, batch: CodecBatch) -> dict[str, Tensor]:
        """Losses of one batch."""
        config, quantizer = self.config, self.codec.quantizer
        with torch.no_grad():
            before = self.reference.quantizer.acoustic.input_proj(self.reference.encode_latent(batch.pcm)).float()
        latent = self.codec.encode_latent(batch.pcm)
        acoustic = quantizer.acoustic.input_proj(latent).float()
        known = batch.teacher.abs().amax(dim=-1) > 0  # [B, T]
        with torch.autocast(latent.device.type, enabled=False):
            projected = F.linear(latent.float(), quantizer.semantic.input_proj.weight)
            unit, right = self.units(projected, batch.teacher, known)
            heard = self.teacher_head(projected / self.units.scale)
            similarity = F.cosine_similarity(heard, batch.teacher.float(), dim=-1)
        losses = {
            "unit": unit,
            "unit_accuracy": right,
            "distillation": 1 - (similarity * known).sum() / known.sum().clamp(min=1),
            "acoustic": (acoustic - before).square().mean() / self.variance,
        }
        losses["loss"] = (
            config.unit_weight * losses["unit"]
            + config.distillation_weight * losses["distillation"]
            + config.acoustic_weight * losses["acoustic"]
        )
        return losses


def train_units(
    config: UnitTrainConfig,
    codec: Mimi,
    units: Tensor,
    batches: Callable[[int], CodecBatch],
    folder: Path,
    *,
    quiet: bool = False,
) -> Mimi:
    """Trains, or resumes what `folder` holds; returns a codec whose semantic codes are `units [U, teacher_dim]`.

    `U` is at most the number of codes of a codebook. The acoustic codes stay nearly as they were; the decoder does not
    know the new semantic ones yet (see `decoder`). `batches(index)` gives the batch of a step and must depend on
    nothing but `index`. `codec` is left as it is. Raises `TrainingError`.
    """
    torch.manual_seed(config.loop.seed)
    training = UnitTraining(config, codec, units)
    training.start(batches(0))
    loop = TrainingLoop(
        config.loop,
        training,
        folder,
        description={"config": config.to_dict(), "codec": codec.config.to_dict(), "num_units": len(units)},
    )
    loop.resume()
    loop.run(lambda index, _: training(batches(index)), quiet=quiet)
    loop.assign_average()
    training.units.write(training.codec.quantizer.semantic)
    for parameter in training.codec.parameters():
        parameter.requires_grad_(True)
    return training.codec.eval()
