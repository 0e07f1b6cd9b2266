"""Metrics by hand, statistics against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from llm2rec_kit.results import metrics

RANKS = np.array([1, 2, 10, 11, 500])


def test_by_hand():
    assert metrics.compute_per_sample(RANKS, "recall@10").tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(metrics.compute_per_sample(RANKS, "ndcg@10"), [1, 1 / math.log2(3), 1 / math.log2(11), 0, 0])
    np.testing.assert_allclose(metrics.compute_per_sample(RANKS, "mrr"), 1 / RANKS)
    assert metrics.compute_per_sample(RANKS, "mrr@5").tolist() == [1, 0.5, 0, 0, 0]
    found = metrics.summarise(RANKS, [1, 20])
    assert found["recall@1"] == 0.2
    assert found["recall@20"] == 0.8
    assert list(found) == ["recall@1", "ndcg@1", "recall@20", "ndcg@20", "mrr"]


@pytest.mark.parametrize("metric", ["recall@3", "recall@10", "ndcg@3", "ndcg@10", "mrr@5", "mrr"])
def test_of_equal_scores_a_metric_is_its_mean_over_every_place(metric):
    places = np.array([[a, b] for a in range(1, 14) for b in range(a, 14)], dtype=np.int32)
    wanted = [metrics.compute_per_sample(np.arange(a, b + 1), metric).mean() for a, b in places]
    np.testing.assert_allclose(metrics.compute_per_sample(places, metric), wanted, rtol=1e-12)
    alone = np.stack([RANKS, RANKS], 1)
    assert metrics.compute_per_sample(alone, metric).tolist() == metrics.compute_per_sample(RANKS, metric).tolist()
    assert metrics.compute_per_sample(np.empty((0, 2), dtype=np.int32), metric).shape == (0,)


def test_a_first_place_behind_the_last_is_refused():
    with pytest.raises(ValueError, match="behind its last"):
        metrics.compute_per_sample(np.array([[3, 2]]), "recall@10")


@pytest.mark.parametrize("name", ["recall", "recall@0", "precision@10", "ndcg@-1", "recall@1.5", ""])
def test_an_unknown_metric_is_named(name):
    with pytest.raises(ValueError, match="none of recall@k"):
        metrics.compute_per_sample(RANKS, name)


def test_rank_zero_is_refused():
    with pytest.raises(ValueError, match="begin at 1; found 0"):
        metrics.compute_per_sample(np.array([0, 3]), "recall@10")


def test_with_one_sample_a_user_the_paired_test_is_students():
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 300, 3)) + np.array([[[0]], [[0.05]]])
    found = metrics.test_pairs(before, after, rng.permutation(300), seed=1)
    for k, one in enumerate(found):
        difference = after[:, k] - before[:, k]
        assert one["p"] == stats.ttest_1samp(difference, 0).pvalue
        assert one["p"] == pytest.approx(stats.ttest_rel(after[:, k], before[:, k]).pvalue)
        assert one["difference"] == difference.mean()
        assert one["effect"] == difference.mean() / difference.std(ddof=1)
        assert one["low"] < one["difference"] < one["high"]


def test_nothing_is_said_of_equal_samples_or_of_one_user():
    values = np.random.default_rng(0).random((300, 1))
    (same,) = metrics.test_pairs(values, values, np.arange(300), seed=1)
    assert (same["difference"], same["p"], same["effect"]) == (0, 1, 0)
    (one,) = metrics.test_pairs(values, values + 1, np.zeros(300), seed=1)
    assert (one["difference"], one["p"], one["effect"]) == (pytest.approx(1), 1, 0)


@pytest.mark.parametrize(("rows", "users"), [((9, 8), 9), ((9, 9), 8)])
def test_a_test_needs_the_same_samples_and_their_users(rows, users):
    before, after = (np.zeros((n, 1)) for n in rows)
    with pytest.raises(ValueError, match=f"same users.*{rows[0]}, 1.*{rows[1]}, 1.* of {users} samples"):
        metrics.test_pairs(before, after, np.arange(users), seed=1)
    with pytest.raises(ValueError, match="found 9 samples and 8 users"):
        metrics.compute_intervals(np.zeros((9, 1)), np.arange(8), seed=1)


def test_with_one_sample_a_user_the_interval_is_the_plain_bootstraps_to_the_bit():
    values, rng = np.random.default_rng(0).random((70, 3)), np.random.default_rng(9)
    drawn = rng.integers(0, 70, (300, 70)) + 70 * np.arange(300)[:, None]
    means = np.bincount(drawn.ravel(), minlength=300 * 70).reshape(300, 70) @ values / 70
    wanted = np.quantile(means, [0.025, 0.975], axis=0)
    users = np.random.default_rng(1).permutation(70)  # in whatever order they come
    assert (metrics.compute_intervals(values, users, seed=9, draws=300) == wanted).all()


def test_the_bootstrap_interval_is_about_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, (4000, 1))
    low, high = metrics.compute_intervals(values, np.arange(4000), seed=0, draws=4000)[:, 0]
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.006)
    assert high == pytest.approx(values.mean() + half, abs=0.006)


def sampled(seed, users=12, most=5):
    """Values and differences of users with one to `most` samples each, in a random order: (before, after, users)."""
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.repeat(np.arange(users), rng.integers(1, most + 1, users)))
    leaning = rng.normal(0, 1, users)[of]  # a user's samples are alike
    before = rng.random((len(of), 2))
    return before, before + leaning[:, None] + rng.normal(0.3, 0.5, before.shape), of * 10 + 3


@given(st.integers(0, 10_000), st.integers(2, 12))
@hypothesis_settings(max_examples=30, deadline=None)
def test_the_interval_is_that_of_drawing_users_with_all_their_samples(seed, n):
    """Against the plain loop: draw users, put their samples together, take the mean."""
    values, _, users = sampled(seed, users=n)
    named = list(dict.fromkeys(users.tolist()))
    rng = np.random.default_rng(7)
    means = []
    for draw in rng.integers(0, n, (200, n)):
        means.append(np.concatenate([values[users == named[k]] for k in draw]).mean(0))
    found = metrics.compute_intervals(values, users, seed=7, draws=200)
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975], axis=0), rtol=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 12))
@hypothesis_settings(max_examples=30, deadline=None)
def test_the_p_is_that_of_a_regression_on_a_constant_with_clustered_errors(seed, n):
    """The sandwich by hand: (X'X)^-1 (sum over users of X_u' e_u e_u' X_u) (X'X)^-1, times users / (users - 1)."""
    before, after, users = sampled(seed, users=n)
    for k, found in enumerate(metrics.test_pairs(before, after, users, seed=0)):
        y, x = (after - before)[:, k], np.ones((len(users), 1))
        bread = np.linalg.inv(x.T @ x)
        slope = bread @ x.T @ y
        error = y - x @ slope
        scores = [x[users == u].T @ error[users == u] for u in np.unique(users)]
        variance = (bread @ sum(np.outer(s, s) for s in scores) @ bread)[0, 0] * n / (n - 1)
        t = slope[0] / math.sqrt(variance)
        assert found["difference"] == pytest.approx(slope[0])
        assert found["p"] == pytest.approx(2 * stats.t.sf(abs(t), n - 1), rel=1e-6)
        assert found["effect"] * math.sqrt(n) == pytest.approx(t)


@given(st.integers(0, 10_000), st.integers(2, 4))
@hypothesis_settings(max_examples=30, deadline=None)
def test_more_copies_of_every_sample_tell_nothing_new(seed, copies):
    """What takes each sample for a user would make intervals narrower by the root of `copies`."""
    before, after, users = sampled(seed)
    more = [np.concatenate([x] * copies) for x in (before, after, users)]
    for one, many in zip(metrics.test_pairs(before, after, users, seed=3), metrics.test_pairs(*more, seed=3), strict=True):
        assert many == pytest.approx(one)
    intervals = [metrics.compute_intervals(b, u, seed=3) for b, u in ((before, users), (more[0], more[2]))]
    np.testing.assert_allclose(*intervals, rtol=1e-12)


def test_where_users_are_alike_in_themselves_a_twentieth_of_the_tests_is_wrong():
    """2,000 tests of no difference at the level of 5%; the same tests with each sample for a user are wrong far more often."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(80), rng.integers(1, 9, 80))
    differences = rng.normal(0, 1, (80, 2000))[users] + rng.normal(0, 0.5, (len(users), 2000))
    nothing = np.zeros_like(differences)
    rates = []
    for whose in (users, np.arange(len(users))):
        p = [row["p"] for row in metrics.test_pairs(nothing, differences, whose, seed=0)]
        rates.append(np.mean(np.array(p) < 0.05))
    assert 0.035 < rates[0] < 0.075
    assert rates[1] > 0.2


