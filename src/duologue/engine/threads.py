"""OpenMP's threads, of which those of one of the process's threads slow down all others'.

Each thread that computes has OpenMP threads of its own, which stay and wait for its next operation. While all of them
together are no more than the processors they wait at work, and an operation begins at once. Where they are more, those
of every thread fall asleep after each operation and are woken for the next one: a small one takes eight times as long
(dev/LOG.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch

# OpenMP 5.0: omp_pause_hard.
_HARD = 2


def release_threads() -> None:
    """Ends the OpenMP threads of the calling thread, which gets new ones when it next computes.

    For a thread that has prepared what another one computes. Does nothing where torch has no OpenMP, or one before 5.0.
    """
    _pause()(_HARD)


@cache
def _pause() -> Callable[[int], object]:
    # Looked up in torch and in the libraries that it has loaded, whichever of them is OpenMP's.
    return getattr(ctypes.CDLL(torch._C.__file__), "omp_pause_resource_all", None) or (lambda kind: None)
