"""Words for the semantic codebook, taught by a speech recogniser's encoder.

Each code comes to stand for one unit of the recogniser's features, their k-means centres as in Hsu et al., "HuBERT"
(2021), section II.B. A code is the nearest vector, and the nearest vector is the largest of `x . v - |v|^2 / 2`: a
linear classifier, which cross-entropy can train on the unit that the recogniser heard. A cosine term predicts the
features themselves, as in Defossez et al., "Moshi" (2024), section 3.3.2. What is decoded teaches the semantic codebook
nothing, so that it stays about words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.codec.quantizer import ResidualVQ
from duologue.config import JsonConfig
from duologue.train.codebooks import kmeans, nearest

_FIRST_SPREAD = 0.1


@dataclass(frozen=True)
class SemanticConfig(JsonConfig):
    """Weights of the right unit and of the recogniser's features.

    `share` is the size of their gradient at the encoder's latent, in that of the sound's: without it the words are not
    learned, since the gradient of the sound is hundreds of times larger.
    """

    unit_weight: float = 1.0
    feature_weight: float = 5.0
    share: float = 1.0


@dataclass(frozen=True)
class SemanticLosses:
    """Cross-entropy in nats, share of right units, and one minus the cosine to the features; over known frames."""

    unit: Tensor
    unit_accuracy: Tensor
    distillation: Tensor


def find_units(features: Tensor, count: int, *, seed: int, iterations: int = 15) -> Tensor:
    """The k-means centres `[count, F]` of features `[N, F]`."""
    generator = torch.Generator().manual_seed(seed)
    centres, _ = kmeans(features, count, iterations=iterations, generator=generator)
    return centres


class SemanticTeacher(nn.Module):
    """The vectors of the semantic codebook, learned as the weights of a classifier: one unit a code, `U` of them."""

    centres: Tensor

    def __init__(self, centres: Tensor, codebook_dim: int, *, seed: int = 0) -> None:
        """`centres [U, F]` are the units' features."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("centres", centres.float())
        self.vectors = nn.Parameter(torch.randn(len(centres), codebook_dim, generator=generator) * _FIRST_SPREAD)
        self.head = nn.Linear(codebook_dim, centres.shape[1])
        nn.init.normal_(self.head.weight, std=codebook_dim**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    @property
    def num_units(self) -> int:
        """`U`."""
        return len(self.vectors)

    @torch.no_grad()
    def write(self, stack: ResidualVQ) -> None:
        """Gives the codebook of the semantic stack the learned vectors."""
        (codebook,) = stack
        codebook.cluster_usage.fill_(1.0)
        codebook.embedding_sum.copy_(self.vectors)

    def logits(self, projected: Tensor) -> Tensor:
        """`[..., C] -> [..., U]`."""
        return F.linear(projected.float(), self.vectors) - self.vectors.square().sum(dim=-1) / 2

    def forward(self, projected: Tensor, teacher: Tensor) -> tuple[Tensor, SemanticLosses]:
        """Codes `[B, T]` of what the codebook is to quantize, `projected [B, T, C]`, and the losses.

        `teacher [B, T, F]` are the recogniser's features; where they are zero nothing is known. A batch in which
        nothing is known has zero losses.
        """
        known = teacher.abs().amax(dim=-1) > 0  # [B, T]
        with torch.autocast(projected.device.type, enabled=False):
            logits = self.logits(projected)
            codes = logits.detach().argmax(dim=-1)
            features = teacher.float()
            labels = nearest(features, self.centres)
            cosine = F.cosine_similarity(self.head(projected.float()), features, dim=-1)
            unit = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
            is_right = (codes == labels).float()

            def mean(values: Tensor) -> Tensor:
                return torch.where(known, values, 0.0).sum() / known.sum().clamp(min=1)

            losses = SemanticLosses(mean(unit), mean(is_right), mean(1 - cosine))
        return codes, losses
