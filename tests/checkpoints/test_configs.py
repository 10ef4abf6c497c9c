"""Configurations of every layout: what they mean to us, and one line for those that we cannot be."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duologue.checkpoints import load_checkpoint, load_codec, save_checkpoint, sesame
from duologue.checkpoints.io import read_json
from duologue.config import CSM_PRESETS, RopeScaling, TextConfig
from duologue.errors import CheckpointError
from duologue.model.csm import CSM
from tests.checkpoints.folders import Tiny, assert_same, copy_of, edit_json


def small_flavors(monkeypatch: pytest.MonkeyPatch) -> CSM:
    """Stand-ins for the published flavours, and a model made of two of them."""

    tiny = CSM_PRESETS["tiny"]
    scaling = RopeScaling()
    flavors = {
        "llama-1B": replace(tiny.backbone, rope_scaling=scaling),
        "llama-100M": replace(tiny.depth, rope_scaling=scaling),
        "llama-8B": replace(tiny.backbone, ffn_dim=96),
        "llama-300M": replace(tiny.depth, ffn_dim=80),
    }
    monkeypatch.setattr(sesame, "FLAVORS", flavors)
    return CSM(replace(tiny, backbone=flavors["llama-8B"], depth=flavors["llama-300M"]))


def test_sesames_own_config(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_flavors(monkeypatch)
    save_checkpoint(tmp_path / "a", "sesame", model=tiny.model, codec=tiny.codec, tokenizer_path=tiny.tokenizer)
    assert read_json(tmp_path / "a" / "config.json") == {
        "audio_num_codebooks": 4,
        "audio_vocab_size": 67,
        "backbone_flavor": "llama-1B",
        "decoder_flavor": "llama-100M",
        "text_vocab_size": 300,
    }
    loaded = load_checkpoint(tmp_path / "a").model
    assert loaded.config == tiny.model.config
    assert_same(loaded, tiny.model)
    edit_json(tmp_path / "a" / "config.json", lambda values: values.update(decoder_flavor="llama-7B"))
    with pytest.raises(CheckpointError, match=r"names flavour 'llama-7B'; known are llama-1B"):
        load_checkpoint(tmp_path / "a")


def test_no_config_at_all(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MisoTTS has none: its shapes tell what it is, and with that the space in its template."""
    model = small_flavors(monkeypatch)
    save_checkpoint(tmp_path / "a", "sesame", model=model, codec=tiny.codec, tokenizer_path=tiny.tokenizer)
    (tmp_path / "a" / "config.json").unlink()
    loaded = load_checkpoint(tmp_path / "a").model
    assert loaded.config == replace(model.config, text=TextConfig(template="[{speaker}] {text}"))
    assert_same(loaded, model)
    folder = copy_of(tiny, "sesame", tmp_path)
    (folder / "config.json").unlink()
    assert load_checkpoint(folder).model.config.text == TextConfig()
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"none of the known shapes .* put a config.json beside it"):
        load_checkpoint(folder)


def test_the_published_flavors() -> None:

    assert sesame.FLAVORS["llama-1B"] == CSM_PRESETS["csm-1b"].backbone
    assert sesame.FLAVORS["llama-100M"] == CSM_PRESETS["csm-1b"].depth
    miso = sesame.FLAVORS["llama-300M"]
    assert (miso.dim, miso.num_layers, miso.num_heads, miso.num_kv_heads, miso.ffn_dim) == (1536, 8, 24, 6, 6912)


