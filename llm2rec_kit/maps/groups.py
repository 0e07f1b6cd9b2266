"""Groups of items to colour a map by: clusters of a space, communities of who buys what together, and names for both."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np
from scipy import sparse

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.maps.projection import scale_to_unit

NONE = -1  # the group of an item that has none


def find_clusters(vectors: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Cluster items by k-means on the unit sphere, in the space and not on the map: int32 (n,), 0 the largest cluster."""
    from sklearn.cluster import KMeans

    count = max(1, min(count, len(np.unique(vectors, axis=0))))
    found = KMeans(count, n_init=4, random_state=seed).fit_predict(scale_to_unit(vectors))
    return number_by_size(found)


def find_communities(corpus: Corpus, count: int, *, seed: int) -> np.ndarray:
    """Find communities of items that follow each other in training histories: int32 (N,), 0 the largest, NONE without links.

    Spectral clustering of the co-consumption graph (Ng, Jordan & Weiss 2002), regularised so that a few loose items are no
    community of their own (Amini et al. 2013). It sees no title.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh
    from sklearn.cluster import KMeans

    links = count_co_purchases(corpus)
    links = links + links.T
    degree = np.asarray(links.sum(1)).ravel()
    linked = np.flatnonzero(degree > 0)
    out = np.full(corpus.n_items, NONE, dtype=np.int32)
    count = min(count, len(linked) - 2)
    if count < 2:
        out[linked] = 0
        return out
    inside, n = links[linked][:, linked].tocsr(), len(linked)
    blur = degree.sum() / n  # the mean degree, spread evenly over all others
    scale = 1 / np.sqrt(degree[linked] + blur)

    def times(x: np.ndarray) -> np.ndarray:
        x = scale * x.ravel()
        product: np.ndarray = scale * (inside @ x + blur / n * x.sum())
        return product

    start = np.random.default_rng(seed).normal(size=n)
    _, vectors = eigsh(LinearOperator((n, n), matvec=times, dtype=np.float64), k=count, which="LA", v0=start, tol=1e-6)
    out[linked] = number_by_size(KMeans(count, n_init=4, random_state=seed).fit_predict(scale_to_unit(vectors)))
    return out


def count_co_purchases(corpus: Corpus) -> sparse.csr_matrix:
    """Count how often another item j followed item i in training histories: float64 (N, N), row 0 is item 1."""
    train = corpus.samples("train")
    before, after = corpus.sequence[train - 1] - 1, corpus.sequence[train] - 1
    kept = before != after
    counts = sparse.coo_matrix((np.ones(kept.sum()), (before[kept], after[kept])), shape=(corpus.n_items,) * 2)
    return counts.tocsr()


def name_groups(titles: list[str], groups: np.ndarray) -> dict[int, str]:
    """Name each group by two words of its titles that tell it from the others: {group: "star harbor, headset"}.

    A word's weight is share in the group x log(share in the group / share in all), over titles; of words that always stand
    together the phrase is taken. Numbers and English stop words are passed over. A name that an earlier group has gets a
    number: "star harbor (2)".
    """
    terms = [_terms(title) for title in titles]
    in_all = _shares(terms)
    out, given = {}, Counter[str]()
    for group in sorted(set(groups.tolist()) - {NONE}):
        here = _shares([t for t, g in zip(terms, groups, strict=True) if g == group])
        weight = {t: share * np.log(share / in_all[t]) for t, share in here.items()}
        chosen: list[str] = []
        # A phrase before its own words where both weigh about the same.
        for term in sorted(weight, key=lambda t: (-round(weight[t] * (1.15 if " " in t else 1), 9), t)):
            if len(chosen) < 2 and weight[term] > 0 and not {*term.split()} & {w for c in chosen for w in c.split()}:
                chosen.append(term)
        name = ", ".join(chosen) or f"group {group + 1}"
        given[name] += 1
        out[group] = name if given[name] == 1 else f"{name} ({given[name]})"
    return out


def number_by_size(groups: np.ndarray) -> np.ndarray:
    """Renumber groups from the largest down, int32; of equal sizes the one whose first item comes first."""
    values, first, counts = np.unique(groups, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    new = np.empty(len(values), dtype=np.int32)
    new[order] = np.arange(len(values))
    return new[np.searchsorted(values, groups)]


def _terms(title: str) -> set[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = re.findall(r"[^\W\d_][\w'&-]*", title.lower())
    kept = [w for w in words if len(w) > 1 and w not in ENGLISH_STOP_WORDS]
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words) if a in kept and b in kept]
    return {*kept, *pairs}


def _shares(terms: list[set[str]]) -> dict[str, float]:
    counts = Counter(itertools.chain.from_iterable(terms))
    return {term: c / max(1, len(terms)) for term, c in counts.items()}
