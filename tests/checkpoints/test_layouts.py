"""Checkpoints of every layout: found, loaded, written back, and refused where they do not fit."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from duologue.checkpoints import LAYOUTS, convert, inspect, load_checkpoint, load_codec, save_checkpoint
from duologue.checkpoints.io import read_json, write_json
from duologue.checkpoints.loading import default_dtype
from duologue.config import CSM_PRESETS, MIMI_PRESETS, RopeScaling, TextConfig, TransformerConfig
from duologue.errors import CheckpointError, HubError, OptionError
from duologue.model.csm import CSM
from tests.checkpoints.conftest import Tiny, random_codec

FULL = ("native", "sesame", "transformers")
MIMI_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"


def assert_same(ours: nn.Module, expected: nn.Module) -> None:
    """Bit for bit, dtypes included."""
    state, wanted = ours.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


def copy_of(tiny: Tiny, layout: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.folders[layout], tmp_path / "copy"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = read_json(path)
    change(values)
    write_json(path, values)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("layout", FULL)
def test_a_whole_checkpoint_loads(tiny: Tiny, layout: str) -> None:
    checkpoint = load_checkpoint(tiny.folders[layout], offline=True)
    assert checkpoint.layout == layout and checkpoint.folder == tiny.folders[layout]
    assert checkpoint.model.config == tiny.model.config and checkpoint.codec.config == tiny.codec.config
    assert_same(checkpoint.model, tiny.model)
    assert_same(checkpoint.codec, tiny.codec)
    assert checkpoint.tokenizer.encode("hello", 1)
    assert not checkpoint.model.training and not checkpoint.codec.training
    assert all(not tensor.is_meta for tensor in checkpoint.model.state_dict().values())
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_codec_loads_alone(tiny: Tiny, layout: str) -> None:
    assert_same(load_codec(tiny.folders[layout], offline=True), tiny.codec)


@pytest.mark.parametrize("start", FULL)
@pytest.mark.parametrize("through", FULL)
def test_conversions_are_exact(tiny: Tiny, start: str, through: str, tmp_path: Path) -> None:
    convert(tiny.folders[start], tmp_path / "through", through)
    convert(tmp_path / "through", tmp_path / "back", start)
    for path in sorted(tiny.folders[start].iterdir()):
        again = tmp_path / "back" / path.name
        if path.suffix == ".safetensors":
            tensors, expected = load_file(again), load_file(path)
            assert tensors.keys() == expected.keys()
            assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        else:
            assert again.read_text() == path.read_text()


@pytest.mark.parametrize("start", LAYOUTS)
@pytest.mark.parametrize("through", ["moshi-mimi", "transformers-mimi", "native"])
def test_codec_conversions_are_exact(tiny: Tiny, start: str, through: str, tmp_path: Path) -> None:
    convert(tiny.folders[start], tmp_path / "codec", through)
    codec = load_codec(tmp_path / "codec")
    assert codec.config == tiny.codec.config
    assert_same(codec, tiny.codec)


def test_the_function_is_the_same_whatever_the_layout(tiny: Tiny) -> None:
    """Names alone would not show a wrong order of rotary channels."""
    tokens = torch.randint(0, 60, (1, 9, tiny.model.num_codebooks + 1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    expected = tiny.model(tokens, mask)
    for layout in FULL:
        assert torch.equal(load_checkpoint(tiny.folders[layout]).model(tokens, mask), expected)


@pytest.mark.parametrize("layout", FULL)
def test_text_settings_and_shapes_survive(layout: str, tiny: Tiny, tmp_path: Path) -> None:
    config = replace(
        CSM_PRESETS["tiny"],
        backbone=TransformerConfig(
            dim=32, num_layers=1, num_heads=2, num_kv_heads=1, ffn_dim=24, max_positions=100, head_dim=20, norm_eps=1e-6
        ),
        text=TextConfig(template="[{speaker}] {text}", alphabet="espeak:en-us", normalize=False),
    )
    model = CSM(config)
    save_checkpoint(tmp_path / "a", layout, model=model, codec=tiny.codec, tokenizer_path=tiny.tokenizer)
    loaded = load_checkpoint(tmp_path / "a")
    assert loaded.model.config == config
    assert loaded.tokenizer.config == config.text
    assert_same(loaded.model, model)


@pytest.mark.parametrize("layout", FULL)
def test_dtypes(layout: str, tiny: Tiny, tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "a",
        layout,
        model=tiny.model,
        codec=tiny.codec,
        tokenizer_path=tiny.tokenizer,
        dtype=torch.bfloat16,
        codec_dtype=torch.bfloat16,
    )
    stored = inspect(tmp_path / "a")
    assert stored["csm"]["dtypes"] == ["bfloat16"]
    kinds = {name.rpartition(".")[2]: tensor["dtype"] for name, tensor in stored["codec"]["tensors"].items()}
    assert {kinds[name] for name in kinds if name in ("embedding_sum", "embed_sum", "cluster_usage")} == {"float32"}
    assert kinds["weight"] == "bfloat16"
    loaded = load_checkpoint(tmp_path / "a")
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    assert {tensor.dtype for tensor in loaded.codec.state_dict().values()} == {torch.float32}
    half = load_checkpoint(tmp_path / "a", dtype=torch.bfloat16)
    assert_same(half.model, loaded.model.bfloat16())
    assert {tensor.dtype for tensor in half.codec.state_dict().values()} == {torch.float32}
    convert(tmp_path / "a", tmp_path / "b", "native")
    assert inspect(tmp_path / "b")["csm"]["dtypes"] == ["bfloat16"]


def test_fewer_codebooks_than_the_file_has(tiny: Tiny) -> None:
    whole = tiny.codec.state_dict()
    for layout in LAYOUTS:
        codec = load_codec(tiny.folders[layout], num_codebooks=3)
        assert codec.num_codebooks == 3
        state = codec.state_dict()
        assert all(torch.equal(state[name], whole[name]) for name in state)
    for count in (1, 5):
        with pytest.raises(CheckpointError, match=rf"num_codebooks must be 2\.\.4, not {count}"):
            load_codec(tiny.folders["native"], num_codebooks=count)


def test_a_codec_with_more_codebooks_than_the_model(tiny: Tiny, tmp_path: Path) -> None:
    model = CSM(replace(tiny.model.config, num_codebooks=3))
    save_checkpoint(tmp_path / "a", "native", model=model, codec=tiny.codec, tokenizer_path=tiny.tokenizer)
    assert load_checkpoint(tmp_path / "a").codec.num_codebooks == 3
    assert load_checkpoint(tmp_path / "a", num_codebooks=4).codec.num_codebooks == 4
    with pytest.raises(CheckpointError, match=r"the model speaks 3 codebooks .* num_codebooks cannot be 2"):
        load_checkpoint(tmp_path / "a", num_codebooks=2)
    for layout in ("sesame", "transformers"):
        with pytest.raises(CheckpointError, match=r"cannot be saved together"):
            save_checkpoint(tmp_path / layout, layout, model=model, codec=tiny.codec)


@pytest.mark.parametrize("stored", ["depth", "backbone", "both"])
def test_the_tied_embedding_is_stored_once_or_twice(tiny: Tiny, stored: str, tmp_path: Path) -> None:
    folder = copy_of(tiny, "transformers", tmp_path)
    depth, backbone = "depth_decoder.model.embed_tokens.weight", "backbone_model.embed_tokens.embed_audio_tokens.weight"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[backbone] = tensors[depth].clone()
        for name in {"depth": [backbone], "backbone": [depth], "both": []}[stored]:
            del tensors[name]

    edit_tensors(folder / "model.safetensors", change)
    assert_same(load_checkpoint(folder).model, tiny.model)


def test_shards_under_the_hubs_unusual_index(tiny: Tiny, tmp_path: Path) -> None:
    convert(tiny.folders["transformers"], tmp_path / "a", "transformers", max_shard_bytes=60_000)
    folder = tmp_path / "a"
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    for name in shards:
        (folder / name).rename(folder / name.replace("model", "transformers"))
    index = (folder / "model.safetensors.index.json").read_text().replace('"model-', '"transformers-')
    (folder / "model.safetensors.index.json").unlink()
    (folder / "transformers.safetensors.index.json").write_text(index)
    assert_same(load_checkpoint(folder).model, tiny.model)
    assert_same(load_codec(folder), tiny.codec)
    (folder / shards[1].replace("model", "transformers")).unlink()
    with pytest.raises(CheckpointError, match=r"which is not there"):
        load_checkpoint(folder)


def test_two_layouts_side_by_side_are_not_mixed(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The hub's sesame/csm-1b: transformers' shards and Sesame's model.safetensors under one config.json."""
    convert(tiny.folders["transformers"], tmp_path / "a", "transformers", max_shard_bytes=60_000)
    folder = tmp_path / "a"
    original = load_file(tiny.folders["sesame"] / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in original.items()}, folder / "model.safetensors")
    with caplog.at_level(logging.INFO, logger="duologue"):
        checkpoint = load_checkpoint(folder)
    assert checkpoint.layout == "transformers"
    assert_same(checkpoint.model, tiny.model)
    [line] = [record.getMessage() for record in caplog.records]
    assert "transformers layout, leaving aside sesame" in line
    by_name = load_checkpoint(folder / "model.safetensors.index.json")
    assert by_name.layout == "transformers"
    with pytest.raises(HubError, match=r"holds no codec; put"):  # the other layout's codec is not borrowed
        load_checkpoint(folder / "model.safetensors", offline=True, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["model.safetensors", ""])
