"""Two-dimensional maps of embedding spaces, and numbers that say how far to trust them.

UMAP lays out one space; AlignedUMAP lays out several stages of the same items in one frame, so that an item that moves on
the page moved in its space. Same vectors and settings, same coordinates.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.geometry import effective_rank
from llm2rec_kit.maps import figures

TRUST_NEIGHBOURS = 10


def umap_map(vectors: np.ndarray, settings: S.Maps) -> np.ndarray:
    """One space on a plane: float32 (n, dim) to float32 (n, 2). Raises ValueError for NaN or fewer than 4 items."""
    import umap

    _check(vectors)
    model = umap.UMAP(
        n_neighbors=_neighbours(len(vectors), settings),
        min_dist=settings.min_dist,
        metric=settings.metric,
        random_state=settings.seed,
        n_jobs=1,
    )
    return model.fit_transform(vectors).astype(np.float32)


def aligned_maps(tables: dict[str, np.ndarray], settings: S.Maps) -> dict[str, np.ndarray]:
    """Several spaces of the same items in one frame: {stage: float32 (n, dim)} to {stage: float32 (n, 2)}."""
    import umap

    sizes = {len(v) for v in tables.values()}
    if len(sizes) != 1:
        raise ValueError(f"Aligned maps need the same items in every stage; found {sizes} of them.")
    if len(tables) == 1:
        return {name: umap_map(v, settings) for name, v in tables.items()}
    for vectors in tables.values():
        _check(vectors)
    same = {i: i for i in range(sizes.pop())}
    model = umap.AlignedUMAP(
        n_neighbors=_neighbours(len(same), settings),
        min_dist=settings.min_dist,
        metric=settings.metric,
        random_state=settings.seed,
    )
    with warnings.catch_warnings():
        # AlignedUMAP has no n_jobs to set to 1, so it cannot be told that one thread is what is wanted.
        warnings.filterwarnings("ignore", message="n_jobs value")
        laid_out = model.fit_transform(list(tables.values()), relations=[same] * (len(tables) - 1))
    return {name: np.asarray(xy, dtype=np.float32) for name, xy in zip(tables, laid_out, strict=True)}


def choose_items(n_items: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of the item ids 1..n_items, drawn by seed, sorted (int64)."""
    if n_items <= most:
        return np.arange(1, n_items + 1)
    return np.sort(np.random.default_rng(seed).permutation(n_items)[:most] + 1)


def neighbours(vectors: np.ndarray, k: int, metric: str = "cosine") -> np.ndarray:
    """Rows of the k nearest others of each row, nearest first: int64 (n, k). Computed in chunks."""
    rows = unit(vectors) if metric == "cosine" else vectors.astype(np.float32)
    square = (rows**2).sum(1)
    k = min(k, len(rows) - 1)
    out = np.empty((len(rows), k), dtype=np.int64)
    for at in range(0, len(rows), 1024):
        part = slice(at, min(at + 1024, len(rows)))
        near = 2 * rows[part] @ rows.T - square  # larger is nearer, for unit vectors and for any others
        near[np.arange(near.shape[0]), np.arange(part.start, part.stop)] = -np.inf
        top = np.argpartition(-near, k - 1, axis=1)[:, :k]
        order = np.take_along_axis(near, top, 1).argsort(1, kind="stable")[:, ::-1]
        out[part] = np.take_along_axis(top, order, 1)
    return out


def neighbour_overlap(a: np.ndarray, b: np.ndarray, k: int, metrics: tuple[str, str] = ("cosine", "cosine")) -> float:
    """Mean share of the k nearest neighbours that two spaces of the same items have in common."""
    first, second = neighbours(a, k, metrics[0]), neighbours(b, k, metrics[1])
    return float(np.mean([len(np.intersect1d(x, y)) for x, y in zip(first, second, strict=True)]) / first.shape[1])


