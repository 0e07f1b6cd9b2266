"""Sampled losses against their formulas written out, and gBCE's promise: calibrated probabilities at t = 1."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_corpus
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llm2rec_kit.downstream import evaluation, losses, optimizers, samples
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


class Fixed:
    """A sampler that gives these items with these weights."""

    def __init__(self, drawn, weights):
        self.both = drawn, weights

    def draw(self, generator):
        return self.both


def text(n_items):
    return np.random.default_rng(0).normal(size=(n_items + 1, 5)).astype(np.float32)


def trained_ids(n_items):
    return None


KINDS = [("text", text), ("id", trained_ids), ("add", text), ("concat", text), ("id_detached", trained_ids)]


def small(kind, table, count=8):
    """(model and item table in float64, rows, settings) of a small corpus under a sampled softmax of `count` items."""
    corpus = make_corpus(users=40, max_history=4, longest=9)
    settings = Evaluation(hidden=8, inner=8, loss="sampled_softmax", sampled_items=count, dropout=0.0, device="cpu")
    torch.manual_seed(0)
    both = evaluation.make_model_and_table("SASRec", corpus.n_items, 4, table(corpus.n_items), settings, kind).double()
    return both, samples.make_rows(corpus, corpus.samples("train"), shared=True), settings


def test_the_sum_over_drawn_items_is_the_catalogue_s_on_average():
    """Of the shares' denominator the label's term is exact and the rest without bias, however popular the items."""
    rng, n_items = np.random.default_rng(0), 30
    labels = torch.from_numpy(np.minimum(rng.geometric(0.15, (200, 4)), n_items).astype(np.int32))
    torch.manual_seed(0)
    states, classes = torch.randn(6, 5).double(), torch.randn(n_items + 1, 5).double()
    asked = torch.tensor([1, 2, 3, 20, 30, 1])
    own = classes[asked]
    sampler = losses.Sampler.of(labels, n_items, Evaluation(loss="sampled_softmax", sampled_items=16))
    generator, sums = torch.Generator().manual_seed(0), []
    for _ in range(3000):
        drawn, weights = sampler.draw(generator)
        hits = asked[:, None] == drawn
        each = [
            losses.sampled_softmax(*(x[i : i + 1] for x in (states, own)), classes[drawn], weights, hits[i : i + 1])
            for i in range(6)
        ]
        sums.append((torch.stack(each) + (states * own).sum(1)).exp())
    found, error = torch.stack(sums).mean(0), torch.stack(sums).std(0) / len(sums) ** 0.5
    wanted = (states @ classes[1:].T).exp().sum(1)
    assert ((found - wanted).abs() < 4 * error).all()
    assert (error < 0.02 * wanted).all()


@pytest.mark.parametrize(("kind", "table"), KINDS)
def test_a_sampled_softmax_of_every_item_is_the_full_one(kind, table):
    """The same loss and the same gradients, those of free vectors sparse."""
    both, rows, settings = small(kind, table)
    n_items = both[1].n_items
    every = Fixed(torch.arange(1, n_items + 1), torch.zeros(n_items))
    found = []
    for given, sampler in ((replace(settings, loss="softmax"), None), (settings, every)):
        both.zero_grad()
        value = evaluation.compute_loss(both, rows.histories, rows.labels, given, None, sampler)
        value.backward()
        grads = {name: p.grad for name, p in both.named_parameters()}
        found.append((value, {name: g.to_dense() if g.is_sparse else g for name, g in grads.items()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert kind == "text" or grads["1.ids.weight"].is_sparse


class Largest(TorchDispatchMode):
    """Within: the most rows of anything that an operator makes."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for made in tree_leaves(out):
            if (
                isinstance(made, torch.Tensor)
                and made.ndim
                and not made.is_sparse
                and id(made) not in inputs
                and not made._is_view()
            ):
                self.rows = max(self.rows, *made.shape)
        return out


@pytest.mark.parametrize(("kind", "table"), KINDS)
def test_a_step_makes_nothing_of_the_catalogue_s_size_and_moves_only_rows_that_it_reaches(kind, table):
    n_items, settings = 5000, small(kind, table)[2]
    torch.manual_seed(0)
    both = evaluation.make_model_and_table("SASRec", n_items, 4, table(n_items), settings, kind)
    histories, labels = torch.tensor([[1, 2, 3, 0]], dtype=torch.int32), torch.tensor([[0, 0, 4, 0]], dtype=torch.int32)
    optimizer, sampler = optimizers.make_optimizer(both, settings, "SASRec"), Fixed(torch.tensor([7, 9]), torch.zeros(2))
    before = [p.detach().clone() for p in both[1].parameters()]
    for _ in range(2):
        with Largest() as seen:  # of the second: the first makes the optimizer's moments
            value = evaluation.compute_loss(both, histories, labels, settings, None, sampler)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert 256 <= seen.rows < 1000
    if kind != "text":
        moved = (both[1].ids.weight != before[0]).any(1).nonzero()[:, 0].tolist()
        assert moved == [1, 2, 3, 4, 7, 9]


def test_rows_are_moved_as_adamw_moves_them_where_each_step_reaches_them():
    start, grads = torch.randn(6, 3), torch.randn(4, 6, 3)
    plain, rows = (torch.nn.Parameter(start.clone()) for _ in range(2))
    adamw, rowwise = torch.optim.AdamW([plain], lr=0.1, weight_decay=0.5), optimizers.RowwiseAdamW(rows, 0.1, 0.5)
    reached = torch.tensor([4, 1, 2])
    for grad in grads:
        plain.grad, rows.grad = (
            grad,
            torch.sparse_coo_tensor(reached[None], grad[reached], grad.shape, check_invariants=True),
        )
        adamw.step()
        rowwise.step()
    torch.testing.assert_close(rows[reached], plain[reached])
    assert torch.equal(rows[[0, 3, 5]], start[[0, 3, 5]])


def test_a_sampled_softmax_without_a_sampler_or_with_the_padding_class_is_named():
    both, rows, settings = small("text", text)
    with pytest.raises(ValueError, match=r"found none \(losses\.Sampler\.of\)"):
        evaluation.compute_loss(both, rows.histories, rows.labels, settings)
    (conflict,) = Evaluation(loss="sampled_softmax", padding_class=True).conflicts()
    assert "the padding row is none of them" in conflict[1]
