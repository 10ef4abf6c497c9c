"""Weights in large pages, on Linux.

A frame reads all weights from end to end. In pages of 4 KB the processor has to look up an address, and to begin its
reading ahead anew, each time one ends; in pages of 2 MB memory gives up to half as much again (dev/LOG.md). Most systems
use them for memory that asks ("transparent huge pages"). torch's packed weights and compiled graphs allocate where
nobody else sees it; so what is asked for is the memory that the process has taken while a model was loaded.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")
_PAGE = 2 << 20
# linux/mman.h: pages that are written from now on; those that are there already, copied at once (Linux 6.1).
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25


@dataclass(frozen=True)
class Region:
    """Private memory of the process without a file, `start` to `stop`, of which `resident` bytes are in use.

    `large` of them lie in large pages.
    """

    start: int
    stop: int
    resident: int
    large: int


@contextmanager
def large_pages() -> Iterator[None]:
    """What the process takes from the system in here, and still has at the end, is moved to large pages then.

    Nothing happens where the system has none to give, or is not Linux. Copying takes a second or so a gigabyte.
    """
    before = regions()
    yield
    madvise = ctypes.CDLL(None).madvise if before else None
    for region in regions():
        # A region of which little is in use, such as a thread's stack or an empty cache, would only grow.
        if madvise is None or 2 * region.resident < region.stop - region.start:
            continue
        for start, stop in _beyond(before, region):
            first, size = -(-start // _PAGE) * _PAGE, stop // _PAGE * _PAGE - -(-start // _PAGE) * _PAGE
            if size > 0:
                for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                    madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)


def regions() -> list[Region]:
    """The process's private memory without files, by address; none where the system does not tell."""
    try:
        text = _SMAPS.read_text() if sys.platform == "linux" else ""
    except OSError:
        return []
    found: list[Region] = []
    place, sizes = None, {"Rss:": 0, "AnonHugePages:": 0}
    for line in (*text.splitlines(), "end"):
        words = line.split()
        if words[0] in sizes:
            sizes[words[0]] = int(words[1]) << 10
        elif not words[0].endswith(":"):  # the next region's address, rights, offset, device, inode and name
            if place is not None:
                found.append(Region(*place, sizes["Rss:"], sizes["AnonHugePages:"]))
            is_ours = words[1:2] == ["rw-p"] and words[4] == "0" and words[5:] in ([], ["[heap]"])
            place = tuple(int(address, 16) for address in words[0].split("-")) if is_ours else None
    return found


def _beyond(before: list[Region], region: Region) -> Iterator[tuple[int, int]]:
    """The parts of a region that were not the process's before."""
    start = region.start
    for old in before:
        if old.stop > start and old.start < region.stop:
            if old.start > start:
                yield start, old.start
            start = max(start, old.stop)
    if start < region.stop:
        yield start, region.stop
