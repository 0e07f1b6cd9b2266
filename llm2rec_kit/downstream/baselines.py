"""What a trained recommender has to beat: popularity, what followed the last item, the titles nearest to it.

Each gives ranks like a recommender's: int32, one a test sample, over the full catalogue, ties counted against it.
None trains anything; all learn from training interactions alone.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream.metrics import ranks_of_targets
from llm2rec_kit.downstream.recommenders import checked_embeddings


def popularity_ranks(corpus: Corpus) -> np.ndarray:
    """Items by how often they occur in training interactions."""
    counts = training_counts(corpus)
    targets = corpus.sequence[corpus.samples("test")]
    order = np.sort(counts)
    return (len(counts) - np.searchsorted(order, counts[targets - 1], side="left")).astype(np.int32)


def last_item_ranks(corpus: Corpus) -> np.ndarray:
    """Items by how often they directly followed the history's last item in training; popularity breaks ties."""
    train = corpus.samples("train")
    pairs = (corpus.sequence[train - 1] - 1, corpus.sequence[train] - 1)
    follows = sparse.csr_matrix((np.ones(len(train)), pairs), shape=(corpus.n_items, corpus.n_items))
    small = training_counts(corpus) / (len(corpus.sequence) + 1)

    def scores(last: np.ndarray) -> np.ndarray:
        return follows[last - 1].toarray() + small

    return _ranked(corpus, scores)


def nearest_ranks(corpus: Corpus, embeddings: np.ndarray) -> np.ndarray:
    """Items by cosine to the history's last item, itself last; `embeddings` float (N + 1, dim).

    Raises ValueError where `embeddings` has not N + 1 rows, or holds NaN or infinity.
    """
    unit = checked_embeddings(embeddings, corpus.n_items, "unit")[1:]

    def scores(last: np.ndarray) -> np.ndarray:
        cosine = unit[last - 1] @ unit.T
        cosine[np.arange(len(last)), last - 1] = -2
        return cosine

    return _ranked(corpus, scores)


def training_counts(corpus: Corpus) -> np.ndarray:
    """How often items 1..N occur in training: as targets, or in the history of one (int64 (N,))."""
    train = corpus.samples("train")
    used = np.zeros(len(corpus.sequence), dtype=bool)
    used[train] = True
    used[corpus.offsets[corpus.owners(train)]] = True  # a user's first item is never a target, only history
    return np.bincount(corpus.sequence[used], minlength=corpus.n_items + 1)[1:]


def _ranked(corpus: Corpus, scores, chunk: int = 1024) -> np.ndarray:
    tests = corpus.samples("test")
    parts = []
    for at in range(0, len(tests), chunk):
        some = tests[at : at + chunk]
        parts.append(ranks_of_targets(scores(corpus.sequence[some - 1]), corpus.sequence[some] - 1))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
