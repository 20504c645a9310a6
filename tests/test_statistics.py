"""Intervals and p-values against scipy's, in simulations, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vltune.contract import Scores
from vltune.statistics import RESAMPLES, draws, holm, interval, p_value, resample


def drawn_means(values: np.ndarray, *, resamples: int = RESAMPLES) -> np.ndarray:
    return np.concatenate([counts @ values / len(values) for counts in draws(len(values), resamples=resamples)])


def test_draws_are_the_same_each_time_and_draw_as_many_as_there_are() -> None:
    first, again = ([*draws(37, resamples=500)] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    counts = np.concatenate(first)
    assert counts.shape == (500, 37)
    assert (counts.sum(1) == 37).all()
    assert counts.mean(0) == pytest.approx(np.ones(37), abs=0.25)
    assert counts.var() == pytest.approx(1 - 1 / 37, abs=0.03), "multinomial"


def test_many_samples_come_in_parts() -> None:
    parts = [counts.shape for counts in draws(300_000, resamples=7)]
    assert parts == [(3, 300_000), (3, 300_000), (1, 300_000)]


@pytest.mark.parametrize("kind", ["normal", "exponential", "yes or no"])
def test_intervals_equal_scipys(kind: str) -> None:
    random = np.random.default_rng(1)
    values = {
        "normal": random.normal(3, 2, 200),
        "exponential": random.exponential(2, 200),
        "yes or no": (random.random(200) < 0.3).astype(float),
    }[kind]
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="percentile", rng=random)
    low, high = theirs.confidence_interval
    ours = interval(drawn_means(values, resamples=40_000))
    step = 0.5 / len(values) if kind == "yes or no" else 0  # a quantile may fall on either side of a step
    assert ours == pytest.approx((low, high), abs=0.02 * (high - low) + 2 * step)
    with_fewer = interval(drawn_means(values))
    assert with_fewer == pytest.approx((low, high), abs=0.08 * (high - low))


def test_a_ratio_of_sums_equals_scipys() -> None:
    random = np.random.default_rng(2)
    tokens = random.integers(1, 30, 150).astype(float)
    nll = tokens * random.normal(2, 0.5, 150)
    loss = float(nll.sum() / tokens.sum())
    each = [{"perplexity": math.exp(a / b)} for a, b in zip(nll, tokens, strict=True)]
    scores = Scores({"perplexity": math.exp(loss)}, each, lambda c: {"perplexity": np.exp(c @ nll / (c @ tokens))})
    ours = interval(resample(scores, [str(i) for i in range(150)]).values["perplexity"])
    theirs = stats.bootstrap(
        (nll, tokens),
        lambda a, b, axis: np.exp(a.sum(axis) / b.sum(axis)),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=random,
    )
    low, high = theirs.confidence_interval
    assert ours == pytest.approx((low, high), abs=0.08 * (high - low))


def test_what_is_no_mean_is_not_resampled_as_one() -> None:
    each = [{"mean": 1.0, "median": 1.0, "half": 1.0}, {"mean": 3.0, "median": 9.0}]
    found = resample(Scores({"mean": 2.0, "median": 4.0, "half": 1.0, "alone": 0.5}, each), ["a", "b"])
    assert found.values.keys() == {"mean"}
    assert set(found.values["mean"]) == {1.0, 2.0, 3.0}
    assert found.samples == 2


def test_models_of_the_same_samples_are_paired_and_others_are_not() -> None:
    def drawn(ids: list[str], value: float) -> str:
        return resample(Scores({"a": value}, [{"a": value}] * len(ids)), ids).drawn

    assert drawn(["x", "y"], 1.0) == drawn(["x", "y"], 2.0)
    assert len({drawn(ids, 1.0) for ids in (["x", "y"], ["y", "x"], ["x", "z"], ["x", "y", "z"])}) == 4


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    random, found = np.random.default_rng(3), []
    counts = np.concatenate([*draws(120, resamples=1000)])
    for _ in range(400):
        differences = random.exponential(1, 120) - random.exponential(1, 120)
        found.append(p_value(float(differences.mean()), counts @ differences / 120))
    assert stats.kstest(found, "uniform").pvalue > 0.1
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_a_planted_difference_is_found() -> None:
    random = np.random.default_rng(4)
    base = random.normal(0.5, 0.3, 500)
    better = base + random.normal(0.03, 0.2, 500)  # less than a tenth of what samples differ by
    found = p_value(float((better - base).mean()), drawn_means(better) - drawn_means(base))
    assert found < 0.01
    assert found == pytest.approx(stats.ttest_rel(better, base).pvalue, rel=0.5)
    unpaired = stats.ttest_ind(better, base).pvalue
    assert unpaired > 0.05, "pairing is what finds it"


def test_p_values_at_the_ends() -> None:
    assert p_value(0.0, np.zeros(100)) == 1.0
    assert p_value(0.0, np.full(100, np.nan)) == 1.0
    assert p_value(1.0, np.ones(99)) == 0.01, "without any spread there is nothing but the number of resamples"
    sure = p_value(1.0, np.random.default_rng(0).normal(1, 0.1, 2000))
    assert 1e-26 < sure < 1e-20, "ten standard errors"
    assert p_value(-1.0, -np.random.default_rng(0).normal(1, 0.1, 2000)) == pytest.approx(sure)


def test_holm_by_hand() -> None:
    # ordered 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and none below one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    found = holm(p_values)
    for one, corrected in zip(p_values, found, strict=True):
        assert one <= corrected <= min(1.0, one * len(p_values)) + 1e-12
    for i, j in zip(range(len(found)), range(1, len(found)), strict=False):
        assert (p_values[i] <= p_values[j]) <= (found[i] <= found[j])


def test_what_is_not_finite_is_left_out_of_an_interval() -> None:
    assert interval(np.array([math.nan, 1.0, 2.0, math.inf])) == pytest.approx((1.025, 1.975))
    assert interval(np.full(5, math.nan)) is None
