"""Intervals against scipy's bootstrap, and what the figures say at the edges."""

import numpy as np
import pytest
import scipy.stats

from duologue.eval import statistics


def values(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 3.0, count)


def test_the_interval_of_a_mean_is_scipys() -> None:
    data = values(60)
    figure = statistics.estimate(statistics.mean, data)
    theirs = scipy.stats.bootstrap((data,), np.mean, method="percentile", n_resamples=5000, rng=1)
    assert figure.value == pytest.approx(data.mean()) and figure.count == 60
    assert figure.low == pytest.approx(theirs.confidence_interval.low, abs=0.15)
    assert figure.high == pytest.approx(theirs.confidence_interval.high, abs=0.15)


def test_a_ratio_draws_numerator_and_denominator_together() -> None:
    errors, words = values(50, 1), values(50, 2) + 5
    figure = statistics.estimate(statistics.ratio, errors, words)

    def theirs(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.sum(axis=axis) / b.sum(axis=axis)

    expected = scipy.stats.bootstrap((errors, words), theirs, paired=True, method="percentile", rng=1)
    assert figure.value == pytest.approx(errors.sum() / words.sum())
    assert figure.low == pytest.approx(expected.confidence_interval.low, abs=0.02)
    assert figure.high == pytest.approx(expected.confidence_interval.high, abs=0.02)


def test_the_same_rows_give_the_same_interval() -> None:
    assert statistics.estimate(statistics.median, values(30)) == statistics.estimate(statistics.median, values(30))


def test_correlation_is_numpys_and_undefined_without_variation() -> None:
    first, second = values(40, 3), values(40, 4)
    figure = statistics.estimate(statistics.correlation, first, first + second)
    assert figure.value == pytest.approx(np.corrcoef(first, first + second)[0, 1])
    assert figure.low is not None and figure.high is not None and figure.low < figure.value < figure.high
    assert statistics.estimate(statistics.correlation, np.ones(5), second[:5]).value is None


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_utterances_have_no_interval(count: int) -> None:
    figure = statistics.estimate(statistics.mean, values(count))
    assert (figure.low, figure.high, figure.count) == (None, None, count)
    assert (figure.value is None) == (count == 0)


def test_a_ratio_over_no_words_is_unknown() -> None:
    assert statistics.estimate(statistics.ratio, [1.0, 2.0], [0.0, 0.0]).value is None


def test_a_paired_difference_sees_what_an_unpaired_one_cannot() -> None:
    data = values(40)
    better = data - 0.2  # a small gain on every utterance, far less than they differ among themselves
    difference = statistics.compare(statistics.mean, [data], [better])
    assert difference.value == pytest.approx(-0.2) and difference.significant
    apart = statistics.estimate(statistics.mean, data), statistics.estimate(statistics.mean, better)
    assert apart[0].low is not None and apart[1].high is not None and apart[0].low < apart[1].high


def test_noise_is_not_significant() -> None:
    found = [
        statistics.compare(statistics.mean, [values(40, seed)], [values(40, seed + 1000)]).significant
        for seed in range(100)
    ]
    assert sum(found) <= 15  # five are expected


def test_percentiles() -> None:
    data = np.arange(101.0)
    assert statistics.estimate(statistics.percentile(95), data).value == pytest.approx(95)
    assert statistics.estimate(statistics.median, data).value == pytest.approx(50)
