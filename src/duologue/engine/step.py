"""One frame at a time: the prompt read by the backbone, and the depth loop of a frame.

Sources: Sesame, `csm/models.py` (`Model.generate_frame`) and `csm/generator.py`. The backbone's hidden at the newest
row gives codebook 0; the depth decoder, its cache begun afresh, gives the others one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duologue.engine.backends import EAGER, Backend
from duologue.engine.prefix import Prefix, longest
from duologue.engine.sampling import BatchSampling
from duologue.frames import Rows, common_rows
from duologue.model.csm import CSM
from duologue.nn.transformer import TransformerState

# Prompts enter the backbone in pieces of this many rows: the embeddings of all slots of a piece are held at once.
_PREFILL_ROWS = 256
# What prompts share is read by itself where it is more: a pass takes as long as so many rows more in the next one.
_FEW_ROWS = 16


class FrameStep:
    """The depth loop of one frame for a batch of `B` requests, with the buffers that it needs.

    A guided request has a second row, which follows the same frames without having read the text; `follows [B + G]`
    says which request each row belongs to.
    """

    def __init__(
        self,
        model: CSM,
        sampling: BatchSampling,
        backend: Backend = EAGER,
        depth: TransformerState | None = None,
    ) -> None:
        """`depth` is the depth decoder's state for `B + G` rows or more, to be written over."""
        self.model = model
        self.sampling = sampling
        self.follows = torch.cat(
            (torch.arange(len(sampling.temperature), device=sampling.guided.device), sampling.guided)
        )
        self._backend = backend
        self._run = backend.codes_together(model)
        num_rows = len(self.follows)
        self._depth = model.init_depth_state(num_rows) if depth is None else depth.rows(0, num_rows)

    def __call__(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """`hidden [B + G, D]` of the newest rows, Gumbel `noise [B, K, V]` `->` the next frame `[B, K]` int64."""
        model, depth, options = self.model, self._depth, self.sampling
        # What the cache still holds lies beyond every row's length, where nothing looks.
        depth.lengths.zero_()
        depth.extent, depth.is_even = 0, True
        drawn, inputs = self._backend.first_code(model, options, self.follows, hidden, noise[:, 0])
        codes = [drawn[:, None]]
        for first in range(1, model.num_codebooks, self._run):
            drawn, inputs = self._backend.next_codes(
                model, options, self.follows, depth, inputs, first, self._run, noise
            )
            codes.append(drawn)
        return torch.cat(codes, dim=1)


def prefill(model: CSM, rows: Rows, state: TransformerState, known: Sequence[Prefix] = ()) -> Tensor:
    """Appends `rows` (at least one) to a one-row `state`, in place; returns the last hidden, `[1, D]`.

    Into an empty state, the rows that a known prefix begins with are copied instead of computed.
    """
    best, count = longest(rows, known) if known else (None, 0)
    if best is not None:
        state.take(best.state, count)
    return read_rows(model, [rows], state, count, len(rows))


@dataclass(frozen=True)
class Held:
    """What caches hold of a prefix: its first `length` positions in their first row, `shared` of them in the others."""

    prefix: Prefix
    length: int
    shared: int


@torch.inference_mode()
def prefill_together(
    model: CSM,
    prompts: Sequence[Rows],
    state: TransformerState,
    known: Sequence[Prefix] = (),
    held: Held | None = None,
) -> tuple[Tensor, Held | None]:
    """Prompts of one length into the rows of an empty `state`, in place; returns their last hiddens, `[B, D]`.

    What all of them begin with is read once, if it is more than a few rows, the rest of all in the same passes. What is
    known and still `held` is not copied again; what is held from now on is returned as well.
    """
    first, is_alone = prompts[0], len(prompts) == 1
    shared = num_shared(prompts)
    best, count = longest(first if is_alone else first[: shared + 1], known)
    if is_alone or shared - count <= _FEW_ROWS:
        shared = count
    kept = min(count, held.length) if held is not None and best is held.prefix else 0
    one = state.rows(0, 1)
    if best is not None:
        one.take(best.state, count, start=kept)
    read_rows(model, [first], one, count, shared)
    for row in range(1, len(prompts)):
        state.rows(row, row + 1).take(one, shared, start=0 if held is None else min(kept, held.shared))
    state.extent, state.is_even = shared, True
    hidden = read_rows(model, prompts, state, shared, len(first))
    return hidden, None if best is None else Held(best, count, 0 if is_alone else count)


def num_shared(prompts: Sequence[Rows]) -> int:
    """Rows that all prompts begin with; their last rows, which give the first hidden, are never among them."""
    first = prompts[0]
    return min(common_rows(first[:-1], prompt[:-1]) for prompt in prompts)


@torch.inference_mode()
def read_rows(model: CSM, prompts: Sequence[Rows], state: TransformerState, start: int, stop: int) -> Tensor:
    """Appends rows `start` to `stop` of each prompt to its row of `state`, in pieces and in place.

    The rows before `start` are the same in all prompts. Returns the last hiddens, `[B, D]`; nothing in them where there
    is nothing to read.
    """
    hidden = torch.empty(0)
    device = state.lengths.device
    for begin in range(start, stop, _PREFILL_ROWS):
        pieces = [prompt[begin : min(begin + _PREFILL_ROWS, stop)] for prompt in prompts]
        tokens = torch.stack([piece.tokens for piece in pieces]).to(device)
        mask = torch.stack([piece.mask for piece in pieces]).to(device)
        alike = begin == start and len(prompts) > 1
        hidden = model(tokens, mask, state, newest=True, alike=alike)[:, 0]
    return hidden
