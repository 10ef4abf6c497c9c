"""Batches prepared ahead of time by other processes, for a device that would wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

BatchType = TypeVar("BatchType")

_AHEAD = 4  # batches a process


class Prefetched(Generic[BatchType]):
    """`draw(index)` for rising indices, each computed by one of `workers` processes before it is asked for.

    An index that does not follow the last one starts anew from there. `draw` must depend on its index alone, and gives
    tensors or tuples of them; with CUDA they lie in pinned memory.
    """

    def __init__(self, draw: Callable[[int], BatchType], workers: int) -> None:
        """`workers` may be 0: then nothing is prepared."""
        self._draw, self._workers = draw, workers
        self._next = 0
        self._batches: Iterator[BatchType] = iter(())

    def __call__(self, index: int) -> BatchType:
        """The batch of a step."""
        if not self._workers:
            return self._draw(index)
        if index != self._next or index == 0:
            loader = DataLoader(
                _Draws(self._draw),
                batch_size=None,
                sampler=count(index),  # without an end
                num_workers=self._workers,
                prefetch_factor=_AHEAD,
                pin_memory=torch.cuda.is_available(),
            )
            self._batches = iter(loader)
        self._next = index + 1
        return next(self._batches)


class _Draws(Dataset[BatchType]):
    def __init__(self, draw: Callable[[int], BatchType]) -> None:
        self._draw = draw

    def __getitem__(self, index: int) -> BatchType:
        return self._draw(index)
