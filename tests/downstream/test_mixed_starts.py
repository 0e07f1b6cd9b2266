"""The starts that benchmarks/starts.py mixes: each part from where it should be, and all else as the kit has it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import starts
import torch

from llm2rec_kit.downstream import evaluation, recommenders
from llm2rec_kit.settings import Evaluation

SETTINGS = Evaluation(hidden=64, inner=96, heads=2, layers=3, dropout=0.0)
LINEAR = ("qkv", "out", "inner", "outer")


def drawn(make, seed=0):
    """The model that `make()` gives from a seed."""
    torch.manual_seed(seed)
    return make()


def pure(start):
    return drawn(lambda: recommenders.make("SASRec", replace(SETTINGS, initialisation=start), 10))


def mixed(**other):
    """The official start but for the parts in `other`."""
    return drawn(lambda: starts.mixed(SETTINGS, 10, dict.fromkeys(starts.PARTS, "official") | other))


def of(model, part):
    """All values of a part."""
    if part == "positions":
        return [model.positions.weight]
    kind = part.removesuffix("es") if part == "biases" else part.removesuffix("s")
    return [getattr(getattr(layer, name), kind) for layer in model.layers for name in LINEAR]


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("start", ["official", "scaled"])
def test_a_start_of_one_source_is_the_kits_own(start):
    model = drawn(lambda: starts.mixed(SETTINGS, 10, dict.fromkeys(starts.PARTS, start)))
    assert {n: v.tolist() for n, v in model.state_dict().items()} == {
        n: v.tolist() for n, v in pure(start).state_dict().items()
    }


@pytest.mark.parametrize("part", ["positions", "weights", "biases"])
def test_one_part_comes_from_the_other_start_and_the_others_stay(part):
    model = mixed(**{part: "scaled"} | ({"layers": "scaled"} if part == "weights" else {}))
    assert equal(of(model, part), of(pure("scaled"), part))
    assert not equal(of(model, part), of(pure("official"), part))
    for other in {"positions", "weights", "biases"} - {part}:
        if part != "weights" or other == "positions":
            assert equal(of(model, other), of(pure("official"), other))


def test_layers_of_their_own_are_official_draws_and_copies_of_scaled_layers_are_alike():
    own = mixed(layers="scaled")
    for name in LINEAR:
        values = [getattr(layer, name).weight for layer in own.layers]
        bound = 1 / math.sqrt(values[0].shape[1])
        assert torch.equal(values[0], getattr(pure("official").layers[0], name).weight)
        assert not torch.equal(values[0], values[1])
        assert not torch.equal(values[1], values[2])
        assert all(bound * 0.9 < v.abs().max() <= bound for v in values)
    alike = mixed(weights="scaled", biases="scaled")
    first = pure("scaled").layers[0]
    assert all(equal(layer.parameters(), first.parameters()) for layer in alike.layers)


def test_an_arm_turns_up_inputs_and_scores_and_nothing_else():
    items = torch.randn(2, 5, 64)
    plain = drawn(lambda: starts.Arm().make("SASRec", SETTINGS, 10)).eval()
    loud = drawn(lambda: starts.Arm(inputs=7.0, scores=3.0).make("SASRec", SETTINGS, 10)).eval()
    torch.testing.assert_close(loud(items), 3 * plain(7 * items))


def test_an_arms_decay_is_adamws_of_the_positions_alone():
    settings = replace(SETTINGS, learning_rate=0.1)
    model = drawn(lambda: starts.Arm(decay=2.0).make("SASRec", settings, 10))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.eval()(torch.randn(2, 5, 64))
    model.train()(torch.randn(2, 5, 64))
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["positions.weight"], 0.8 * before.pop("positions.weight"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_is_measured_of_a_start_is_what_its_numbers_say():
    """Rows of one length around nought and positions of N(0, 1): shares of variance follow from their squares."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(401, 64)).astype(np.float32)
    settings = replace(SETTINGS, normalise="unit", initialisation="official")
    both = drawn(lambda: evaluation.make_model_and_table("SASRec", 400, 10, vectors, settings))
    with torch.no_grad():
        both[1].adapter.weight.copy_(2 * torch.eye(64))
    histories = torch.from_numpy(rng.integers(1, 401, size=(300, 10)))
    labels = torch.from_numpy(rng.integers(1, 401, size=(300, 10)))
    found = starts.measured(both, histories, labels, settings)
    places = starts.spread(both[0].positions.weight.detach())
    assert found["row length"] == pytest.approx(2, rel=1e-5)
    assert found["content"] == pytest.approx(4 / (4 + places), rel=0.02)
    assert starts.measured(both, histories, labels, settings, inputs=10.0)["content"] == pytest.approx(
        400 / (400 + places), rel=0.02
    )
    assert 0 < found["told apart"] < 1
    assert 0 < found["gradient, adapter as history"] < found["gradient, adapter"]
