"""The amortization benchmark: what it counts, and a run of it at toy size."""

from pathlib import Path

import pytest
import torch

from benchmarks import amortization
from duologue.audio import write_audio
from duologue.config import CSM_PRESETS
from duologue.data.prepare import PrepareConfig, prepare
from duologue.data.sources import find_conversations
from duologue.model.csm import CSM

RATE = 24_000


def test_what_is_kept_grows_with_the_share_in_the_depth_decoder_alone() -> None:
    config = CSM_PRESETS["tiny"]
    whole, quarter = (
        amortization.kept_bytes(config, rows=64, share=share, dtype=torch.float32) for share in (1.0, 0.25)
    )
    assert whole.backbone == quarter.backbone
    assert quarter.depth == pytest.approx(whole.depth / 4, rel=0.05)


def test_the_count_is_that_of_a_real_pass() -> None:
    config, rows = CSM_PRESETS["tiny"], 16
    counted = amortization.kept_bytes(config, rows=rows, share=1.0, dtype=torch.float32)
    model = CSM(config)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    held = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            held.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hidden = torch.randn(rows, config.backbone.dim, requires_grad=True)
    codes = torch.ones(rows, config.num_codebooks, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.depth_logits(hidden, codes)
    assert counted.depth == pytest.approx(sum(sizes.values()), rel=0.2)


def test_a_step_is_timed() -> None:
    cpu = torch.device("cpu")
    one = amortization.measured_step(CSM_PRESETS["tiny"], rows=12, share=0.5, device=cpu, repeats=3)
    assert one.seconds > 0
    assert (one.peak_bytes, one.state_bytes) == (0, 0)
    table = amortization.step_table(CSM_PRESETS["tiny"], (1.0, 1 / 16), 12, cpu)
    assert [line.split(" |")[0] for line in table.splitlines()[2:]] == ["| 1", "| 1/16"]


def test_a_run_gives_time_memory_and_losses(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        write_audio(source / f"{number}.wav", 0.1 * torch.sin(0.03 * (1 + number) * torch.arange(RATE)), RATE)
        (source / f"{number}.txt").write_text("a word or two")
    for _ in prepare(find_conversations(source), tmp_path / "data", PrepareConfig(), cache=tmp_path):
        pass
    result = amortization.train_share(0.25, tmp_path / "data", tmp_path / "run", 3, 120, torch.get_num_threads())
    assert result["step_s"] > 0 and result["peak_mb"] > 100
    assert [step for step, *_ in result["curve"]] == [1, 2, 3]
    assert all(codebook0 > 0 and depth > 0 for _, _, codebook0, depth in result["curve"])
    assert amortization.run_table([result]).count("\n") == 2
    amortization.draw_curves([result], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