def trustworthiness(vectors: np.ndarray, plane: np.ndarray, k: int, metric: str = "cosine") -> float:
    """How far neighbours on the map are neighbours in the space, 0 to 1 (Venna & Kaski 2001)."""
    from sklearn.manifold import trustworthiness as measure

    return float(measure(vectors, plane, n_neighbors=min(k, (len(vectors) - 1) // 2), metric=metric))


def co_consumed_pairs(corpus: Corpus, most: int, *, seed: int) -> np.ndarray:
    """Item ids of pairs that follow each other in training histories, without repeats: int64 (<= most, 2)."""
    train = corpus.samples("train")
    pairs = np.stack([corpus.sequence[train - 1], corpus.sequence[train]], axis=1).astype(np.int64)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return pairs[np.random.default_rng(seed).permutation(len(pairs))[:most]]


def random_pairs(n_items: int, most: int, *, seed: int) -> np.ndarray:
    """Pairs of two different items drawn at random: int64 (most, 2)."""
    rng = np.random.default_rng(seed)
    first = rng.integers(1, n_items + 1, most)
    return np.stack([first, (first - 1 + rng.integers(1, max(2, n_items), most)) % n_items + 1], axis=1)


def cosines(table: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosine similarity of each pair of rows (item ids) of `table` (N + 1, dim)."""
    return (unit(table[pairs[:, 0]]) * unit(table[pairs[:, 1]])).sum(1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length one, float32; zero rows stay zero."""
    return vectors.astype(np.float32) / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def write(folder: Path, corpus: Corpus, tables: dict[str, np.ndarray], settings: S.Maps) -> dict[str, Any]:
    """Lay out `tables` ((N + 1, dim) each), each alone and all in one frame; returns the record.

    Writes maps.parquet (item, stage, x, y, aligned_x, aligned_y) and a figure as PNG and SVG into `folder`. The record has a row
    of numbers a stage, among them how far its map can be trusted.
    """
    items = choose_items(corpus.n_items, settings.max_items, settings.seed)
    chosen = {name: table[items] for name, table in tables.items()}
    own = {name: umap_map(v, settings) for name, v in chosen.items()}
    aligned = aligned_maps(chosen, settings)
    maps = pl.concat(
        [
            pl.DataFrame(
                {
                    "item": items,
                    "stage": name,
                    "x": own[name][:, 0],
                    "y": own[name][:, 1],
                    "aligned_x": aligned[name][:, 0],
                    "aligned_y": aligned[name][:, 1],
                }
            )
            for name in tables
        ]
    )
    maps.write_parquet(folder / "maps.parquet")
    pairs = co_consumed_pairs(corpus, 5000, seed=settings.seed)
    control = random_pairs(corpus.n_items, 5000, seed=settings.seed)
    rows = [
        {
            "stage": name,
            **_quality(chosen[name], own[name], aligned[name], settings),
            "effective_rank": effective_rank(chosen[name]),
            "cosine_co_consumed": float(cosines(tables[name], pairs).mean()),
            "cosine_random": float(cosines(tables[name], control).mean()),
        }
        for name in tables
    ]
    record = {"items": len(items), "of": corpus.n_items, "neighbours": TRUST_NEIGHBOURS, "stages": rows}
    colour = "category" if "category" in corpus.items.columns else "domain"
    figures.save(figures.stage_maps(maps, corpus.items, record, colour=colour), folder / "stages")
    return record


def _quality(vectors: np.ndarray, own: np.ndarray, aligned: np.ndarray, settings: S.Maps) -> dict[str, float]:
    kept = {
        name: neighbour_overlap(vectors, plane, TRUST_NEIGHBOURS, (settings.metric, "euclidean"))
        for name, plane in (("kept", own), ("kept_aligned", aligned))
    }
    return {"trustworthiness": trustworthiness(vectors, own, TRUST_NEIGHBOURS, settings.metric), **kept}


def _neighbours(n: int, settings: S.Maps) -> int:
    return max(2, min(settings.neighbours, n - 1))


def _check(vectors: np.ndarray) -> None:
    if len(vectors) < 4:
        raise ValueError(f"A map needs four items at least; found {len(vectors)}.")
    if not np.isfinite(vectors).all():
        raise ValueError("The embeddings hold NaN or infinity. Encode again (notebooks/03_item_embedding.ipynb).")
