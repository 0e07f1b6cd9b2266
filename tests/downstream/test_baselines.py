"""Baselines against slow plain versions, on training interactions alone."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from conftest import make_corpus

from llm2rec_kit.downstream import baselines


def plain_rank(scores, target):
    return sum(scores[i] >= scores[target] for i in range(1, len(scores)))


def train_part(corpus):
    """Each user's items but the last two."""
    return [corpus.sequence[a : b - 2] for a, b in zip(corpus.offsets, corpus.offsets[1:], strict=False)]


def test_popularity():
    corpus = make_corpus(users=30)
    # A user of three has no training sample: nothing of it may be counted.
    counts = Counter(i for items in train_part(corpus) if len(items) > 1 for i in items)
    assert baselines.training_counts(corpus).tolist() == [counts[i] for i in range(1, corpus.n_items + 1)]
    scores = [0, *(counts[i] for i in range(1, corpus.n_items + 1))]
    wanted = [plain_rank(scores, corpus.sequence[t]) for t in corpus.samples("test")]
    assert baselines.popularity_ranks(corpus).tolist() == wanted


def test_what_followed_the_last_item():
    corpus = make_corpus(users=30)
    follows = Counter((a, b) for items in train_part(corpus) for a, b in itertools.pairwise(items))
    counts = [0, *baselines.training_counts(corpus)]
    for t, found in zip(corpus.samples("test"), baselines.last_item_ranks(corpus), strict=True):
        scores = [(follows[corpus.sequence[t - 1], i], counts[i]) for i in range(corpus.n_items + 1)]
        assert found == plain_rank(scores, corpus.sequence[t])


def test_nearest_titles():
    corpus = make_corpus(users=30)
    table = np.random.default_rng(0).normal(size=(corpus.n_items + 1, 4))
    for t, found in zip(corpus.samples("test"), baselines.nearest_ranks(corpus, table), strict=True):
        last = corpus.sequence[t - 1]
        cosine = [
            table[i] @ table[last] / np.linalg.norm(table[i]) / np.linalg.norm(table[last])
            for i in range(corpus.n_items + 1)
        ]
        cosine[last] = -2
        assert found == plain_rank(cosine, corpus.sequence[t])


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
        baselines.nearest_ranks(corpus, change(table))
