"""What a trained recommender has to beat: popularity, what followed the last item, neighbours, similar titles.

Each gives a ranking like a recommender's, over the full catalogue, ties counted against it by default. None trains anything;
all learn from training interactions alone, or from titles alone. Those that look for similar items put last what they
look by, which they would find first: `nearest` the last item, `nearestmean` and `bm25` the whole history. A target that
repeats it counts as a miss for them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import sparse

from llm2rec_kit.corpus import TRAIN, Corpus
from llm2rec_kit.downstream.item_table import prepare_embeddings
from llm2rec_kit.downstream.ranking import Ranking, find_excluded
from llm2rec_kit.downstream.ranking import rank as _rank
from llm2rec_kit.fitting.ragged import index_spans
from llm2rec_kit.settings import SettingsError, own_parts

Scores = Callable[[np.ndarray], np.ndarray]  # test targets (indices into `sequence`, (b,)) to scores (b, N)

OVER_EMBEDDINGS = ("nearest", "nearestmean")
BY_TITLES = (*OVER_EMBEDDINGS, "bm25")  # those that place an item by its title alone
RECENT = 0.1  # share of training interactions, the latest, that `recent` counts
NEIGHBOURS = 100  # items that `itemknn` keeps an item
MOST_PAIRS = 4_000_000  # of items, that `itemknn` looks at together: some 40 bytes each
K1, B = 1.5, 0.75  # BM25's saturation and length normalisation, at their usual values
PROBED = 50  # users from which an own baseline learns when it is tried
LAST = -1e9  # score of what may not come first, and is still a candidate


def rank(
    name: str,
    corpus: Corpus,
    embeddings: np.ndarray | None = None,
    *,
    exclude: str = "none",
    cutoffs: list[int] | tuple[int, ...] = (),
    ties: str = "worst",
) -> Ranking:
    """Rank the test targets by the baseline `name`; `embeddings` float (N + 1, dim) where it is one of OVER_EMBEDDINGS.

    Raises ValueError for another name, embeddings that do not fit, and `recent` on a corpus without times.
    """
    made = BASELINES.get(name) or _own(name)
    scores = made(corpus, embeddings) if needs_embeddings(name) else made(corpus)
    targets = corpus.samples("test")
    return _rank(
        lambda some: torch.from_numpy(scores(targets[some])),
        corpus.sequence[targets],
        corpus.n_items,
        exclude=find_excluded(corpus, targets, exclude),
        cutoffs=cutoffs,
        ties=ties,
    )


def needs_embeddings(name: str) -> bool:
    """Tell whether baseline `name` ranks over embeddings, and so once for each table; SettingsError for an unknown name."""
    return name in OVER_EMBEDDINGS or (name not in BASELINES and own_parts.find("baseline", name).over_embeddings)


def list_settings(name: str, cutoffs: list[int], exclude: str, ties: str = "worst") -> dict[str, Any]:
    """Collect the settings that a baseline's ranking depends on; the hash of its source among them where it is one's own.

    `ties` stands among them where it is not `worst`, which rankings from before it had.
    """
    told = {"cutoffs": cutoffs, "exclude": exclude} | ({"ties": ties} if ties != "worst" else {})
    return told | own_parts.hash_part("baseline", name)


def probe(name: str, corpus: Corpus) -> None:
    """Rank a few test targets by an own baseline, learned from a few users: SettingsError where it fails or gives no
    scores."""
    users = corpus.users.head(PROBED)
    few = corpus.offsets[len(users)]
    inside = corpus.targets < few
    part = replace(
        corpus,
        users=users,
        offsets=corpus.offsets[: len(users) + 1],
        sequence=corpus.sequence[:few],
        times=None if corpus.times is None else corpus.times[:few],
        targets=corpus.targets[inside],
        splits=corpus.splits[inside],
    )
    vectors = np.random.default_rng(0).standard_normal((corpus.n_items + 1, 4)).astype(np.float32)
    scores = _own(name)(part, vectors) if needs_embeddings(name) else _own(name)(part)
    scores(part.targets[-3:])


def popularity(corpus: Corpus) -> Scores:
    """Score an item by how often it occurs in training interactions."""
    counts = count_training(corpus).astype(np.float64)
    return lambda targets: np.tile(counts, (len(targets), 1))


def recent(corpus: Corpus) -> Scores:
    """Score an item by how often it occurs in the latest tenth of training interactions; popularity breaks ties."""
    if corpus.times is None:
        raise ValueError(
            "Recent popularity needs times, and the corpus has none; leave `recent` out of evaluation_baselines."
        )
    where = np.flatnonzero(mark_training(corpus))
    latest = where[np.argsort(corpus.times[where], kind="stable")][-max(1, round(RECENT * len(where))) :]
    counts = np.bincount(corpus.sequence[latest], minlength=corpus.n_items + 1)[1:] + scale_popularity(corpus)
    return lambda targets: np.tile(counts, (len(targets), 1))


def lastitem(corpus: Corpus) -> Scores:
    """Score an item by how often it directly followed the history's last item in training; popularity breaks ties."""
    train = corpus.samples("train")
    pairs = (corpus.sequence[train - 1] - 1, corpus.sequence[train] - 1)
    follows = sparse.csr_matrix((np.ones(len(train)), pairs), shape=(corpus.n_items, corpus.n_items))
    share = scale_popularity(corpus)
    return lambda targets: follows[corpus.sequence[targets - 1] - 1].toarray() + share


