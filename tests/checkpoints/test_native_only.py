"""What only our own format can hold, guidance and a decoder of harmonics: kept there, never lost in silence."""

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch

from duologue.checkpoints import LAYOUTS, convert, load_checkpoint, load_codec, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.config import CSM_PRESETS, MIMI_PRESETS, HarmonicConfig
from duologue.errors import CheckpointError, ConfigError, DuologueWarning
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


@pytest.fixture(scope="module")
def harmonic() -> Mimi:
    config = dataclasses.replace(MIMI_PRESETS["tiny"], harmonic=HarmonicConfig(num_channels=16, num_bands=24))
    return Mimi(config).eval()


def test_a_decoder_of_harmonics_comes_back(harmonic: Mimi, tmp_path: Path) -> None:
    again = load_codec(save_checkpoint(tmp_path / "x", "native", codec=harmonic))
    assert again.config == harmonic.config
    codes = torch.zeros(1, harmonic.num_codebooks, 3, dtype=torch.int64)
    assert torch.equal(again.decode(codes), harmonic.decode(codes))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "native"])
def test_no_other_layout_takes_it(harmonic: Mimi, tmp_path: Path, layout: str) -> None:
    model = None if layout.endswith("mimi") else tiny_csm()
    with pytest.raises(CheckpointError, match=rf"^the {layout} layout has no place for a decoder of harmonics"):
        save_checkpoint(tmp_path / "x", layout, model=model, codec=harmonic)
    assert not (tmp_path / "x").exists()


def test_a_model_is_converted_without_it(harmonic: Mimi, tmp_path: Path) -> None:
    source = save_checkpoint(tmp_path / "x", "native", model=tiny_csm(), codec=harmonic)
    with pytest.warns(DuologueWarning, match="gets the model without its codec"):
        made = convert(source, tmp_path / "y", "sesame")
    assert sorted(path.name for path in made.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="decoder of harmonics"):
        convert(source, tmp_path / "z", "transformers")
