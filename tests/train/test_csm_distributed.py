"""Several processes, and several batches a step, train a speech model as one process with one batch does."""

import dataclasses
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from duologue.config import CSM_PRESETS
from duologue.errors import TrainingError
from duologue.frames import RowBatch
from duologue.model.csm import CSM
from duologue.train.csm import CSMTrainConfig, train_csm, validation_losses
from duologue.train.distributed import World
from duologue.train.loop import LoopConfig

STEPS = 20


def make_config(**changes: object) -> CSMTrainConfig:
    loop = LoopConfig(
        num_steps=STEPS, learning_rate=1e-3, muon_learning_rate=2e-3, warmup_steps=2, save_every=10, log_every=5
    )
    loop = dataclasses.replace(loop, evaluate_every=8)
    # Every frame through the depth decoder: the draw would differ between one process and two.
    config = CSMTrainConfig(model=CSM_PRESETS["tiny"], loop=dataclasses.replace(loop, **changes), depth_share=1.0)  # type: ignore[arg-type]
    return config


def rows(index: int) -> RowBatch:
    """Four sequences of a turn each, with 7, 5, 3 and 1 frames: halves of the batch do not weigh the same."""
    generator = torch.Generator().manual_seed(index)
    config = CSM_PRESETS["tiny"]
    tokens = torch.zeros(4, 11, config.num_codebooks + 1, dtype=torch.int64)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    tokens[:, :3, -1] = torch.randint(1, 60, (4, 3), generator=generator)
    mask[:, :3, -1] = True
    turn = torch.full((4, 11), -1)
    for row, frames in enumerate((7, 5, 3, 1)):
        tokens[row, 3 : 3 + frames, :-1] = torch.randint(1, 60, (frames, config.num_codebooks), generator=generator)
        mask[row, 3 : 4 + frames, :-1] = True
        turn[row, : 4 + frames] = 0
    return RowBatch(tokens, mask, mask[..., 0], turn)


def part(batch: RowBatch, number: int, count: int) -> RowBatch:
    pieces = (t.chunk(count)[number] for t in (batch.tokens, batch.mask, batch.scored, batch.turn))
    return RowBatch(*pieces)


def train(folder: Path, world: World, *, killed_at: int = -1, **changes: object) -> dict[str, Tensor]:
    config = make_config(**changes)

    def batches(index: int, progress: float) -> RowBatch:
        if index == killed_at:
            raise InterruptedError
        count = config.loop.accumulate
        mine = part(rows(index // count), world.rank, world.size)
        return part(mine, index % count, count)

    def measure(model: CSM, step: int) -> dict[str, float]:
        return validation_losses(model, [rows(100)])

    return train_csm(config, batches, folder, evaluate=measure, world=world, quiet=True).state_dict()


def measured(folder: Path) -> list[dict[str, float]]:
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [
        {key: record[key] for key in sorted(record) if "eval" in key} for record in records if "eval_depth" in record
    ]


def work(rank: int, is_sharding: bool, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    try:
        trained = train(folder / "run", World(is_sharding=is_sharding))
        with suppress(InterruptedError):
            train(folder / "again", World(is_sharding=is_sharding), killed_at=13)
        distributed.barrier()
        resumed = train(folder / "again", World(is_sharding=is_sharding))
        torch.save((trained, resumed), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of torch's own, about its own interfaces
@pytest.mark.parametrize("is_sharding", [False, True])
def test_two_processes_train_as_one(tmp_path: Path, is_sharding: bool) -> None:
    multiprocessing.spawn(work, args=(is_sharding, tmp_path), nprocs=2)
    (first, resumed), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = train(tmp_path / "alone", World())
    start = CSM(CSM_PRESETS["tiny"]).state_dict()
    assert any(not torch.equal(alone[name], start[name]) for name in alone)
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], resumed[name]), name
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=1e-5, msg=name)
    together, apart = measured(tmp_path / "alone"), measured(tmp_path / "run")
    assert len(together) == len(apart) == 3
    for ours, theirs in zip(together, apart, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_accumulated_batches_are_as_good_as_one(tmp_path: Path) -> None:
    alone, accumulated = train(tmp_path / "one", World()), train(tmp_path / "two", World(), accumulate=2)
    for name, tensor in alone.items():
        torch.testing.assert_close(accumulated[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


def test_checkpointing_changes_nothing(tmp_path: Path) -> None:
    def run(is_on: bool) -> dict[str, Tensor]:
        config = dataclasses.replace(make_config(num_steps=4), checkpointing=is_on, dropout=0.1)
        return train_csm(config, lambda index, _: rows(index), tmp_path / str(is_on), quiet=True).state_dict()

    plain, recomputed = run(False), run(True)
    for name, tensor in plain.items():
        torch.testing.assert_close(recomputed[name], tensor, atol=1e-6, rtol=1e-6, msg=name)


def test_the_alignment_term_is_refused_where_the_model_is_sharded(tmp_path: Path) -> None:
    config = dataclasses.replace(make_config(), alignment_weight=0.3)
    with pytest.raises(TrainingError, match="alignment"):
        train_csm(config, lambda index, _: rows(index), tmp_path, world=World(is_sharding=True))
