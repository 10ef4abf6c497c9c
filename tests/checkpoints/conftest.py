"""Tiny networks and one folder of each layout."""

from __future__ import annotations

import pytest
import torch

from duologue.checkpoints import LAYOUTS, save_checkpoint
from duologue.config import CSM_PRESETS, TextConfig
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer
from tests.checkpoints.folders import FULL, Tiny, random_codec


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.manual_seed(0)
    model, codec = CSM(CSM_PRESETS["tiny"]).eval(), random_codec()
    root = tmp_path_factory.mktemp("checkpoints")
    tokenizer = root / "some tokenizer.json"
    TextTokenizer(build_symbol_tokenizer("abcdefghijklmnopqrstuvwxyz.,?!"), TextConfig()).save(tokenizer)
    folders = {}
    for layout in LAYOUTS:
        with_model = layout in FULL
        folders[layout] = save_checkpoint(
            root / layout,
            layout,
            codec=codec,
            model=model if with_model else None,
            tokenizer_path=tokenizer if with_model else None,
        )
    return Tiny(model, codec, tokenizer, folders)
