"""Embedding spaces on a plane: who is near whom in a space, UMAP of one space, and several spaces in one frame.

UMAP lays out one space; AlignedUMAP lays out several stages of the same items in one frame, so that an item that moves on
the page moved in its space. Same vectors and settings, same coordinates. Neighbours are searched once a space, and exactly
up to `EXACT_UP_TO` items; UMAP is handed what was found. UMAP itself computes on one core, so that its random numbers come in
one order: from `APART_FROM` items on several spaces are fitted at once, a process each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.runs.workers import count_cores, open_workers

Near = tuple[np.ndarray, np.ndarray]  # ids and distances, as `find_nearest` returns them

EXACT_UP_TO = 30_000  # items; past it nearest-neighbour descent, whose compilation alone takes 20 s, is quicker
APART_FROM = 20_000  # items; below, starting processes takes as long as it saves (measured when each compiled anew)
EPOCHS = 200  # of every layout: what UMAP takes for large data, and AlignedUMAP always


@dataclass(frozen=True)
class Layouts:
    """Coordinates of each stage, float32 (n, 2): `own`, each space for itself, and `aligned`, all in one frame."""

    own: dict[str, np.ndarray]
    aligned: dict[str, np.ndarray]


def lay_out(tables: dict[str, np.ndarray], settings: S.Maps, *, fitted: np.ndarray | None = None) -> Layouts:
    """Lay out several spaces of the same items: {stage: float32 (n, dim)} to coordinates of all n.

    `fitted` are the rows that UMAP is fitted on (default: all); the others are then placed among them by UMAP's `transform`,
    in each space's own layout and in the common frame. Raises ValueError for NaN, fewer than four items or unequal lengths.
    """
    _check(tables)
    rows = next(iter(tables.values()))
    fitted = np.arange(len(rows)) if fitted is None else fitted
    rest = np.setdiff1d(np.arange(len(rows)), fitted)
    models = fit_spaces({stage: table[fitted] for stage, table in tables.items()}, settings)
    own = {stage: model.embedding_ for stage, model in models.items()}
    layouts = Layouts({}, {})
    for into, found in ((layouts.own, own), (layouts.aligned, align(models, settings))):
        for stage, plane in found.items():
            into[stage] = np.empty((len(rows), 2), dtype=np.float32)
            into[stage][fitted] = plane
            if len(rest):
                models[stage].embedding_ = plane
                with _quiet(), _torch_threads_kept():
                    into[stage][rest] = models[stage].transform(tables[stage][rest])
    return layouts


def fit_spaces(tables: dict[str, np.ndarray], settings: S.Maps, *, apart_from: int = APART_FROM) -> dict[str, Any]:
    """Fit UMAP to several spaces of the same n items, as `fit_umap` does each: {stage: float32 (n, dim)} to {stage: model}.

    From `apart_from` items on, as many at once as there are cores, with the same coordinates.
    """
    n = len(next(iter(tables.values())))
    at_once = min(len(tables), count_cores())
    if n < apart_from or at_once == 1:
        return {stage: fit_umap(table, settings) for stage, table in tables.items()}
    # An exact search takes all cores, and its last bits depend on how many: it stays here. Descent takes one.
    k = _count_near(n, settings)
    near = [None if _descends(*table.shape) else find_nearest(table, k, settings.metric) for table in tables.values()]
    work = tables.values(), [settings] * len(tables), near
    try:
        with open_workers(at_once, _use_one_thread) as pool:
            models = list(pool.map(fit_umap, *work))
    except BrokenProcessPool:  # no memory for several, or a script without `if __name__ == "__main__":`
        print("maps: a process beside this one could not go on; one space after another is fitted here", flush=True)
        models = list(map(fit_umap, *work))
    return dict(zip(tables, models, strict=True))


def fit_umap(vectors: np.ndarray, settings: S.Maps, near: Near | None = None) -> Any:
    """Fit UMAP to one space, float32 (n, dim): `embedding_` is float32 (n, 2), `transform` places further rows.

    `near` are the nearest other rows as `find_nearest` finds them, where they are known.
    """
    from llm2rec_kit.maps.compiled import import_umap  # takes seconds

    umap = import_umap()
    k = _count_near(len(vectors), settings) + 1
    ids, distances = near or find_nearest(vectors, k - 1, settings.metric)
    itself = np.arange(len(vectors), dtype=ids.dtype)[:, None]
    known = (
        np.concatenate([itself, ids], axis=1),
        np.concatenate([np.zeros_like(distances[:, :1]), distances], axis=1),
        _ExactIndex(vectors, settings.metric),
    )
    with _quiet(), _torch_threads_kept():
        return umap.UMAP(
            n_neighbors=k,
            min_dist=settings.min_dist,
            metric=settings.metric,
            n_epochs=EPOCHS,
            random_state=settings.seed,
            n_jobs=1,
            precomputed_knn=known,
        ).fit(vectors)


def align(models: dict[str, Any], settings: S.Maps) -> dict[str, np.ndarray]:
    """Draw the layouts of fitted UMAP models of the same items, in order, into one frame: {stage: float32 (n, 2)}.

    AlignedUMAP's objective and settings (tests hold `optimise` to umap-learn's own, bit for bit), in linear time where the
    library's is quadratic. It starts from each space's own layout, turned onto the one before (Procrustes).
    """
    from llm2rec_kit.maps.aligned import fit_curve, optimise, weigh_ties  # imports UMAP, which takes seconds
    from llm2rec_kit.maps.compiled import import_umap

    import_umap()

    starts: list[np.ndarray] = []
    for model in models.values():
        plane = model.embedding_ - model.embedding_.mean(0)
        starts.append(plane @ _turn(plane, starts[-1]) if starts else plane)
    graphs = [model.graph_ for model in models.values()]
    if len(graphs) == 1:
        return {stage: model.embedding_ for stage, model in models.items()}
    planes, shape = np.stack(starts).astype(np.float32), fit_curve(settings.min_dist)
    found = optimise(planes, graphs, weigh_ties(graphs), epochs=EPOCHS, seed=settings.seed, shape=shape)
    return dict(zip(models, found, strict=True))


def choose_items(n_items: int, most: int, seed: int) -> np.ndarray:
    """Draw at most `most` of the item ids 1..n_items by seed, sorted (int64)."""
    return np.sort(np.random.default_rng(seed).permutation(n_items)[:most] + 1)


def find_nearest(
    vectors: np.ndarray, k: int, metric: str = "cosine", *, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows of `among`, nearest first: ids int32 (n, k) and distances float32 (n, k).

    Without `among`, the nearest other rows of `vectors` itself. Distances are 1 - cosine, or Euclidean.
    """
    if among is None and _descends(*vectors.shape):
        return _by_descent(vectors, k, metric)
    if vectors.shape[1] <= 3 and metric == "euclidean":
        return _on_plane(vectors, k, among)
    return _exact(vectors, k, metric, among)


