"""How far what a codec makes is from the recording: spectral distances, and discriminators where there are some."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from duologue.config import JsonConfig
from duologue.train.adversary import Adversary, AdversaryConfig
from duologue.train.balancer import Balancer
from duologue.train.distributed import World
from duologue.train.spectral import MultiScaleMel, MultiScaleSTFT

# What the loss of the discriminators is called among the losses of a step: `TrainingLoop` descends it apart.
DISCRIMINATION = "discrimination"


@dataclass(frozen=True)
class ReconstructionConfig(JsonConfig):
    """Windows in samples with the mel bands of each, and the weights of the terms.

    `floor_db` is the level, in dB of full scale (see `spectral`), below which sounds are as good as silence.

    The weights of `adversary` are sizes of gradients, in that of the spectral terms together (see `balancer`).
    """

    mel_scales: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_bins: tuple[int, ...] = (20, 40, 80, 240)
    mel_weight: float = 15.0
    floor_db: float = -66.0
    stft_scales: tuple[int, ...] = ()
    stft_weight: float = 1.0
    adversary: AdversaryConfig | None = None


class Reconstruction(nn.Module):
    """The losses of a pair of waveforms. The discriminators live in `adversary`; nothing else here learns."""

    def __init__(
        self,
        config: ReconstructionConfig,
        sample_rate: int,
        *,
        world: World | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        scales = tuple(zip(config.mel_scales, config.mel_bins, strict=True))
        self.mel = MultiScaleMel(sample_rate, scales, floor_db=config.floor_db)
        self.stft = MultiScaleSTFT(config.stft_scales, floor_db=config.floor_db)
        self.adversary: Adversary | None = None
        balanced = {}
        if config.adversary is not None:
            self.adversary = Adversary(config.adversary)
            balanced = {
                "adversarial": config.adversary.adversarial_weight,
                "features": config.adversary.feature_weight,
            }
        self.balancer = Balancer(balanced, world=world)

    def forward(self, made: Tensor, true: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to descend for `made [B, 1, S]` against `true [B, 1, S]`, and all terms by name, for the log.

        With an adversary the terms contain `DISCRIMINATION`.
        """
        config = self.config
        terms = {"mel": self.mel(made[:, 0], true[:, 0])}
        loss = config.mel_weight * terms["mel"]
        if config.stft_scales:
            terms["stft"] = self.stft(made[:, 0], true[:, 0])
            loss = loss + config.stft_weight * terms["stft"]
        if self.adversary is not None:
            verdict = self.adversary(made, true)
            terms |= {"adversarial": verdict.adversarial, "features": verdict.features}
            terms[DISCRIMINATION] = verdict.discrimination
        return self.balancer(loss, terms, made), terms
