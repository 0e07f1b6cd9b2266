"""The kit's losses, gradients and ranks against those of the official evaluation code, recorded from the same weights.

The numbers are its own, in float64, by `python benchmarks/official_code.py ... --record tests/downstream/official_losses.json`;
both sides' weights and item vectors come from a formula (`official_side.formula`), so that the file has no need to hold them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import official_side
import pytest
import torch

from llm2rec_kit.downstream import evaluation, ranking
from llm2rec_kit.downstream.samples import Rows

RECORDED = json.loads((Path(__file__).parent / "official_losses.json").read_text())
SETTINGS = official_side.settings_of(dropout=0.0)
SHARED = [[0, 1, 2, 3], [4], [5], [6], [7]]  # samples whose histories begin alike, in one row


def rows_of(groups: list[list[int]]) -> Rows:
    """The recorded samples, those of a group in one row."""
    asked = RECORDED["asked"]
    histories = torch.zeros(len(groups), asked["max_seq_length"], dtype=torch.int32)
    labels = torch.zeros_like(histories)
    for row, group in enumerate(groups):
        for k in group:
            history = asked["histories"][k]
            histories[row, : len(history)] = torch.tensor(history, dtype=torch.int32)
            labels[row, len(history) - 1] = asked["labels"][k]
    return Rows(histories, labels)


def a_row_each() -> Rows:
    return rows_of([[k] for k in range(len(RECORDED["asked"]["labels"]))])


def assert_near(found: float, recorded: float, size: float) -> None:
    """Equal to 1e-6 of `size`."""
    assert abs(found - recorded) <= 1e-6 * size


def test_the_file_is_of_the_sizes_that_the_weights_are_made_for():
    assert RECORDED["asked"] == official_side.RECORDED


@pytest.mark.parametrize("recommender", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("shared", [False, True])
def test_loss_gradients_and_steps_equal_the_official_codes(recommender, shared):
    """Eight steps of AdamW, with padding as a class: a row a sample as there, and samples of one start in one row."""
    asked, recorded = RECORDED["asked"], RECORDED[recommender]
    rows = rows_of(SHARED) if shared else a_row_each()
    both = official_side.recorded_both(recommender).train()
    optimizer = torch.optim.AdamW(both.parameters(), lr=asked["lr"], weight_decay=asked["weight_decay"], fused=True)
    for step, loss in enumerate(recorded["losses"]):
        value = evaluation.compute_loss(both, rows.histories, rows.labels, SETTINGS)
        assert_near(value.item(), loss, loss)
        optimizer.zero_grad()
        value.backward()
        if not step:
            found = {name: official_side.summed(p.grad.numpy()) for name, p in both.named_parameters()}
            assert found.keys() == recorded["gradients"].keys()
            for name, sums in recorded["gradients"].items():
                for ours, theirs in zip(found[name], sums, strict=True):
                    assert_near(ours, theirs, sums[1])  # the second is the norm; a sum may vanish
        optimizer.step()


@pytest.mark.parametrize("recommender", ["SASRec", "GRU4Rec"])
def test_ranks_equal_the_official_codes(recommender):
    both = official_side.recorded_both(recommender).eval()
    with torch.no_grad():
        found = ranking.rank_rows(both[0], both[1](), a_row_each())
    np.testing.assert_array_equal(found.ranks, RECORDED[recommender]["ranks"])


def test_the_recorded_losses_have_padding_as_a_class():
    rows, settings = a_row_each(), official_side.settings_of(dropout=0.0, padding_class=False)
    value = evaluation.compute_loss(official_side.recorded_both("SASRec"), rows.histories, rows.labels, settings)
    assert abs(value.item() - RECORDED["SASRec"]["losses"][0]) > 1e-3
