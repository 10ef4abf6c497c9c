"""transformers' Mimi layout: half-split RoPE, SEANet's layers numbered through, projections as convolutions.

Source: transformers, `modeling_mimi.py`, `configuration_mimi.py` and `convert_mimi_checkpoint_to_pytorch.py`. Version 5
nests the modules otherwise, but its files keep these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from duologue.checkpoints.csm_config import Fields, rope_fields
from duologue.checkpoints.rules import HalfSplit, Pointwise, Rule
from duologue.config import MimiConfig, TransformerConfig
from duologue.errors import CheckpointError, ConfigError

FINGERPRINT = ("quantizer.semantic_residual_vector_quantizer.layers.0.codebook.embed_sum",)

_DEFAULTS = {
    "sampling_rate": 24_000,
    "hidden_size": 512,
    "num_filters": 64,
    "kernel_size": 7,
    "last_kernel_size": 3,
    "residual_kernel_size": 3,
    "compress": 2,
    "codebook_size": 2048,
    "codebook_dim": 256,
    "num_quantizers": 32,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8000,
    "norm_eps": 1e-5,
    "sliding_window": 250,
}
_RATIOS = [8, 6, 5, 4]
_THETA = 10_000.0
_FIXED = {
    "model_type": "mimi",
    "audio_channels": 1,
    "num_residual_layers": 1,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": False,
    "num_semantic_quantizers": 1,
    "hidden_act": "gelu",
    "attention_bias": False,
}
# transformers' frame_size has the last factor of 2 built in.
_STRIDE = 2


def conv_rules(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A convolution with its bias."""
    return Rule(f"{ours}.weight", f"{theirs}.weight"), Rule(f"{ours}.bias", f"{theirs}.bias")


def _transformer_rules(name: str, config: TransformerConfig, prefix: str) -> tuple[Rule, ...]:
    layer, to = f"{prefix}{name}.layers.{{n}}", f"{name}.layers.{{n}}"
    rope = HalfSplit(config.head_size)
    return (
        *conv_rules(f"{to}.attention_norm", f"{layer}.input_layernorm"),
        Rule(f"{to}.attention.q_proj.weight", f"{layer}.self_attn.q_proj.weight", rope),
        Rule(f"{to}.attention.k_proj.weight", f"{layer}.self_attn.k_proj.weight", rope),
        Rule(f"{to}.attention.v_proj.weight", f"{layer}.self_attn.v_proj.weight"),
        Rule(f"{to}.attention.o_proj.weight", f"{layer}.self_attn.o_proj.weight"),
        Rule(f"{to}.attention_scale.scale", f"{layer}.self_attn_layer_scale.scale"),
        *conv_rules(f"{to}.mlp_norm", f"{layer}.post_attention_layernorm"),
        Rule(f"{to}.mlp.up_proj.weight", f"{layer}.mlp.fc1.weight"),
        Rule(f"{to}.mlp.down_proj.weight", f"{layer}.mlp.fc2.weight"),
        Rule(f"{to}.mlp_scale.scale", f"{layer}.mlp_layer_scale.scale"),
    )


def _quantizer_rules(ours: str, theirs: str) -> tuple[Rule, ...]:
    book = f"{theirs}.layers.{{n}}.codebook"
    return (
        Rule(f"{ours}.input_proj.weight", f"{theirs}.input_proj.weight", Pointwise()),
        Rule(f"{ours}.output_proj.weight", f"{theirs}.output_proj.weight", Pointwise()),
        Rule(f"{ours}.codebooks.{{n}}.embedding_sum", f"{book}.embed_sum"),
        Rule(f"{ours}.codebooks.{{n}}.cluster_usage", f"{book}.cluster_usage", marker=f"{book}.initialized"),
    )


def rules(config: MimiConfig, prefix: str = "") -> tuple[Rule, ...]:
    """The table; `prefix` stands before every one of their names."""
    last = 3 * len(config.ratios) + 2
    encoder, decoder, quantizer = f"{prefix}encoder.layers", f"{prefix}decoder.layers", f"{prefix}quantizer"
    return (
        *conv_rules("encoder.input_conv.conv", f"{encoder}.0.conv"),
        *conv_rules("encoder.stages.{n}.residual.conv1.conv", f"{encoder}.{{3n+1}}.block.1.conv"),
        *conv_rules("encoder.stages.{n}.residual.conv2.conv", f"{encoder}.{{3n+1}}.block.3.conv"),
        *conv_rules("encoder.stages.{n}.downsample.conv", f"{encoder}.{{3n+3}}.conv"),
        *conv_rules("encoder.output_conv.conv", f"{encoder}.{last}.conv"),
        *_transformer_rules("encoder_transformer", config.transformer, prefix),
        Rule("downsample.conv.weight", f"{prefix}downsample.conv.weight"),
        *_quantizer_rules("quantizer.semantic", f"{quantizer}.semantic_residual_vector_quantizer"),
        *_quantizer_rules("quantizer.acoustic", f"{quantizer}.acoustic_residual_vector_quantizer"),
        Rule("upsample.conv.weight", f"{prefix}upsample.conv.weight"),
        *_transformer_rules("decoder_transformer", config.transformer, prefix),
        *conv_rules("decoder.input_conv.conv", f"{decoder}.0.conv"),
        *conv_rules("decoder.stages.{n}.upsample.conv", f"{decoder}.{{3n+2}}.conv"),
        *conv_rules("decoder.stages.{n}.residual.conv1.conv", f"{decoder}.{{3n+3}}.block.1.conv"),
        *conv_rules("decoder.stages.{n}.residual.conv2.conv", f"{decoder}.{{3n+3}}.block.3.conv"),
        *conv_rules("decoder.output_conv.conv", f"{decoder}.{last}.conv"),
    )


