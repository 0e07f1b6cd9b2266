"""AlignedUMAP's optimiser over flat arrays.

umap-learn's own walks lists of arrays and compares neighbourhoods in quadratic time: 70 s for four stages of 5,000 items,
hours for 100,000. Here the same updates, in the same order and from the same random numbers, run over flat arrays; the
coordinates are those of `umap.layouts.optimize_layout_aligned_euclidean`, bit for bit (a test holds them together).
"""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse
from umap.layouts import clip, rdist
from umap.umap_ import find_ab_params, make_epochs_per_sample
from umap.utils import tau_rand_int

WINDOW = 3  # stages to either side that pull at an item, AlignedUMAP's default
STRENGTH = 1e-2  # of that pull, AlignedUMAP's alignment_regularisation
CURVE = 1.576943460405378, 0.8950608781227859  # a and b that AlignedUMAP always takes: those of UMAP's default min_dist
CURVE_OF = 0.1  # that min_dist
NEGATIVES = 5.0  # samples that repel, for each that attracts


def fit_curve(min_dist: float) -> tuple[float, float]:
    """Fit a and b of UMAP's curve 1 / (1 + a d^(2b)), which says how near two items are drawn, to `min_dist`.

    umap-learn's AlignedUMAP hands `min_dist` to each space's own layout alone. At the default its own constants are taken,
    from which a new fit differs in the ninth digit: the same maps as ever.
    """
    a, b = CURVE if min_dist == CURVE_OF else find_ab_params(1.0, min_dist)
    return float(a), float(b)


def weigh_ties(graphs: list[sparse.csr_matrix]) -> np.ndarray:
    """Measure how strongly to tie each item to itself in other stages: float32 (stages, 2 WINDOW + 1, n).

    [m, WINDOW + offset, i] is the Jaccard similarity of item i's neighbours in stages m and m + offset; 0 past either end.
    As `umap.aligned_umap.build_neighborhood_similarities`, but that the last stage pulls at those before it, too, which
    umap-learn's `expand_relations` leaves out by an index.
    """
    held = np.zeros((len(graphs), 2 * WINDOW + 1, graphs[0].shape[0]), dtype=np.float32)
    there = [graph.astype(bool).astype(np.int32) for graph in graphs]
    degree = [np.diff(graph.indptr) for graph in graphs]
    for m, offset in np.ndindex(len(graphs), 2 * WINDOW + 1):
        other = m + offset - WINDOW
        if other != m and 0 <= other < len(graphs):
            common = np.asarray(there[m].multiply(there[other]).sum(1)).ravel()
            union = degree[m] + degree[other] - common
            held[m, offset] = np.where(union > 0, common / np.maximum(union, 1), 1)
    return held


def optimise(
    starts: np.ndarray,
    graphs: list[sparse.csr_matrix],
    held: np.ndarray,
    *,
    epochs: int,
    seed: int,
    shape: tuple[float, float] = CURVE,
) -> np.ndarray:
    """Lay out all stages at once from `starts`, float32 (stages, n, 2), to coordinates of the same shape.

    `graphs` are UMAP's fuzzy graphs, `held` is from `weigh_ties`, `shape` from `fit_curve`.
    """
    # Item first, then stage: what one update reads lies together in memory.
    places = starts.astype(np.float32).transpose(1, 0, 2).copy()
    edges = [graph.tocoo() for graph in graphs]
    first = np.cumsum([0] + [e.nnz for e in edges])
    every = np.concatenate([make_epochs_per_sample(e.data, epochs) for e in edges])
    every_negative = every.astype(np.float32) / NEGATIVES
    due, due_negative = every.astype(np.float32), every_negative.astype(np.float32)
    fall_off = STRENGTH * np.exp(-(np.abs(np.arange(-WINDOW, WINDOW + 1)) - 1.0))
    pull = np.ascontiguousarray((held * fall_off[:, None]).transpose(2, 0, 1))
    random = np.random.RandomState(seed).randint(np.iinfo(np.int32).min + 1, np.iinfo(np.int32).max - 1, 3).astype(np.int64)
    heads, tails = (np.concatenate([getattr(e, side) for e in edges]).astype(np.int32) for side in ("row", "col"))
    flat = heads, tails, first, every, due, every_negative, due_negative, pull, random
    alpha = 1.0
    for epoch in range(epochs):
        order = _shuffled(len(graphs), abs(random[0]))
        _epoch(places, *flat, order, alpha, float(epoch), *shape)
        alpha = 1.0 - epoch / epochs
    return np.ascontiguousarray(places.transpose(1, 0, 2))


