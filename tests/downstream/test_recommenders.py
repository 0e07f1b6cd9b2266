"""The recommenders against plain versions of themselves; causality, padding, dropout, input checks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llm2rec_kit.downstream import recommenders
from llm2rec_kit.settings import Evaluation

SETTINGS = Evaluation(hidden=8, inner=12, heads=2, layers=2)
NAMES = ("SASRec", "GRU4Rec")


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


@pytest.mark.parametrize("training", [False, True])
def test_sasrec_equals_the_plain_version(training):
    """Also in training mode, which attends by another path; without dropout it is the same function."""
    model = recommenders.make("SASRec", Evaluation(hidden=8, inner=12, heads=2, layers=2, dropout=0.0), 6).train(training)
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


@pytest.mark.parametrize("name", NAMES)
def test_only_the_states_that_are_asked_for(name):
    model = recommenders.make(name, SETTINGS, 6).eval()
    items, asked = torch.randn(4, 6, 8), torch.rand(4, 6) < 0.4
    torch.testing.assert_close(model(items, asked), model(items)[asked], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_later_item_or_padding_changes_nothing_earlier(name, training):
    model = recommenders.make(name, Evaluation(hidden=8, inner=12, dropout=0.0), 6).train(training)
    items = torch.randn(1, 6, 8)
    changed = items.clone()
    changed[:, 4:] = torch.randn(1, 2, 8)
    assert not torch.equal(items, changed)
    torch.testing.assert_close(model(items)[:, :4], model(changed)[:, :4], atol=1e-6, rtol=0)
    torch.testing.assert_close(model(items[:, :4]), model(items)[:, :4], atol=1e-6, rtol=1e-5)


def test_dropout_drops_its_rate_and_keeps_the_mean():
    layer = recommenders.Dropout(0.3)
    layer.source = np.random.SFC64(0)
    x = torch.ones(300, 1001)
    found = layer(x)
    assert (found == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert found.mean().item() == pytest.approx(1, abs=0.01)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / 0.7], rel=1e-4)
    assert not torch.equal(found, layer(x))
    assert torch.equal(layer.eval()(x), x)
    neighbours = (found[:, 1:] == 0) & (found[:, :-1] == 0)
    assert neighbours.float().mean().item() == pytest.approx(0.09, abs=0.005)


def test_draw_from_repeats():
    model = recommenders.make("SASRec", SETTINGS, 6)
    items = torch.randn(2, 6, 8)
    both = []
    for _ in range(2):
        recommenders.draw_from(model, np.random.SFC64(7))
        both.append(model(items))
    assert torch.equal(*both)
    recommenders.draw_from(model, None)
    assert not torch.equal(both[0], model(items))


def test_bad_names_and_heads():
    with pytest.raises(ValueError, match="none of"):
        recommenders.make("BERT4Rec", SETTINGS, 5)
    with pytest.raises(ValueError, match="multiple of evaluation_heads"):
        recommenders.make("SASRec", Evaluation(hidden=9, heads=2), 5)