def read_config(values: Mapping[str, Any], where: str) -> MimiConfig:
    """Our configuration from theirs. Raises `CheckpointError` for what our codec cannot be."""
    fields = Fields(values, _DEFAULTS, where)
    fields.require(_FIXED)
    fields.require_equal("num_key_value_heads", fields.whole("num_attention_heads"))
    ratios = values.get("upsampling_ratios") or _RATIOS
    if not isinstance(ratios, list) or not all(type(ratio) is int and ratio > 0 for ratio in ratios):
        raise CheckpointError(f"{where}: upsampling_ratios must be a list of positive whole numbers, not {ratios!r}")
    dim, codebook_dim = fields.whole("hidden_size"), fields.whole("codebook_dim")
    widths = Fields(values, {"vector_quantization_hidden_dimension": 256, "upsample_groups": 512}, where)
    widths.require_equal("vector_quantization_hidden_dimension", codebook_dim)
    widths.require_equal("upsample_groups", dim)
    theta, scaling = fields.rope(_THETA)
    head_dim, num_heads = fields.optional_whole("head_dim"), fields.whole("num_attention_heads")
    try:
        config = MimiConfig(
            transformer=TransformerConfig(
                dim=dim,
                num_layers=fields.whole("num_hidden_layers"),
                num_heads=num_heads,
                num_kv_heads=num_heads,
                ffn_dim=fields.whole("intermediate_size"),
                max_positions=fields.whole("max_position_embeddings"),
                head_dim=None if head_dim is None or head_dim * num_heads == dim else head_dim,
                norm="layer",
                norm_eps=fields.number("norm_eps"),
                mlp="gelu",
                final_norm=False,
                layer_scale=True,
                window=fields.optional_whole("sliding_window"),
                rope_theta=theta,
                rope_scaling=scaling,
            ),
            sample_rate=fields.whole("sampling_rate"),
            num_filters=fields.whole("num_filters"),
            dim=dim,
            ratios=tuple(ratios),
            resample_stride=_STRIDE,
            kernel_size=fields.whole("kernel_size"),
            residual_kernel_size=fields.whole("residual_kernel_size"),
            last_kernel_size=fields.whole("last_kernel_size"),
            compress=fields.whole("compress"),
            num_codebooks=fields.whole("num_quantizers"),
            codebook_size=fields.whole("codebook_size"),
            codebook_dim=codebook_dim,
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    rate = values.get("frame_rate")
    if rate is not None and rate != config.frame_rate:
        raise CheckpointError(f"{where}: frame_rate is {rate!r}, but the strides make it {config.frame_rate}")
    return config


def write_config(config: MimiConfig) -> dict[str, Any]:
    """Their `config.json`. Raises `CheckpointError` for a codec that their class cannot be."""
    if config.resample_stride != _STRIDE:
        raise CheckpointError(f"transformers' Mimi has a resample_stride of {_STRIDE}, not {config.resample_stride}")
    transformer = config.transformer
    return {
        "architectures": ["MimiModel"],
        **_FIXED,
        "sampling_rate": config.sample_rate,
        "frame_rate": config.frame_rate,
        "hidden_size": config.dim,
        "num_filters": config.num_filters,
        "upsampling_ratios": list(config.ratios),
        "kernel_size": config.kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "dilation_growth_rate": 2,
        "compress": config.compress,
        "codebook_size": config.codebook_size,
        "codebook_dim": config.codebook_dim,
        "vector_quantization_hidden_dimension": config.codebook_dim,
        "num_quantizers": config.num_codebooks,
        "upsample_groups": config.dim,
        "num_hidden_layers": transformer.num_layers,
        "intermediate_size": transformer.ffn_dim,
        "num_attention_heads": transformer.num_heads,
        "num_key_value_heads": transformer.num_kv_heads,
        "head_dim": transformer.head_size,
        "max_position_embeddings": transformer.max_positions,
        "norm_eps": transformer.norm_eps,
        "layer_scale_initial_scale": 0.01,
        "sliding_window": transformer.window,
        **rope_fields(transformer.rope_theta, transformer.rope_scaling, transformer.max_positions),
    }
