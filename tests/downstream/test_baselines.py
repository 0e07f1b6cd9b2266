"""Baselines against slow plain versions, on training interactions alone."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse

from llm2rec_kit.corpus import TRAIN
from llm2rec_kit.downstream import baselines


def plain_rank(scores, target):
    """scores[i] is item i's; place 0 is no candidate."""
    return sum(scores[i] >= scores[target] for i in range(1, len(scores)))


def train_part(corpus):
    """Each user's items but the last two; a user of three has no training sample, so nothing of it may be counted."""
    parts = [corpus.sequence[a : b - 2].tolist() for a, b in itertools.pairwise(corpus.offsets)]
    return [items for items in parts if len(items) > 1]


def counts_of(corpus):
    counts = Counter(i for items in train_part(corpus) for i in items)
    return [0, *(counts[i] for i in range(1, corpus.n_items + 1))]


def same(corpus, found, scores_of):
    for t, rank in zip(corpus.samples("test"), found.ranks, strict=True):
        assert rank == plain_rank(scores_of(t), corpus.sequence[t])


def test_popularity():
    corpus = make_corpus(users=30)
    assert baselines.count_training(corpus).tolist() == counts_of(corpus)[1:]
    same(corpus, baselines.rank("popularity", corpus), lambda t: counts_of(corpus))


def test_of_given_samples_all_of_the_history_counts_that_training_sees():
    """Of a source's own samples the last of each user alone: what is before it is no target, and training reads it."""
    corpus = make_corpus(users=30, items=40)
    train = corpus.samples("train")
    last = train[np.append(np.diff(corpus.owners(train)) > 0, True)]
    kept = np.isin(corpus.targets, last) | (corpus.splits != TRAIN)
    corpus = replace(corpus, targets=corpus.targets[kept], splits=corpus.splits[kept]).check()
    firsts = corpus.offsets[corpus.owners(last)]
    seen = sorted({*firsts.tolist(), *(k for t in last for k in range(corpus.starts(np.array([t]))[0], t + 1))})
    assert np.flatnonzero(baselines.mark_training(corpus)).tolist() == seen
    counts = Counter(corpus.sequence[seen].tolist())
    assert baselines.count_training(corpus).tolist() == [counts[i] for i in range(1, 41)]
    given = baselines.select_training(corpus).check()
    for new, old in zip(given.targets, last, strict=True):
        assert given.history(new).tolist() == corpus.history(old).tolist()


def test_of_the_kits_own_splits_the_targets_and_first_items_of_training_are_all_that_it_sees():
    corpus = make_corpus(users=30, max_history=2)
    train = corpus.samples("train")
    seen = np.union1d(train, corpus.offsets[corpus.owners(train)])
    np.testing.assert_array_equal(np.flatnonzero(baselines.mark_training(corpus)), seen)


def test_recent_popularity():
    corpus = make_corpus(users=60)
    times = np.random.default_rng(0).integers(0, 10**6, len(corpus.sequence))
    for a, b in itertools.pairwise(corpus.offsets):
        times[a:b].sort()
    corpus = replace(corpus, times=times).check()
    used = [k for a, b in itertools.pairwise(corpus.offsets) if b - a > 3 for k in range(a, b - 2)]
    latest = sorted(used, key=lambda k: times[k])[-round(len(used) / 10) :]
    recently = Counter(corpus.sequence[latest].tolist())
    counts = counts_of(corpus)
    scores = [(recently[i], counts[i]) for i in range(corpus.n_items + 1)]
    same(corpus, baselines.rank("recent", corpus), lambda t: scores)
    with pytest.raises(ValueError, match="needs times"):
        baselines.rank("recent", make_corpus())


def test_what_followed_the_last_item():
    corpus = make_corpus(users=30)
    follows = Counter((a, b) for items in train_part(corpus) for a, b in itertools.pairwise(items))
    counts = counts_of(corpus)
    same(
        corpus,
        baselines.rank("lastitem", corpus),
        lambda t: [(follows[corpus.sequence[t - 1], i], counts[i]) for i in range(corpus.n_items + 1)],
    )


