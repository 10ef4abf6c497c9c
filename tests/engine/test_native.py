"""The operator in C++ gives what Python gives, holds weights no longer than Python does, and may be missing."""

import gc
import platform
import shutil
import sys

import pytest
import torch

from duologue.engine import native, quantization
from duologue.engine.quantization import Int8Linear
from duologue.errors import DuologueWarning

needs_build = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or shutil.which("g++") is None,
    reason="built on Linux on x86-64, by g++",
)


@needs_build
def test_products_are_those_that_python_calls():
    torch.manual_seed(0)
    before = Int8Linear([torch.randn(24, 32)])
    quantization.call_natively()
    after = Int8Linear([torch.randn(7, 32)])
    rows = torch.randn(3, 32).clamp(-1, 1)
    for layer, num_outputs in ((before, 24), (after, 7)):
        expected = torch.ops.duologue.int8_product(rows, 63, layer.number, num_outputs)
        assert torch.equal(torch.ops.duologue_native.int8_product(rows, 63, layer.number, num_outputs), expected)
    number = after.number
    del after, layer
    gc.collect()
    with pytest.raises(RuntimeError, match=f"no packed weights have the number {number}"):
        torch.ops.duologue_native.int8_product(rows, 63, number, 7)


@needs_build
def test_a_library_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    built = native._built()
    assert [path.name for path in tmp_path.rglob("*.so")] == [built.name]
    monkeypatch.setattr(native.subprocess, "run", None)
    assert native._built() == built


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="not tried elsewhere")
def test_without_a_compiler_products_go_through_python(monkeypatch, tmp_path, compiler):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(DuologueWarning, match=f"go through Python: .*{compiler}"):
        assert not native.load_operators.__wrapped__()
    assert not list(tmp_path.rglob("*.so"))


def test_elsewhere_nothing_is_built(monkeypatch):
    monkeypatch.setattr(native.platform, "machine", lambda: "arm64")
    assert not native.load_operators.__wrapped__()
