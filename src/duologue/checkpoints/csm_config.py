"""transformers' CSM configuration to ours and back.

Source: transformers, `configuration_csm.py`. Absent fields have that class's defaults. RoPE is `rope_parameters` since
version 5 and `rope_theta` with `rope_scaling` before; the depth decoder has its own. Llama-3 scaling by the original
length and factors (1024, 0.125, 0.5), which the hub has for the backbone, (16, 1/512, 1/128), which it has for the
depth decoder, and (8192, 1, 4) are the same function: only the ratios matter. Ours is always the last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from duologue.config import CSMConfig, RopeScaling, TextConfig, TransformerConfig
from duologue.errors import CheckpointError, ConfigError

# Where a foreign config.json keeps what its own format has no field for.
OWN_FIELDS = "duologue"

_BACKBONE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "vocab_size": 2051,
    "num_codebooks": 32,
    "text_vocab_size": 128_256,
}
_DEPTH = {
    "hidden_size": 1024,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 33,
    "rms_norm_eps": 1e-5,
    "vocab_size": 2051,
    "num_codebooks": 32,
    "backbone_hidden_size": 2048,
}
_THETA = 500_000.0
_CODEBOOK_SIZE = 2048
# Fields that must have these values, or be absent, for our model to be theirs.
_FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
# Llama 3's ids, which the processor of the published checkpoint uses; smaller vocabularies have none of them.
_TEXT_IDS = {"bos_token_id": 128_000, "pad_token_id": 128_002, "audio_token_id": 128_002, "audio_eos_token_id": 128_003}


def from_transformers(values: Mapping[str, Any], where: str) -> CSMConfig:
    """Our configuration from theirs (`model_type` csm). Raises `CheckpointError` for what our model cannot be."""
    depth_values = values.get("depth_decoder_config") or {}
    codec_values = values.get("codec_config") or {}
    if not isinstance(depth_values, dict) or not isinstance(codec_values, dict):
        raise CheckpointError(f"{where}: depth_decoder_config and codec_config must be objects")
    backbone, depth = Fields(values, _BACKBONE, where), Fields(depth_values, _DEPTH, f"{where}: depth_decoder_config")
    for fields in (backbone, depth):
        fields.require(_FIXED)
    depth.require_equal("backbone_hidden_size", backbone.whole("hidden_size"))
    depth.require_equal("vocab_size", backbone.whole("vocab_size"))
    depth.require_equal("num_codebooks", backbone.whole("num_codebooks"))
    vocab_size = backbone.whole("vocab_size")
    codec = Fields(codec_values, {"codebook_size": min(_CODEBOOK_SIZE, vocab_size)}, f"{where}: codec_config")
    try:
        return CSMConfig(
            backbone=_transformer(backbone),
            depth=_transformer(depth),
            text_vocab_size=backbone.whole("text_vocab_size"),
            audio_vocab_size=vocab_size,
            num_codebooks=backbone.whole("num_codebooks"),
            codebook_size=codec.whole("codebook_size"),
            text=text_config(values, TextConfig(), where),
        )
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def to_transformers(config: CSMConfig, codec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `config.json` of transformers for our configuration; `codec` is the codec's own, where it has one."""
    vocab_size = config.audio_vocab_size
    shared: dict[str, Any] = {"num_codebooks": config.num_codebooks, "vocab_size": vocab_size}
    depth = {
        "model_type": "csm_depth_decoder_model",
        "backbone_hidden_size": config.backbone.dim,
        **_fields(config.depth),
        **shared,
    }
    values: dict[str, Any] = {
        "architectures": ["CsmForConditionalGeneration"],
        "model_type": "csm",
        "text_vocab_size": config.text_vocab_size,
        "tie_codebooks_embeddings": True,
        "codebook_eos_token_id": 0,
        "codebook_pad_token_id": vocab_size - 1,
        **{name: value if value < config.text_vocab_size else None for name, value in _TEXT_IDS.items()},
        **_fields(config.backbone),
        **shared,
        "depth_decoder_config": depth,
        "codec_config": dict(codec or {"model_type": "mimi", "codebook_size": config.codebook_size}),
    }
    return values if config.text == TextConfig() else values | text_fields(config.text)


def text_config(values: Mapping[str, Any], default: TextConfig, where: str) -> TextConfig:
    """The text settings that `text_fields` left in a foreign config, or `default`."""
    own = values.get(OWN_FIELDS)
    if own is None:
        return default
    try:
        return TextConfig.from_dict(own["text"], f"{where}: {OWN_FIELDS}.text")
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: {OWN_FIELDS} should hold an object named text") from error
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def text_fields(text: TextConfig) -> dict[str, Any]:
    """Our text settings as an extra field of a foreign config, which its own readers ignore."""
    return {OWN_FIELDS: {"text": text.to_dict()}}