@numba.njit
def _shuffled(stages: int, seed: int) -> np.ndarray:
    # Within numba, since its generator and not numpy's is what umap-learn shuffles with.
    order = np.arange(stages).astype(np.int32)
    np.random.seed(seed)
    np.random.shuffle(order)
    return order


@numba.njit(fastmath=True, inline="always")
def _pulled(places: np.ndarray, pull: np.ndarray, i: int, m: int) -> tuple[float, float]:
    # How item i's other stages pull at it in stage m: the sum over either coordinate, in the order of stages.
    x, y = places[i, m, 0], places[i, m, 1]
    to_x = to_y = 0.0
    for other in range(max(0, m - WINDOW), m):
        strength = pull[i, m, other - m + WINDOW]
        to_x += clip(strength * (x - places[i, other, 0]))
        to_y += clip(strength * (y - places[i, other, 1]))
    for other in range(m + 1, min(places.shape[1], m + WINDOW)):  # umap-learn leaves out the last offset, too
        strength = pull[i, m, other - m + WINDOW]
        to_x += clip(strength * (x - places[i, other, 0]))
        to_y += clip(strength * (y - places[i, other, 1]))
    return to_x, to_y


@numba.njit(fastmath=True)
def _epoch(
    places: np.ndarray,
    heads: np.ndarray,
    tails: np.ndarray,
    first: np.ndarray,
    every: np.ndarray,
    due: np.ndarray,
    every_negative: np.ndarray,
    due_negative: np.ndarray,
    pull: np.ndarray,
    random: np.ndarray,
    order: np.ndarray,
    alpha: float,
    epoch: float,
    a: float,
    b: float,
) -> None:
    longest = 0
    for m in range(places.shape[1]):
        longest = max(longest, first[m + 1] - first[m])
    for at in range(longest):
        for m in order:
            e = first[m] + at
            if e >= first[m + 1] or due[e] > epoch:
                continue
            j, k = heads[e], tails[e]
            here, there = places[j, m], places[k, m]
            apart = rdist(here, there)
            slope = -2.0 * a * b * pow(apart, b - 1.0) / (a * pow(apart, b) + 1.0) if apart > 0.0 else 0.0
            x, y = _pulled(places, pull, j, m)
            there_x, there_y = _pulled(places, pull, k, m)
            here[0] += clip(clip(slope * (here[0] - there[0])) - x) * alpha
            there[0] += clip(clip(slope * (there[0] - here[0])) - there_x) * alpha
            here[1] += clip(clip(slope * (here[1] - there[1])) - y) * alpha
            there[1] += clip(clip(slope * (there[1] - here[1])) - there_y) * alpha
            due[e] += every[e]
            count = int((epoch - due_negative[e]) / every_negative[e])
            for _ in range(count):
                k = tau_rand_int(random) % places.shape[0]
                there = places[k, m]
                apart = rdist(here, there)
                if apart == 0.0 and j == k:
                    continue
                slope = 2.0 * b / ((0.001 + apart) * (a * pow(apart, b) + 1)) if apart > 0.0 else 0.0
                x, y = _pulled(places, pull, j, m)
                apart_x = clip(slope * (here[0] - there[0])) if slope > 0.0 else 0.0
                apart_y = clip(slope * (here[1] - there[1])) if slope > 0.0 else 0.0
                here[0] += clip(apart_x - x) * alpha
                here[1] += clip(apart_y - y) * alpha
            due_negative[e] += count * every_negative[e]
