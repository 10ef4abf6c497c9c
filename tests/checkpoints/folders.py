"""What the checkpoint tests share: tiny networks, folders to damage, comparisons bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from duologue.checkpoints.io import read_json, write_json
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS
from duologue.model.csm import CSM

FULL = ("native", "sesame", "transformers")
MIMI_FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"


@dataclass(frozen=True)
class Tiny:
    """A speech model, its codec, and the folders that hold them, by layout."""

    model: CSM
    codec: Mimi
    tokenizer: Path
    folders: dict[str, Path]


def random_codec(seed: int = 0) -> Mimi:
    codec = Mimi(MIMI_PRESETS["tiny"]).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in codec.named_buffers():
        if name.endswith("cluster_usage"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        else:
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return codec


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
