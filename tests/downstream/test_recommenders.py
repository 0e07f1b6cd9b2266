"""The recommenders against plain versions of themselves; causality, padding, dropout, input checks."""

from __future__ import annotations

import math
from dataclasses import replace

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


WIDE = Evaluation(hidden=128, inner=256, heads=2, layers=2)


def started(name, initialisation, seed=0):
    """A recommender's weights as it starts, by name."""
    torch.manual_seed(seed)
    model = recommenders.make(name, replace(WIDE, initialisation=initialisation), 10)
    return {k: v.detach() for k, v in model.state_dict().items()}


def test_the_official_start_of_sasrec_is_torchs_own_with_layers_alike():
    """Facts of the official code (seqrec/models/SASRec, seqrec/modules.py): no weight is set, and layers are deep copies."""
    found = started("SASRec", "official")
    assert found["positions.weight"].std().item() == pytest.approx(1, abs=0.06)
    for part, inputs in (("qkv", 128), ("out", 128), ("inner", 128), ("outer", 256)):
        for kind in ("weight", "bias"):
            value, bound = found[f"layers.0.{part}.{kind}"], 1 / math.sqrt(inputs)
            assert value.abs().max() <= bound
            assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)  # of a uniform distribution
            assert torch.equal(value, found[f"layers.1.{part}.{kind}"])


def test_the_scaled_start_of_sasrec_is_small_and_its_layers_differ():
    found = started("SASRec", "scaled")
    weights = {k: v for k, v in found.items() if "norm" not in k and k.endswith("weight")}
    assert all(v.std().item() == pytest.approx(0.02, rel=0.1) for v in weights.values())
    assert all(v.abs().max() == 0 for k, v in found.items() if "norm" not in k and k.endswith("bias"))
    assert not torch.equal(found["layers.0.qkv.weight"], found["layers.1.qkv.weight"])


def test_the_two_starts_of_gru4rec():
    official, scaled = (started("GRU4Rec", start) for start in ("official", "scaled"))
    for value in official.values():
        assert value.abs().max() <= 1 / math.sqrt(128)
        assert value.std().item() == pytest.approx(1 / math.sqrt(3 * 128), rel=0.05)
    for k in range(2):
        state = scaled[f"gru.weight_hh_l{k}"]  # (3 x hidden, hidden): its columns are orthonormal
        torch.testing.assert_close(state.T @ state, torch.eye(128), atol=1e-5, rtol=0)


def test_layers_that_start_alike_are_trained_apart():
    torch.manual_seed(0)
    model = recommenders.make("SASRec", replace(WIDE, initialisation="official", dropout=0.0), 10)
    model(torch.randn(2, 5, 128)).square().sum().backward()
    first, second = (layer.qkv.weight for layer in model.layers)
    assert first is not second
    assert not torch.equal(first.grad, second.grad)
