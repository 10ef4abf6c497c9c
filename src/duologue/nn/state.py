"""What survives a step of a streaming module: a tree of dataclasses whose leaves are tensors with the batch first.

Zeros everywhere is the state before the first step, so that a row is reset by writing zeros into it.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

# Bytes from which memory comes from the system page by page.
_LARGE = 2**20


def unwritten_zeros(shape: Sequence[int], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Zeros that on a CPU cost nothing before they are used: the system hands out memory that it keeps at zero.

    For caches that are larger than what will be in them; `torch.zeros` writes every byte. NumPy asks for large pages,
    of which the first byte used clears 2 MB: a cache that is used a little in many places would be cleared as a whole.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or num_bytes < _LARGE:
        return torch.zeros(*shape, device=device, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a system may give large pages without being asked
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


@dataclass
class State:
    """Base of every state. Fields are tensors `[B, ...]`, states, lists of states, or plain numbers (bounds)."""

    def named_tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the tree with its dotted path, in a fixed order."""
        for field in dataclasses.fields(self):
            yield from _walk(getattr(self, field.name), f"{prefix}{field.name}")

    def clone(self) -> Self:
        """A copy that shares no memory with this state."""
        return type(self)(**{field.name: _clone(getattr(self, field.name)) for field in dataclasses.fields(self)})

    def rows(self, start: int, stop: int) -> Self:
        """Rows of the batch as a state of their own over the same memory; plain numbers are copied."""
        return type(self)(
            **{field.name: _rows(getattr(self, field.name), start, stop) for field in dataclasses.fields(self)}
        )

    def reset(self, rows: Tensor | None = None) -> None:
        """Takes the rows (indices or bool `[B]`; all when None) back to before their first step, in place."""
        for _, tensor in self.named_tensors():
            if rows is None:
                tensor.zero_()
            else:
                tensor[rows] = 0

    def copy_from(self, other: Self) -> None:
        """Overwrites this state's tensors with those of a state of the same shape, in place."""
        for (_, target), (_, source) in zip(self.named_tensors(), other.named_tensors(), strict=True):
            target.copy_(source)
        for field in dataclasses.fields(self):
            value = getattr(other, field.name)
            if isinstance(value, int | float | bool):
                setattr(self, field.name, value)

    def num_bytes(self) -> int:
        """Memory that the tensors hold, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self.named_tensors())


def _walk(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, State):
        yield from value.named_tensors(f"{path}.")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}.{index}")


def _rows(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:stop]
    if isinstance(value, State):
        return value.rows(start, stop)
    if isinstance(value, list):
        return [_rows(item, start, stop) for item in value]
    return value


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone(memory_format=torch.preserve_format)
    if isinstance(value, State):
        return value.clone()
    if isinstance(value, list):
        return [_clone(item) for item in value]
    return value
