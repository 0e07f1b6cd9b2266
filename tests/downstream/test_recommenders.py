"""The recommenders against plain versions of themselves; causality, padding, gradients, input checks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm2rec_kit.downstream import recommenders
from llm2rec_kit.settings import Evaluation

SETTINGS = Evaluation(hidden=8, inner=12, heads=2, layers=2)


def plain_sasrec(model, items):
    """One head and one position at a time, from the same weights."""
    states = items + model.positions.weight[: len(items)]
    for layer in model.layers:
        qkv = states @ layer.qkv.weight.T + layer.qkv.bias
        q, k, v = qkv.split(8, dim=1)
        mixed = torch.zeros_like(states)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            for t in range(len(items)):
                weight = torch.softmax(q[t, part] @ k[: t + 1, part].T / math.sqrt(4), dim=0)
                mixed[t, part] = weight @ v[: t + 1, part]

        def norm(x, layer_norm):
            return (x - x.mean(1, keepdim=True)) / (
                x.var(1, unbiased=False, keepdim=True) + 1e-12
            ).sqrt() * layer_norm.weight + layer_norm.bias

        states = norm(states + layer.out(mixed), layer.norm1)
        inner = layer.inner(states)
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        states = norm(states + layer.outer(inner), layer.norm2)
    return states


def test_sasrec_equals_the_plain_version():
    model = recommenders.make("SASRec", SETTINGS, 6).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    items = torch.randn(3, 5, 8)
    for k in range(3):
        torch.testing.assert_close(model(items)[k], plain_sasrec(model, items[k]), atol=1e-5, rtol=1e-5)


def test_gru4rec_equals_the_plain_recurrence():
    model = recommenders.make("GRU4Rec", SETTINGS, 6).eval()
    items = torch.randn(2, 5, 8)
    seen = items
    for k in range(2):
        w, u = getattr(model.gru, f"weight_ih_l{k}"), getattr(model.gru, f"weight_hh_l{k}")
        state, out = torch.zeros(2, 8), []
        for t in range(5):
            a, b = (seen[:, t] @ w.T).split(8, 1), (state @ u.T).split(8, 1)
            reset, update = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            state = (1 - update) * torch.tanh(a[2] + reset * b[2]) + update * state
            out.append(state)
        seen = torch.stack(out, 1)
    torch.testing.assert_close(model(items), seen, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_a_later_item_or_padding_changes_nothing_earlier(name):
    model = recommenders.make(name, SETTINGS, 6).eval()
    items = torch.randn(1, 6, 8)
    changed = items.clone()
    changed[:, 4:] = torch.randn(1, 2, 8)
    assert torch.equal(model(items)[:, :4], model(changed)[:, :4])
    torch.testing.assert_close(model(items[:, :4]), model(items)[:, :4])


def test_gradient_reaches_the_adapter_and_not_the_embeddings():
    table = recommenders.ItemTable(4, 8, np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    table().sum().backward()
    assert table.adapter.weight.grad.abs().sum() > 0
    assert [n for n, _ in table.named_parameters()] == ["adapter.weight", "adapter.bias"]
    assert not table.adapter.bias.detach().any()


def test_ids_learn_on_both_sides_and_padding_stays_zero():
    table = recommenders.ItemTable(4, 8)
    assert not table()[0].detach().any()
    used = torch.nn.functional.embedding(torch.tensor([[1, 2]]), table())
    (used.sum(1) @ table()[3]).sum().backward()
    assert (table.ids.weight.grad.abs().sum(1) > 0).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (np.zeros((4, 3)), r"shape \(5, dim\)"),
        (np.zeros(5), r"shape \(5, dim\)"),
        (np.array([[0, 0], [1, 1], [np.nan, 1], [1, 1], [1, 1.0]]), "1 rows, first in row 2"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(embeddings, words):
    with pytest.raises(ValueError, match=words):
        recommenders.ItemTable(4, 8, embeddings)


def test_normalisation():
    raw = np.random.default_rng(0).normal(3, 2, (5, 3)).astype(np.float32)
    unit = recommenders.ItemTable(4, 8, raw, "unit").embeddings[1:]
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))
    standard = recommenders.ItemTable(4, 8, raw, "standardised").embeddings[1:]
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-6, rtol=0)


def test_bad_names_and_heads():
    with pytest.raises(ValueError, match="none of"):
        recommenders.make("BERT4Rec", SETTINGS, 5)
    with pytest.raises(ValueError, match="multiple of evaluation_heads"):
        recommenders.make("SASRec", Evaluation(hidden=9, heads=2), 5)


def test_a_value_that_float32_cannot_hold_is_refused():
    raw = np.ones((5, 3))
    raw[2] = 1e300
    with pytest.raises(ValueError, match="first in row 2"):
        recommenders.ItemTable(4, 8, raw)


def test_frozen_embeddings_are_no_part_of_the_weights():
    raw = np.ones((5, 3), dtype=np.float32)
    assert set(recommenders.ItemTable(4, 8, raw).state_dict()) == {"adapter.weight", "adapter.bias"}


def test_padding_stays_zero_also_as_a_class():
    table = recommenders.ItemTable(4, 8)
    states = torch.randn(3, 8)
    torch.nn.functional.cross_entropy(states @ table().T, torch.tensor([1, 2, 3])).backward()
    assert (table.ids.weight.grad.abs().sum(1) > 0).tolist() == [False, True, True, True, True]
