"""Numbers under a map: how far the projection is to be trusted, and what the space itself is like.

Exact over all items, for anchors drawn by seed where there are many: a share over 2,000 items is known to about a hundredth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm2rec_kit.geometry import effective_rank
from llm2rec_kit.maps.projection import compute_cosines, drop_own, find_nearest, measure_shared, scale_to_unit

NEIGHBOURS = 10
ANCHORS = 2000


def measure_projection(vectors: np.ndarray, plane: np.ndarray, metric: str, *, anchors: np.ndarray) -> dict[str, float]:
    """Measure the trustworthiness of a layout `plane` (n, 2) of `vectors` (n, dim), and the share of true neighbours it
    keeps."""
    k = min(NEIGHBOURS, (len(vectors) - 1) // 2)
    kept = measure_shared(_near(vectors, k, metric, anchors), _near(plane, k, "euclidean", anchors))
    return {"trustworthiness": trustworthiness(vectors, plane, k, metric, anchors=anchors), "kept": kept}


def trustworthiness(
    vectors: np.ndarray, plane: np.ndarray, k: int, metric: str, *, anchors: np.ndarray | None = None
) -> float:
    """Measure how far neighbours on the map are neighbours in the space, 0 to 1, as the mean over `anchors` (Venna & Kaski
    2001)."""
    anchors = np.arange(len(vectors)) if anchors is None else anchors
    on_page = _near(plane, k, "euclidean", anchors)
    rows = scale_to_unit(vectors) if metric == "cosine" else vectors.astype(np.float32)
    square = (rows**2).sum(1)
    penalty = 0
    step = max(1, min(256, 100_000_000 // (k * len(rows))))  # at most 100 MB of comparisons at a time
    for at in range(0, len(anchors), step):
        some = anchors[at : at + step]
        near = 2 * rows[some] @ rows.T - square  # larger is nearer
        near[np.arange(len(some)), some] = np.inf  # the item itself has rank 0
        ranks = (near[:, None, :] > np.take_along_axis(near, on_page[at : at + step], 1)[:, :, None]).sum(2)
        penalty += np.maximum(ranks - k, 0).sum()
    n = len(vectors)
    return float(1 - penalty * 2 / (len(anchors) * k * (2 * n - 3 * k - 1)))


def measure_space(
    table: np.ndarray, together: np.ndarray, at_random: np.ndarray, parts: Sequence[np.ndarray] = ()
) -> dict[str, float]:
    """Measure a space: `table` (N + 1, dim), pairs of item ids consumed together and pairs at random
    (`draw_random_pairs`: of one domain each), int64 (m, 2). Of a table made of several spaces `parts` are these, each
    (n, width).

    cosine_*   mean cosine of either kind of pair
    recall_*   share of pairs whose second item is among the first's ten nearest of all
    alignment  mean squared distance of pairs consumed together, on the unit sphere; uniformity: log of the mean of
               exp(-2 d^2) over random pairs (Wang & Isola 2020; lower is better for both)
    isotropy   least over largest partition function along the principal axes (Mu & Viswanath 2018), 0 to 1
    effective_rank  directions that the space uses (Roy & Vetterli 2007). Both are means over `parts`, where there are any.
    """
    spaces = parts or [table[1:]]
    close, apart = compute_cosines(table, together), compute_cosines(table, at_random)
    return {
        "cosine_co_consumed": float(close.mean()),
        "cosine_random": float(apart.mean()),
        "recall_co_consumed": measure_pair_recall(table, together),
        "recall_random": measure_pair_recall(table, at_random),
        "alignment": float((2 - 2 * close).mean()),
        "uniformity": float(np.log(np.exp(-2 * (2 - 2 * apart.astype(np.float64))).mean())),
        "isotropy": float(np.mean([isotropy(space) for space in spaces])),
        "effective_rank": float(np.mean([effective_rank(space) for space in spaces])),
    }


def measure_pair_recall(table: np.ndarray, pairs: np.ndarray) -> float:
    """Compute the share of pairs whose second item is among the first's ten nearest by cosine, of all items but itself."""
    firsts, where = np.unique(pairs[:, 0], return_inverse=True)
    near = _near(table[1:], min(NEIGHBOURS, len(table) - 2), "cosine", firsts - 1) + 1
    return float((near[where] == pairs[:, 1:]).any(1).mean())


def isotropy(vectors: np.ndarray) -> float:
    """Measure how evenly vectors point in all directions: min Z(c) / max Z(c), 0 to 1.

    Z(c) is the mean of exp(c . v) over unit-length v, for c each principal axis and its opposite.
    """
    rows = scale_to_unit(vectors).astype(np.float64)
    _, axes = np.linalg.eigh(rows.T @ rows)
    along = rows @ axes
    z = np.concatenate([np.exp(along).mean(0), np.exp(-along).mean(0)])
    return float(z.min() / z.max())


def measure_overlaps(tables: dict[str, np.ndarray], *, anchors: np.ndarray) -> list[list[float]]:
    """Compute the share of an item's ten nearest (cosine) that two of the `tables` (n, dim) have in common, a row and a
    column a stage."""
    k = min(NEIGHBOURS, len(next(iter(tables.values()))) - 1)
    near = [_near(table, k, "cosine", anchors) for table in tables.values()]
    return [[measure_shared(a, b) for b in near] for a in near]


def draw_anchors(n: int, seed: int) -> np.ndarray:
    """Draw at most `ANCHORS` of n rows by seed, sorted."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:ANCHORS])


def _near(vectors: np.ndarray, k: int, metric: str, anchors: np.ndarray) -> np.ndarray:
    """Rows of the k nearest others of each anchor, int32 (anchors, k)."""
    return drop_own(*find_nearest(vectors[anchors], k + 1, metric, among=vectors), anchors)[0]
