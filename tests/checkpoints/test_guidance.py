"""A default that only our own format can hold: kept there, and never lost in silence."""

import dataclasses
import warnings
from pathlib import Path

import pytest

from duologue.checkpoints import load_checkpoint, save_checkpoint
from duologue.config import CSM_PRESETS
from duologue.errors import ConfigError, DuologueWarning
from duologue.model.csm import CSM
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer


def guided(strength: float) -> CSM:
    return tiny_csm(config=dataclasses.replace(CSM_PRESETS["tiny"], guidance=strength))


def test_the_native_format_keeps_it(tmp_path: Path) -> None:
    tiny_tokenizer().save(tmp_path / "tokenizer.json")
    folder = save_checkpoint(
        tmp_path / "x", "native", model=guided(2.5), codec=tiny_mimi(), tokenizer_path=tmp_path / "tokenizer.json"
    )
    assert load_checkpoint(folder).model.config.guidance == 2.5


@pytest.mark.parametrize("layout", ["sesame", "transformers"])
def test_another_format_says_that_it_is_lost(tmp_path: Path, layout: str) -> None:
    with pytest.warns(DuologueWarning, match=rf"^the {layout} layout has no place for guidance 2\.5: ask for it"):
        save_checkpoint(tmp_path / "x", layout, model=guided(2.5), codec=tiny_mimi())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_checkpoint(tmp_path / "y", layout, model=guided(1.0), codec=tiny_mimi())


@pytest.mark.parametrize("strength", [-1.0, 11.0])
def test_a_config_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match="guidance must be from 0 to 10"):
        dataclasses.replace(CSM_PRESETS["tiny"], guidance=strength)