class Fields:
    """The fields of a foreign configuration, with its defaults; says where it is when one is of the wrong type."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
        self.values, self.where = {**defaults, **values}, where

    def whole(self, name: str) -> int:
        """A field that must be a positive whole number."""
        value = self.values.get(name)
        if type(value) is not int or value <= 0:
            raise CheckpointError(f"{self.where}: {name} must be a positive whole number, not {value!r}")
        return value

    def optional_whole(self, name: str) -> int | None:
        """A field that may be absent or null."""
        return None if self.values.get(name) is None else self.whole(name)

    def number(self, name: str) -> float:
        """A field that must be a positive number."""
        value = self.values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise CheckpointError(f"{self.where}: {name} must be a positive number, not {value!r}")
        return float(value)

    def require(self, fixed: Mapping[str, Any]) -> None:
        """Fields that must have these values where they are present."""
        for name, wanted in fixed.items():
            value = self.values.get(name, wanted)
            if value != wanted:
                raise CheckpointError(f"{self.where}: {name} is {value!r}; only {wanted!r} is supported")

    def require_equal(self, name: str, wanted: int) -> None:
        """A field that must agree with another."""
        if self.whole(name) != wanted:
            raise CheckpointError(
                f"{self.where}: {name} is {self.values[name]}, but the rest of the model says {wanted}"
            )

    def rope(self, theta: float) -> tuple[float, RopeScaling | None]:
        """Base and scaling of the rotary positions, in either spelling; `theta` is the default base."""
        parameters = self.values.get("rope_parameters")
        scaling = parameters if parameters is not None else self.values.get("rope_scaling") or {}
        if not isinstance(scaling, dict):
            raise CheckpointError(f"{self.where}: rope parameters must be an object, not {scaling!r}")
        rope = Fields({"rope_theta": self.values.get("rope_theta") or theta, **scaling}, {}, f"{self.where}: rope")
        base = rope.number("rope_theta")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind == "default":
            return base, None
        if kind != "llama3":
            raise CheckpointError(f"{self.where}: rope_type is {kind!r}; only 'default' and 'llama3' are supported")
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        if low >= high:
            raise CheckpointError(f"{self.where}: low_freq_factor {low} must be less than high_freq_factor {high}")
        length = rope.whole("original_max_position_embeddings")
        return base, _canonical(RopeScaling(rope.number("factor"), low, high, length))


def rope_fields(theta: float, scaling: RopeScaling | None, max_positions: int) -> dict[str, Any]:
    """Rotary parameters in both of transformers' spellings.

    transformers wants the original length to be less than `max_positions`: it is halved, with its factors, until it is.
    """
    if scaling is None:
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    length, shrink = scaling.original_max_positions, 1
    while length % 2 == 0 and length >= max_positions:
        length, shrink = length // 2, shrink * 2
    fields = {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_frequency_factor / shrink,
        "high_freq_factor": scaling.high_frequency_factor / shrink,
        "original_max_position_embeddings": length,
    }
    return {"rope_theta": theta, "rope_scaling": fields, "rope_parameters": {"rope_theta": theta, **fields}}


def _canonical(scaling: RopeScaling) -> RopeScaling:
    """The same function with a low factor of 1, where a power of two (exact in floating point) leads there."""
    low = scaling.low_frequency_factor
    mantissa, _ = math.frexp(low)
    grown = scaling.original_max_positions / low
    if mantissa != 0.5 or grown != int(grown):
        return scaling
    return RopeScaling(scaling.factor, 1.0, scaling.high_frequency_factor / low, int(grown))


def _transformer(fields: Fields) -> TransformerConfig:
    theta, scaling = fields.rope(_THETA)
    dim, num_heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    head_dim = fields.optional_whole("head_dim")
    return TransformerConfig(
        dim=dim,
        num_layers=fields.whole("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=fields.optional_whole("num_key_value_heads") or num_heads,
        ffn_dim=fields.whole("intermediate_size"),
        max_positions=fields.whole("max_position_embeddings"),
        head_dim=None if head_dim is None or head_dim * num_heads == dim else head_dim,
        norm_eps=fields.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
    )


def _fields(config: TransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        **_FIXED,
        **rope_fields(config.rope_theta, config.rope_scaling, config.max_positions),
    }
