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