@pytest.mark.parametrize("kept", [100, 3])
def test_item_neighbours(kept, monkeypatch):
    monkeypatch.setattr(baselines, "NEIGHBOURS", kept)
    corpus = make_corpus(users=30)
    had = [set() for _ in range(corpus.n_items + 1)]
    for user, items in enumerate(train_part(corpus)):
        for i in items:
            had[i].add(user)
    n = corpus.n_items + 1
    near = np.zeros((n, n))
    for i in range(1, n):
        for j in range(1, n):
            if i != j and had[i] and had[j]:
                near[i, j] = len(had[i] & had[j]) / math.sqrt(len(had[i]) * len(had[j]))
        if kept < n:
            near[i, np.argsort(-near[i], kind="stable")[kept:]] = 0
    counts = counts_of(corpus)

    def scores(t):
        total = sum(near[i] for i in corpus.history(t))
        return [(round(float(total[i]), 9), counts[i]) for i in range(n)]

    same(corpus, baselines.rank("itemknn", corpus), scores)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def neighbours_at_once(scaled, most):
    """As they were found before blocks: the whole product, one sort of all."""
    matrix = sparse.csr_matrix(scaled.T @ scaled)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, rows))
    kept = order[np.arange(len(order)) - matrix.indptr[rows] < most]
    return sparse.csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    had=st.lists(st.lists(st.integers(0, 14), max_size=15), min_size=1, max_size=12),
    most=st.integers(1, 16),
    pairs=st.integers(1, 60),
)
def test_neighbours_found_by_blocks_are_those_found_at_once_to_the_bit(had, most, pairs):
    """Of few users nearly all cosines tie with others."""
    where = [(user, item) for user, items in enumerate(had) for item in sorted({*items})]
    place = ([user for user, _ in where], [item for _, item in where])
    matrix = sparse.csr_matrix((np.ones(len(where)), place), shape=(len(had), 15))
    size = np.sqrt(np.maximum(np.bincount(matrix.indices, minlength=15), 1))
    scaled = sparse.csr_matrix(matrix @ sparse.diags(1 / size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "MOST_PAIRS", pairs)
        found = baselines._find_neighbours(scaled, most)
    wanted = neighbours_at_once(scaled, most)
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == getattr(wanted, name).dtype


def test_neighbours_are_looked_for_among_a_bounded_number_of_pairs(monkeypatch):
    """One user had every item: all pairs are there."""
    sizes, keep = [], baselines._keep_largest
    monkeypatch.setattr(baselines, "MOST_PAIRS", 1000)
    monkeypatch.setattr(baselines, "_keep_largest", lambda block, *how: sizes.append(block.nnz) or keep(block, *how))
    found = baselines._find_neighbours(sparse.csr_matrix(np.ones((1, 200))), 3)
    assert sum(sizes) == 200 * 200
    assert max(sizes) <= 1000 + 200
    assert found.indices.reshape(-1, 3)[[0, 1, 2, 199]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize("name", ["nearest", "nearestmean"])
def test_nearest_in_an_embedding_space(name):
    corpus = make_corpus(users=30)
    table = np.random.default_rng(0).normal(size=(corpus.n_items + 1, 4))

    def scores(t):
        history = corpus.history(t)[-1:] if name == "nearest" else corpus.history(t)
        centre = sum(table[i] / np.linalg.norm(table[i]) for i in history)
        return [-np.inf if i in history else cosine(table[i], centre) for i in range(corpus.n_items + 1)]

    found = baselines.rank(name, corpus, table)
    for t, rank in zip(corpus.samples("test"), found.ranks, strict=True):
        target = corpus.sequence[t]
        wanted = plain_rank(scores(t), target)
        assert rank == wanted or scores(t)[target] == -np.inf


@pytest.mark.parametrize(("name", "last"), [("nearest", {2}), ("nearestmean", {1, 2, 3}), ("bm25", {1, 2, 3})])
def test_what_similar_items_are_looked_for_by_comes_last_and_no_more_of_the_history_than_that(name, last):
    corpus = make_corpus(users=30)
    history = np.array([1, 2, 3, 2], dtype=corpus.sequence.dtype)
    corpus = replace(corpus, sequence=np.concatenate([history, corpus.sequence[4:]]), max_history=4)
    table = np.random.default_rng(0).normal(size=(corpus.n_items + 1, 4))
    made = baselines.BASELINES[name]
    scores = made(corpus, table) if baselines.needs_embeddings(name) else made(corpus)
    (found,) = scores(np.array([4]))
    assert {item for item in range(1, corpus.n_items + 1) if found[item - 1] == baselines.LAST} == last


def test_bm25_by_its_formula():
    corpus = make_corpus(users=30)
    words = [[], *(re.findall(r"\w+", title.lower()) for title in corpus.titles)]
    n = corpus.n_items
    average = sum(map(len, words)) / n
    documents = Counter(w for title in words for w in set(title))

    def score(query, title):
        total = 0.0
        for w in query:
            rarity = math.log(1 + (n - documents[w] + 0.5) / (documents[w] + 0.5))
            often = title.count(w)
            total += rarity * often * 2.5 / (often + 1.5 * (0.25 + 0.75 * len(title) / average))
        return total

    def scores(t):
        history = corpus.history(t).tolist()
        query = [w for i in history for w in words[i]]
        return [-1.0 if i in history else round(score(query, words[i]), 9) for i in range(n + 1)]

    same(corpus, baselines.rank("bm25", corpus), scores)


def test_exclusion_and_lists_are_those_of_every_ranking():
    corpus = make_corpus(users=30)
    plain, found = (baselines.rank("popularity", corpus, exclude=what, cutoffs=[2]) for what in ("none", "seen"))
    assert plain.listed.sum() == found.listed.sum() == 2 * len(corpus.samples("test"))
    assert (plain.listed > 0).sum() == 2
    assert (found.listed > 0).sum() > 2
    counts = counts_of(corpus)
    for t, rank in zip(corpus.samples("test"), found.ranks, strict=True):
        a = corpus.offsets[corpus.owners(np.array([t]))[0]]
        seen = set(corpus.sequence[a:t].tolist())
        target = int(corpus.sequence[t])
        left = [-1 if i in seen else counts[i] for i in range(corpus.n_items + 1)]
        assert rank == (corpus.n_items if target in seen else plain_rank(left, target))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:-1], r"takes embeddings of shape"),
        (lambda t: np.vstack([t, t]), "takes embeddings"),
        (lambda t: np.where(t == t[3, 0], np.nan, t), "1 rows, first in row 3"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(change, words):
    corpus = make_corpus(users=30)
    table = np.random.default_rng(0).normal(size=(corpus.n_items + 1, 4))
    with pytest.raises(ValueError, match=words):
        baselines.rank("nearest", corpus, change(table))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="'random' is none of"):
        baselines.rank("random", make_corpus())
    with pytest.raises(ValueError, match="catalogue's 16 items; found 17"):
        baselines.rank("popularity", make_corpus(), cutoffs=[17])
