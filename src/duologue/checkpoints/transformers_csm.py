"""transformers' CSM layout: half-split RoPE, the audio embedding tied, the codec inside under `codec_model.`.

Source: transformers, `modeling_csm.py` and `convert_csm.py`. The hub repository holds the audio embedding under both of
its names; `save_pretrained` keeps the depth decoder's only, which is the one that every version reads.
"""

from __future__ import annotations

from duologue.checkpoints.rules import HalfSplit, Rule
from duologue.config import CSMConfig, TransformerConfig

CODEC_PREFIX = "codec_model."

FINGERPRINT = ("embed_text_tokens.weight", "backbone_model.layers.0.self_attn.q_proj.weight")

# What transformers' generate() needs to sample as Sesame does; without it, it is greedy and stops after 20 frames.
GENERATION_CONFIG = {
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 50,
    "max_new_tokens": 125,
    "depth_decoder_do_sample": True,
    "depth_decoder_temperature": 0.9,
    "depth_decoder_top_k": 50,
}


def _transformer_rules(theirs: str, ours: str, config: TransformerConfig) -> tuple[Rule, ...]:
    layer, to = f"{theirs}.layers.{{n}}", f"{ours}.layers.{{n}}"
    rope = HalfSplit(config.head_size)
    return (
        Rule(f"{to}.attention_norm.weight", f"{layer}.input_layernorm.weight"),
        Rule(f"{to}.attention.q_proj.weight", f"{layer}.self_attn.q_proj.weight", rope),
        Rule(f"{to}.attention.k_proj.weight", f"{layer}.self_attn.k_proj.weight", rope),
        Rule(f"{to}.attention.v_proj.weight", f"{layer}.self_attn.v_proj.weight"),
        Rule(f"{to}.attention.o_proj.weight", f"{layer}.self_attn.o_proj.weight"),
        Rule(f"{to}.mlp_norm.weight", f"{layer}.post_attention_layernorm.weight"),
        Rule(f"{to}.mlp.gate_proj.weight", f"{layer}.mlp.gate_proj.weight"),
        Rule(f"{to}.mlp.up_proj.weight", f"{layer}.mlp.up_proj.weight"),
        Rule(f"{to}.mlp.down_proj.weight", f"{layer}.mlp.down_proj.weight"),
        Rule(f"{ours}.norm.weight", f"{theirs}.norm.weight"),
    )


def rules(config: CSMConfig) -> tuple[Rule, ...]:
    """The table of all tensors but the codec's."""
    return (
        Rule("text_embeddings.weight", "embed_text_tokens.weight"),
        Rule(
            "audio_embeddings.weight",
            "depth_decoder.model.embed_tokens.weight",
            copies=("backbone_model.embed_tokens.embed_audio_tokens.weight",),
        ),
        Rule("projection.weight", "depth_decoder.model.inputs_embeds_projector.weight"),
        Rule("codebook0_head.weight", "lm_head.weight"),
        Rule("audio_head", "depth_decoder.codebooks_head.weight"),
        *_transformer_rules("backbone_model", "backbone", config.backbone),
        *_transformer_rules("depth_decoder.model", "depth", config.depth),
    )
