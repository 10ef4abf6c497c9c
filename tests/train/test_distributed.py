"""Two processes that share their batches take the steps of one that has them all."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from duologue.codec.mimi import Mimi
from duologue.train.adversary import AdversaryConfig
from duologue.train.codec import CodecBatch, CodecTrainConfig, QuantizerConfig, train_codec
from duologue.train.distributed import World, joined
from duologue.train.loop import LoopConfig
from duologue.train.reconstruction import ReconstructionConfig

STEPS = 20


def crops(index: int) -> torch.Tensor:
    """Eight crops, all of one kind of signal, so that halves of a batch weigh the same."""
    generator = torch.Generator().manual_seed(index)
    return 0.1 * torch.randn(8, 1, 3 * 1920, generator=generator)


def make_config(codec: Mimi, kind: str) -> CodecTrainConfig:
    loop = LoopConfig(num_steps=STEPS, learning_rate=1e-3, warmup_steps=2, clip_norm=1e9, save_every=10, log_every=5)
    # The commitment is relative to the power of a batch, which differs a little between halves.
    quantizer = QuantizerConfig(kmeans_points=0, commitment_weight=0.0, bypass=0.0, dropout=0.0, revive_below=0.0)
    if kind == "codes":
        return CodecTrainConfig(model=codec.config, loop=loop, quantizer=quantizer)
    # The distance of features is relative to their size in a batch, which differs a little between halves; and the
    # two sides of the game make the smallest difference grow.
    judges = AdversaryConfig(windows=(256,), filters=4, adversarial_weight=0.0, feature_weight=0.0)
    reconstruction = ReconstructionConfig(adversary=judges)
    return CodecTrainConfig(
        model=codec.config, loop=loop, learn="decoder", quantizer=quantizer, reconstruction=reconstruction
    )


def train(codec: Mimi, kind: str, folder: Path, world: World) -> Mimi:
    def batches(index: int) -> CodecBatch:
        pcm = crops(index).chunk(world.size)[world.rank]
        return CodecBatch(pcm, torch.zeros(len(pcm), 3, 0))

    return train_codec(make_config(codec, kind), batches, folder, initial=codec, world=world, quiet=True)


def run_one(rank: int, kind: str, codec: Mimi, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    try:
        trained = train(codec, kind, folder / "run", World())
        torch.save(trained.state_dict(), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["codes", "decoder"])
def test_two_processes_train_as_one(codec: Mimi, tmp_path: Path, kind: str) -> None:
    multiprocessing.spawn(run_one, args=(kind, codec, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = train(codec, kind, tmp_path / "alone", World()).state_dict()
    before = codec.state_dict()
    assert any(not torch.equal(alone[name], before[name]) for name in alone)
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


def test_a_process_alone_is_a_world_of_one() -> None:
    with joined(None) as world:
        assert (world.size, world.rank, world.is_first) == (1, 0, True)
        tensors = [torch.ones(2), torch.zeros(3)]
        assert all(a is b for a, b in zip(world.average(tensors), tensors, strict=True))
        assert world.total(tensors[0]) is tensors[0]
