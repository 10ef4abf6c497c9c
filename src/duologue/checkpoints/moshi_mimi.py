"""moshi's Mimi file: interleaved RoPE, fused q, k and v, SEANet's layers numbered through.

Sources: Kyutai, `moshi/models/loaders.py` (the configuration, in the dialect of its `mimi_config`), `compression.py`
and `modules/transformer.py` (`_load_hook`: the published file has `in_proj_weight`, later ones `in_projs.0.weight`).
A file alone says nothing of heads, ratios and window: without a `mimi_config.json` beside it, it is the published one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from duologue.checkpoints.csm_config import Fields
from duologue.checkpoints.rules import Fused, Pointwise, Rule, TensorInfo
from duologue.checkpoints.transformers_mimi import conv_rules
from duologue.config import MIMI_PRESETS, MimiConfig, TransformerConfig
from duologue.errors import CheckpointError, ConfigError

CONFIG_FILE = "mimi_config.json"

FINGERPRINT = ("quantizer.rvq_first.vq.layers.0._codebook.embedding_sum",)

_LAST_CODEBOOK = "quantizer.rvq_rest.vq.layers.{}._codebook.embedding_sum"
_MAX_POSITIONS = MIMI_PRESETS["mimi"].transformer.max_positions
_FIXED_SEANET = {
    "channels": 1,
    "causal": True,
    "n_residual_layers": 1,
    "activation": "ELU",
    "norm": "none",
    "pad_mode": "constant",
    "true_skip": True,
}
_FIXED_TRANSFORMER = {
    "causal": True,
    "conv_layout": True,
    "gating": "none",
    "norm": "layer_norm",
    "positional_embedding": "rope",
}


def _transformer_rules(name: str) -> tuple[Rule, ...]:
    layer, to = f"{name}.transformer.layers.{{n}}", f"{name}.layers.{{n}}"
    return (
        *conv_rules(f"{to}.attention_norm", f"{layer}.norm1"),
        Rule(
            (f"{to}.attention.q_proj.weight", f"{to}.attention.k_proj.weight", f"{to}.attention.v_proj.weight"),
            f"{layer}.self_attn.in_proj_weight",
            Fused(3),
            aliases=(f"{layer}.self_attn.in_projs.0.weight",),
        ),
        Rule(
            f"{to}.attention.o_proj.weight",
            f"{layer}.self_attn.out_proj.weight",
            aliases=(f"{layer}.self_attn.out_projs.0.weight",),
        ),
        Rule(f"{to}.attention_scale.scale", f"{layer}.layer_scale_1.scale"),
        *conv_rules(f"{to}.mlp_norm", f"{layer}.norm2"),
        Rule(f"{to}.mlp.up_proj.weight", f"{layer}.linear1.weight"),
        Rule(f"{to}.mlp.down_proj.weight", f"{layer}.linear2.weight"),
        Rule(f"{to}.mlp_scale.scale", f"{layer}.layer_scale_2.scale"),
    )


def _quantizer_rules(ours: str, theirs: str) -> tuple[Rule, ...]:
    book = f"{theirs}.vq.layers.{{n}}._codebook"
    return (
        Rule(f"{ours}.input_proj.weight", f"{theirs}.input_proj.weight", Pointwise()),
        Rule(f"{ours}.output_proj.weight", f"{theirs}.output_proj.weight", Pointwise()),
        Rule(f"{ours}.codebooks.{{n}}.embedding_sum", f"{book}.embedding_sum"),
        Rule(f"{ours}.codebooks.{{n}}.cluster_usage", f"{book}.cluster_usage", marker=f"{book}._initialized"),
    )


def rules(config: MimiConfig) -> tuple[Rule, ...]:
    """The table."""
    last = 3 * len(config.ratios) + 2
    return (
        *conv_rules("encoder.input_conv.conv", "encoder.model.0.conv.conv"),
        *conv_rules("encoder.stages.{n}.residual.conv1.conv", "encoder.model.{3n+1}.block.1.conv.conv"),
        *conv_rules("encoder.stages.{n}.residual.conv2.conv", "encoder.model.{3n+1}.block.3.conv.conv"),
        *conv_rules("encoder.stages.{n}.downsample.conv", "encoder.model.{3n+3}.conv.conv"),
        *conv_rules("encoder.output_conv.conv", f"encoder.model.{last}.conv.conv"),
        *_transformer_rules("encoder_transformer"),
        Rule("downsample.conv.weight", "downsample.conv.conv.conv.weight"),
        *_quantizer_rules("quantizer.semantic", "quantizer.rvq_first"),
        *_quantizer_rules("quantizer.acoustic", "quantizer.rvq_rest"),
        Rule("upsample.conv.weight", "upsample.convtr.convtr.convtr.weight"),
        *_transformer_rules("decoder_transformer"),
        *conv_rules("decoder.input_conv.conv", "decoder.model.0.conv.conv"),
        *conv_rules("decoder.stages.{n}.upsample.conv", "decoder.model.{3n+2}.convtr.convtr"),
        *conv_rules("decoder.stages.{n}.residual.conv1.conv", "decoder.model.{3n+3}.block.1.conv.conv"),
        *conv_rules("decoder.stages.{n}.residual.conv2.conv", "decoder.model.{3n+3}.block.3.conv.conv"),
        *conv_rules("decoder.output_conv.conv", f"decoder.model.{last}.conv.conv"),
    )


def read_config(values: Mapping[str, Any] | None, infos: Mapping[str, TensorInfo], where: str) -> MimiConfig:
    """The codec of a file with these tensors; `values` are in the dialect of `mimi_config`, None for the published one.

    Raises `CheckpointError` for what our codec cannot be.
    """
    num_codebooks = 1
    while _LAST_CODEBOOK.format(num_codebooks - 1) in infos:
        num_codebooks += 1
    try:
        if values is None:
            return replace(MIMI_PRESETS["mimi"], num_codebooks=num_codebooks)
        config = _from_dialect(values, f"{where}: {CONFIG_FILE}")
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    if config.num_codebooks != num_codebooks:
        raise CheckpointError(
            f"{where}: holds {num_codebooks} codebooks, but {CONFIG_FILE} says {config.num_codebooks}"
        )
    return config


def _from_dialect(values: Mapping[str, Any], where: str) -> MimiConfig:
    parts = {name: values.get(name) for name in ("seanet", "quantizer", "transformer")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise CheckpointError(f"{where}: {name} must be an object, not {part!r}")
    top = Fields(values, {"channels": 1}, where)
    seanet, quantizer, transformer = (Fields(part or {}, {}, f"{where}: {name}") for name, part in parts.items())
    top.require({"channels": 1})
    seanet.require(_FIXED_SEANET)
    transformer.require(_FIXED_TRANSFORMER)
    dim = seanet.whole("dimension")
    for fields, name in ((quantizer, "input_dimension"), (quantizer, "output_dimension"), (transformer, "d_model")):
        fields.require_equal(name, dim)
    ratios = seanet.values.get("ratios")
    if not isinstance(ratios, list) or not all(type(ratio) is int and ratio > 0 for ratio in ratios):
        raise CheckpointError(f"{where}: ratios must be a list of positive whole numbers, not {ratios!r}")
    config = MimiConfig(
        transformer=TransformerConfig(
            dim=dim,
            num_layers=transformer.whole("num_layers"),
            num_heads=transformer.whole("num_heads"),
            num_kv_heads=transformer.whole("num_heads"),
            ffn_dim=transformer.whole("dim_feedforward"),
            max_positions=_MAX_POSITIONS,
            norm="layer",
            mlp="gelu",
            final_norm=False,
            layer_scale=True,
            window=transformer.optional_whole("context"),
            rope_theta=transformer.number("max_period"),
        ),
        sample_rate=top.whole("sample_rate"),
        num_filters=seanet.whole("n_filters"),
        dim=dim,
        ratios=tuple(ratios),
        resample_stride=1,
        kernel_size=seanet.whole("kernel_size"),
        residual_kernel_size=seanet.whole("residual_kernel_size"),
        last_kernel_size=seanet.whole("last_kernel_size"),
        compress=seanet.whole("compress"),
        num_codebooks=quantizer.whole("n_q"),
        codebook_size=quantizer.whole("bins"),
        codebook_dim=quantizer.whole("dimension"),
    )
    stride = config.frame_rate / top.number("frame_rate")
    if stride != int(stride):
        raise CheckpointError(f"{where}: frame_rate does not divide the encoder's {config.frame_rate} steps per second")
    return replace(config, resample_stride=int(stride))


def write_config(config: MimiConfig) -> dict[str, Any] | None:
    """The `mimi_config` that moshi's `get_mimi` takes; None for the published codec, which needs none.

    Raises `CheckpointError` for a codec that moshi's classes cannot be.
    """
    if replace(config, num_codebooks=MIMI_PRESETS["mimi"].num_codebooks) == MIMI_PRESETS["mimi"]:
        return None
    transformer = config.transformer
    if transformer.head_dim is not None or transformer.norm_eps != 1e-5:
        raise CheckpointError("moshi's Mimi has heads of dim / num_heads channels and a norm_eps of 1e-5")
    return {
        "sample_rate": config.sample_rate,
        "channels": 1,
        "frame_rate": config.frame_rate,
        "seanet": {
            **_FIXED_SEANET,
            "dimension": config.dim,
            "n_filters": config.num_filters,
            "compress": config.compress,
            "dilation_base": 2,
            "disable_norm_outer_blocks": 0,
            "kernel_size": config.kernel_size,
            "residual_kernel_size": config.residual_kernel_size,
            "last_kernel_size": config.last_kernel_size,
            "ratios": list(config.ratios),
        },
        "quantizer": {
            "dimension": config.codebook_dim,
            "n_q": config.num_codebooks,
            "bins": config.codebook_size,
            "input_dimension": config.dim,
            "output_dimension": config.dim,
        },
        "transformer": {
            **_FIXED_TRANSFORMER,
            "d_model": config.dim,
            "num_heads": transformer.num_heads,
            "num_layers": transformer.num_layers,
            "layer_scale": 0.01,
            "context": transformer.window,
            "max_period": transformer.rope_theta,
            "dim_feedforward": transformer.ffn_dim,
            "input_dimension": config.dim,
            "output_dimensions": [config.dim],
        },
    }
