"""Metrics from ranks, and what may be said about their differences.

Evaluation keeps one number a test sample: the rank of the target among all items (1 is best, ties count against the model
unless `evaluation_ties` says otherwise; where it asks for their mean, two: the first and the last place that the target
could have). Everything here derives from ranks, so that any metric and any test can be redone from the saved files.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from llm2rec_kit.settings import METRIC

LEVEL = 0.95  # of the intervals
TRAINING_PARTS = ("of users", "of trainings", "of recommenders")  # shares of a variance, in `test_over_trainings`
ROUNDING = 1e-12  # share of a mean difference below which users' spread is rounding


def compute_per_sample(ranks: np.ndarray, metric: str) -> np.ndarray:
    """Compute the metric of each sample, float64 (n,): `metric` is "recall@k", "ndcg@k" or "mrr@k", or "mrr" without a cut.

    With one target a sample, NDCG is 1 / log2(rank + 1) within the first k and 0 beyond, MRR is 1 / rank likewise. Of ranks
    (n, 2), the first and last place among items of the target's score, it is the metric's expectation over their random
    order (McSherry and Najork 2008).

    >>> compute_per_sample(np.array([1, 3, 11]), "ndcg@10").tolist()
    [1.0, 0.5, 0.0]
    >>> compute_per_sample(np.array([[1, 1], [2, 5]]), "recall@3").tolist()
    [1.0, 0.5]
    """
    name, k = _parsed(metric)
    ranks = np.asarray(ranks)
    if len(ranks) and ranks.min() < 1:
        raise ValueError(f"Ranks begin at 1; found {ranks.min()}.")
    if ranks.ndim == 1:
        return _at(ranks, name, k)
    first, last = ranks.T
    if (first > last).any():
        raise ValueError("A target's first place among equal scores is behind its last.")
    upto = np.concatenate([[0.0], np.cumsum(_at(np.arange(1, ranks.max(initial=0) + 1), name, k))])
    return np.where(first == last, _at(last, name, k), (upto[last] - upto[first - 1]) / (last - first + 1))


def _at(ranks: np.ndarray, name: str, k: int | None) -> np.ndarray:
    """What a target at each of `ranks` (m,) is worth, float64 (m,)."""
    gain = {"recall": lambda r: np.ones_like(r), "ndcg": lambda r: 1 / np.log2(r + 1), "mrr": lambda r: 1 / r}[name]
    values = gain(ranks.astype(np.float64))
    return values if k is None else np.where(ranks <= k, values, 0.0)


def summarise(ranks: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    """Compute mean recall and NDCG at each cutoff, and MRR: {"recall@10": ..., "ndcg@10": ..., ..., "mrr": ...}."""
    names = [f"{m}@{k}" for k in cutoffs for m in ("recall", "ndcg")] + ["mrr"]
    return {name: float(compute_per_sample(ranks, name).mean()) for name in names}


def measure_lists(listed: np.ndarray, cutoffs: list[int], counts: np.ndarray) -> dict[str, float]:
    """Measure coverage and novelty of the top-k lists at each cutoff, from `ranking.Ranking.listed` (len(cutoffs), N).

    Coverage is the share of the catalogue that stands in some list. Novelty is the mean of -log2 of the listed items' share
    of training interactions, bits (Vargas and Castells 2011; `counts` (N,), each plus one so that an unseen item counts).

    >>> measure_lists(np.array([[2, 2, 0, 0]]), [2], np.array([1, 3, 0, 0]))
    {'coverage@2': 0.5, 'novelty@2': 1.5}
    """
    surprise = -np.log2((counts + 1) / (counts.sum() + len(counts)))
    out = {}
    for k, row in zip(cutoffs, listed, strict=False):
        out[f"coverage@{k}"] = float((row > 0).mean())
        out[f"novelty@{k}"] = float(row @ surprise / max(1, row.sum()))
    return out


def compute_intervals(values: np.ndarray, users: np.ndarray, *, seed: int, draws: int = 1000) -> np.ndarray:
    """Compute 95% percentile bootstrap intervals of the means of the columns of `values` (n, m): float64 (2, m), low and high.

    `users` (n,) says whose sample a row is. Users are resampled, each with all of its samples, because the samples of one
    user are no independent ones (the cluster bootstrap; Field and Welsh 2007); a draw's mean is over the samples that it
    holds. The draws are the same for every column, and a draw is a count a user, so all columns of all draws are one
    product.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise ValueError("An interval needs the value of at least one user; found none.")
    sums, sizes = _by_user(values, users)
    n = len(sizes)
    rng = np.random.default_rng(seed)
    means = np.empty((draws, values.shape[1]))
    for at in range(0, draws, step := max(1, 2**20 // n)):  # 8 MiB of counts at a time
        size = min(step, draws - at)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[at : at + size] = counts @ sums / (counts @ sizes)[:, None]
    return np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def test_pairs(before: np.ndarray, after: np.ndarray, users: np.ndarray, *, seed: int) -> list[dict[str, float]]:
    """Test whether the metric differs across users;
    `before` and `after` are (n, m), the same samples, a comparison a column.

    For each: the mean difference after - before over samples, its 95% bootstrap interval, a two-sided p, and the effect size
    d. `users` (n,) says whose sample a row is. The p is of Student's t with the cluster-robust standard error and users - 1
    degrees of freedom (Cameron and Miller 2015; for metrics, Deng et al., KDD 2018): with one sample a user, the paired
    t-test. With thousands of users the mean difference is normal whatever the metric's distribution, and unlike a
    signed-rank test it asks about the mean that the tables print. d is that mean over the standard deviation of the users'
    `_linearised` differences, so t = d * sqrt(users). Where all users differ by the same, but for rounding, nothing can
    be estimated: p is 1 and d 0.
    """
    if not before.shape == after.shape == (len(users), *before.shape[1:]):
        raise ValueError(
            "A paired test needs the same users' samples on both sides; "
            f"found {before.shape} and {after.shape} of {len(users)} samples' users."
        )
    from scipy import stats  # takes longer than all that only names a metric

    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    bounds = compute_intervals(differences, users, seed=seed)
    out = []
    for difference, each, low, high in zip(differences.T, _linearised(differences, users).T, *bounds, strict=True):
        mean = float(difference.mean())
        spread = each.std(ddof=1) if len(each) > 1 else 0.0
        is_spread = spread > ROUNDING * abs(mean)
        p = float(stats.ttest_1samp(each, 0).pvalue) if is_spread else 1.0
        effect = float(mean / spread) if is_spread else 0.0
        out.append({"difference": mean, "low": float(low), "high": float(high), "p": p, "effect": effect})
    return out


def test_over_trainings(differences: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """Test whether the metric differs where trainings are a sample as users are: would other users *and* other trainings agree?

    `differences` (c, s, n) are after - before, of c trainings of what is compared, each under s recommenders of one seed on
    both sides, and n samples; `users` (n,) says whose sample each is. `test_pairs` of their means takes all trainings as
    given. Here users, trainings and recommenders are random and crossed, as readers and cases are in Dorfman, Berbaum and
    Metz (1992), subjects and words in Clark (1973): the variance of the mean difference has a part of each, the variance of
    its means over the others by their number, of which the interactions that are in users' part already are taken off (0 at
    least). Degrees of freedom are Satterthwaite's (1946) of the parts as they were before, no fewer than the fewest of them.
    With three trainings or more 2 to 8% of tests of no difference fall below 0.05 (tests/downstream/test_metrics.py).

    Returns difference, low and high (95%, Student's t), p, df, and the shares of users, trainings and recommenders
    (TRAINING_PARTS). Where that variance is 0, p is 1. ValueError without samples, or with fewer than two of c or s: then
    nothing is known of that part.
    """
    from scipy import stats

    count, seeds, n = differences.shape
    if n != len(users) or not n or min(count, seeds) < 2:
        raise ValueError(
            "A test over trainings needs two trainings and two recommenders of each at least, and the user of each sample; "
            f"found {count} trainings, {seeds} recommenders, {n} samples and {len(users)} users of samples."
        )
    values = _linearised(differences.reshape(-1, n).T.astype(np.float64), users)  # (users, c * s)
    cells = values.reshape(len(values), count, seeds)
    mean, of_users = float(cells.mean()), _vary(cells.mean((1, 2)))
    by_training, by_seed = cells.mean(2), cells.mean(1)
    whole = np.array([of_users, _vary(by_training.mean(0)), _vary(by_seed.mean(0))])
    taken = [0.0, _interact(by_training), _interact(by_seed) + _interact(cells.mean(0))]
    parts = np.maximum(whole - taken, 0)
    total = float(parts.sum())
    if not np.sqrt(total) > ROUNDING * abs(mean):
        return {"difference": mean, "low": mean, "high": mean, "p": 1.0, "df": 0.0} | dict.fromkeys(TRAINING_PARTS, 0.0)
    each = np.array([max(1, len(values) - 1), count - 1, seeds - 1])
    df = max(total**2 / float((whole**2 / each).sum()), min(each[whole > 0]))
    error = np.sqrt(total)
    reach = stats.t.ppf((1 + LEVEL) / 2, df) * error
    found = {"difference": mean, "low": mean - reach, "high": mean + reach, "p": 2 * stats.t.sf(abs(mean) / error, df)}
    return {k: float(v) for k, v in (found | {"df": df} | dict(zip(TRAINING_PARTS, parts / total, strict=True))).items()}


def _vary(means: NDArray[np.float64]) -> float:
    """The variance of the mean of `means` (n,), as independent draws; 0 of one."""
    return float(means.var(ddof=1) / len(means)) if len(means) > 1 else 0.0


def _interact(values: NDArray[np.float64]) -> float:
    """What the interaction of rows and columns adds to the variance of the mean of `values` (r, c); 0 of one row."""
    r, c = values.shape
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return float((rest**2).sum() / max(1, (r - 1) * (c - 1)) / (r * c))


def _linearised(values: NDArray[np.float64], users: np.ndarray) -> NDArray[np.float64]:
    """A value a user of each column of `values` (n, m), float64 (users, m), whose plain t-test is the cluster-robust one.

    A user with n_u samples of sum s_u counts as (s_u - mean * (n_u - k)) / k, where k is the samples a user on average: the
    first-order terms of the mean over samples, a ratio of two sums over users (Cochran 1977, ch. 6). Their mean is that
    mean, and with one sample a user they are the samples' values.

    >>> _linearised(np.array([[1.0], [2.0], [6.0], [5.0]]), np.array([7, 7, 7, 9])).ravel().tolist()
    [2.75, 4.25]
    """
    sums, sizes = _by_user(values, users)
    mean: NDArray[np.float64] = values.mean(0)
    on_average = len(values) / len(sizes)
    return (sums - mean * (sizes - on_average)[:, None]) / on_average


def _by_user(values: np.ndarray, users: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of the columns of `values` (n, m), float64 (users, m), and numbers of samples, int64 (users,),
    by first appearance."""
    if len(users) != len(values):
        raise ValueError(f"Each sample has one user; found {len(values)} samples and {len(users)} users of samples.")
    _, first, code = np.unique(users, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[code]  # so that one sample a user leaves the rows as they are
    sums = np.zeros((len(first), values.shape[1]))
    np.add.at(sums, place, values)
    return sums, np.bincount(place)


def correct_holm(p_values: list[float]) -> list[float]:
    """Correct p values for their number (Holm 1979), in their order.

    >>> [round(p, 3) for p in correct_holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    out = np.empty(len(p_values))
    out[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return out.tolist()


def _parsed(metric: str) -> tuple[str, int | None]:
    found = re.fullmatch(METRIC, metric)
    if not found:
        raise ValueError(f"Metric {metric!r} is none of recall@k, ndcg@k, mrr@k (k from 1) and mrr.")
    k = found[2] or found[3]
    return found[1] or "mrr", int(k) if k else None
