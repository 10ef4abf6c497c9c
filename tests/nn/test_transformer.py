"""The transformer: cached equals uncached whatever the chunks, windows, paddings and positions of the rows."""

import dataclasses
import math
import mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.config import RopeScaling, TransformerConfig
from duologue.nn.attention import Attention
from duologue.nn.rope import apply_rope, rope_angles, rope_frequencies
from duologue.nn.state import unwritten_zeros
from duologue.nn.transformer import Transformer

LLAMA = TransformerConfig(
    dim=24, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=32, max_positions=64, rope_scaling=RopeScaling()
)
MIMI = TransformerConfig(
    dim=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    ffn_dim=32,
    max_positions=64,
    norm="layer",
    mlp="gelu",
    final_norm=False,
    layer_scale=True,
    window=5,
    rope_theta=10_000.0,
)
CONFIGS = {"llama": LLAMA, "mimi": MIMI, "one-kv-head": dataclasses.replace(LLAMA, num_kv_heads=1, head_dim=10)}


def build(config: TransformerConfig, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    module = Transformer(config).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("_scale.scale"):
            parameter.data.fill_(1.0)
    return module


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@settings(max_examples=40)
@given(
    chunks=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    name=st.sampled_from(sorted(CONFIGS)),
    seed=st.integers(0, 100),
)
def test_cached_equals_uncached(chunks, name, seed):
    config = CONFIGS[name]
    module = build(config, seed)
    with torch.no_grad():
        x = torch.randn(2, sum(chunks), config.dim)
        whole = module(x)
        state = module.init_state(2, None if config.window else sum(chunks))
        pieces = [module(piece, state) for piece in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert state.lengths.tolist() == [sum(chunks)] * 2


@pytest.mark.parametrize("name", ["llama", "one-kv-head"])
def test_the_newest_output_alone_is_that_of_all_and_leaves_the_same_caches(name):
    module = build(CONFIGS[name])
    x = torch.randn(2, 20, module.config.dim)
    whole, alone = module.init_state(2), module.init_state(2)
    for piece in x.split([1, 7, 12], dim=1):
        torch.testing.assert_close(module(piece, alone, newest=True)[:, 0], module(piece, whole)[:, -1])
    torch.testing.assert_close(module(x, newest=True), module(x)[:, -1:])
    assert alone.lengths.tolist() == whole.lengths.tolist()
    for ours, theirs in zip(alone.layers, whole.layers, strict=True):
        assert torch.equal(ours.keys[:, :, :20], theirs.keys[:, :, :20])
        assert torch.equal(ours.values[:, :, :20], theirs.values[:, :, :20])
    # With rows at different positions there is a mask.
    for state in (whole, alone):
        state.reset(torch.tensor([True, False]))
    torch.testing.assert_close(module(x[:, :6], alone, newest=True)[:, 0], module(x[:, :6], whole)[:, -1])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("newest", [False, True])
def test_what_all_rows_hold_alike_may_be_read_once(name, newest):
    module = build(CONFIGS[name])
    begun, plain, together = torch.randn(1, 20, module.config.dim), module.init_state(3), module.init_state(3)
    for state in (plain, together):
        module(begun.expand(3, -1, -1), state)
    for steps in (12, 3):  # after the first twelve the rows differ
        x, alike = torch.randn(3, steps, module.config.dim), steps == 12
        found = module(x, together, newest=newest, alike=alike)
        torch.testing.assert_close(found, module(x, plain, newest=newest))
    assert together.lengths.tolist() == plain.lengths.tolist()
    for ours, theirs in zip(together.layers, plain.layers, strict=True):
        torch.testing.assert_close(ours.keys[:, :, :35], theirs.keys[:, :, :35])
        torch.testing.assert_close(ours.values[:, :, :35], theirs.values[:, :, :35])


def test_who_says_that_rows_are_alike_is_believed():
    module = build(LLAMA)
    begun, x = torch.randn(2, 20, LLAMA.dim), torch.randn(1, 4, LLAMA.dim).expand(2, -1, -1)
    state = module.init_state(2)
    module(begun, state)
    found = module(x, state, alike=True)
    torch.testing.assert_close(found[1], found[0])  # both have read the first row's past


def test_attention_equals_a_loop_over_its_definition():
    for config in (LLAMA, MIMI):
        torch.manual_seed(0)
        attention = Attention(config)
        x = torch.randn(1, 9, config.dim)
        angles = rope_angles(rope_frequencies(config), torch.arange(9)[None])
        mask = torch.ones(9, 9).tril()
        if config.window is not None:
            mask = mask.triu(1 - config.window)
        got = attention(x, angles, None if config.window is None else mask.bool()[None, None])

        size, group = config.head_size, config.num_heads // config.num_kv_heads
        heads = []
        for head in range(config.num_heads):
            kv = head // group
            q = attention.q_proj(x)[:, :, head * size : (head + 1) * size]
            k = attention.k_proj(x)[:, :, kv * size : (kv + 1) * size]
            v = attention.v_proj(x)[:, :, kv * size : (kv + 1) * size]
            q, k = (apply_rope(part[:, None], angles)[:, 0] for part in (q, k))
            scores = (q @ k.transpose(1, 2) / math.sqrt(size)).masked_fill(mask == 0, -math.inf)
            heads.append(scores.softmax(dim=-1) @ v)
        torch.testing.assert_close(got, attention.o_proj(torch.cat(heads, dim=-1)), atol=1e-5, rtol=1e-5)


def test_a_window_hides_what_is_older():
    module = build(dataclasses.replace(MIMI, num_layers=1))
    x = torch.randn(1, 20, MIMI.dim)
    changed = x.clone()
    changed[:, 10] += 1.0
    same = (module(x) == module(changed)).all(dim=-1)[0].tolist()
    assert same == [True] * 10 + [False] * 5 + [True] * 5


def test_a_ring_may_wrap_many_times():
    module = build(MIMI)
    x = torch.randn(1, 60, MIMI.dim)
    state = module.init_state(1)
    assert state.capacity == 10
    stepped = torch.cat([module(x[:, i : i + 1], state) for i in range(60)], dim=1)
    torch.testing.assert_close(stepped, module(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(x, module.init_state(1)), module(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_ragged_prefill_equals_each_row_alone(name):
    config = CONFIGS[name]
    module = build(config)
    lengths = [1, 6, 4]
    state = module.init_state(3, None if config.window else 20)
    history = torch.randn(3, 6, config.dim)
    outputs = module(history, state, torch.tensor(lengths))
    more = [torch.randn(3, 1, config.dim) for _ in range(8)]
    stepped = [module(step, state) for step in more]
    assert state.lengths.tolist() == [length + 8 for length in lengths]
    for row, length in enumerate(lengths):
        alone = torch.cat([history[row : row + 1, :length], *(step[row : row + 1] for step in more)], dim=1)
        expected = module(alone)[0]
        torch.testing.assert_close(outputs[row, :length], expected[:length], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.stack([step[row, 0] for step in stepped]), expected[length:])


@pytest.mark.parametrize("name", ["llama", "mimi"])
def test_padding_leaves_no_trace_in_a_ring(name):
    """Rows of which some steps count and some do not, again and again."""
    config = CONFIGS[name]
    module = build(config)
    torch.manual_seed(1)
    state = module.init_state(2, None if config.window else 40)
    fed: list[list[torch.Tensor]] = [[], []]
    last: list[torch.Tensor | None] = [None, None]
    for _ in range(12):
        x = torch.randn(2, 3, config.dim)
        counts = torch.randint(0, 4, (2,))
        outputs = module(x, state, counts)
        for row in range(2):
            count = int(counts[row])
            fed[row] += list(x[row, :count])
            if count:
                last[row] = outputs[row, count - 1]
    for row in range(2):
        assert last[row] is not None
        torch.testing.assert_close(last[row], module(torch.stack(fed[row])[None])[0, -1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mimi"])
def test_a_reset_row_starts_afresh_beside_one_that_goes_on(name):
    config = CONFIGS[name]
    module = build(config)
    first, second = torch.randn(2, 4, config.dim), torch.randn(2, 5, config.dim)
    state = module.init_state(2, None if config.window else 20)
    module(first, state)
    state.reset(torch.tensor([0]))
    assert state.lengths.tolist() == [0, 4]
    outputs = module(second, state)
    torch.testing.assert_close(outputs[:1], module(second[:1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs[1:], module(torch.cat((first, second), dim=1)[1:])[:, 4:], atol=1e-5, rtol=1e-5)


def test_a_clone_goes_its_own_way():
    module = build(LLAMA)
    state = module.init_state(1, 20)
    module(torch.randn(1, 4, LLAMA.dim), state)
    fork = state.clone()
    step = torch.randn(1, 1, LLAMA.dim)
    module(torch.randn(1, 3, LLAMA.dim), state)
    assert fork.lengths.tolist() == [4] and fork.extent == 4
    expected = module(step, fork.clone())
    torch.testing.assert_close(module(step, fork), expected)
    restored = module.init_state(1, 20)
    restored.copy_from(fork)
    assert restored.extent == fork.extent
    for (name, ours), (other_name, theirs) in zip(restored.named_tensors(), fork.named_tensors(), strict=True):
        assert name == other_name and torch.equal(ours, theirs)


def test_truncate_then_continue_equals_never_having_gone_on():
    module = build(LLAMA)
    kept, cut, after = (torch.randn(2, steps, LLAMA.dim) for steps in (5, 4, 3))
    state = module.init_state(2, 20)
    module(torch.cat((kept, cut), dim=1), state)
    state.truncate(torch.tensor([5, 99]))
    assert state.lengths.tolist() == [5, 9]
    outputs = module(after, state)
    torch.testing.assert_close(outputs[:1], module(torch.cat((kept, after), dim=1)[:1])[:, 5:], atol=1e-5, rtol=1e-5)
    whole = torch.cat((kept, cut, after), dim=1)
    torch.testing.assert_close(outputs[1:], module(whole[1:])[:, 9:], atol=1e-5, rtol=1e-5)


def test_llama3_scaling_slows_long_wavelengths_only():
    config = dataclasses.replace(LLAMA, dim=512, head_dim=128)
    plain = rope_frequencies(dataclasses.replace(config, rope_scaling=None))
    scaled = rope_frequencies(config)
    wavelengths = 2 * math.pi / plain
    torch.testing.assert_close(scaled[wavelengths < 2048], plain[wavelengths < 2048])
    torch.testing.assert_close(scaled[wavelengths > 8192], plain[wavelengths > 8192] / 32)
    between = (wavelengths > 2048) & (wavelengths < 8192)
    assert between.any()
    smooth = (8192 / wavelengths - 1) / 3
    torch.testing.assert_close(scaled[between], ((1 - smooth) * plain / 32 + smooth * plain)[between])


def test_rotation_turns_neighbouring_channels_as_complex_numbers():
    x = torch.randn(2, 3, 5, 8)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    frequencies = rope_frequencies(dataclasses.replace(LLAMA, head_dim=8))
    turns = torch.polar(torch.ones(1), positions[:, None, :, None] * frequencies)
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turns).flatten(-2)
    torch.testing.assert_close(apply_rope(x, rope_angles(frequencies, positions)), expected)


def test_a_cast_model_keeps_its_positions_in_float32():
    module = build(LLAMA)
    exact = module.frequencies(torch.device("cpu")).clone()
    module.to(torch.bfloat16)
    module(torch.randn(1, 3, LLAMA.dim, dtype=torch.bfloat16))
    kept = module.frequencies(torch.device("cpu"))
    assert kept.dtype == torch.float32 and torch.equal(kept, exact)
    cosine, sine = rope_angles(kept, torch.tensor([[2047]]))
    assert cosine.dtype == sine.dtype == torch.float32
    exact_angles = 2047.0 * exact.double()  # bfloat16 would make 2048 of 2047
    torch.testing.assert_close(cosine[0, 0, 0, ::2], exact_angles.cos().float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(sine[0, 0, 0, 1::2], exact_angles.sin().float(), atol=1e-3, rtol=0)


def test_states_know_their_size():
    state = build(LLAMA).init_state(3, 7)
    cache_bytes = 2 * 2 * 3 * 2 * 7 * 6 * 4  # layers, keys and values, rows, heads, slots, head_dim, bytes
    assert state.num_bytes() == cache_bytes + 3 * 8


def test_large_zeros_are_zeros_of_their_own():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for shape in ((2, 3, 100_000), (2, 3), (0, 5)):
            made = unwritten_zeros(shape, "cpu", dtype)
            assert made.shape == shape and made.dtype == dtype and made.is_contiguous() and not made.any()
            made += 1
            assert not unwritten_zeros(shape, "cpu", dtype).any()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads Linux' own count")
def test_large_zeros_that_are_used_here_and_there_take_little_memory():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    made = unwritten_zeros((200, 2**20), "cpu", torch.float32)
    made[:, :: 2**17] = 1  # a page of 4 KB in 512
    assert resident() - before < 50 * 2**20  # large pages would have made all 800 MB of it
    assert made.sum() == 200 * 8