ROPE_1024 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 0.125, "high_freq_factor": 0.5}
ROPE_8192 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("fields", "theta", "scaling"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}, 10_000.0, None),
        ({"rope_theta": 10_000}, 10_000.0, None),
        ({}, 500_000.0, None),
        ({"rope_scaling": None, "rope_theta": 5.0}, 5.0, None),
        (
            {"rope_parameters": {"rope_theta": 7.0, "original_max_position_embeddings": 1024, **ROPE_1024}},
            7.0,
            RopeScaling(),
        ),
        (
            {"rope_theta": 7, "rope_scaling": {"original_max_position_embeddings": 8192, **ROPE_8192}},
            7.0,
            RopeScaling(),
        ),
        (
            {"rope_scaling": {"type": "llama3", "original_max_position_embeddings": 1024, **ROPE_8192}},
            500_000.0,
            RopeScaling(original_max_positions=1024),
        ),
        (
            {"rope_scaling": {**ROPE_1024, "low_freq_factor": 0.3, "original_max_position_embeddings": 1000}},
            500_000.0,
            RopeScaling(32.0, 0.3, 0.5, 1000),
        ),
    ],
)
def test_both_spellings_of_rope(
    fields: dict[str, Any], theta: float, scaling: RopeScaling | None, tiny: Tiny, tmp_path: Path
) -> None:
    """Backbone and depth decoder have their own: each is changed while the other stays."""
    for part in ("backbone", "depth"):
        folder = Path(shutil.copytree(tiny.folders["transformers"], tmp_path / part))

        def change(values: dict[str, Any], part: str = part) -> None:
            target = values if part == "backbone" else values["depth_decoder_config"]
            for name in ("rope_theta", "rope_scaling", "rope_parameters"):
                target.pop(name, None)
            target.update(fields)

        edit_json(folder / "config.json", change)
        config = load_checkpoint(folder).model.config
        changed, other = (config.backbone, config.depth) if part == "backbone" else (config.depth, config.backbone)
        assert (changed.rope_theta, changed.rope_scaling) == (theta, scaling)
        assert other.rope_scaling == RopeScaling() and other.rope_theta == 500_000.0


BAD_CONFIGS = [
    ("transformers", {"model_type": "llama"}, "model_type is 'llama', but the tensors are those of csm"),
    ("transformers", {"hidden_size": 0}, "hidden_size must be a positive whole number, not 0"),
    ("transformers", {"hidden_size": "64"}, "hidden_size must be a positive whole number, not '64'"),
    ("transformers", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
    ("transformers", {"attention_bias": True}, "attention_bias is True; only False is supported"),
    ("transformers", {"num_codebooks": 5}, "num_codebooks is 4, but the rest of the model says 5"),
    ("transformers", {"num_attention_heads": 3, "head_dim": None}, "not a multiple"),
    ("transformers", {"rms_norm_eps": -1.0}, "rms_norm_eps must be a positive number, not -1.0"),
    ("transformers", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ("transformers", {"rope_parameters": 3}, "rope parameters must be an object"),
    ("transformers", {"depth_decoder_config": 3}, "must be objects"),
    ("transformers", {"codec_config": {"codebook_size": 4096}}, "codebook_size 4096 does not fit"),
    ("transformers", {"num_hidden_layers": 3}, r"9 missing \(backbone_model\.layers\.2"),
    ("transformers", {"intermediate_size": 100}, r"6 misshapen .* instead of \[100, 64\]"),
    ("transformers", {"duologue": {"text": {"templat": "x"}}}, r"duologue\.text: unknown field\(s\) templat"),
    ("transformers", {"duologue": 3}, "duologue should hold an object named text"),
    ("transformers-mimi", {"num_residual_layers": 2}, "num_residual_layers is 2; only 1 is supported"),
    ("transformers-mimi", {"upsampling_ratios": "8"}, "upsampling_ratios must be a list"),
    ("transformers-mimi", {"frame_rate": 25.0}, "frame_rate is 25.0, but the strides make it 12.5"),
    ("transformers-mimi", {"codebook_size": 32}, "misshapen"),
    ("moshi-mimi", {"seanet": None}, "seanet must be an object"),
    ("moshi-mimi", {"frame_rate": 7.0}, "frame_rate does not divide"),
    ("moshi-mimi", {"channels": 2}, "channels is 2; only 1 is supported"),
    ("native", {"version": 2}, "format version 2; this duologue reads 1: update it"),
    ("native", {"extra": 1}, r"unknown field\(s\) extra"),
    ("native", {"csm": None, "mimi": None}, "describes neither"),
    ("native", {"csm": {"backbone": {}}}, r"csm: missing field\(s\)"),
    ("native", {"mimi": {"transformer": 3}}, "mimi.transformer: expected an object"),
]


@pytest.mark.parametrize(("layout", "change", "message"), BAD_CONFIGS)
def test_a_wrong_config_is_one_clear_line(
    layout: str, change: dict[str, Any], message: str, tiny: Tiny, tmp_path: Path
) -> None:
    folder = copy_of(tiny, layout, tmp_path)
    name = "mimi_config.json" if layout == "moshi-mimi" else "config.json"
    edit_json(folder / name, lambda values: values.update(change))
    load = load_codec if layout.endswith("mimi") else load_checkpoint
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
