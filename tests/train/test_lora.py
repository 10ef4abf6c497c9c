"""Adapters: what learns, that merging changes nothing, and that the result is a plain model in every layout."""

import dataclasses
from pathlib import Path

import pytest
import torch

from duologue.checkpoints import load_checkpoint, save_checkpoint
from duologue.config import CSM_PRESETS
from duologue.errors import TrainingError
from duologue.model.csm import CSM
from duologue.train.csm import train_csm, validation_losses
from duologue.train.lora import Adapters, LoraConfig
from tests.engine.builders import tiny_mimi, tiny_tokenizer
from tests.train.test_csm import make_batch, make_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def tiny(seed: int = 0) -> CSM:
    torch.manual_seed(seed)
    return CSM(CSM_PRESETS["tiny"]).eval()


def test_adapters_alone_learn_and_begin_as_nothing() -> None:
    model, batch = tiny(), make_batch()
    before = model(batch.tokens, batch.mask)
    adapters = Adapters(model, LoraConfig(rank=2))
    torch.testing.assert_close(model(batch.tokens, batch.mask), before)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning and all(".lora_" in name for name in learning)
    assert any(name.startswith("depth.") for name in learning)
    for name, parameter in model.named_parameters():
        if name in learning:
            torch.nn.init.normal_(parameter, std=0.1)
    changed = model(batch.tokens, batch.mask)
    assert not torch.allclose(changed, before)
    adapters.merge()
    assert set(model.state_dict()) == set(tiny().state_dict())
    torch.testing.assert_close(model(batch.tokens, batch.mask), changed, atol=1e-5, rtol=1e-4)


def test_training_with_adapters_keeps_what_they_do_not_touch(tmp_path: Path) -> None:
    start = tiny()
    config = dataclasses.replace(make_config(), lora=LoraConfig(rank=4))
    batches = [make_batch(index) for index in range(3)]
    trained = train_csm(config, lambda index, _: batches[index % 3], tmp_path, initial=start.state_dict(), quiet=True)
    before, after = (validation_losses(model, batches) for model in (start, trained))
    assert after["codebook0"] < before["codebook0"] - 0.1
    weights = trained.state_dict()
    for name, tensor in start.state_dict().items():
        is_target = any(f".{target}." in name for target in LoraConfig().targets)
        assert torch.equal(weights[name], tensor) != is_target, name


@pytest.mark.parametrize("layout", ["native", "transformers", "sesame"])
def test_a_merged_model_is_saved_in_every_layout(tmp_path: Path, layout: str) -> None:
    model = tiny()
    adapters = Adapters(model, LoraConfig(rank=2))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapters.merge()
    tiny_tokenizer().save(tmp_path / "tokenizer.json")
    codec = tiny_mimi()
    parts = {"codec": codec} if layout != "sesame" else {}
    folder = save_checkpoint(
        tmp_path / layout, layout, model=model, tokenizer_path=tmp_path / "tokenizer.json", **parts
    )
    if layout == "sesame":
        from safetensors.torch import load_file

        assert len(load_file(folder / "model.safetensors")) == len(model.state_dict())
        return
    again = load_checkpoint(folder).model
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)


def test_refusals() -> None:
    with pytest.raises(TrainingError, match="rank of 0"):
        Adapters(tiny(), LoraConfig(rank=0))
    with pytest.raises(TrainingError, match="no layers called x_proj"):
        Adapters(tiny(), LoraConfig(targets=("q_proj", "x_proj")))
