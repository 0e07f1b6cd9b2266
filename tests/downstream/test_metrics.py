"""Metrics by hand, statistics against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=8), st.data())
def test_ranks_count_ties_against_the_model(rows, data):
    scores = np.array(rows, dtype=float)
    targets = np.array([data.draw(st.integers(0, 4)) for _ in rows])
    slow = [1 + sum(s >= row[t] for k, s in enumerate(row) if k != t) for row, t in zip(scores, targets, strict=True)]
    assert metrics.ranks_of_targets(scores, targets).tolist() == slow


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_target_without_a_finite_score_is_refused(value):
    with pytest.raises(ValueError, match="1 targets are NaN or infinite"):
        metrics.ranks_of_targets(np.array([[1.0, value], [1.0, 2.0]]), np.array([1, 1]))


def test_an_interval_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one user"):
        metrics.bootstrap_interval(np.empty(0), seed=0)