def of_trainings(rng, trainings, seeds, users, *, by_training=0.1, by_seed=0.02, in_common=0.0, by_user=0.3, noise=0.3):
    """Differences of two rows that differ in nothing but luck: (trainings, seeds, users).

    The row before was trained once a seed, the one after once a training and seed; `in_common` is what a seed does to both.
    """
    common = rng.normal(0, in_common, (seeds, 1))
    before = common + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, noise, (seeds, users))
    after = (
        rng.normal(0, by_user, users)
        + rng.normal(0, by_training, (trainings, 1, 1))
        + rng.normal(0, noise, (trainings, 1, users))
    )
    return (
        common
        + after
        + rng.normal(0, by_seed, (trainings, seeds, 1))
        + rng.normal(0, noise, (trainings, seeds, users))
        - before
    )


def test_where_trainings_are_alike_the_test_over_them_is_that_across_users():
    rng, users = np.random.default_rng(1), np.arange(40)
    given = np.tile(rng.normal(0.1, 1, 40), (3, 2, 1))
    found = metrics.test_over_trainings(given, users)
    wanted = stats.ttest_1samp(given[0, 0], 0)
    assert found["p"] == pytest.approx(wanted.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(wanted.confidence_interval()))
    assert (found["df"], found["of users"]) == (pytest.approx(39), 1)
    of = np.array([0] * 25 + [1] * 5 + [2] * 10)
    (across,) = metrics.test_pairs(np.zeros((40, 1)), given[0, 0][:, None], of, seed=0)
    assert metrics.test_over_trainings(given, of)["p"] == pytest.approx(across["p"])


