"""Training on several processes, as `torchrun` starts them: each has its own batches, all take one step.

Either every process holds the whole model, and gradients are averaged by hand (two losses that are descended apart do
not fit into one backward pass), or each holds a share of every parameter, gathered where it is needed: torch's
`fully_shard` (FSDP2; Zhao et al., "PyTorch FSDP", 2023), for models that one device cannot hold with their optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class World:
    """The processes of a run; alone, every operation is the identity."""

    def __init__(self, *, is_sharding: bool = False) -> None:
        """`is_sharding` spreads the parameters over the processes."""
        self.is_sharding = is_sharding

    @property
    def size(self) -> int:
        """How many there are."""
        return distributed.get_world_size() if self._is_shared else 1

    @property
    def rank(self) -> int:
        """Which one this is, from 0; the first one writes."""
        return distributed.get_rank() if self._is_shared else 0

    @property
    def is_first(self) -> bool:
        """Whether this process logs, evaluates and saves."""
        return self.rank == 0

    @property
    def _is_shared(self) -> bool:
        return distributed.is_available() and distributed.is_initialized()

    def shard(self, module: nn.Module, blocks: Iterable[nn.Module], *, regather: bool = True) -> None:
        """Where this world is sharding: leaves each process its share of the parameters, block by block.

        With `regather` a block's parameters are gathered for the forward and once more for the backward pass.
        """
        if not self.is_sharding:
            return
        mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=regather)
        fully_shard(module, mesh=mesh, reshard_after_forward=regather)

    @contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        """Within it parts of a sharded module can be called by themselves, in every process alike.

        The blocks gather their parameters when they are called; what lies outside of them only the whole module does.
        """
        if not isinstance(module, FSDPModule):
            yield
            return
        module.unshard()
        try:
            yield
        finally:
            module.reshard()

    def average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The means over all processes of tensors of one dtype."""
        if self.size == 1:
            return list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        pieces = (flat / self.size).split([tensor.numel() for tensor in tensors])
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size == 1:
            return tensor
        summed = tensor.clone()
        distributed.all_reduce(summed)
        return summed

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Gives every process the first one's values, in place; shares of parameters stay as they are."""
        if self.size > 1 and not self.is_sharding:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            distributed.barrier()


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of `model`, and this process's share of it where `model` is one."""
    tensor = tensor.to(model.device)
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor, model.device_mesh, model.placements, src_data_rank=None)


def norm(tensors: Sequence[Tensor], world: World) -> Tensor:
    """The Euclidean norm of all tensors together, a scalar."""
    squares = torch.stack([local(tensor).float().square().sum() for tensor in tensors]).sum()
    return (world.total(squares) if world.is_sharding else squares).sqrt()


@contextmanager
def joined(local_rank: int | None, *, backend: str | None = None, is_sharding: bool = False) -> Iterator[World]:
    """The world of this run: that of `torchrun` where it started the process as the machine's `local_rank`, else alone.

    `backend` defaults to NCCL on machines with CUDA and Gloo elsewhere.
    """
    if local_rank is None:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(backend or ("nccl" if torch.cuda.is_available() else "gloo"))
    try:
        yield World(is_sharding=is_sharding)
    finally:
        distributed.destroy_process_group()
