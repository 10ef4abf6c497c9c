"""The configurations of parlor: a small Mimi and a small CSM over it."""

from __future__ import annotations

from duologue.config import CSMConfig, MimiConfig, TransformerConfig
from duologue.train.codec import CodecTrainConfig
from duologue.train.csm import CSMTrainConfig
from duologue.train.loop import LoopConfig
from recipes.parlor.text import TEXT

RESERVED_AUDIO_IDS = 3


def codec_model() -> MimiConfig:
    """Mimi's structure at about a sixth of its cost: 8 codebooks of 1024, 1 kbit/s, a 2 s window."""
    transformer = TransformerConfig(
        dim=256,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        ffn_dim=1024,
        max_positions=8000,
        norm="layer",
        mlp="gelu",
        final_norm=False,
        layer_scale=True,
        window=50,
        rope_theta=10_000.0,
    )
    return MimiConfig(
        transformer=transformer, num_filters=24, dim=256, num_codebooks=8, codebook_size=1024, codebook_dim=64
    )


def codec_training(*, minutes: float, num_steps: int = 20_000) -> CodecTrainConfig:
    """For two cores: 1.6 s crops, bfloat16 where the processor has it, a budget of minutes."""
    loop = LoopConfig(
        num_steps=num_steps,
        learning_rate=1.2e-3,
        muon_learning_rate=3e-3,
        warmup_steps=60,
        budget_minutes=minutes,
        autocast="bfloat16",
        ema_decay=0.998,
        save_every=250,
        evaluate_every=500,
        final_lr_share=0.03,
    )
    return CodecTrainConfig(
        model=codec_model(), loop=loop, distillation_weight=2.0, revive_below=0.01, codebook_decay=0.98
    )


def csm_model(text_vocab_size: int, codec: MimiConfig) -> CSMConfig:
    """A backbone of 11 M parameters and a depth decoder of 2.6 M."""
    backbone = TransformerConfig(
        dim=384,
        num_layers=6,
        num_heads=6,
        num_kv_heads=6,
        ffn_dim=1024,
        max_positions=2048,
        rope_theta=10_000.0,
    )
    depth = TransformerConfig(
        dim=256, num_layers=3, num_heads=4, num_kv_heads=4, ffn_dim=768, max_positions=64, rope_theta=10_000.0
    )
    return CSMConfig(
        backbone=backbone,
        depth=depth,
        text_vocab_size=text_vocab_size,
        audio_vocab_size=codec.codebook_size + RESERVED_AUDIO_IDS,
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        text=TEXT,
    )


def csm_training(model: CSMConfig, *, minutes: float, num_steps: int = 40_000) -> CSMTrainConfig:
    """For two cores: a quarter of the frames through the depth decoder, the alignment term for the first third."""
    loop = LoopConfig(
        num_steps=num_steps,
        learning_rate=2e-3,
        muon_learning_rate=4e-3,
        warmup_steps=60,
        budget_minutes=minutes,
        autocast="bfloat16",
        ema_decay=0.998,
        save_every=200,
        evaluate_every=400,
        final_lr_share=0.05,
    )
    return CSMTrainConfig(
        model=model,
        loop=loop,
        depth_share=0.25,
        alignment_weight=0.3,
        alignment_layer=2,
        alignment_until=0.35,
    )
