"""Alignment, uniformity and effective rank by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llm2rec_kit import geometry


def test_alignment_and_uniformity_by_hand():
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert geometry.alignment(square, 5 * square) == 0
    assert geometry.alignment(square, -square) == pytest.approx(4)
    assert geometry.uniformity(square) == pytest.approx(math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6))


def test_lengths_by_hand():
    """Four vectors of length 5 that share 4, with 3 of their own, which what is added to all does not change."""
    vectors = np.array([[4.0, 3, 0], [4, -3, 0], [4, 0, 3], [4, 0, -3]], dtype=np.float32)
    assert geometry.measure_lengths(vectors) == pytest.approx((5, 3))
    assert geometry.measure_lengths(10 * vectors + np.float32([0, 0, 7])) == pytest.approx(
        (np.mean(np.linalg.norm(10 * vectors + [0, 0, 7], axis=1)), 30)
    )


def test_a_collapsed_space_has_uniformity_zero_and_rank_one():
    one_way = np.outer(np.arange(1, 9), [1.0, 2.0, 2.0])
    assert geometry.uniformity(one_way) == pytest.approx(0, abs=1e-12)
    assert geometry.effective_rank(one_way) == pytest.approx(1)


@pytest.mark.parametrize("rank", [1, 3])
def test_directions_that_a_float32_table_has_not_are_not_counted(rank):
    """What rounding leaves of zeros is not taken for directions, also far from the origin and across several blocks."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(512, rank)))
    spread = np.linalg.qr(rng.normal(size=(2000, rank)) - 0.5)[0]
    table = spread @ axes.T * 30 + 5 * rng.normal(size=512)
    values = np.linalg.svd(table - table.mean(0), compute_uv=False)[:rank]
    share = values / values.sum()
    assert geometry.effective_rank(table.astype(np.float32)) == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), abs=1e-3
    )


@pytest.mark.parametrize("shape", [(9000, 16), (2000, 512), (40, 512), (1, 8)])
def test_effective_rank_is_that_of_the_singular_values(shape):
    table = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values = np.linalg.svd(table.astype(np.float64) - table.mean(0, dtype=np.float64), compute_uv=False)
    share = values / max(values.sum(), 1e-12)
    expected = np.exp(-sum(s * np.log(s) for s in share if s > 1e-7))
    assert geometry.effective_rank(table) == pytest.approx(expected, rel=1e-7)


def test_cosines_to_the_nearest_by_hand():
    among = np.array([[1.0, 0], [0, 2], [3, 3]])
    half = math.sqrt(0.5)
    found = geometry.compute_nearest_cosines(np.array([[5.0, 0], [-1, 0], [-1, -1]]), among)
    np.testing.assert_allclose(found, [1, 0, -half], atol=1e-6)
    np.testing.assert_allclose(geometry.compute_nearest_cosines(among, among, others=True), [half] * 3, atol=1e-6)


def test_the_usual_cosine_is_what_nearly_all_have():
    turn = np.radians([*range(0, 180, 2), 270])  # one alone, the others two degrees apart
    rows = np.stack([np.cos(turn), np.sin(turn)], 1)
    assert geometry.compute_usual_cosine(rows) == pytest.approx(math.cos(math.radians(2)), abs=1e-6)
    assert geometry.compute_usual_cosine(rows, percentile=0) == pytest.approx(math.cos(math.radians(90)), abs=1e-6)
    assert geometry.compute_usual_cosine(rows[:1]) == -1


def test_rows_are_normalised_each_by_itself_or_each_column_by_the_catalogue():
    rows = np.random.default_rng(0).normal(2, 3, size=(9, 4)).astype(np.float32)
    assert (geometry.normalise_rows(rows, rows, "none") == rows).all()
    by_row = np.array([row / np.sqrt(row @ row) for row in rows])
    np.testing.assert_allclose(geometry.normalise_rows(rows, rows, "unit"), by_row, rtol=1e-5)
    by_column = np.array([(c - c.mean()) / np.sqrt(((c - c.mean()) ** 2).mean()) for c in rows.T]).T
    np.testing.assert_allclose(geometry.normalise_rows(rows, rows, "standardised"), by_column, rtol=1e-4)
