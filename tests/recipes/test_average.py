"""The mean of two checkpoints: weights between the two, everything else the second's."""

from pathlib import Path

import pytest

from duologue.checkpoints import load_checkpoint, save_checkpoint
from duologue.config import CSM_PRESETS
from duologue.errors import OptionError
from duologue.model.csm import CSM
from recipes.parlor.average import average
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer


def save(folder: Path, model: CSM, seed: int = 0) -> Path:
    symbols = folder.with_suffix(".json")
    tiny_tokenizer().save(symbols)
    return save_checkpoint(folder, "native", model=model, codec=tiny_mimi(seed), tokenizer_path=symbols)


def test_weights_lie_between(tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        save(folder, tiny_csm(seed), seed)
    average(*folders, 0.75, tmp_path / "mean")
    (first, second, mean), codec = (
        [load_checkpoint(folder).model.state_dict() for folder in (*folders, tmp_path / "mean")],
        (tmp_path / "mean" / "codec.safetensors").read_bytes(),
    )
    for name, weight in mean.items():
        expected = 0.25 * first[name] + 0.75 * second[name]
        assert (weight - expected).norm() <= 0.02 * expected.norm() + 1e-6, name  # eight bits a weight
    assert codec == (folders[1] / "codec.safetensors").read_bytes()
    with pytest.raises(OptionError, match="is there already"):
        average(*folders, 0.5, tmp_path / "mean")


def test_different_shapes_have_no_mean(tmp_path):
    config = CSM_PRESETS["tiny"]
    other = type(config).from_dict({**config.to_dict(), "text_vocab_size": config.text_vocab_size + 1})
    save(tmp_path / "a", tiny_csm())
    save(tmp_path / "b", tiny_csm(config=other))
    with pytest.raises(OptionError, match="different shapes"):
        average(tmp_path / "a", tmp_path / "b", 0.5, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
