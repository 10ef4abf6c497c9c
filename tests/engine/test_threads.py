"""Who has prepared what another thread computes keeps no OpenMP threads from it."""

import sys

import pytest

from duologue.engine import threads
from tests.engine.test_pages import in_a_new_process

_COUNTING = (
    "import os, threading, torch\n"
    "torch.set_num_threads(2)\n"
    "from duologue.engine.threads import release_threads\n"
    "count = lambda: len(os.listdir('/proc/self/task'))\n"
    "x = torch.ones(2_000_000)\n"
)
needs_openmp = pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux lists them")


def counted(code: str) -> list[str]:
    """The words that it prints in a process of two threads; the tests' own computes with one."""
    return in_a_new_process(_COUNTING + code).split()


@needs_openmp
def test_released_threads_end_and_come_back():
    before, computed, released, again, total = map(
        float,
        counted(
            "release_threads(); before = count(); x.add(1); computed = count(); release_threads(); released = count()\n"
            "total = x.add(1).mean().item(); print(before, computed, released, count(), total)"
        ),
    )
    assert computed == before + 1
    assert released == before
    assert again == computed and total == 2


@needs_openmp
def test_a_thread_releases_its_own_threads_only():
    mine, all_of_us, left = map(
        int,
        counted(
            "x.add(1); mine = count(); found = []\n"
            "def compute():\n"
            "    x.add(1); found.append(count()); release_threads(); found.append(count())\n"
            "thread = threading.Thread(target=compute); thread.start(); thread.join()\n"
            "print(mine, *found)"
        ),
    )
    assert all_of_us == mine + 2  # the thread, and its own one of OpenMP's
    assert left == mine + 1


@needs_openmp
def test_a_scheduler_leaves_its_caller_none():
    """Neither of loading nor of encoding a recording for a request."""
    left = counted(
        "import duologue, warnings; warnings.simplefilter('ignore')\n"
        "def has_threads():\n"
        "    before = count(); release_threads(); return count() < before\n"
        "generator = duologue.load(); x.add(1)\n"
        "with duologue.Scheduler(generator, max_streams=1) as scheduler:\n"
        "    print(has_threads())\n"
        "    context = [duologue.Segment(0, 'one two', 0.1 * torch.randn(24000))]\n"
        "    for _ in scheduler.submit('three', context=context, max_audio_length_ms=160, seed=0): pass\n"
        "    print(has_threads())\n"
        "x.add(1); print(has_threads())"
    )
    assert left == ["False", "False", "True"]


def test_a_system_without_such_a_call_does_nothing(monkeypatch):
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda name: object())
    threads._pause.cache_clear()
    try:
        assert threads.release_threads() is None
    finally:
        monkeypatch.undo()
        threads._pause.cache_clear()
