"""Sampled losses against their formulas written out, and gBCE's promise: calibrated probabilities at t = 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm2rec_kit.downstream import losses
from llm2rec_kit.settings import Evaluation


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_gbce_by_hand():
    """L = -(log s(positive) ** beta + sum log(1 - s(negative))) / (k + 1), gSASRec's definition."""
    states, classes = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 0], [1, 1], [2, -1], [0, 3]])
    scores = [1.5, 1.5, 1.5]  # items 1, 2, 3
    for power in (1.0, 0.3):
        found = losses.compute_sampled_loss(states, classes, torch.tensor([1]), torch.tensor([[2, 3]]), power)
        wanted = -(math.log(sigmoid(scores[0]) ** power) + sum(math.log(1 - sigmoid(s)) for s in scores[1:])) / 3
        assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_beta_between_plain_and_calibrated():
    assert losses.compute_beta(10, 101, 0.0) == pytest.approx(1)  # plain BCE
    assert losses.compute_beta(10, 101, 1.0) == pytest.approx(0.1)  # alpha, the share of negatives that is sampled
    assert losses.compute_beta(10, 101, 0.75) == pytest.approx(0.1 * (0.75 * (1 - 10) + 10))


def test_negatives_are_every_other_item_and_never_the_label():
    labels = torch.tensor([1, 3, 5])
    found = losses.draw_negatives(labels, 5, 4000, torch.Generator().manual_seed(0))
    for label, row in zip(labels.tolist(), found.numpy(), strict=True):
        counts = np.bincount(row, minlength=6)
        assert counts[0] == counts[label] == 0
        others = [counts[i] for i in range(1, 6) if i != label]
        assert min(others) > 900
        assert max(others) < 1100


def test_gbce_learns_calibrated_probabilities_where_bce_is_overconfident():
    """One state, five items followed with known probabilities: at its minimum s(score) of bce is far above them, gbce's equal."""
    truth = np.array([0.4, 0.3, 0.15, 0.1, 0.05] + [0.0] * 15)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.choice(20, 6000, p=truth) + 1)
    found = {}
    for name, calibration in (("bce", 0.0), ("gbce", 1.0)):
        classes = torch.zeros(21, 1, requires_grad=True)
        optimizer = torch.optim.Adam([classes], lr=0.1)
        settings = Evaluation(loss=name, negatives=2, calibration=calibration)
        for step in range(120):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            losses.compute_loss(settings, torch.ones(6000, 1), classes, labels, generator).backward()
            optimizer.step()
        found[name] = torch.sigmoid(classes.detach()[1:6, 0]).numpy()
    assert np.abs(found["gbce"] - truth[:5]).max() < 0.05
    assert (found["bce"] - truth[:5]).min() > 0.15


def test_the_default_is_the_softmax_over_the_catalogue():
    states, classes, labels = torch.randn(4, 3), torch.randn(6, 3), torch.tensor([1, 2, 3, 5])
    wanted = torch.nn.functional.cross_entropy(states @ classes[1:].T, labels - 1)
    torch.testing.assert_close(losses.compute_loss(Evaluation(), states, classes, labels), wanted)
