"""Sesame's original CSM layout: torchtune's names, interleaved RoPE, no codec.

Sources: Sesame, `csm/models.py` (names and flavours); torchtune, `torchtune/models/llama3_2/_component_builders.py`;
MisoLabsAI, `MisoTTS/models.py` and `generator.py` (the 8B flavours, and its template with a space). Sesame's own
`config.json` names two flavours; the hub repository's is transformers'; MisoTTS has none: then the shapes decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from duologue.checkpoints import csm_config
from duologue.checkpoints.rules import Rule, TensorInfo
from duologue.config import CSM_PRESETS, CSMConfig, TextConfig, TransformerConfig
from duologue.errors import CheckpointError

# The moshi file that Sesame's generator loads beside it.
CODEC_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"

FINGERPRINT = ("text_embeddings.weight", "backbone.layers.0.attn.q_proj.weight")

_8B = CSM_PRESETS["csm-8b"].backbone
FLAVORS: dict[str, TransformerConfig] = {
    "llama-1B": CSM_PRESETS["csm-1b"].backbone,
    "llama-100M": CSM_PRESETS["csm-1b"].depth,
    "llama-8B": _8B,
    "llama-300M": replace(_8B, dim=1536, num_layers=8, num_heads=24, num_kv_heads=6, ffn_dim=6912),
}
# Ids after the codec's codes: Sesame's vocabulary of 2051 for 2048 codes.
_RESERVED_AUDIO_IDS = 3
_MISO = ("llama-8B", "llama-300M")
_MISO_TEXT = TextConfig(template="[{speaker}] {text}")


def _transformer_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    layer, to = f"{theirs}.layers.{{n}}", f"{ours}.layers.{{n}}"
    return (
        Rule(f"{to}.attention_norm.weight", f"{layer}.sa_norm.scale"),
        Rule(f"{to}.attention.q_proj.weight", f"{layer}.attn.q_proj.weight"),
        Rule(f"{to}.attention.k_proj.weight", f"{layer}.attn.k_proj.weight"),
        Rule(f"{to}.attention.v_proj.weight", f"{layer}.attn.v_proj.weight"),
        Rule(f"{to}.attention.o_proj.weight", f"{layer}.attn.output_proj.weight"),
        Rule(f"{to}.mlp_norm.weight", f"{layer}.mlp_norm.scale"),
        Rule(f"{to}.mlp.gate_proj.weight", f"{layer}.mlp.w1.weight"),
        Rule(f"{to}.mlp.down_proj.weight", f"{layer}.mlp.w2.weight"),
        Rule(f"{to}.mlp.up_proj.weight", f"{layer}.mlp.w3.weight"),
        Rule(f"{ours}.norm.weight", f"{theirs}.norm.scale"),
    )


RULES: tuple[Rule, ...] = (
    Rule("text_embeddings.weight", "text_embeddings.weight"),
    Rule("audio_embeddings.weight", "audio_embeddings.weight"),
    Rule("projection.weight", "projection.weight"),
    Rule("codebook0_head.weight", "codebook0_head.weight"),
    Rule("audio_head", "audio_head"),
    *_transformer_rules("backbone", "backbone"),
    *_transformer_rules("decoder", "depth"),
)


def read_config(config: Mapping[str, Any] | None, infos: Mapping[str, TensorInfo], where: str) -> CSMConfig:
    """The model that a file with these tensors is, helped by its `config.json` where there is one.

    Raises `CheckpointError` for an unknown flavour, and for unknown shapes without a config.
    """
    values = dict(config or {})
    if values.get("model_type") == "csm" and "hidden_size" in values:
        return csm_config.from_transformers(values, where)
    shapes = {name: info.shape for name, info in infos.items()}
    try:
        text_vocab_size, _ = shapes["text_embeddings.weight"]
        audio_vocab_size, _ = shapes["codebook0_head.weight"]
        num_heads, _, _ = shapes["audio_head"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{where}: lacks text_embeddings, codebook0_head or audio_head of CSM") from error
    if "backbone_flavor" in values or "decoder_flavor" in values:
        names = (str(values.get("backbone_flavor")), str(values.get("decoder_flavor")))
        for name in names:
            if name not in FLAVORS:
                raise CheckpointError(f"{where}: config.json names flavour {name!r}; known are {', '.join(FLAVORS)}")
    else:
        names = (_flavor_of("backbone", shapes, where), _flavor_of("decoder", shapes, where))
    return CSMConfig(
        backbone=FLAVORS[names[0]],
        depth=FLAVORS[names[1]],
        text_vocab_size=text_vocab_size,
        audio_vocab_size=audio_vocab_size,
        num_codebooks=num_heads + 1,
        codebook_size=max(1, audio_vocab_size - _RESERVED_AUDIO_IDS),
        text=csm_config.text_config(values, _MISO_TEXT if names == _MISO else TextConfig(), where),
    )


def write_config(config: CSMConfig) -> dict[str, Any]:
    """Sesame's own `config.json` where the model is made of published flavours, else the one of transformers."""
    backbone, depth = _name_of(config.backbone), _name_of(config.depth)
    if backbone is None or depth is None or config.audio_vocab_size - config.codebook_size != _RESERVED_AUDIO_IDS:
        return csm_config.to_transformers(config)
    values: dict[str, Any] = {
        "audio_num_codebooks": config.num_codebooks,
        "audio_vocab_size": config.audio_vocab_size,
        "backbone_flavor": backbone,
        "decoder_flavor": depth,
        "text_vocab_size": config.text_vocab_size,
    }
    if config.text != (_MISO_TEXT if (backbone, depth) == _MISO else TextConfig()):
        values |= csm_config.text_fields(config.text)
    return values


def _name_of(config: TransformerConfig) -> str | None:
    # max_positions bounds the cache, not the function: transformers' depth decoder says 33 for the same weights.
    for name, flavor in FLAVORS.items():
        if replace(config, max_positions=flavor.max_positions, head_dim=None) == flavor:
            return name
    return None


def _flavor_of(part: str, shapes: Mapping[str, tuple[int, ...]], where: str) -> str:
    layer = f"{part}.layers.0"
    prefix, suffix = f"{part}.layers.", ".attn.q_proj.weight"
    num_layers = sum(name.startswith(prefix) and name.endswith(suffix) for name in shapes)
    found = (num_layers, shapes.get(f"{layer}.attn.q_proj.weight"), shapes.get(f"{layer}.attn.k_proj.weight"))
    found_ffn = shapes.get(f"{layer}.mlp.w1.weight")
    for name, flavor in FLAVORS.items():
        queries = (flavor.num_heads * flavor.head_size, flavor.dim)
        keys = (flavor.num_kv_heads * flavor.head_size, flavor.dim)
        if found == (flavor.num_layers, queries, keys) and found_ffn == (flavor.ffn_dim, flavor.dim):
            return name
    raise CheckpointError(
        f"{where}: has no config.json, and its {part} of {num_layers} layers has none of the known shapes "
        f"({', '.join(FLAVORS)}); put a config.json beside it"
    )
