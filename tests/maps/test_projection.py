"""Neighbours and quality numbers against scikit-learn; maps repeat by seed; bad input is named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from llm2rec_kit.maps import projection
from llm2rec_kit.settings import Maps

SETTINGS = Maps(neighbours=5, max_items=40)
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(40, 6)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_scikit_learns(metric):
    expected = NearestNeighbors(n_neighbors=8, metric=metric).fit(VECTORS).kneighbors(return_distance=False)
    assert (projection.neighbours(VECTORS, 7, metric) == expected[:, :7]).all()


def test_overlap_by_hand():
    line = np.arange(4, dtype=float)[:, None]
    swapped = line[[1, 0, 2, 3]]
    near = [[1], [0], [1], [2]], [[1], [0], [0], [2]]
    expected = np.mean([a == b for a, b in zip(*near, strict=True)])
    assert projection.neighbour_overlap(line * [1, 0] + [0, 1e-9], swapped * [1, 0], 1, ("euclidean",) * 2) == expected
    assert projection.neighbour_overlap(VECTORS, 3 * VECTORS, 5) == 1


def test_trustworthiness_is_scikit_learns():
    plane = VECTORS[:, :2]
    assert projection.trustworthiness(VECTORS, plane, 5) == pytest.approx(
        trustworthiness(VECTORS, plane, n_neighbors=5, metric="cosine")
    )


def test_effective_rank_counts_directions():
    assert projection.effective_rank(np.vstack([np.eye(4), -np.eye(4)])) == pytest.approx(4)
    assert projection.effective_rank(np.outer(np.arange(5), np.ones(3))) == pytest.approx(1)


def test_pairs_come_from_training_histories_and_random_ones_differ():
    corpus = make_corpus(users=30)
    allowed = {tuple(corpus.sequence[t - 1 : t + 1]) for t in corpus.samples("train")}
    pairs = projection.co_consumed_pairs(corpus, 50, seed=0)
    assert {tuple(p) for p in pairs} <= allowed
    assert (pairs[:, 0] != pairs[:, 1]).all()
    drawn = projection.random_pairs(5, 1000, seed=0)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert set(drawn.ravel()) == {1, 2, 3, 4, 5}


def test_maps_are_written_repeat_and_carry_numbers(tmp_path):
    corpus = make_corpus(users=30, items=40)
    tables = {
        name: np.vstack([np.zeros(6), VECTORS + k * RNG.normal(size=(40, 6))]).astype(np.float32)
        for k, name in enumerate(("raw", "csft"))
    }
    records = []
    for name in "ab":
        (tmp_path / name).mkdir()
        records.append(projection.write(tmp_path / name, corpus, tables, SETTINGS))
    for file in ("maps.parquet", "stages.png", "stages.svg"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert records[0] == records[1]
    maps = pl.read_parquet(tmp_path / "a" / "maps.parquet")
    assert maps.group_by("stage").len()["len"].to_list() == [40, 40]
    assert np.isfinite(maps.select("x", "y", "aligned_x", "aligned_y").to_numpy()).all()
    assert all(0 <= row["kept"] <= 1 for row in records[0]["stages"])


def test_the_items_of_a_map_are_drawn_by_seed():
    assert projection.choose_items(5, 10, 0).tolist() == [1, 2, 3, 4, 5]
    drawn = projection.choose_items(100, 10, 0)
    assert len(set(drawn)) == 10
    assert drawn.tolist() == sorted(projection.choose_items(100, 10, 0))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="four items at least; found 3"):
        projection.umap_map(VECTORS[:3], SETTINGS)
    with pytest.raises(ValueError, match="NaN or infinity"):
        projection.umap_map(np.full((5, 2), np.nan), SETTINGS)
    with pytest.raises(ValueError, match="same items"):
        projection.aligned_maps({"a": VECTORS, "b": VECTORS[:5]}, SETTINGS)
