"""Memory that is taken while a model is loaded lies in large pages afterwards; other memory is left alone."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duologue.engine import pages
from duologue.engine.pages import Region, large_pages, regions

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Linux 6.1 and later move what is there already.
needs_pages = pytest.mark.skipif(
    not _ENABLED.is_file() or "[madvise]" not in _ENABLED.read_text(), reason="no large pages for who asks here"
)
MEGABYTE = 1 << 20


def in_a_new_process(code: str) -> str:
    """What it prints; in this process, memory that others have given back may serve."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@needs_pages
def test_what_is_taken_inside_is_moved_and_keeps_its_values():
    code = (
        "import torch; from duologue.engine.pages import large_pages, regions\n"
        "outside = torch.ones(1 << 24); before = sum(region.large for region in regions())\n"
        "with large_pages(): inside = torch.arange(1 << 24, dtype=torch.float32)\n"
        "print(sum(region.large for region in regions()) - before)\n"
        "print(torch.equal(inside, torch.arange(1 << 24, dtype=torch.float32)) and bool((outside == 1).all()))"
    )
    moved, is_same = in_a_new_process(code).split()
    assert is_same == "True"
    if int(moved) == 0:
        pytest.skip("this system moves nothing at once")
    assert 56 * MEGABYTE <= int(moved) <= 68 * MEGABYTE  # `inside`, and little besides


@needs_pages
def test_a_loaded_model_lies_in_large_pages():
    code = (
        "import duologue; from duologue.engine.pages import regions\n"
        "large = lambda: sum(region.large for region in regions())\n"
        "before = large(); generator = duologue.load(quantize='int8'); print(large() - before)"
    )
    moved = int(in_a_new_process(code))
    if moved == 0:
        pytest.skip("this system moves nothing at once")
    assert moved > 16 * MEGABYTE


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' own list")
def test_regions_are_those_of_the_process():
    probe = torch.ones(4 * MEGABYTE)
    first, last = probe.data_ptr(), probe.data_ptr() + probe.nbytes
    inside = [region for region in regions() if region.start < last and region.stop > first]
    assert sum(min(region.stop, last) - max(region.start, first) for region in inside) == probe.nbytes
    assert sum(region.resident for region in inside) >= probe.nbytes
    assert all(region.large <= region.resident <= region.stop - region.start for region in inside)


def test_a_system_that_does_not_tell_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "_SMAPS", tmp_path / "smaps")
    assert regions() == []
    with large_pages():
        assert torch.ones(MEGABYTE).sum() == MEGABYTE


def test_only_new_parts_of_a_region_are_moved():
    old = [Region(0, 10, 10, 0), Region(20, 30, 10, 0), Region(50, 60, 10, 0)]
    assert list(pages._beyond(old, Region(5, 55, 50, 0))) == [(10, 20), (30, 50)]
    assert list(pages._beyond(old, Region(30, 50, 20, 0))) == [(30, 50)]
    assert list(pages._beyond(old, Region(22, 28, 6, 0))) == []
    assert list(pages._beyond([], Region(1, 2, 1, 0))) == [(1, 2)]


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_what_is_free_between_what_is_used_goes_back_to_the_system():
    code = (
        "import torch; from duologue.engine.pages import large_pages, regions\n"
        "resident = lambda: sum(region.resident for region in regions())\n"
        "before = resident()\n"
        "with large_pages():\n"
        "    parts = [torch.ones(25_000) for _ in range(1000)]\n"  # each too small for memory of its own
        "    within = resident() - before; parts = parts[::100]\n"
        "print(within, resident() - before)"
    )
    within, after = map(int, in_a_new_process(code).split())
    assert within > 90 * MEGABYTE
    assert after < within / 3
