"""Metrics from ranks, and what may be said about their differences.

Evaluation keeps one number a test sample: the rank of the target among all items (1 is best, ties count against the model).
Everything here derives from ranks, so that any metric and any test can be redone from the saved files.
"""

from __future__ import annotations

import re

import numpy as np
from scipy import stats


def ranks_of_targets(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank of each row's target among the row's scores: int32 (n,), 1 is best; an equal score counts against the target.

    >>> ranks_of_targets(np.array([[0.1, 0.9, 0.9, 0.3]]), np.array([1])).tolist()
    [2]
    """
    own = scores[np.arange(len(scores)), targets]
    if not np.isfinite(own).all():
        raise ValueError(f"Scores of {(~np.isfinite(own)).sum()} targets are NaN or infinite; they cannot be ranked.")
    return (scores >= own[:, None]).sum(1).astype(np.int32)


def per_user(ranks: np.ndarray, metric: str) -> np.ndarray:
    """The metric of each sample, float64 (n,): `metric` is "recall@k", "ndcg@k" or "mrr@k", or "mrr" without a cut.

    With one target a sample, NDCG is 1 / log2(rank + 1) within the first k and 0 beyond, MRR is 1 / rank likewise.

    >>> per_user(np.array([1, 3, 11]), "ndcg@10").tolist()
    [1.0, 0.5, 0.0]
    """
    name, k = _parsed(metric)
    ranks = np.asarray(ranks)
    if len(ranks) and ranks.min() < 1:
        raise ValueError(f"Ranks begin at 1; found {ranks.min()}.")
    gain = {"recall": lambda r: np.ones_like(r), "ndcg": lambda r: 1 / np.log2(r + 1), "mrr": lambda r: 1 / r}[name]
    values = gain(ranks.astype(np.float64))
    return values if k is None else np.where(ranks <= k, values, 0.0)


def summary(ranks: np.ndarray, cutoffs: list[int]) -> dict[str, float]:
    """Mean recall and NDCG at each cutoff, and MRR: {"recall@10": ..., "ndcg@10": ..., ..., "mrr": ...}."""
    names = [f"{m}@{k}" for k in cutoffs for m in ("recall", "ndcg")] + ["mrr"]
    return {name: float(per_user(ranks, name).mean()) for name in names}


def bootstrap_interval(values: np.ndarray, *, seed: int, level: float = 0.95, draws: int = 1000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, resampling users."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise ValueError("An interval needs the value of at least one user; found none.")
    # One draw at a time: memory stays that of one array of users, however many draws.
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(before: np.ndarray, after: np.ndarray, *, seed: int) -> dict[str, float]:
    """Does the metric differ across the same users? Mean difference after - before, its 95% bootstrap interval, a two-sided p,
    and the effect size d (mean over standard deviation of the differences).

    The p is of Student's paired t-test: with thousands of users the mean difference is normal whatever the metric's
    distribution, and unlike a signed-rank test it asks about the mean that the tables print.
    """
    if len(before) != len(after):
        raise ValueError(f"A paired test needs the same users on both sides; found {len(before)} and {len(after)}.")
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    low, high = bootstrap_interval(difference, seed=seed)
    p = float(stats.ttest_1samp(difference, 0).pvalue) if spread > 0 else 1.0
    mean = float(difference.mean())
    return {"difference": mean, "low": low, "high": high, "p": p, "effect": mean / spread if spread > 0 else 0.0}


def holm(p_values: list[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in their order.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    out = np.empty(len(p_values))
    out[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return out.tolist()


def _parsed(metric: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(recall|ndcg)@([1-9]\d*)|mrr(?:@([1-9]\d*))?", metric)
    if not found:
        raise ValueError(f"Metric {metric!r} is none of recall@k, ndcg@k, mrr@k (k from 1) and mrr.")
    k = found[2] or found[3]
    return found[1] or "mrr", int(k) if k else None
