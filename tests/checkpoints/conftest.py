"""Tiny networks and one folder of each layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from duologue.checkpoints import LAYOUTS, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.config import CSM_PRESETS, MIMI_PRESETS, TextConfig
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer


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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.manual_seed(0)
    model, codec = CSM(CSM_PRESETS["tiny"]).eval(), random_codec()
    root = tmp_path_factory.mktemp("checkpoints")
    tokenizer = root / "some tokenizer.json"
    TextTokenizer(build_symbol_tokenizer("abcdefghijklmnopqrstuvwxyz.,?!"), TextConfig()).save(tokenizer)
    folders = {}
    for layout in LAYOUTS:
        with_model = layout in ("native", "sesame", "transformers")
        folders[layout] = save_checkpoint(
            root / layout,
            layout,
            codec=codec,
            model=model if with_model else None,
            tokenizer_path=tokenizer if with_model else None,
        )
    return Tiny(model, codec, tokenizer, folders)