def test_sesames_files_side_by_side_load_offline(tiny: Tiny, tmp_path: Path, name: str) -> None:
    """model.safetensors, config.json, moshi's Mimi file and tokenizer.json, given as the folder or as the file."""
    checkpoint = load_checkpoint(tiny.folders["sesame"] / name, offline=True, cache_dir=tmp_path)
    assert checkpoint.layout == "sesame"
    assert_same(checkpoint.model, tiny.model)
    assert_same(checkpoint.codec, tiny.codec)


def test_a_transformers_codec_beside_sesames_files(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy_of(tiny, "sesame", tmp_path)
    (folder / MIMI_FILE).unlink()
    (folder / "mimi_config.json").unlink()
    shutil.copy(tiny.folders["transformers-mimi"] / "model.safetensors", folder / "mimi.safetensors")
    edit_json(
        folder / "config.json",
        lambda values: values.update(codec_config=read_json(tiny.folders["transformers-mimi"] / "config.json")),
    )
    assert_same(load_checkpoint(folder, offline=True).codec, tiny.codec)


def small_flavors(monkeypatch: pytest.MonkeyPatch) -> CSM:
    """Stand-ins for the published flavours, and a model made of two of them."""
    from duologue.checkpoints import sesame

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
    from duologue.checkpoints.sesame import FLAVORS

    assert FLAVORS["llama-1B"] == CSM_PRESETS["csm-1b"].backbone
    assert FLAVORS["llama-100M"] == CSM_PRESETS["csm-1b"].depth
    miso = FLAVORS["llama-300M"]
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen", "truncated", "not JSON"])
def test_damage_is_refused_in_every_layout(layout: str, damage: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = copy_of(tiny, layout, tmp_path)
    path = folder / (MIMI_FILE if layout == "moshi-mimi" else "model.safetensors")
    victim = sorted(load_file(path))[5]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        message = "is truncated"
    elif damage == "not JSON":
        name = "mimi_config.json" if layout == "moshi-mimi" else "config.json"
        (folder / name).write_text("{")
        message = "is not valid JSON"
    else:
        changes = {
            "missing": lambda tensors: tensors.pop(victim),
            "extra": lambda tensors: tensors.update(surprise=torch.ones(1)),
            "misshapen": lambda tensors: tensors.update({victim: tensors[victim][..., None]}),
        }
        edit_tensors(path, changes[damage])
        message = {
            "missing": rf"1 missing \({victim}\)",
            "extra": r"1 unknown \(surprise\)",
            "misshapen": "1 misshapen",
        }[damage]
    load = load_codec if layout.endswith("mimi") else load_checkpoint
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no CSM or Mimi checkpoint; safetensors files there: none"):
        load_checkpoint(tmp_path)
    torch.save({}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"holds only ckpt\.pt: a pickle .* refused"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"a pickle .* refused"):
        load_checkpoint(tmp_path / "ckpt.pt")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no Mimi codec; safetensors files there: other\.safetensors"):
        load_codec(tmp_path)
    with pytest.raises(CheckpointError, match=r"are those of no known CSM or Mimi checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a codec and no CSM"):
        load_checkpoint(tiny.folders["moshi-mimi"])


def test_parts_that_are_not_there(tiny: Tiny, tmp_path: Path) -> None:
    for layout in ("transformers", "native"):
        folder = Path(shutil.copytree(tiny.folders[layout], tmp_path / layout))
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"no config.json|holds no CSM"):
            load_checkpoint(folder)
    folder = Path(shutil.copytree(tiny.folders["native"], tmp_path / "b"))
    (folder / "codec.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"codec\.safetensors: is missing, though config\.json describes it"):
        load_checkpoint(folder)
    save_checkpoint(tmp_path / "c", "native", model=tiny.model)
    with pytest.raises(CheckpointError, match=r"holds no codec"):
        load_codec(tmp_path / "c")
    with pytest.raises(HubError, match=r"holds no codec; put tokenizer-.* beside it .*offline mode is on"):
        load_checkpoint(tmp_path / "c", offline=True, cache_dir=tmp_path / "cache")
    folder = Path(shutil.copytree(tiny.folders["native"], tmp_path / "d"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(HubError, match=r"holds no tokenizer\.json; put one beside it .*unsloth/Llama-3\.2-1B"):
        load_checkpoint(folder, offline=True, cache_dir=tmp_path / "cache")


def test_two_checkpoints_of_one_layout(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy_of(tiny, "moshi-mimi", tmp_path)
    shutil.copy(folder / MIMI_FILE, folder / "second.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints of the moshi-mimi layout .* name one of the files"):
        load_codec(folder)
    assert_same(load_codec(folder / "second.safetensors"), tiny.codec)


def test_parts_that_do_not_belong_together(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy_of(tiny, "native", tmp_path)
    config = replace(MIMI_PRESETS["tiny"], codebook_size=32)
    other = type(tiny.codec)(config)
    save_checkpoint(tmp_path / "other", "native", codec=other)
    shutil.copy(tmp_path / "other" / "codec.safetensors", folder)
    edit_json(folder / "config.json", lambda values: values.update(mimi=config.to_dict()))
    with pytest.raises(CheckpointError, match=r"codebooks of 32 codes; the model has 64"):
        load_checkpoint(folder)
    small = CSM(replace(tiny.model.config, text_vocab_size=20))
    save_checkpoint(tmp_path / "small", "native", model=small, codec=tiny.codec, tokenizer_path=tiny.tokenizer)
    with pytest.raises(CheckpointError, match=r"tokens, but the model embeds 20"):
        load_checkpoint(tmp_path / "small")


@pytest.mark.parametrize(
    ("layout", "parts", "message"),
    [
        ("pickle", ("codec",), "layout 'pickle' is unknown; known are native"),
        ("native", (), "needs a model and a codec"),
        ("sesame", ("codec",), "the sesame layout needs a model"),
        ("transformers", ("model",), "the transformers layout needs a codec"),
        ("moshi-mimi", ("model", "codec"), "holds a codec alone"),
        ("transformers-mimi", ("codec", "tokenizer"), "holds a codec alone"),
    ],
)
def test_what_a_layout_needs(layout: str, parts: tuple[str, ...], message: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        save_checkpoint(
            tmp_path / "a",
            layout,
            model=tiny.model if "model" in parts else None,
            codec=tiny.codec if "codec" in parts else None,
            tokenizer_path=tiny.tokenizer if "tokenizer" in parts else None,
        )
    assert not list(tmp_path.iterdir())


def test_nothing_half_written(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such tokenizer file"):
        save_checkpoint(tmp_path / "a", "native", model=tiny.model, tokenizer_path=tmp_path / "missing.json")
    assert not list(tmp_path.iterdir())
    save_checkpoint(tmp_path / "a", "native", codec=tiny.codec)
    with pytest.raises(CheckpointError, match=r"is already there"):
        save_checkpoint(tmp_path / "a", "native", model=tiny.model)
    other = random_codec(5)
    save_checkpoint(tmp_path / "a", "native", codec=other, overwrite=True)
    assert_same(load_codec(tmp_path / "a"), other)


def test_a_changed_model_is_not_saved(tiny: Tiny, tmp_path: Path) -> None:
    model = CSM(tiny.model.config)
    model.projection = nn.Sequential(model.projection)  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=r"the CSM holds other tensors .* save it before it is quantized"):
        save_checkpoint(tmp_path / "a", "native", model=model)
    assert not list(tmp_path.iterdir())


def test_default_dtypes() -> None:
    assert default_dtype(torch.device("cpu")) == torch.float32
    assert default_dtype(torch.device("cuda", 0)) == torch.bfloat16


def test_voices_come_along(tiny: Tiny, tmp_path: Path) -> None:
    folder = copy_of(tiny, "native", tmp_path)
    (folder / "voices").mkdir()
    (folder / "voices" / "anna.json").write_text("{}")
    convert(folder, tmp_path / "b", "native", dtype=torch.bfloat16)
    assert (tmp_path / "b" / "voices" / "anna.json").read_text() == "{}"
    convert(folder, tmp_path / "c", "sesame")
    assert not (tmp_path / "c" / "voices").exists()
    with pytest.raises(OptionError, match=r"no place for voices"):
        save_checkpoint(tmp_path / "d", "sesame", model=tiny.model, voices_folder=folder / "voices")


def test_inspect_tells_without_loading(tiny: Tiny) -> None:
    for layout in LAYOUTS:
        found = inspect(tiny.folders[layout])
        assert json.loads(json.dumps(found)) == found
        assert found["layout"] == layout and found["folder"] == str(tiny.folders[layout])
        counts = sum(tensor.numel() for tensor in tiny.codec.state_dict().values())
        assert found["codec"]["num_parameters"] == counts
        assert found["codec"]["config"] == tiny.codec.config.to_dict()
        if layout in FULL:
            assert found["csm"]["num_parameters"] == sum(p.numel() for p in tiny.model.parameters())
            assert found["tokenizer"] == "tokenizer.json"
        else:
            assert found["csm"] is None and found["tokenizer"] is None
