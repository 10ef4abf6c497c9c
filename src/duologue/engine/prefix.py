"""What the backbone has read, kept: prompts that begin alike are read once.

A prompt's keys and values depend on its own rows alone, so that whatever begins with the same rows may go on from a
copy: the next turn of a conversation from where the last one ended, a fork or a turn that was cut short from the rows
before, every session from the voice prompt that it shares with others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from duologue.frames import Rows, common_rows
from duologue.nn.transformer import TransformerState


@dataclass(frozen=True, eq=False)
class Prefix:
    """Rows and the state of a backbone that has read them: one row of the batch, never written to again."""

    rows: Rows
    state: TransformerState

    @classmethod
    def of(cls, rows: Rows, state: TransformerState) -> Prefix:
        """A copy of the part of a one-row state that `rows` fill; the state may go on and be written to."""
        return cls(rows, state.first(len(rows)))


def longest(rows: Rows, known: Sequence[Prefix]) -> tuple[Prefix | None, int]:
    """The known prefix that has the longest beginning of `rows`, and how many rows that is.

    The last row is never among them: reading it gives the hidden that the first frame is drawn from.
    """
    best, most = None, 0
    for prefix in known:
        count = common_rows(rows[:-1], prefix.rows)
        if count > most:
            best, most = prefix, count
    return best, most


class PrefixCache:
    """The prefixes of voice prompts, the newest up to `max_bytes` of keys and values. Safe to share by threads.

    They are those of one model's weights: whoever changes the weights calls `clear`.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, rows: Rows) -> Prefix | None:
        """The prefix of exactly these rows, if it is still there."""
        key = _key(rows)
        with self._lock:
            found = self._prefixes.get(key)
            if found is not None:
                self._prefixes.move_to_end(key)
            return found

    def put(self, prefix: Prefix) -> None:
        """Remembers a prefix; the oldest ones leave for it. One that is larger than the cache is not kept."""
        with self._lock:
            self._prefixes[_key(prefix.rows)] = prefix
            while sum(item.state.num_bytes() for item in self._prefixes.values()) > self.max_bytes:
                self._prefixes.popitem(last=False)

    def clear(self) -> None:
        """Forgets all."""
        with self._lock:
            self._prefixes.clear()

    def __len__(self) -> int:
        return len(self._prefixes)


def _key(rows: Rows) -> bytes:
    return torch.where(rows.mask, rows.tokens, -1).numpy().tobytes()
