"""Numbers of projections against scikit-learn, numbers of spaces against their formulas written out plainly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import make_corpus
from sklearn.manifold import trustworthiness

from llm2rec_kit.maps import projection, quality

RNG = np.random.default_rng(1)
VECTORS = RNG.normal(size=(50, 5)).astype(np.float32)
TABLE = np.concatenate([np.zeros((1, 5), np.float32), VECTORS])
PAIRS = projection.draw_random_pairs(make_corpus(items=50), 300, seed=0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_trustworthiness_is_scikit_learns(metric):
    plane = VECTORS[:, :2]
    expected = trustworthiness(VECTORS, plane, n_neighbors=6, metric=metric)
    assert quality.trustworthiness(VECTORS, plane, 6, metric) == pytest.approx(expected, abs=1e-6)


def test_anchors_give_the_mean_over_themselves():
    plane = VECTORS[:, :2]
    one_by_one = [quality.trustworthiness(VECTORS, plane, 6, "cosine", anchors=np.array([i])) for i in range(50)]
    assert np.mean(one_by_one) == pytest.approx(quality.trustworthiness(VECTORS, plane, 6, "cosine"))


def test_a_faithful_map_keeps_everything_and_a_shuffled_one_little():
    plane = VECTORS[:, :2]
    all_of_them = np.arange(50)
    assert quality.measure_projection(plane, plane, "euclidean", anchors=all_of_them) == {
        "trustworthiness": 1.0,
        "kept": 1.0,
    }
    shuffled = quality.measure_projection(plane, RNG.permutation(plane), "euclidean", anchors=all_of_them)
    assert shuffled["kept"] < 0.5
    assert shuffled["trustworthiness"] < 0.7


def test_of_space_by_the_formulas():
    found = quality.measure_space(TABLE, PAIRS[:100], PAIRS)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    apart = [unit[a - 1] - unit[b - 1] for a, b in PAIRS]
    squares = np.array([d @ d for d in apart], dtype=np.float64)
    assert found["alignment"] == pytest.approx(squares[:100].mean(), rel=1e-5)
    assert found["uniformity"] == pytest.approx(np.log(np.exp(-2 * squares).mean()), rel=1e-5)
    assert found["cosine_random"] == pytest.approx(np.mean([unit[a - 1] @ unit[b - 1] for a, b in PAIRS]), abs=1e-6)
    near = {i: set(np.argsort(-(unit @ unit[i]))[1:11]) for i in range(50)}
    assert found["recall_random"] == pytest.approx(np.mean([b - 1 in near[a - 1] for a, b in PAIRS]))


def test_isotropy_by_the_formula_and_at_its_ends():
    unit = VECTORS.astype(np.float64) / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    _, axes = np.linalg.eigh(unit.T @ unit)
    z = [np.mean([np.exp(sign * c @ v) for v in unit]) for c in axes.T for sign in (1, -1)]
    assert quality.isotropy(VECTORS) == pytest.approx(min(z) / max(z), rel=1e-5)
    assert quality.isotropy(np.vstack([np.eye(3), -np.eye(3)])) == pytest.approx(1)
    assert quality.isotropy(np.ones((9, 3))) == pytest.approx(np.exp(-2))


def test_overlaps_are_symmetric_with_ones():
    values = np.array(quality.measure_overlaps({"a": VECTORS, "b": VECTORS[:, :3]}, anchors=np.arange(50)))
    assert values[0, 0] == values[1, 1] == 1
    near = [projection.find_neighbours(space, 10) for space in (VECTORS, VECTORS[:, :3])]
    assert values[0, 1] == values[1, 0] == pytest.approx(projection.measure_shared(*near))
    assert 0 < values[0, 1] < 1


def test_pairs_that_are_neighbours_are_all_found():
    near = projection.find_neighbours(VECTORS, 10) + 1
    pairs = np.array([(i + 1, j) for i, row in enumerate(near) for j in row])
    assert quality.measure_pair_recall(TABLE, pairs) == 1
    others = np.array([(a, b) for a, b in itertools.permutations(range(1, 51), 2) if b not in near[a - 1]])
    assert quality.measure_pair_recall(TABLE, others) == 0
