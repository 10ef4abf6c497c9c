"""Checkpoints of every layout: found, loaded, written back, converted."""

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from duologue.checkpoints import LAYOUTS, convert, inspect, load_checkpoint, load_codec, save_checkpoint
from duologue.checkpoints.io import read_json
from duologue.checkpoints.loading import default_dtype
from duologue.config import CSM_PRESETS, TextConfig, TransformerConfig
from duologue.errors import CheckpointError, HubError, OptionError
from duologue.model.csm import CSM
from tests.checkpoints.folders import FULL, MIMI_FILE, Tiny, assert_same, copy_of, edit_json, edit_tensors


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


def test_building_a_model_leaves_the_compiler_alone() -> None:
    """Random initial values on the meta device would import torch's compiler: seconds, at every start of a command."""
    program = (
        "import sys; from duologue.checkpoints import layouts; from duologue.config import CSM_PRESETS, MIMI_PRESETS\n"
        "model = layouts.build_csm(CSM_PRESETS['csm-1b'])\n"
        "codec = layouts.build_codec(next(iter(MIMI_PRESETS.values())))\n"
        "assert all(p.is_meta for m in (model, codec) for p in m.parameters())\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
