"""Metrics by hand, statistics against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from llm2rec_kit.downstream import metrics

RANKS = np.array([1, 2, 10, 11, 500])


def test_by_hand():
    assert metrics.per_user(RANKS, "recall@10").tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(metrics.per_user(RANKS, "ndcg@10"), [1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    np.testing.assert_allclose(metrics.per_user(RANKS, "mrr"), 1 / RANKS)
    assert metrics.per_user(RANKS, "mrr@5").tolist() == [1, 0.5, 0, 0, 0]
    found = metrics.summary(RANKS, [1, 20])
    assert found["recall@1"] == 0.2
    assert found["recall@20"] == 0.8
    assert list(found) == ["recall@1", "ndcg@1", "recall@20", "ndcg@20", "mrr"]


@pytest.mark.parametrize("name", ["recall", "recall@0", "precision@10", "ndcg@-1", "recall@1.5", ""])
def test_an_unknown_metric_is_named(name):
    with pytest.raises(ValueError, match="none of recall@k"):
        metrics.per_user(RANKS, name)


def test_rank_zero_is_refused():
    with pytest.raises(ValueError, match="begin at 1; found 0"):
        metrics.per_user(np.array([0, 3]), "recall@10")


def test_the_paired_test_is_students():
    rng = np.random.default_rng(0)
    before, after = rng.random(300), rng.random(300) + 0.05
    found = metrics.paired_test(before, after, seed=1)
    assert found["p"] == pytest.approx(stats.ttest_rel(after, before).pvalue)
    assert found["difference"] == pytest.approx((after - before).mean())
    assert found["low"] < found["difference"] < found["high"]
    same = metrics.paired_test(before, before, seed=1)
    assert (same["difference"], same["p"], same["effect"]) == (0, 1, 0)
    with pytest.raises(ValueError, match="same users"):
        metrics.paired_test(before, after[:-1], seed=1)


def test_the_bootstrap_interval_is_about_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    low, high = metrics.bootstrap_interval(values, seed=0, draws=4000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.006)
    assert high == pytest.approx(values.mean() + half, abs=0.006)
    assert (low, high) == metrics.bootstrap_interval(values, seed=0, draws=4000)


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.9, 0.8]) == [1, 1]


def test_an_interval_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one user"):
        metrics.bootstrap_interval(np.empty(0), seed=0)


def test_coverage_and_novelty_by_hand():
    """Three lists of two over four items; counts plus one are 4, 2, 1, 1 of 8: surprise 1, 2, 3, 3 bits."""
    listed = np.array([[2, 1, 0, 0], [3, 2, 1, 0]])
    found = metrics.of_lists(listed, [1, 2], np.array([3, 1, 0, 0]))
    assert found == pytest.approx(
        {"coverage@1": 0.5, "novelty@1": 4 / 3, "coverage@2": 0.75, "novelty@2": (3 * 1 + 2 * 2 + 3) / 6}
    )


def test_intervals_of_many_columns_are_those_of_each():
    values = np.random.default_rng(0).random((50, 3))
    both = metrics.bootstrap_intervals(values, seed=4, draws=200)
    for k in range(3):
        assert metrics.bootstrap_interval(values[:, k], seed=4, draws=200) == pytest.approx(tuple(both[:, k]))


def test_the_interval_resamples_users_with_replacement():
    """Against the plain loop, the same draws."""
    values, rng = np.random.default_rng(0).random(30), np.random.default_rng(9)
    means = [values[i].mean() for i in rng.integers(0, 30, (300, 30))]
    assert metrics.bootstrap_interval(values, seed=9, draws=300) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_several_paired_tests_are_those_of_each():
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 40, 3))
    found = metrics.paired_tests(before, after, seed=1)
    for k in range(3):
        one = metrics.paired_test(before[:, k], after[:, k], seed=1)
        assert found[k] == pytest.approx(one)
        assert one["effect"] == pytest.approx((after - before)[:, k].mean() / (after - before)[:, k].std(ddof=1))
