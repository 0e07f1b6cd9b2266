"""Co-occurrence: how many users consumed both items of a pair, and pairs drawn by that number."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.maps.projection import compute_cosines

LEVELS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, None))  # users who consumed both: from, to (None: any more)
MOST_ITEMS = 200  # a user's most recent items that count: pairs grow with the square of them


def count_pairs(corpus: Corpus) -> sp.coo_array:
    """Count the users who consumed both items, for every pair of ids i < j: sparse (N + 1, N + 1), upper triangle.

    Only what training sees: each user's items up to the last training target.
    """
    ends = np.zeros(corpus.n_users, dtype=np.int64)
    trained = corpus.samples("train")
    np.maximum.at(ends, corpus.owners(trained), trained + 1)
    owner = np.repeat(np.arange(corpus.n_users), np.diff(corpus.offsets))
    place = np.arange(len(corpus.sequence))
    kept = (place < ends[owner]) & (place >= ends[owner] - MOST_ITEMS)
    consumed = sp.csr_array(
        (np.ones(kept.sum(), dtype=np.int32), (owner[kept], corpus.sequence[kept])),
        shape=(corpus.n_users, corpus.n_items + 1),
    )
    consumed.data[:] = 1  # an item consumed twice counts once
    return sp.triu(consumed.T @ consumed, k=1).tocoo()


def list_pairs(corpus: Corpus, *, most: int = 1000, seed: int = 0) -> pl.DataFrame:
    """Group pairs of items by how many users consumed both, at most `most` pairs a level.

    Columns first, second, users (Int64), level (text). The pairs of level 0 are items of counted pairs put together anew
    that nobody consumed both and that are of one domain: as popular, not together.
    """
    found = count_pairs(corpus)
    rng = np.random.default_rng(seed)
    first, second = found.coords
    frames = []
    for low, high in LEVELS:
        if low == 0:
            a, b = _never_together(corpus, first, second, most, rng)
            users = np.zeros(len(a), dtype=np.int64)
        else:
            chosen = np.flatnonzero((found.data >= low) & (found.data <= (high or np.inf)))
            chosen = np.sort(rng.permutation(chosen)[:most])
            a, b, users = first[chosen], second[chosen], found.data[chosen].astype(np.int64)
        name = str(low) if high == low else f"{low} and more" if high is None else f"{low} to {high}"
        frame = pl.DataFrame({"first": a.astype(np.int64), "second": b.astype(np.int64), "users": users})
        frames.append(frame.with_columns(level=pl.lit(name)))
    return pl.concat(frames)


def measure_closeness(drawn: pl.DataFrame, tables: dict[str, np.ndarray]) -> pl.DataFrame:
    """Measure how near the pairs of each level are in each of `tables` ((N + 1, dim) each), by cosine similarity.

    A row a (stage, level): stage, level, pairs, cosine (mean), above (mean in standard deviations of level 0's cosines,
    above their mean), error (its standard error). Where every pair is consumed together, above all pairs.
    """
    at = drawn.select("first", "second").to_numpy()
    rows = []
    for stage, table in tables.items():
        found = drawn.select("level").with_columns(cosine=compute_cosines(table, at))
        never = found.filter(level="0")["cosine"]
        never = never if len(never) > 1 else found["cosine"]
        std: Any = never.std()  # of numbers, where polars thinks of times as well
        spread = max(float(std or 0.0), 1e-9)
        for (level,), part in found.group_by("level", maintain_order=True):
            z = (part["cosine"] - never.mean()) / spread
            means = {"cosine": part["cosine"].mean(), "above": z.mean(), "error": (z.std() or 0.0) / len(part) ** 0.5}
            rows.append({"stage": stage, "level": level, "pairs": len(part), **means})
    return pl.DataFrame(rows)


def _never_together(
    corpus: Corpus, first: np.ndarray, second: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    together = first * np.int64(corpus.n_items + 1) + second
    drawn = rng.integers(0, max(1, len(first)), (2, 4 * most)) if len(first) else np.zeros((2, 0), dtype=np.int64)
    low, high = np.sort(np.stack([first[drawn[0]], second[drawn[1]]]), axis=0)
    key = low * np.int64(corpus.n_items + 1) + high
    domains = np.concatenate([[""], corpus.items["domain"].to_numpy()])
    kept = np.unique(key[(low != high) & (domains[low] == domains[high]) & ~np.isin(key, together)])
    kept = np.sort(rng.permutation(kept)[:most])
    return kept // (corpus.n_items + 1), kept % (corpus.n_items + 1)
