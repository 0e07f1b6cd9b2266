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


def test_a_collapsed_space_has_uniformity_zero_and_rank_one():
    one_way = np.outer(np.arange(1, 9), [1.0, 2.0, 2.0])
    assert geometry.uniformity(one_way) == pytest.approx(0, abs=1e-12)
    assert geometry.effective_rank(one_way) == pytest.approx(1)


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
