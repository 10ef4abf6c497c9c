"""Presets: parlor's codec for two cores, and Mimi's own size for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from duologue.config import MIMI_PRESETS, HarmonicConfig, MimiConfig, mimi_transformer
from duologue.train.adversary import AdversaryConfig
from duologue.train.codec import CodecTrainConfig, QuantizerConfig
from duologue.train.loop import LoopConfig

# Discriminators of parlor's size. Its plan has none: at these weights they undid the decoder of harmonics (dev/LOG.md),
# and what it may gain from gentler ones is not measured yet (`python -m recipes.parlor_codec.ablate adversary`).
SMALL_JUDGES = AdversaryConfig(filters=8)


@dataclass(frozen=True)
class CodecPlan:
    """The two runs of a codec (see `duologue.train.codec`) and the crops they learn from.

    Between them the codebooks start from `kmeans_points` latents. `shifted` is the share of crops in another pitch.
    """

    latent: CodecTrainConfig
    decoder: CodecTrainConfig
    crop_frames: int
    crops_per_batch: int
    shifted: float = 0.7
    kmeans_points: int = 131_072

    def runs(self) -> dict[str, CodecTrainConfig]:
        """The runs by name, in order."""
        return {"latent": self.latent, "decoder": self.decoder}


def parlor_model() -> MimiConfig:
    """Mimi's structure, narrower, as a codec of harmonics: 12 codebooks of 1024, 1.5 kbit/s, a 2 s window."""
    return MimiConfig(
        transformer=mimi_transformer(256, 4, 4, 1024, 50),
        dim=256,
        num_codebooks=12,
        codebook_size=1024,
        codebook_dim=64,
        harmonic=HarmonicConfig(fft_size=512),
    )


def parlor(minutes: float) -> CodecPlan:
    """For two cores: 1.6 s crops, bfloat16 where it is fast, `minutes` of computing for both runs together."""
    loop = LoopConfig(
        num_steps=1_000_000,
        learning_rate=1e-3,
        muon_learning_rate=3e-3,
        weight_decay=0.1,
        warmup_steps=60,
        budget_minutes=0.75 * minutes,
        autocast="auto",
        ema_decay=0.998,
        save_every=250,
        evaluate_every=1000,
        final_lr_share=0.03,
    )
    latent = CodecTrainConfig(
        model=parlor_model(), loop=loop, bottleneck="noise", quantizer=QuantizerConfig(noise=0.2), pitch_weight=2.0
    )
    decoder = replace(
        latent,
        learn="decoder",
        bottleneck="codes",
        loop=replace(loop, learning_rate=6e-4, muon_learning_rate=1.5e-3, budget_minutes=0.25 * minutes),
    )
    return CodecPlan(latent, decoder, crop_frames=20, crops_per_batch=12)


def mimi(minutes: float) -> CodecPlan:
    """Mimi's own size, for a GPU: 32 codebooks of 2048, crops of 4 s."""
    plan = parlor(minutes)
    model = MIMI_PRESETS["mimi"]

    def grown(config: CodecTrainConfig, adversary: AdversaryConfig | None = None) -> CodecTrainConfig:
        return replace(
            config,
            model=model,
            reconstruction=replace(config.reconstruction, adversary=adversary),
        )

    judges = AdversaryConfig(windows=(2048, 1024, 512, 256, 128), filters=32)
    return replace(
        plan,
        latent=grown(plan.latent),
        decoder=grown(plan.decoder, judges),
        crop_frames=50,
        crops_per_batch=32,
    )


PLANS: dict[str, Callable[[float], CodecPlan]] = {"parlor": parlor, "mimi": mimi}


def adaptation(model: MimiConfig, *, minutes: float) -> CodecTrainConfig:
    """The decoder alone, for a codec of any size that sounds right already."""
    plan = parlor(minutes)
    loop = replace(plan.decoder.loop, learning_rate=3e-4, muon_learning_rate=6e-4, budget_minutes=minutes)
    return replace(plan.decoder, model=model, loop=loop, quantizer=QuantizerConfig(dropout=0.3))
