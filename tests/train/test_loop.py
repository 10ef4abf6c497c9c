"""The training loop: exact resume, averaging, refusals, signals, and what is on disk."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from duologue.errors import DuologueWarning, TrainingError
from duologue.train.distributed import World, like
from duologue.train.loop import WEIGHT, LoopConfig, TrainingLoop
from duologue.train.optimizers import Player, Rates


def make_loop(folder: Path, **changes: object) -> TrainingLoop:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    values = {"num_steps": 12, "learning_rate": 0.05, "muon_learning_rate": 0.02, "save_every": 4, "log_every": 2}
    config = LoopConfig.from_dict({**values, "warmup_steps": 2, **changes})
    return TrainingLoop(config, module, folder, description={}, hidden_matrices=["0.weight"])


def step_of(loop: TrainingLoop, fail_at: int | None = None, stop_at: int | None = None):  # type: ignore[no-untyped-def]
    def step(index: int, progress: float) -> dict[str, Tensor]:
        if index == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(16, 4, generator=generator)
        loss = (loop.module(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return {"loss": loss * float("nan") if index == fail_at else loss}

    return step


def weights(loop: TrainingLoop) -> list[Tensor]:
    return [p.detach().clone() for p in loop.module.parameters()] + list(loop.average.values())


@pytest.mark.parametrize("stop_at", [0, 3, 7])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    whole = make_loop(tmp_path / "whole")
    whole.run(step_of(whole), quiet=True)
    first = make_loop(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        first.run(step_of(first, stop_at=stop_at), quiet=True)
    assert first.step_index == stop_at + 1
    second = make_loop(tmp_path / "parts")
    assert second.resume()
    second.run(step_of(second), quiet=True)
    assert second.step_index == whole.step_index == 12
    for ours, theirs in zip(weights(second), weights(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_matrices_are_updated_in_float32_unless_autocast_says_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(autocast: str, is_fast: bool) -> list[Tensor]:
        monkeypatch.setattr("duologue.train.loop.computes_bfloat16", lambda device: is_fast)
        loop = make_loop(tmp_path / f"{autocast}-{is_fast}", autocast=autocast)
        loop.run(step_of(loop), quiet=True)
        return weights(loop)

    def same(first: list[Tensor], second: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    exact = trained("none", is_fast=False)
    assert same(trained("none", is_fast=True), exact)
    assert same(trained("auto", is_fast=False), exact)
    assert not same(trained("auto", is_fast=True), exact)


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    with pytest.raises(TrainingError, match=r"step 6: .*loss.* not finite.*lower learning_rate"):
        loop.run(step_of(loop, fail_at=6), quiet=True)
    state = json.loads((tmp_path / "last" / "state.json").read_text())
    assert state["step"] == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_step_that_does_not_fit_into_memory_says_what_to_change(tmp_path: Path, error: Exception) -> None:
    loop = make_loop(tmp_path)
    steps = step_of(loop)

    def step(index: int, progress: float) -> dict[str, Tensor]:
        if index == 6:
            raise error
        return steps(index, progress)

    with pytest.raises(TrainingError, match=r"step 6 does not fit .* smaller batches .* accumulate .* checkpointing"):
        loop.run(step, quiet=True)
    assert json.loads((tmp_path / "last" / "state.json").read_text())["step"] == 4


def test_other_failures_of_a_step_are_not_mistaken_for_it(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)

    def step(index: int, progress: float) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        loop.run(step, quiet=True)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(tmp_path)
    written = []

    def save(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half of it")
        if len(written) == 1:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        written.append(path)
        save_file(tensors, path)

    monkeypatch.setattr("duologue.train.loop.save_file", save)
    with pytest.raises(TrainingError, match=r"step 8 cannot be saved .*No space left.* from before: make room"):
        loop.run(step_of(loop), quiet=True)
    assert not (tmp_path / "next").exists()
    monkeypatch.undo()
    second = make_loop(tmp_path)
    assert second.resume()
    assert second.step_index == 4
    second.run(step_of(second), quiet=True)
    whole = make_loop(tmp_path / "whole")
    whole.run(step_of(whole), quiet=True)
    for ours, theirs in zip(weights(second), weights(whole), strict=True):
        assert torch.equal(ours, theirs)


def test_batches_count_by_their_weight(tmp_path: Path) -> None:
    """Two batches of 3 and 13 rows in a step, or one of 16: the same."""
    results = []
    for count in (1, 2):
        loop = make_loop(tmp_path / str(count), accumulate=count)
        for module in loop.module:
            if isinstance(module, nn.Dropout):
                module.p = 0.0

        def step(index: int, progress: float, loop: TrainingLoop = loop, count: int = count) -> dict[str, Tensor]:
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(index // count))
            x = x.split((3, 13) if count == 2 else (16,))[index % count]
            loss = (loop.module(x) - x.sum(dim=1, keepdim=True)).square().mean()
            return {"loss": loss, WEIGHT: torch.tensor(len(x))}

        loop.run(step, quiet=True)
        lines = (loop.folder / "log.jsonl").read_text().splitlines()
        results.append((weights(loop), [json.loads(line) for line in lines]))
    (one, log), (two, other_log) = results
    for ours, theirs in zip(one, two, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert [r["loss"] for r in log] == pytest.approx([r["loss"] for r in other_log], rel=1e-3)
    assert WEIGHT not in log[0]


def test_rates_may_differ_by_parameter(tmp_path: Path) -> None:
    def moved(factor: float) -> tuple[float, float]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        before = [p.detach().clone() for p in module.parameters()]
        config = LoopConfig(num_steps=1, learning_rate=0.01, warmup_steps=0, weight_decay=0.0)
        loop = TrainingLoop(config, module, tmp_path / str(factor), description={}, rate_factors={"1.weight": factor})
        loop.run(step_of(loop), quiet=True)
        change = [float((p.detach() - b).abs().max()) for p, b in zip(module.parameters(), before, strict=True)]
        return change[0], change[2]

    (plain, same), (first, second) = moved(1.0), moved(0.1)
    assert first == pytest.approx(plain)
    assert second == pytest.approx(0.1 * same, rel=1e-3)


def test_weights_decay_alike_whatever_their_rates() -> None:
    parameters = {name: nn.Parameter(torch.ones(2, 2)) for name in ("plain", "fast", "slow")}
    rates = Rates(0.01, weight_decay=0.5)
    player = Player("loss", parameters, rates, factors={"fast": 20.0, "slow": 0.05})
    player.step([torch.zeros(2, 2)] * 3, 1.0, 1.0)
    for parameter in parameters.values():
        torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 1 - 0.01 * 0.5))


def test_resume_refuses_another_configuration(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run(step_of(loop), quiet=True)
    with pytest.raises(TrainingError, match=r"loop.weight_decay was 0.01, is 0.1$"):
        make_loop(tmp_path, weight_decay=0.1, learning_rate=0.1).resume()


def test_resume_of_nothing(tmp_path: Path) -> None:
    assert not make_loop(tmp_path).resume()


def test_a_crash_between_the_renames_of_a_save_loses_nothing(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run(step_of(loop), quiet=True)
    os.replace(tmp_path / "last", tmp_path / "old")
    again = make_loop(tmp_path)
    assert again.resume()
    assert again.step_index == 12


def test_averaged_weights_are_lent_and_given_back(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run(step_of(loop), quiet=True)
    before = weights(loop)
    with loop.averaged():
        assert not loop.module.training
        assert torch.equal(next(loop.module.parameters()), loop.average["0.weight"])
    for ours, theirs in zip(weights(loop), before, strict=True):
        assert torch.equal(ours, theirs)


def test_the_rate_warms_up_and_falls_to_its_final_share(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, final_lr_share=0.1)
    factors = []
    for index in range(13):
        loop.step_index = index
        factors.append(loop.rate_factor())
    assert factors[0] < factors[1]
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[12] == pytest.approx(0.1)


def test_the_log_has_every_mean(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run(step_of(loop), evaluate=lambda step: {"wer": 0.5}, quiet=True)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [2, 4, 6, 8, 10, 12]
    assert [record["eval_wer"] for record in records if "eval_wer" in record] == [0.5]


def test_a_budget_of_minutes_ends_a_run(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, num_steps=10_000, budget_minutes=1.0)
    loop.elapsed_s = 59.999
    loop.run(step_of(loop), quiet=True)
    assert 0 < loop.step_index < 10_000
    assert (tmp_path / "last" / "state.safetensors").exists()


def test_settings_of_memory_and_rates_may_change_on_the_way(tmp_path: Path) -> None:
    first = make_loop(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        first.run(step_of(first, stop_at=3), quiet=True)
    second = make_loop(tmp_path, learning_rate=0.01, accumulate=2)
    with pytest.warns(DuologueWarning, match=r"loop.accumulate was 1, is 2; loop.learning_rate was 0.05, is 0.01"):
        assert second.resume()
    second.run(step_of(second), quiet=True)
    assert second.step_index == 12


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.run(step_of(loop), quiet=True)
    state = tmp_path / "last" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"last is damaged .* take it away to begin anew"):
        make_loop(tmp_path).resume()


def test_memory_may_be_short_where_the_optimizer_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    loop = make_loop(tmp_path)
    monkeypatch.setattr(Player, "step", step)
    with pytest.raises(TrainingError, match=r"step 0 does not fit .* with LoRA or shared among processes"):
        loop.run(step_of(loop), quiet=True)


def test_a_signal_is_not_forgotten_while_processes_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes this one hears it in the middle of the talk of the first step: both stop after the second."""
    loop = make_loop(tmp_path)
    monkeypatch.setattr(World, "size", 2)
    monkeypatch.setattr(World, "average", lambda world, tensors: list(tensors))
    monkeypatch.setattr(World, "share", lambda world, tensors: None)
    monkeypatch.setattr(World, "wait", lambda world: None)
    words = []

    def total(world: World, tensor: Tensor) -> Tensor:
        if tensor.shape == (2,):
            words.append(tensor.tolist()[0])
            if len(words) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return tensor.clone()

    monkeypatch.setattr(World, "total", total)
    with pytest.raises(KeyboardInterrupt):
        loop.run(step_of(loop), quiet=True)
    assert words == [0, signal.SIGTERM]
    assert loop.step_index == 2


def test_what_a_checkpoint_held_goes_to_the_models_device(tmp_path: Path) -> None:
    """But for a count of steps, which AdamW keeps on the CPU."""
    assert like(torch.ones(2), torch.empty(2, device="meta")).device.type == "meta"
    loop = make_loop(tmp_path)
    loop.run(step_of(loop), quiet=True)
    saved = loop.players[0].state()
    module = nn.Linear(8, 1, device="meta")
    player = Player("loss", {"2.weight": module.weight}, Rates(0.1))
    player.load_state(saved)
    state = player.optimizers[0].state[module.weight]
    assert {key: value.device.type for key, value in state.items()} == {
        "step": "cpu",
        "exp_avg": "meta",
        "exp_avg_sq": "meta",
    }
