"""Sampling: greedy, top-k with its ties, reserved ids, per-row options, and noise that belongs to a seed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duologue.engine.sampling import BatchSampling, SamplingOptions, draw_gumbel, sample
from duologue.errors import OptionError


def gumbel(*shape: int, seed: int = 0) -> torch.Tensor:
    return draw_gumbel(torch.empty(shape), torch.Generator().manual_seed(seed))


def test_temperature_zero_takes_the_largest():
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sample(logits, gumbel(50, 20), 0.0, 50, 20), logits.argmax(dim=-1))


def test_the_draw_follows_the_softmax():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    counts = sample(logits.expand(40_000, 4), gumbel(40_000, 4), 0.7, 4, 4).bincount(minlength=4) / 40_000
    torch.testing.assert_close(counts, (logits[0] / 0.7).softmax(dim=-1), atol=0.01, rtol=0)


def test_topk_cuts_and_renormalises():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    counts = sample(logits.expand(40_000, 4), gumbel(40_000, 4), 1.0, 2, 4).bincount(minlength=4) / 40_000
    expected = torch.cat((logits[0, :2].softmax(dim=-1), torch.zeros(2)))
    torch.testing.assert_close(counts, expected, atol=0.01, rtol=0)


def test_all_that_tie_with_the_last_of_the_topk_stay():
    """As Sesame's `logits < kth -> -inf`: a cut by position would drop the later ones."""
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    drawn = sample(logits.expand(5_000, 5), gumbel(5_000, 5), 1.0, 2, 5)
    assert set(drawn.tolist()) == {0, 1, 2, 3}


@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0, 100),
    topk=st.integers(1, 30),
    valid=st.integers(1, 17),
)
def test_reserved_ids_are_never_drawn(seed, temperature, topk, valid):
    logits = torch.randn(8, 20, generator=torch.Generator().manual_seed(seed))
    logits[:, valid:] = 1e4
    drawn = sample(logits, gumbel(8, 20, seed=seed), temperature, topk, valid)
    assert int(drawn.min()) >= 0 and int(drawn.max()) < valid


def test_rows_have_options_of_their_own():
    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(0))
    noise = gumbel(3, 30)
    options = [SamplingOptions(0.0, 5), SamplingOptions(0.9, 1), SamplingOptions(1.5, 1000)]
    batch = BatchSampling.of(options, 25, "cpu")
    assert batch.max_topk == 25
    together = sample(logits, noise, batch.temperature, batch.topk, 25, batch.max_topk)
    alone = [
        sample(logits[row : row + 1], noise[row : row + 1], item.temperature, item.topk, 25)
        for row, item in enumerate(options)
    ]
    assert together.tolist() == [int(code) for code in alone]
    assert together[:2].tolist() == logits[:2, :25].argmax(dim=-1).tolist()


def test_half_precision_logits_are_drawn_in_float32():
    logits = torch.tensor([[256.0, 255.0]], dtype=torch.bfloat16)
    noise = torch.tensor([[0.0, 1.001]])  # in bfloat16 the sum would round to a tie
    assert sample(logits, noise, 1.0, 2, 2).tolist() == [1]


def test_noise_is_standard_gumbel_finite_and_a_function_of_the_seed():
    noise = gumbel(100_000, seed=1)
    assert noise.dtype == torch.float32 and bool(torch.isfinite(noise).all())
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.02)
    assert torch.equal(noise, gumbel(100_000, seed=1)) and not torch.equal(noise, gumbel(100_000, seed=2))
    # A slice of a larger buffer gets the same numbers as a tensor of its own.
    buffer = torch.zeros(3, 4, 67)
    draw_gumbel(buffer[1], torch.Generator().manual_seed(7))
    assert torch.equal(buffer[1], gumbel(4, 67, seed=7)) and not buffer[0].any() and not buffer[2].any()


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -0.1, 100.1, True, "0.9", None, 10**400])
def test_bad_temperatures_are_refused(temperature):
    with pytest.raises(OptionError, match=r"^temperature .* expected a number from 0 to 100$"):
        SamplingOptions(temperature=temperature)


@pytest.mark.parametrize("topk", [0, -1, 50.0, True, "50", None, math.nan])
def test_bad_topk_is_refused(topk):
    with pytest.raises(OptionError, match=r"^topk .* expected a whole number from 1$"):
        SamplingOptions(topk=topk)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "1"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(OptionError, match=r"^seed .* expected a whole number from 0 to \d+$"):
        SamplingOptions(seed=seed)


@pytest.mark.parametrize("guidance", [-0.1, 10.1, math.nan, True, "2"])
def test_bad_guidance_is_refused(guidance):
    with pytest.raises(OptionError, match=r"^guidance .* expected a number from 0 to 10$"):
        SamplingOptions(guidance=guidance)


def test_guidance_moves_the_guided_rows_alone():
    options = [SamplingOptions(guidance=1.0), SamplingOptions(guidance=2.0), SamplingOptions()]
    batch = BatchSampling.of(options, 8, "cpu", default_guidance=0.5)
    assert batch.guided.tolist() == [1, 2] and batch.guidance.tolist() == [[2.0], [0.5]]
    with_text, without = torch.randn(3, 8), torch.randn(2, 8)
    made = batch.guide(torch.cat((with_text, without)))
    torch.testing.assert_close(made[0], with_text[0])
    torch.testing.assert_close(made[1], 2 * with_text[1] - without[0])
    torch.testing.assert_close(made[2], (with_text[2] + without[1]) / 2)
    plain = BatchSampling.of(options[:1], 8, "cpu")
    assert torch.equal(plain.guide(with_text[:1]), with_text[:1])


def test_numbers_of_numpy_are_numbers():
    options = SamplingOptions(np.float32(0.5), np.int64(3), np.int32(7))
    assert options == SamplingOptions(0.5, 3, 7)
    assert type(options.temperature) is float and type(options.topk) is int and type(options.seed) is int


def test_a_fresh_seed_is_drawn_once_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    fresh = SamplingOptions().seeded()
    assert fresh.seed is not None and fresh.seeded() is fresh
    assert SamplingOptions().seeded().seed != fresh.seed
    draw_gumbel(torch.empty(5), fresh.noise_generator())
    assert torch.equal(torch.random.get_rng_state(), before)
