"""The operators in C++ give what torch gives, hold weights no longer than Python does, and may be missing."""

import gc
import platform
import shutil
import sys

import pytest
import torch
from torch.nn import functional as F

from duologue.engine import native
from duologue.engine.quantization import Int8Linear
from duologue.errors import DuologueWarning

needs_build = pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() != "x86_64"
    or not torch.cpu.get_capabilities().get("avx2")
    or shutil.which("g++") is None,
    reason="built on Linux on x86-64 with AVX2, by g++",
)


@needs_build
@pytest.mark.parametrize("num_rows", [0, 1, 2, 5, 16, 17, 47])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 8), (7, 16), (1003, 24), (96, 1024)])
def test_products_in_float32(num_rows, num_outputs, num_inputs):
    assert native.load_operators()
    torch.manual_seed(0)
    rows, weights = torch.randn(num_rows, num_inputs), torch.randn(num_outputs, num_inputs)
    product = torch.ops.duologue_native.float_product(rows, weights)
    torch.testing.assert_close(product, F.linear(rows, weights), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.ops.duologue_native.float_product(rows[:, None], weights), product[:, None])
    if num_rows > 16:
        return
    for row, expected in zip(rows, product, strict=True):  # alone, to the last bit
        assert torch.equal(torch.ops.duologue_native.float_product(row[None], weights)[0], expected)


@needs_build
def test_what_products_in_float32_cannot_take():
    assert native.load_operators()
    multiply = torch.ops.duologue_native.float_product
    with pytest.raises(RuntimeError, match="multiple of 8, not 12"):
        multiply(torch.ones(1, 12), torch.ones(3, 12))
    with pytest.raises(RuntimeError, match="in order"):
        multiply(torch.ones(1, 16), torch.ones(16, 8).T)
    with pytest.raises(RuntimeError, match="in order"):
        multiply(torch.ones(1, 8), torch.ones(3, 16))


@needs_build
@pytest.mark.parametrize("num_rows", [1, 2, 5])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(24, 32), (7, 40), (1003, 256)])
def test_products_in_eight_bits_are_torchs(num_rows, num_outputs, num_inputs):
    assert native.load_operators()
    torch.manual_seed(0)
    weight = torch.randn(num_outputs, num_inputs)
    theirs, ours = Int8Linear([weight]), Int8Linear([weight], native=True)
    assert torch.equal(ours.codes(), theirs.codes())
    rows = torch.randn(num_rows, num_inputs).clamp(-1, 1)
    expected = torch.ops.duologue.int8_product(rows, 63, theirs.number, num_outputs)
    product = torch.ops.duologue_native.int8_product(rows, 63, ours.number, num_outputs)
    torch.testing.assert_close(product, expected, atol=1e-5, rtol=1e-5)  # the same whole numbers, rounded once or twice
    torch.testing.assert_close(ours(rows), theirs(rows), atol=1e-5, rtol=1e-5)
    for row, one in zip(rows, product, strict=True):
        assert torch.equal(torch.ops.duologue_native.int8_product(row[None], 63, ours.number, num_outputs)[0], one)


@needs_build
def test_sums_in_eight_bits_do_not_overflow():
    assert native.load_operators()
    layer = Int8Linear([torch.full((5, 8192), 2.0)], native=True)
    for sign in (-1, 1):
        torch.testing.assert_close(layer(torch.full((2, 8192), 3.0 * sign)), torch.full((2, 5), sign * 6.0 * 8192))


@needs_build
def test_weights_are_held_as_long_as_their_layer():
    assert native.load_operators()
    layer = Int8Linear([torch.randn(7, 32)], native=True)
    number, rows = layer.number, torch.zeros(1, 32)
    with pytest.raises(RuntimeError, match="outputs of 8"):
        torch.ops.duologue_native.int8_product(rows, 63, number, 8)
    del layer
    gc.collect()
    with pytest.raises(RuntimeError, match=f"no weights have the number {number}"):
        torch.ops.duologue_native.int8_product(rows, 63, number, 7)


@needs_build
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize(
    ("batch", "heads", "groups", "steps", "num_keys", "size"),
    [(1, 8, 8, 2, 50, 64), (2, 6, 2, 1, 333, 48), (1, 4, 1, 3, 7, 8), (3, 2, 2, 1, 1, 40)],
)
def test_attention(batch, heads, groups, steps, num_keys, size, is_masked):
    assert native.load_operators()
    torch.manual_seed(0)
    queries = torch.randn(batch, steps, heads, size).transpose(1, 2)  # as a projection leaves them
    keys, values = (torch.randn(batch, groups, num_keys + 9, size)[:, :, :num_keys] for _ in range(2))
    mask = torch.rand(batch, 1, steps, num_keys) < 0.7 if is_masked else None
    if mask is not None:
        mask[..., 0] = True
    expected = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    attended = torch.ops.duologue_native.attend(queries, keys, values, mask)
    torch.testing.assert_close(attended, expected, atol=2e-6, rtol=1e-5)


@needs_build
@pytest.mark.parametrize("num_keys", [1, 13, 40])
def test_keys_that_nobody_sees_change_no_bit(num_keys):
    assert native.load_operators()
    torch.manual_seed(0)
    queries, keys, values = torch.randn(1, 4, 2, 16), torch.randn(1, 2, 57, 16), torch.randn(1, 2, 57, 16)
    mask = torch.zeros(1, 1, 2, 57, dtype=torch.bool)
    mask[..., :num_keys] = torch.rand(1, 1, 2, num_keys) < 0.8
    mask[..., 0] = True
    expected = torch.ops.duologue_native.attend(queries, keys, values, mask)
    keys[:, :, num_keys:] = values[:, :, num_keys:] = 1e9
    assert torch.equal(torch.ops.duologue_native.attend(queries, keys, values, mask), expected)
    seen = (tensor[:, :, :num_keys].contiguous() for tensor in (keys, values))
    fewer = torch.ops.duologue_native.attend(queries, *seen, mask[..., :num_keys].contiguous())
    assert torch.equal(fewer, expected)


@needs_build
def test_attention_far_from_zero_and_what_it_cannot_take():
    assert native.load_operators()
    keys = torch.randn(1, 1, 20, 16, generator=torch.Generator().manual_seed(0))
    given = (1000 * keys[:, :, 3:4], keys, keys)
    expected = F.scaled_dot_product_attention(*given)
    torch.testing.assert_close(torch.ops.duologue_native.attend(*given, None), expected, atol=2e-6, rtol=1e-5)
    with pytest.raises(RuntimeError, match="one after the other"):
        torch.ops.duologue_native.attend(keys, keys, keys.transpose(2, 3).contiguous().transpose(2, 3), None)
    with pytest.raises(RuntimeError, match="multiple of 8, not 12"):
        torch.ops.duologue_native.attend(*[torch.ones(1, 1, 2, 12)] * 3, None)


@needs_build
def test_a_library_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    built = native._built()
    assert [path.name for path in tmp_path.rglob("*.so")] == [built.name]
    monkeypatch.setattr(native.subprocess, "run", None)
    assert native._built() == built


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not torch.cpu.get_capabilities().get("avx2"),
    reason="not tried elsewhere",
)
def test_without_a_compiler_products_are_torchs(monkeypatch, tmp_path, compiler):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(DuologueWarning, match=f"products are torch's: .*{compiler}"):
        assert not native.load_operators.__wrapped__()
    assert not list(tmp_path.rglob("*.so"))


def test_elsewhere_nothing_is_built(monkeypatch):
    monkeypatch.setattr(native.platform, "machine", lambda: "arm64")
    assert not native.load_operators.__wrapped__()
