"""Segments of a conversation, the rows they become, and the rule for the end of speech.

Source: Sesame, `csm/generator.py`. A row is `K` audio slots and one text slot with a mask of the same shape; a text
token fills the last slot of a row of its own, a frame the first `K`. Every spoken segment ends with a frame of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

END_CODE = 0


@dataclass
class Segment:
    """One turn: who speaks, what, and the recording (float32 `[num_samples]` at the codec's rate) once spoken."""

    speaker: int
    text: str
    audio: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """A run of rows: `tokens [T, K+1]` int64 and `mask [T, K+1]` bool."""

    tokens: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.tokens[part], self.mask[part])


@dataclass(frozen=True)
class RowBatch:
    """Right-padded row sequences to learn from.

    `tokens [B, T, K+1]` int64, `mask` bool of that shape, `scored [B, T]` bool: the audio rows to learn, end frames
    too. `turn [B, T]` numbers each row's turn within its sequence (-1: padding).
    """

    tokens: Tensor
    mask: Tensor
    scored: Tensor
    turn: Tensor

    def to(self, device: torch.device | str) -> RowBatch:
        """The batch on a device."""
        return RowBatch(*(t.to(device) for t in (self.tokens, self.mask, self.scored, self.turn)))


def text_rows(ids: Sequence[int], num_codebooks: int) -> Rows:
    """One row a token, only the text slot unmasked."""
    tokens = torch.zeros(len(ids), num_codebooks + 1, dtype=torch.int64)
    mask = torch.zeros(len(ids), num_codebooks + 1, dtype=torch.bool)
    tokens[:, -1] = torch.tensor(list(ids), dtype=torch.int64)
    mask[:, -1] = True
    return Rows(tokens, mask)


def audio_rows(codes: Tensor, *, end: bool = True) -> Rows:
    """One row a frame of `codes [K, T]`, all audio slots unmasked; `end` appends the end frame."""
    num_codebooks, num_frames = codes.shape
    count = num_frames + end
    tokens = torch.full((count, num_codebooks + 1), END_CODE, dtype=torch.int64)
    tokens[:num_frames, :-1] = codes.T
    tokens[:, -1] = 0
    mask = torch.ones(count, num_codebooks + 1, dtype=torch.bool)
    mask[:, -1] = False
    return Rows(tokens, mask)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other; at least one part."""
    return Rows(torch.cat([part.tokens for part in parts]), torch.cat([part.mask for part in parts]))


def common_rows(first: Rows, second: Rows) -> int:
    """How many rows both begin with; what a masked slot holds does not count."""
    count = min(len(first), len(second))
    one, other = (torch.where(rows.mask[:count], rows.tokens[:count], -1) for rows in (first, second))
    (different,) = torch.nonzero((one != other).any(dim=-1), as_tuple=True)
    return int(different[0]) if len(different) else count


def without_text(rows: Rows) -> Rows:
    """The same rows with the text after the last audio row masked: the past, but not what is to be said next."""
    (spoken,) = torch.nonzero(rows.mask[:, :-1].any(dim=-1), as_tuple=True)
    mask = rows.mask.clone()
    mask[int(spoken[-1]) + 1 if len(spoken) else 0 :] = False
    return Rows(rows.tokens, mask)


def is_end(frames: Tensor) -> Tensor:
    """Which frames `[..., K]` end the speech: those whose codes are all zero. Returns bool `[...]`."""
    return (frames == END_CODE).all(dim=-1)
