"""How much of its codebooks a codec uses.

The perplexity of a codebook is 2 to the entropy of its codes in bits: as many codes as it would take if all were used
alike. It cannot exceed the number of frames that were counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from duologue.eval.measure import Row
from duologue.eval.statistics import Difference, Figure, draws, interval

Floats = npt.NDArray[np.float64]
_LITTLE = 16  # resamples at a time, so that few counts are in memory


@dataclass(frozen=True)
class CodebookUse:
    """The perplexity of the codebook that is used least, over all frames of the recordings.

    A bootstrap sample holds some recordings twice and so fewer different codes; its interval lies around the mean of
    the samples, and is moved so that it lies around the value.
    """

    name: str = "codebook_use"
    title: str = "perplexity of the least used codebook"
    unit: str = ""
    better: Literal["lower", "higher", "neither"] = "higher"

    def figure(self, rows: Sequence[Row], group: str | None = None) -> Figure:
        """The value over the rows, with interval and count."""
        counts = _counts(rows, group)
        if not counts:
            return Figure(None, None, None, 0)
        stacked = _stack(list(counts.values()))
        value = float(_least_perplexity(stacked.sum(axis=0)))
        if len(counts) == 1:
            return Figure(value, None, None, 1)
        return Figure(value, *_moved(value, _resampled(stacked)), len(counts))

    def difference(self, first: Sequence[Row], second: Sequence[Row], group: str | None = None) -> Difference:
        """How much the second report lies above the first, over the recordings that both measured."""
        before, after = _counts(first, group), _counts(second, group)
        shared = [key for key in before if key in after]
        if not shared:
            return Difference(None, None, None, 0)
        stacks = [_stack([side[key] for key in shared]) for side in (before, after)]
        old, new = (float(_least_perplexity(stack.sum(axis=0))) for stack in stacks)
        if len(shared) == 1:
            return Difference(new - old, None, None, 1)
        samples = _resampled(stacks[1]) - _resampled(stacks[0])
        return Difference(new - old, *_moved(new - old, samples), len(shared))


def _counts(rows: Sequence[Row], group: str | None) -> dict[str, Floats]:
    """How often each code occurs in each recording, `[K, V]` by id."""
    return {
        row.id: np.stack([np.bincount(codes, minlength=row.codebook_size) for codes in row.codes]).astype(np.float64)
        for row in rows
        if row.codes and row.codebook_size is not None and group in (None, row.group)
    }


def _stack(counts: list[Floats]) -> Floats:
    return np.stack(counts)  # [n, K, V]


def _least_perplexity(counts: Floats) -> Floats:
    """Of the codebook that is used least: `[..., K, V]` -> `[...]`."""
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    bits = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=-1)
    return np.asarray((2**bits).min(axis=-1))


def _resampled(stacked: Floats) -> Floats:
    """The least perplexity of each bootstrap sample, recordings drawn with replacement."""
    count = len(stacked)
    weights = np.stack([np.bincount(draw, minlength=count) for draw in draws(count)]).astype(np.float64)
    return np.concatenate(
        [
            _least_perplexity(np.tensordot(part, stacked, axes=1))
            for part in np.array_split(weights, -(-len(weights) // _LITTLE))
        ]
    )


def _moved(value: float, samples: Floats) -> tuple[float, float]:
    low, high = interval(samples)
    assert low is not None and high is not None, "perplexities are finite"
    shift = value - float(samples.mean())
    return low + shift, high + shift
