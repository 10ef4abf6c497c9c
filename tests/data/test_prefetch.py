"""Batches that other processes prepare are those of the steps, wherever a run begins."""

import os

import torch

from duologue.data.prefetch import Prefetched


def draw(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((2, 3), float(index)), torch.tensor(os.getpid())


def test_batches_come_in_order_and_from_other_processes() -> None:
    prefetched = Prefetched(draw, workers=2)
    for index in [0, 1, 2, 7, 8, 0, 1]:  # a resumed run, then one from the start
        values, process = prefetched(index)
        torch.testing.assert_close(values, draw(index)[0])
        assert int(process) != os.getpid()


def test_without_workers_nothing_is_prepared() -> None:
    _, process = Prefetched(draw, workers=0)(5)
    assert int(process) == os.getpid()