def drop_own(ids: np.ndarray, distances: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop each row's own id (n,) from its k + 1 nearest: ids int32 (n, k) and distances float32 (n, k).

    A row at the very place of others need not come first among them, or come at all: the last then goes in its stead.
    """
    itself = ids == own[:, None]
    itself[~itself.any(1), -1] = True
    shape = len(ids), ids.shape[1] - 1
    return ids[~itself].reshape(shape).astype(np.int32), distances[~itself].reshape(shape).astype(np.float32)


def find_neighbours(vectors: np.ndarray, k: int, metric: str = "cosine") -> np.ndarray:
    """Find the k nearest other rows of each row, nearest first: int64 (n, k)."""
    return find_nearest(vectors, min(k, len(vectors) - 1), metric)[0].astype(np.int64)


def nearest_titles(tables: dict[str, np.ndarray], titles: Sequence[str], items: Sequence[int], k: int) -> pl.DataFrame:
    """List the titles of the k items nearest to each of `items` by cosine, nearest first, a column a table.

    `tables` are (N + 1, dim) each. `items` are ids from 1; the column `neighbours of` has each one's title in the first of
    its rows, and nothing in the others.
    """
    names = np.array(["", *titles], dtype=object)
    near = {table: find_neighbours(vectors[1:], k) + 1 for table, vectors in tables.items()}
    rows = []
    for item in items:
        found = {table: names[ids[item - 1]] for table, ids in near.items()}
        whose = [names[item], *[""] * (min(k, len(titles) - 1) - 1)]
        rows.append(pl.DataFrame({"neighbours of": whose, **found}))
    return pl.concat(rows)


def measure_shared(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the mean share of a row's ids (n, k) that are among the other's, each row without repeats."""
    return float(measure_shared_by_row(first, second).mean())


def measure_shared_by_row(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute `measure_shared` for each row, float64 (n,)."""
    shares: np.ndarray = (first[:, :, None] == second[:, None, :]).any(2).mean(1)
    return shares


def list_co_consumed_pairs(corpus: Corpus, most: int, *, seed: int) -> np.ndarray:
    """List pairs of item ids that follow each other in training histories, without repeats: int64 (<= most, 2)."""
    train = corpus.samples("train")
    pairs = np.stack([corpus.sequence[train - 1], corpus.sequence[train]], axis=1).astype(np.int64)
    unequal: np.ndarray = pairs[pairs[:, 0] != pairs[:, 1]]
    return unequal[np.random.default_rng(seed).permutation(len(unequal))[:most]]


def draw_random_pairs(corpus: Corpus, most: int, *, seed: int) -> np.ndarray:
    """Draw pairs of two different items of one domain at random: int64 (most, 2).

    A user is of one domain, so items of two are never consumed together, and tell of domains alone.
    """
    rng = np.random.default_rng(seed)
    pairs = np.stack([rng.integers(1, corpus.n_items + 1, most)] * 2, axis=1)
    domains = corpus.items["domain"].to_numpy()
    for domain in corpus.domains:
        ids = np.flatnonzero(domains == domain) + 1
        here = np.flatnonzero(domains[pairs[:, 0] - 1] == domain)
        further = rng.integers(1, max(2, len(ids)), len(here))
        pairs[here, 1] = ids[(np.searchsorted(ids, pairs[here, 0]) + further) % len(ids)]
    return pairs


def compute_cosines(table: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Compute the cosine similarity of each pair of rows (item ids) of `table` (N + 1, dim)."""
    found: np.ndarray = (scale_to_unit(table[pairs[:, 0]]) * scale_to_unit(table[pairs[:, 1]])).sum(1)
    return found


def scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one, float32; zero rows stay zero."""
    rows: np.ndarray = vectors.astype(np.float32) / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return rows


class _ExactIndex:
    """What UMAP's `transform` asks of a search index, answered exactly."""

    _angular_trees = False

    def __init__(self, vectors: np.ndarray, metric: str) -> None:
        self.vectors, self.metric = vectors, metric

    def query(self, rows: np.ndarray, k: int, epsilon: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        return find_nearest(rows, k, self.metric, among=self.vectors)


def _descends(n: int, dim: int) -> bool:
    """Whether neighbours among n rows are searched by descent."""
    return n > EXACT_UP_TO and dim > 3


def _count_near(n: int, settings: S.Maps) -> int:
    """How many other rows UMAP is told of: it counts a row among its own neighbours."""
    return max(2, min(settings.neighbours, n - 1)) - 1


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _exact(vectors: np.ndarray, k: int, metric: str, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    import torch

    rows = np.ascontiguousarray(vectors, np.float32)
    others = None if among is None else np.ascontiguousarray(among, np.float32)
    if metric == "cosine":
        rows, others = scale_to_unit(rows), None if others is None else scale_to_unit(others)
    left = torch.from_numpy(rows)
    right = left if others is None else torch.from_numpy(others)
    square = (right**2).sum(1)
    ids, distances = np.empty((len(rows), k), np.int32), np.empty((len(rows), k), np.float32)
    step = max(1, min(1024, 100_000_000 // len(right)))  # at most 400 MB of similarities at a time
    for at in range(0, len(rows), step):
        part = left[at : at + step]
        near = 2 * part @ right.T - square  # larger is nearer, for unit vectors and for any others
        if others is None:
            near[torch.arange(len(part)), torch.arange(at, at + len(part))] = -torch.inf
        best, where = near.topk(k, dim=1)
        apart = (part**2).sum(1, keepdim=True) - best
        distances[at : at + step] = (apart / 2 if metric == "cosine" else apart.clamp(min=0).sqrt()).numpy()
        ids[at : at + step] = where.numpy()
    return ids, np.maximum(distances, 0)


def _on_plane(points: np.ndarray, k: int, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    from scipy.spatial import cKDTree

    if among is not None:
        distances, ids = cKDTree(among).query(points, np.arange(1, k + 1))
        return ids.astype(np.int32), distances.astype(np.float32)
    distances, ids = cKDTree(points).query(points, np.arange(1, k + 2))
    return drop_own(ids, distances, np.arange(len(points)))


def _by_descent(vectors: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    from pynndescent import NNDescent

    from llm2rec_kit.maps.compiled import import_umap

    import_umap()
    rows = np.ascontiguousarray(vectors, np.float32)
    with _torch_threads_kept():
        found = NNDescent(rows, metric=metric, n_neighbors=k + 1, random_state=0, n_jobs=1, low_memory=True)
        ids, distances = found.neighbor_graph
    return drop_own(ids, distances, np.arange(len(rows)))


def _turn(plane: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The rotation or reflection (2, 2) that brings the points of `plane` nearest to those of `onto`."""
    left, _, right = np.linalg.svd(plane.T @ onto)
    turn: np.ndarray = left @ right
    return turn


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """The first parallel function of numba in a process sets OpenMP's number of threads to all cores, and with it torch's,
    which shares the library: other last bits, and where one thread was asked for, threads that wait for each other."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # The index is ours and not an NNDescent object; `transform` works with it all the same.
        warnings.filterwarnings("ignore", message="precomputed_knn")
        yield


def _check(tables: dict[str, np.ndarray]) -> None:
    sizes = {len(v) for v in tables.values()}
    if len(sizes) != 1:
        raise ValueError(f"Aligned maps need the same items in every stage; found {sizes or 'no stage'} of them.")
    if (n := sizes.pop()) < 4:
        raise ValueError(f"A map needs four items at least; found {n}.")
    for stage, vectors in tables.items():
        if not np.isfinite(vectors).all():
            raise ValueError(
                f"The embeddings of {stage!r} hold NaN or infinity. Encode again (notebooks/03_item_embedding.ipynb)."
            )
