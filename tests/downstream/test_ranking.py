"""Ranks and lists against plain versions worked out score by score, and against scikit-learn's metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from llm2rec_kit.downstream import ranking, samples
from llm2rec_kit.results import metrics


def of_scores(scores, targets, **more):
    return ranking.rank(lambda some: torch.tensor(scores)[some], np.asarray(targets), len(scores[0]), **more)


def test_by_hand():
    """Ties count against the target: item 2 ties with item 3, so it is second."""
    found = of_scores([[0.1, 0.9, 0.9, 0.3], [4.0, 3.0, 2.0, 1.0]], [2, 4], cutoffs=[1, 2])
    assert found.ranks.tolist() == [2, 4]
    assert found.listed.sum(1).tolist() == [2, 4]
    assert found.listed[1].tolist() == [1, 2, 1, 0]


def test_equal_scores_by_hand():
    scores, targets = [[0.1, 0.9, 0.9, 0.3], [1.0, 1.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]], [2, 1, 4]
    found = {ties: of_scores(scores, targets, ties=ties).ranks for ties in ("worst", "mean", "best")}
    assert found["worst"].tolist() == [2, 4, 4]
    assert found["best"].tolist() == [1, 2, 4]
    assert found["mean"].tolist() == [[1, 2], [2, 4], [4, 4]]
    barred = ranking.Excluded(np.array([0, 1, 2, 3]), np.array([3, 1, 1]))  # the twin, the target itself, another
    assert of_scores(scores, targets, ties="mean", exclude=barred).ranks.tolist() == [[1, 1], [4, 4], [3, 3]]


def plain(scores, target, barred):
    """Rank and top list of one sample, candidates one by one."""
    own = scores[target - 1]
    rank = 1 + sum(s >= own for k, s in enumerate(scores, 1) if k != target and k not in barred)
    order = sorted((k for k in range(1, len(scores) + 1) if k not in barred), key=lambda k: -scores[k - 1])
    return (len(scores) if target in barred else rank), order


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["none", "last", "seen"]), st.integers(1, 5))
def test_any_scores_any_block_any_exclusion(seed, what, block):
    corpus = make_corpus(users=6, items=7, seed=seed)
    rng = np.random.default_rng(seed)
    targets = corpus.samples("test")
    scores = rng.integers(0, 4, (len(targets), 7)).astype(float)
    barred = ranking.find_excluded(corpus, targets, what)
    before, ranking.SCORES, ranking.LEAST = (ranking.SCORES, ranking.LEAST), 0, block
    try:
        found = ranking.rank(
            lambda some: torch.from_numpy(scores[some]), corpus.sequence[targets], 7, exclude=barred, cutoffs=[1, 3]
        )
    finally:
        ranking.SCORES, ranking.LEAST = before
    listed = np.zeros(2, dtype=int)
    for k, t in enumerate(targets):
        start = corpus.offsets[corpus.owners(np.array([t]))[0]]
        out = {"none": [], "last": [corpus.sequence[t - 1]], "seen": corpus.sequence[start:t]}[what]
        rank, order = plain(scores[k], int(corpus.sequence[t]), set(map(int, out)))
        assert found.ranks[k] == rank
        listed += [min(1, len(order)), min(3, len(order))]
    assert found.listed.sum(1).tolist() == listed.tolist()


def test_lists_hold_the_best_items():
    rng = np.random.default_rng(0)
    scores = rng.permutation(8 * 30).reshape(8, 30).astype(float)
    found = of_scores(scores.tolist(), rng.integers(1, 31, 8), cutoffs=[5])
    wanted = np.zeros(30, dtype=int)
    for row in scores:
        wanted[np.argsort(-row)[:5]] += 1
    assert found.listed[0].tolist() == wanted.tolist()


def test_metrics_are_those_of_scikit_learn():
    """On scores without ties: recall, NDCG and MRR at any k; with ties, its MRR counts them against the target as ours does."""
    rng = np.random.default_rng(0)
    scores = rng.permutation(40 * 50).reshape(40, 50).astype(float)
    targets = rng.integers(1, 51, 40)
    truth = np.eye(50)[targets - 1]
    ranks = of_scores(scores.tolist(), targets).ranks
    for k in (1, 3, 10, 50):
        recall = top_k_accuracy_score(targets - 1, scores, k=k, labels=np.arange(50)) if k < 50 else 1.0
        assert metrics.compute_per_sample(ranks, f"recall@{k}").mean() == pytest.approx(recall)
        assert metrics.compute_per_sample(ranks, f"ndcg@{k}").mean() == pytest.approx(
            ndcg_score(truth, scores, k=k, ignore_ties=True)
        )
    assert metrics.compute_per_sample(ranks, "mrr").mean() == pytest.approx(
        label_ranking_average_precision_score(truth, scores)
    )
    tied = rng.integers(0, 5, (40, 50)).astype(float)
    found = metrics.compute_per_sample(of_scores(tied.tolist(), targets).ranks, "mrr").mean()
    assert found == pytest.approx(label_ranking_average_precision_score(truth, tied))
    of_all = of_scores(tied.tolist(), targets, ties="mean").ranks
    for k in (1, 3, 10, 50):  # its NDCG is the expectation over the order of equal scores
        assert metrics.compute_per_sample(of_all, f"ndcg@{k}").mean() == pytest.approx(ndcg_score(truth, tied, k=k))


class Repeat(torch.nn.Module):
    """A model whose state is its input."""

    def forward(self, items, asked):
        return items[asked]


def test_ranks_of_a_fixed_table_are_those_worked_out_by_hand():
    """The score of item j after item i is the dot product of their rows."""
    table = torch.tensor([[9.0, 9.0], [1, 0], [0, 1], [1, 1], [1, 0]])
    rows = samples.Rows(torch.tensor([[2, 1], [1, 0]], dtype=torch.int32), torch.tensor([[0, 2], [3, 0]], dtype=torch.int32))
    found = ranking.rank_rows(Repeat(), table, rows, cutoffs=[1])
    # after item 1: items 1, 3, 4 score 1, item 2 scores 0: target 2 is last of four; target 3 ties with two.
    assert found.ranks.tolist() == [4, 3]
    assert found.listed[0].sum() == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_target_without_a_finite_score_is_refused(value):
    with pytest.raises(ValueError, match="1 targets are NaN or infinite"):
        of_scores([[1.0, value], [1.0, 2.0]], [2, 2])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="catalogue's 2 items; found 3"):
        of_scores([[1.0, 2.0]], [1], cutoffs=[1, 3])
    with pytest.raises(ValueError, match=r"item ids 1\.\.2; found 3 to 3"):
        of_scores([[1.0, 2.0]], [3])
    with pytest.raises(ValueError, match="found 0 to 0"):
        of_scores([[1.0, 2.0]], [0])


def test_nothing_to_rank_is_nothing():
    found = ranking.rank(lambda some: torch.zeros(len(some), 3), np.empty(0, dtype=int), 3, cutoffs=[2])
    assert found.ranks.shape == (0,)
    assert not found.listed.any()
