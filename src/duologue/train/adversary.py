"""The adversarial game: what the codec loses by being recognised, and what the discriminators learn from it.

Sources: Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec, 2022), section 3.4: hinge losses, and the
distance between the discriminators' features relative to the size of those of the recording.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.config import JsonConfig
from duologue.errors import TrainingError
from duologue.train.discriminator import Judgement, PeriodDiscriminator, STFTDiscriminator

# Of the running mean of the discriminators' loss, a step.
_MEMORY = 0.98
# Hinge losses of both sides where the discriminators answer 0 to everything.
_DRAW = 2.0


@dataclass(frozen=True)
class AdversaryConfig(JsonConfig):
    """Discriminators and the weights of what they say.

    `windows` are those of the spectral discriminators in samples, `periods` those of the waveform's (none by default;
    HiFi-GAN has 2, 3, 5, 7, 11). `adversarial_weight` and `feature_weight` are sizes of gradients (see `balancer`).
    Training ends with an error where the running mean of the discriminators' loss, `_DRAW` at first, falls below
    `lost_below`: a discriminator that is never wrong has nothing left to teach.
    """

    windows: tuple[int, ...] = (2048, 1024, 512)
    filters: int = 32
    periods: tuple[int, ...] = ()
    period_filters: int = 16
    learning_rate: float = 3e-4
    adversarial_weight: float = 1.0
    feature_weight: float = 2.0
    lost_below: float = 0.05


@dataclass(frozen=True)
class Verdict:
    """Losses, scalars: `adversarial` and `features` are the codec's, `discrimination` the discriminators' own."""

    adversarial: Tensor
    features: Tensor
    discrimination: Tensor


class Adversary(nn.Module):
    """All discriminators."""

    mean_loss: Tensor

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.config = config
        self.judges = nn.ModuleList(
            [STFTDiscriminator(window, config.filters) for window in config.windows]
            + [PeriodDiscriminator(period, config.period_filters) for period in config.periods]
        )
        self.register_buffer("mean_loss", torch.tensor(_DRAW))

    def forward(self, made: Tensor, true: Tensor) -> Verdict:
        """Judges `made [B, 1, S]` against the recordings `true [B, 1, S]`.

        One pass over `made` serves both sides of the game: the gradient of `discrimination` is to be taken for the
        discriminators' parameters only, that of the two others for everything but these. Raises `TrainingError` when
        the discriminators have won.
        """
        pairs = [(judge(made), judge(true)) for judge in self.judges]
        adversarial = sum(_mean(-fake.logits) for fake, _ in pairs) / len(pairs)
        discrimination = sum(_mean(F.relu(1 + f.logits)) + _mean(F.relu(1 - t.logits)) for f, t in pairs) / len(pairs)
        features = sum(_feature_distance(fake, real) for fake, real in pairs) / len(pairs)
        assert isinstance(adversarial, Tensor) and isinstance(discrimination, Tensor) and isinstance(features, Tensor)
        if self.training:
            self._follow(discrimination.detach())
        return Verdict(adversarial, features, discrimination)

    def _follow(self, loss: Tensor) -> None:
        self.mean_loss.lerp_(loss.float(), 1 - _MEMORY)
        mean = float(self.mean_loss)
        if mean < self.config.lost_below:
            raise TrainingError(
                f"the discriminators win: their loss has fallen to {mean:.3f} ({_DRAW:g} is a draw), so they teach the "
                "codec nothing any more; lower adversary.learning_rate or adversary.filters; the last checkpoint is "
                "from before"
            )


def _mean(values: Tensor) -> Tensor:
    return values.float().mean()


def _feature_distance(fake: Judgement, real: Judgement) -> Tensor:
    terms = []
    for ours, theirs in zip(fake.features, real.features, strict=True):
        target = theirs.detach().float()
        terms.append((ours.float() - target).abs().mean() / target.abs().mean().clamp(min=1e-6))
    return torch.stack(terms).mean()