def itemknn(corpus: Corpus) -> Scores:
    """Score an item by the sum of its cosines to the history's items, as sets of training users, over the nearest alone;
    popularity breaks ties.

    After Deshpande and Karypis (2004), without shrinkage.
    """
    where = np.flatnonzero(mark_training(corpus))
    pairs = (corpus.owners(where), corpus.sequence[where] - 1)
    had = sparse.csr_matrix((np.ones(len(where)), pairs), shape=(corpus.n_users, corpus.n_items))
    had.data[:] = 1  # an item counts once a user
    size = np.sqrt(np.maximum(np.bincount(had.indices, minlength=corpus.n_items), 1))
    scaled = had @ sparse.diags(1 / size)
    near = _find_neighbours(sparse.csr_matrix(scaled), NEIGHBOURS)
    share = 1e-9 * scale_popularity(corpus)
    return lambda targets: (_histories(corpus, targets) @ near).toarray() + share


def nearest(corpus: Corpus, embeddings: np.ndarray) -> Scores:
    """Score an item by its cosine to the history's last item, that item last."""
    unit = prepare_embeddings(embeddings, corpus.n_items, "unit")[1:]

    def scores(targets: np.ndarray) -> np.ndarray:
        last = corpus.sequence[targets - 1] - 1
        found: np.ndarray = unit[last] @ unit.T
        found[np.arange(len(last)), last] = LAST
        return found

    return scores


def nearestmean(corpus: Corpus, embeddings: np.ndarray) -> Scores:
    """Score an item by its cosine to the mean of the history's unit vectors, the history last."""
    unit = prepare_embeddings(embeddings, corpus.n_items, "unit")[1:]

    def scores(targets: np.ndarray) -> np.ndarray:
        had = _histories(corpus, targets)
        found: np.ndarray = (had.astype(np.float32) @ unit) @ unit.T
        found[had.nonzero()] = LAST
        return found

    return scores


def bm25(corpus: Corpus) -> Scores:
    """Score an item by BM25 of its title, the words of the history's titles as the query; the history last."""
    found = [re.findall(r"\w+", title.lower()) for title in corpus.titles]
    words = {word: k for k, word in enumerate(dict.fromkeys(w for title in found for w in title))}
    rows = np.repeat(np.arange(len(found)), [len(title) for title in found])
    columns = np.array([words[w] for title in found for w in title], dtype=np.int64)
    shape = (len(found), max(1, len(words)))
    counts = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)  # sums what stands twice
    length = np.bincount(rows, minlength=len(found))
    in_titles = np.bincount(counts.indices, minlength=shape[1])
    rarity = np.log1p((len(found) - in_titles + 0.5) / (in_titles + 0.5))
    weights = counts.tocoo()
    saturation = weights.data + K1 * (1 - B + B * length[weights.row] / max(length.mean(), 1e-12))
    weights.data = rarity[weights.col] * weights.data * (K1 + 1) / saturation
    by_word = weights.T.tocsr()

    def scores(targets: np.ndarray) -> np.ndarray:
        had = _histories(corpus, targets)
        found: np.ndarray = ((had @ counts) @ by_word).toarray()
        found[had.nonzero()] = LAST
        return found

    return scores


BASELINES: dict[str, Callable[..., Scores]] = {
    f.__name__: f for f in (popularity, recent, lastitem, itemknn, nearest, nearestmean, bm25)
}


def _own(name: str) -> Callable[..., Scores]:
    """A baseline of one's own (`own_parts.baseline`) as the kit's are: what it learns from ends where training does, and its
    scores are checked."""
    own = own_parts.find("baseline", name)

    def made(corpus: Corpus, *embeddings: np.ndarray) -> Scores:
        given = [prepare_embeddings(e, corpus.n_items) for e in embeddings]
        of_histories = own_parts.call(own, own.make, select_training(corpus), *given)
        if not callable(of_histories):
            raise SettingsError(f"The {own} must give a function of histories; found {type(of_histories).__name__}.")

        def scores(targets: np.ndarray) -> np.ndarray:
            found = own_parts.call(own, of_histories, [corpus.history(target).copy() for target in targets])
            return _checked(own, found, len(targets), corpus.n_items)

        return scores

    return made


