"""The speech model's matrices as int8 with a scale a row: what is written, what comes back, what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from duologue.checkpoints import LAYOUTS, convert, inspect, load_checkpoint, save_checkpoint
from duologue.checkpoints.packing import pack, unpack
from duologue.errors import CheckpointError, OptionError
from duologue.model.csm import CSM
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer


def save_packed(folder: Path, model: CSM) -> Path:
    tokenizer = folder.with_suffix(".json")
    tiny_tokenizer().save(tokenizer)
    return save_checkpoint(folder, "native", model=model, codec=tiny_mimi(), tokenizer_path=tokenizer, dtype=torch.int8)


def test_a_row_is_off_by_at_most_half_a_step_where_nothing_is_clipped() -> None:
    values = torch.linspace(-1, 1, 401).repeat(3, 1) * torch.tensor([[1.0], [1e-3], [50.0]])
    codes, scale = pack(values)
    assert codes.dtype == torch.int8
    assert scale.shape == (3, 1)
    inner = values.abs() <= 127 * scale
    assert float(inner.float().mean()) > 0.95
    assert bool(((unpack(codes, scale) - values).abs() <= scale / 2 * (1 + 1e-5))[inner].all())


def test_a_scale_that_clips_is_taken_where_it_serves() -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 512)
    codes, scale = pack(values)
    plain = values.abs().amax(dim=1, keepdim=True) / 127
    naive = ((values / plain).round() * plain - values).square().mean()
    found = (unpack(codes, scale) - values).square().mean()
    assert found < naive
    assert float(found.sqrt()) < 0.01  # of values of order one
    assert torch.equal(pack(torch.zeros(2, 4))[0], torch.zeros(2, 4, dtype=torch.int8))
    with pytest.raises(ValueError, match="not finite"):
        pack(torch.tensor([[1.0, float("nan")]]))


def test_a_model_comes_back_nearly_the_same_from_half_the_bytes(tmp_path: Path) -> None:
    model = tiny_csm()
    folder = save_packed(tmp_path / "packed", model)
    stored = load_file(folder / "model.safetensors")
    assert {str(t.dtype) for name, t in stored.items() if t.dim() > 1 and not name.endswith(".scale")} == {"torch.int8"}
    again = load_checkpoint(folder).model
    for name, tensor in model.state_dict().items():
        error = (again.state_dict()[name] - tensor).square().mean().sqrt()
        assert float(error) <= 0.01 * float(tensor.square().mean().sqrt()), name
    described = inspect(folder)["csm"]
    assert described["dtypes"] == ["float32", "int8"]
    assert described["num_parameters"] == sum(tensor.numel() for tensor in model.state_dict().values())


def test_another_layout_gets_what_was_read(tmp_path: Path) -> None:
    folder = save_packed(tmp_path / "packed", tiny_csm())
    other = convert(folder, tmp_path / "plain", "native")
    first, second = (load_checkpoint(path).model.state_dict() for path in (folder, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {str(t.dtype) for t in load_file(other / "model.safetensors").values()} == {"torch.float32"}


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "native"])
def test_no_other_layout_takes_int8(tmp_path: Path, layout: str) -> None:
    model = None if layout.endswith("mimi") else tiny_csm()
    with pytest.raises(OptionError, match="int8 is for the speech model in the native layout"):
        save_checkpoint(tmp_path / "x", layout, model=model, codec=tiny_mimi(), dtype=torch.int8)


def test_a_scale_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_packed(tmp_path / "packed", tiny_csm())
    tensors = load_file(folder / "model.safetensors")
    tensors["projection.weight.scale"] = torch.ones(3, 1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"projection\.weight\.scale does not fit projection\.weight: expected"):
        load_checkpoint(folder)
