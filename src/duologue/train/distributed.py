"""Data-parallel training on several processes, as `torchrun` starts them: each has its own batches, all take one step.

Gradients are averaged by hand, bucket by bucket: the models here are small, and two losses that are descended apart do
not fit into one backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


class World:
    """The processes of a run; alone, every operation is the identity."""

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
        """Gives every process the first one's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined(is_launched: bool, *, backend: str | None = None) -> Iterator[World]:
    """The world of this run: that of `torchrun` where the process was started by it (`is_launched`), else alone.

    `backend` defaults to NCCL on machines with CUDA and Gloo elsewhere.
    """
    if not is_launched:
        yield World()
        return
    distributed.init_process_group(backend or ("nccl" if torch.cuda.is_available() else "gloo"))
    try:
        yield World()
    finally:
        distributed.destroy_process_group()
