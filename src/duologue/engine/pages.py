"""Weights in large pages, on Linux.

A frame reads all weights from end to end. In pages of 4 KB the processor has to look up an address, and to begin its
reading ahead anew, each time one ends; in pages of 2 MB memory gives up to half as much again (dev/LOG.md). Most
systems use them for memory that asks ("transparent huge pages"). torch's packed weights and compiled graphs allocate
where nobody sees it; so what is asked for is the memory that the process has taken while a model was loaded.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")
_PAGE = 2 << 20
# linux/mman.h: what is written from now on, and (Linux 6.1) what is there already, which is copied at once.
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
# A region's first line (addresses, rights, offset, device, inode, name), and two of those that follow.
_REGION = re.compile(
    r"^(?P<start>[0-9a-f]+)-(?P<stop>[0-9a-f]+) rw-p \S+ \S+ 0 *(?:\[heap\])?\n"
    r"(?:\w+:.*\n)*?Rss: +(?P<resident>\d+) kB\n(?:\w+:.*\n)*?AnonHugePages: +(?P<large>\d+) kB$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Region:
    """Private memory of the process without a file, from address `start` to `stop`.

    `resident` bytes of it are in use, `large` of them in large pages.
    """

    start: int
    stop: int
    resident: int
    large: int


@contextmanager
def large_pages() -> Iterator[None]:
    """What the process takes from the system in here, and still has at the end, is moved to large pages then.

    What it has and does not use goes back to the system: of a model that is packed matrix by matrix half a gigabyte is
    left in places between. Nothing happens where the system has no large pages to give, or is not Linux. Moving takes a
    second or two a gigabyte.
    """
    before = regions()
    yield
    if not before:
        return
    library = ctypes.CDLL(None)
    madvise = library.madvise
    for region in regions():
        # A region that is hardly used, such as a thread's stack or a cache with room to spare, would only grow.
        if 2 * region.resident < region.stop - region.start:
            continue
        for start, stop in _beyond(before, region):
            first, last = -(-start // _PAGE) * _PAGE, stop // _PAGE * _PAGE
            # Advice: what the system does not follow leaves the memory as it is.
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE) if first < last else ():
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
    # glibc's. Afterwards, for large pages would fill the places between again.
    getattr(library, "malloc_trim", lambda kept: 0)(0)


def regions() -> list[Region]:
    """The process's private memory without files, by address; none where the system does not tell."""
    if sys.platform != "linux":
        return []
    try:
        text = _SMAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [
        Region(int(found["start"], 16), int(found["stop"], 16), int(found["resident"]) << 10, int(found["large"]) << 10)
        for found in _REGION.finditer(text)
    ]


def _beyond(before: Sequence[Region], region: Region) -> Iterator[tuple[int, int]]:
    """The parts of a region that lie in none of those before."""
    start = region.start
    for old in before:
        if old.stop > start and old.start < region.stop:
            if old.start > start:
                yield start, old.start
            start = old.stop
    if start < region.stop:
        yield start, region.stop
