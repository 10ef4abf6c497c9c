"""The cache of voice prompts' prefixes: exact, bounded, and the newest stay."""

import torch

from duologue.engine.prefix import Prefix, PrefixCache
from duologue.frames import Rows, text_rows
from duologue.nn.transformer import TransformerState


def made(model, *ids: int) -> Prefix:
    rows = text_rows(ids, model.num_codebooks)
    state = model.init_state(1, 8)
    state.lengths.fill_(len(rows))
    return Prefix(rows, state)


def test_only_the_same_rows_are_found(model):
    cache, prefix = PrefixCache(), made(model, 1, 2, 3)
    cache.put(prefix)
    assert cache.get(text_rows([1, 2, 3], model.num_codebooks)) is prefix
    assert cache.get(text_rows([1, 2], model.num_codebooks)) is None
    masked = Rows(prefix.rows.tokens, torch.zeros_like(prefix.rows.mask))
    assert cache.get(masked) is None
    assert cache.get(Rows(torch.where(prefix.rows.mask, prefix.rows.tokens, 7), prefix.rows.mask)) is prefix


def test_the_oldest_leave_for_the_newest(model):
    size = made(model, 1).state.num_bytes()
    cache = PrefixCache(max_bytes=2 * size)
    first, second, third = (made(model, number) for number in range(3))
    cache.put(first)
    cache.put(second)
    assert cache.get(first.rows) is first  # used again, and so newer than the second
    cache.put(third)
    assert cache.get(second.rows) is None and cache.get(first.rows) is first and cache.get(third.rows) is third
    cache.clear()
    assert len(cache) == 0 and cache.get(first.rows) is None


def test_one_that_is_too_large_is_not_kept(model):
    prefix = made(model, 1)
    cache = PrefixCache(max_bytes=prefix.state.num_bytes() - 1)
    cache.put(prefix)
    assert len(cache) == 0


def test_a_prefix_is_a_copy(model):
    state: TransformerState = model.init_state(1, 8)
    state.layers[0].keys.fill_(1.0)
    prefix = Prefix.of(text_rows([1, 2], model.num_codebooks), state)
    state.layers[0].keys.fill_(2.0)
    assert prefix.state.capacity == 2 and prefix.state.lengths.tolist() == [2]
    assert bool((prefix.state.layers[0].keys == 1.0).all())
