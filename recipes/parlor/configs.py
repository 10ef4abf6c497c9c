"""The configurations of parlor's speech model; its codec has a recipe of its own, `recipes.parlor_codec`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from duologue.config import CSMConfig, MimiConfig, TransformerConfig
from duologue.train.csm import CSMTrainConfig
from duologue.train.loop import LoopConfig
from recipes.parlor.text import TEXT

RESERVED_AUDIO_IDS = 3
GUIDANCE = 2.0


@dataclass(frozen=True)
class TransformerShape:
    """What sizes differ in."""

    dim: int
    num_layers: int
    num_heads: int
    ffn_dim: int

    def config(self, *, max_positions: int) -> TransformerConfig:
        """A transformer as Llama has them."""
        return TransformerConfig(
            dim=self.dim,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            ffn_dim=self.ffn_dim,
            max_positions=max_positions,
            rope_theta=10_000.0,
        )


SIZES = {
    "small": (TransformerShape(384, 6, 6, 1024), TransformerShape(256, 3, 4, 768)),
    "base": (TransformerShape(512, 7, 8, 1408), TransformerShape(320, 3, 5, 960)),
}


def csm_model(
    text_vocab_size: int, codec: MimiConfig, size: str = "base", num_codebooks: int | None = None
) -> CSMConfig:
    """A model of one of `SIZES`; their parameters, without those of the codes: 11 and 2.6 M, or 23 and 4 M.

    It speaks the first `num_codebooks` of the codec, by default all.
    """
    backbone, depth = SIZES[size]
    return CSMConfig(
        backbone=backbone.config(max_positions=2048),
        depth=depth.config(max_positions=64),
        text_vocab_size=text_vocab_size,
        audio_vocab_size=codec.codebook_size + RESERVED_AUDIO_IDS,
        num_codebooks=num_codebooks or codec.num_codebooks,
        codebook_size=codec.codebook_size,
        text=TEXT,
        guidance=GUIDANCE,
    )


def csm_training(model: CSMConfig, *, minutes: float, num_steps: int = 40_000) -> CSMTrainConfig:
    """From random weights: half of the frames through the depth decoder, the alignment term for the first third.

    Some turns are heard without their text: the speech that guidance steers away from.
    """
    loop = LoopConfig(
        num_steps=num_steps,
        learning_rate=2e-3,
        muon_learning_rate=4e-3,
        weight_decay=0.1,
        warmup_steps=60,
        budget_minutes=minutes,
        autocast="auto",
        ema_decay=0.998,
        save_every=200,
        evaluate_every=400,
        final_lr_share=0.05,
    )
    return CSMTrainConfig(
        model=model,
        loop=loop,
        depth_share=0.5,
        dropout=0.1,
        history_masking=0.2,
        text_masking=0.08,
        alignment_weight=0.3,
        alignment_layer=2,
        alignment_until=0.35,
    )


def csm_continuation(model: CSMConfig, *, minutes: float) -> CSMTrainConfig:
    """For a model that reads already: no alignment term, no dropout, the depth decoder weighed more."""
    start = csm_training(model, minutes=minutes)
    return replace(
        start,
        model=replace(model, guidance=GUIDANCE),
        loop=replace(start.loop, learning_rate=1.5e-3, muon_learning_rate=3e-3),
        dropout=0.0,
        depth_weight=0.65,
        alignment_weight=0.0,
    )


def csm_transfer(
    model: CSMConfig, codec: MimiConfig, *, minutes: float, num_codebooks: int | None = None
) -> CSMTrainConfig:
    """For a model that reads already, over another codec: the new codes are aligned as those of a first training.

    It will speak the first `num_codebooks` of that codec, by default all.
    """
    over = replace(
        model,
        num_codebooks=num_codebooks or codec.num_codebooks,
        codebook_size=codec.codebook_size,
        audio_vocab_size=codec.codebook_size + RESERVED_AUDIO_IDS,
    )
    start = csm_training(over, minutes=minutes)
    further = csm_continuation(over, minutes=minutes)
    return replace(further, alignment_weight=start.alignment_weight)