def test_where_users_and_seeds_are_alike_the_test_over_trainings_is_students_across_them():
    of_each = np.array([0.9, 0.3, 0.7, 0.8])
    found = metrics.test_over_trainings(np.tile(of_each[:, None, None], (1, 3, 20)), np.arange(20))
    wanted = stats.ttest_1samp(of_each, 0)
    assert (found["p"], found["df"], found["of trainings"]) == (
        pytest.approx(wanted.pvalue),
        pytest.approx(3),
        pytest.approx(1),
    )
    assert (found["low"], found["high"]) == pytest.approx(tuple(wanted.confidence_interval()))


def test_of_alike_seeds_the_error_over_trainings_is_that_of_the_two_way_analysis_of_variance():
    """Clark's quasi-F, from sums of squares written out."""
    users, trainings = 50, 4
    d = of_trainings(np.random.default_rng(3), trainings, 1, users, by_training=0.3)[:, 0]
    rows, columns = d.mean(1), d.mean(0)
    ms_trainings = users * ((rows - d.mean()) ** 2).sum() / (trainings - 1)
    ms_users = trainings * ((columns - d.mean()) ** 2).sum() / (users - 1)
    rest = d - rows[:, None] - columns + d.mean()
    ms_both = (rest**2).sum() / ((trainings - 1) * (users - 1))
    assert ms_trainings > ms_both  # or the trainings' part is 0
    found = metrics.test_over_trainings(np.stack([d, d], 1), np.arange(users))
    together = ms_trainings + ms_users - ms_both
    df = together**2 / (ms_trainings**2 / (trainings - 1) + ms_users**2 / (users - 1))
    assert found["df"] == pytest.approx(df)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / np.sqrt(together / (users * trainings)), df))
    assert found["of users"] == pytest.approx(ms_users / together)


@pytest.mark.parametrize(("trainings", "seeds"), [(3, 2), (3, 3), (5, 3)])
def test_a_twentieth_of_the_tests_over_trainings_is_wrong_where_of_those_across_users_it_is_a_sixth(trainings, seeds):
    rng, users = np.random.default_rng(0), np.arange(100)
    over = across = covered = 0
    for _ in range(500):
        differences = of_trainings(rng, trainings, seeds, 100)
        found = metrics.test_over_trainings(differences, users)
        over += found["p"] < 0.05
        covered += found["low"] <= 0 <= found["high"]
        across += stats.ttest_1samp(differences.mean((0, 1)), 0).pvalue < 0.05
    assert 10 < over < 45
    assert covered == 500 - over
    assert across > 80