def _checked(own: own_parts.Part, found: Any, histories: int, n_items: int) -> np.ndarray:
    """Scores as float64 of their own; SettingsError for another shape, or what is no finite number."""
    try:
        scores = np.array(found, dtype=np.float64)
    except (ValueError, TypeError):
        scores = np.empty(0)
    if scores.shape != (histories, n_items) or not np.isfinite(scores).all():
        it = "some that are NaN or infinite" if scores.shape == (histories, n_items) else f"{scores.shape}"
        raise SettingsError(
            f"The {own} must give finite scores (histories, items), here ({histories}, {n_items}), a column an item 1..N without "
            f"padding; found {it}."
        )
    return scores


def select_training(corpus: Corpus) -> Corpus:
    """Cut `corpus` to the interactions of training (`mark_training`). No target of validation or test is in it but one that
    a training sample has in its history, as a source's own samples may. All items and users stay."""
    kept, train = mark_training(corpus), corpus.samples("train")
    before = np.concatenate([[0], np.cumsum(kept)])
    return replace(
        corpus,
        offsets=before[corpus.offsets],
        sequence=corpus.sequence[kept],
        times=None if corpus.times is None else corpus.times[kept],
        targets=before[train],
        splits=np.full(len(train), TRAIN, dtype=np.uint8),
    )


def mark_training(corpus: Corpus) -> np.ndarray:
    """Mark the interactions that training sees, as a target or in the history of one, and its users' first (bool (T,))."""
    used = mark_windows(corpus)
    used[corpus.offsets[corpus.owners(corpus.samples("train"))]] = True
    return used


def mark_windows(corpus: Corpus) -> np.ndarray:
    """Mark the interactions that are in a training sample, as its target or in its history (bool (T,)). A source's own
    samples need not have a target at every place of a history."""
    train, places = corpus.samples("train"), len(corpus.sequence) + 1
    begun = np.bincount(corpus.starts(train), minlength=places)
    ended = np.bincount(train + 1, minlength=places)
    inside: np.ndarray = np.cumsum(begun - ended)[:-1] > 0
    return inside


def count_training(corpus: Corpus) -> np.ndarray:
    """Count how often items 1..N occur in training (int64 (N,))."""
    return np.bincount(corpus.sequence[mark_training(corpus)], minlength=corpus.n_items + 1)[1:]


def scale_popularity(corpus: Corpus) -> np.ndarray:
    """Scale training counts to below 1, to break ties between whole numbers (float64 (N,))."""
    return count_training(corpus) / (len(corpus.sequence) + 1)


def _histories(corpus: Corpus, targets: np.ndarray) -> sparse.csr_matrix:
    """Which items stand in each target's history, and how often: (b, N)."""
    starts = corpus.starts(targets)
    counts = targets - starts
    items = corpus.sequence[index_spans(starts, counts)] - 1
    rows = np.repeat(np.arange(len(targets)), counts)
    return sparse.csr_matrix((np.ones(len(rows)), (rows, items)), shape=(len(targets), corpus.n_items))


def _find_neighbours(scaled: sparse.csr_matrix, most: int) -> sparse.csr_matrix:
    """The `most` largest of each row of `scaled.T @ scaled` (N, N) without its diagonal, of equal ones the first.

    A block of rows at a time: where a few users had thousands of items the whole product holds every pair of items.
    """
    by_item, sizes = sparse.csr_matrix(scaled.T), np.diff(scaled.indptr)
    # Pairs of an item: no more than the items of its users, all in all, and than there are.
    pairs = np.minimum(sparse.csr_matrix(by_item != 0) @ sizes, by_item.shape[0])
    cuts = np.flatnonzero(np.diff(np.cumsum(pairs) // MOST_PAIRS)) + 1
    blocks = []
    for first, end in itertools.pairwise([0, *cuts, by_item.shape[0]]):
        block = by_item[first:end] @ scaled
        block.sort_indices()  # so that of equal ones the first items stay
        blocks.append(_keep_largest(block, np.arange(first, end), most))
    return sparse.vstack(blocks, format="csr")


def _keep_largest(matrix: sparse.csr_matrix, own: np.ndarray, most: int) -> sparse.csr_matrix:
    """The `most` largest of each row, but for its `own` column."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    others = matrix.indices != own[rows]
    rows, columns, data = rows[others], matrix.indices[others], matrix.data[others]
    order = np.lexsort((-data, rows))
    kept = order[np.arange(len(order)) - np.searchsorted(rows, rows) < most]
    return sparse.csr_matrix((data[kept], (rows[kept], columns[kept])), shape=matrix.shape)
