"""Checkpoints that are damaged, incomplete or ambiguous: one clear line, nothing half-written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from duologue.checkpoints import LAYOUTS, load_checkpoint, load_codec, save_checkpoint
from duologue.config import MIMI_PRESETS
from duologue.errors import CheckpointError, HubError, OptionError
from duologue.model.csm import CSM
from tests.checkpoints.folders import MIMI_FILE, Tiny, assert_same, copy_of, edit_json, edit_tensors, random_codec


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