def test_what_a_seed_does_to_both_rows_is_no_part_of_their_difference():
    users = np.arange(100)
    plain, common = (
        metrics.test_over_trainings(of_trainings(np.random.default_rng(5), 3, 3, 100, in_common=luck), users)
        for luck in (0, 9)
    )
    assert common == pytest.approx(plain)


@given(st.integers(0, 2**16), st.integers(2, 4), st.integers(2, 4), st.integers(1, 20))
def test_a_test_over_trainings_knows_no_order_no_sign_and_few_degrees_of_freedom(seed, trainings, seeds, users):
    rng = np.random.default_rng(seed)
    differences, of = of_trainings(rng, trainings, seeds, users), np.arange(users) // 2
    found = metrics.test_over_trainings(differences, of)
    assert sum(found[part] for part in metrics.TRAINING_PARTS) == pytest.approx(1 if found["df"] else 0)
    assert found["df"] == 0 or found["df"] >= 1
    order = rng.permutation(users)
    assert metrics.test_over_trainings(differences[::-1, ::-1, order], of[order]) == pytest.approx(found)
    other = metrics.test_over_trainings(-differences, of)
    assert (other["p"], other["df"], other["low"]) == pytest.approx((found["p"], found["df"], -found["high"]))


def test_over_trainings_nothing_is_said_of_equal_rows_and_too_few_are_refused():
    found = metrics.test_over_trainings(np.zeros((3, 2, 4)), np.arange(4))
    assert (found["p"], found["difference"], found["of users"]) == (1, 0, 0)
    for shape, users in (((3, 2, 4), 3), ((1, 2, 4), 4), ((3, 1, 4), 4), ((3, 2, 0), 0)):
        with pytest.raises(
            ValueError, match=f"found {shape[0]} trainings, {shape[1]} recommenders, {shape[2]} samples and {users}"
        ):
            metrics.test_over_trainings(np.ones(shape), np.arange(users))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("constant", [0.1, 0.63, -0.7, 0.0])
def test_a_difference_that_is_the_same_for_all_users_is_not_judged_by_its_rounding(constant, samples):
    """Nothing can be estimated from no spread, and what rounding leaves of one is none."""
    users = np.repeat(np.arange(3), [samples, 1, 1])
    before = np.linspace(0.1, 0.8, len(users))[:, None]
    (found,) = metrics.test_pairs(before, before + constant, users, seed=0)
    assert found["difference"] == pytest.approx(constant)
    assert (found["p"], found["effect"]) == (1, 0)


def test_holm_by_hand():
    assert metrics.correct_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.correct_holm([0.9, 0.8]) == [1, 1]


def test_an_interval_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one user"):
        metrics.compute_intervals(np.empty((0, 1)), np.empty(0), seed=0)


def test_coverage_and_novelty_by_hand():
    """Three lists of two over four items; counts plus one are 4, 2, 1, 1 of 8: surprise 1, 2, 3, 3 bits."""
    listed = np.array([[2, 1, 0, 0], [3, 2, 1, 0]])
    found = metrics.measure_lists(listed, [1, 2], np.array([3, 1, 0, 0]))
    assert found == pytest.approx(
        {"coverage@1": 0.5, "novelty@1": 4 / 3, "coverage@2": 0.75, "novelty@2": (3 * 1 + 2 * 2 + 3) / 6}
    )


def test_intervals_of_many_columns_are_those_of_each():
    values, _, users = sampled(0)
    both = metrics.compute_intervals(values, users, seed=4, draws=200)
    for k in range(2):
        np.testing.assert_allclose(metrics.compute_intervals(values[:, [k]], users, seed=4, draws=200)[:, 0], both[:, k])


def test_several_paired_tests_are_those_of_each():
    before, after, users = sampled(0)
    found = metrics.test_pairs(before, after, users, seed=1)
    for k in range(2):
        (one,) = metrics.test_pairs(before[:, [k]], after[:, [k]], users, seed=1)
        assert found[k] == pytest.approx(one)
