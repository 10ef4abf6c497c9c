"""Memory that is taken while a model is loaded lies in large pages afterwards; other memory is left alone."""

import sys
from pathlib import Path

import pytest
import torch

import duologue
from duologue.engine import pages
from duologue.engine.pages import Region, large_pages, regions

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Linux 6.1 and later move what is there already.
needs_pages = pytest.mark.skipif(
    not _ENABLED.is_file() or "[madvise]" not in _ENABLED.read_text(), reason="no large pages for who asks here"
)
MEGABYTE = 1 << 20


def large_bytes(tensor: torch.Tensor) -> int:
    """Of the regions that a tensor lies in: where pages are advised, a region becomes several."""
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    return sum(region.large for region in regions() if region.start < stop and region.stop > start)


@needs_pages
def test_what_is_taken_inside_is_moved_and_keeps_its_values():
    outside = torch.ones(16 * MEGABYTE)
    with large_pages():
        inside = torch.arange(16 * MEGABYTE, dtype=torch.float32)
        assert large_bytes(inside) == 0
    if large_bytes(inside) == 0:
        pytest.skip("this system moves nothing at once")
    assert 56 * MEGABYTE <= large_bytes(inside) <= inside.nbytes
    assert torch.equal(inside, torch.arange(16 * MEGABYTE, dtype=torch.float32)) and bool((outside == 1).all())


@needs_pages
def test_what_was_there_before_is_left_alone():
    outside = torch.ones(16 * MEGABYTE)
    large = large_bytes(outside)
    with large_pages():
        pass
    assert large_bytes(outside) == large


@needs_pages
def test_a_loaded_model_lies_in_large_pages():
    before = sum(region.large for region in regions())
    generator = duologue.load(quantize="int8")
    assert sum(region.large for region in regions()) > before
    assert generator.sample_rate == 24000


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' own list")
def test_regions_are_those_of_the_process():
    probe = torch.ones(4 * MEGABYTE)
    found = [region for region in regions() if region.start <= probe.data_ptr() < region.stop]
    assert len(found) == 1 and found[0].stop - probe.data_ptr() >= probe.nbytes
    assert probe.nbytes <= found[0].resident <= found[0].stop - found[0].start


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
