"""MNTP: which tokens are hidden, and that the loss is transformers' dense one with masked labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_corpus

from llm2rec_kit import backbone
from llm2rec_kit.settings import MNTP
from llm2rec_kit.training import mntp

TITLES = make_corpus().titles


def test_loss_equals_the_dense_loss_with_masked_labels(tiny):
    model, tokenizer = tiny
    backbone.bidirectional(model)
    batches = mntp.Batches(TITLES, tokenizer, model.config.vocab_size, MNTP(rate=0.4, batch_size=16))
    (micro,) = batches[0]
    labels = torch.full_like(micro["input_ids"], -100)
    labels.view(-1)[micro["sources"] + 1] = micro["labels"]  # the label stands one after the position that predicts it
    dense = model(input_ids=micro["input_ids"], attention_mask=micro["attention_mask"], labels=labels).loss
    total, count = mntp.loss(model, micro)
    assert count > 10
    assert (total / count).item() == pytest.approx(dense.item(), abs=1e-6)


def test_rates_of_hiding_and_replacing():
    rng = np.random.default_rng(0)
    ids = np.full(200_000, 7)
    seen, hidden = mntp.mask_tokens(ids, 3, 1000, MNTP(), rng)
    assert hidden.mean() == pytest.approx(0.2, abs=0.005)
    assert (seen[hidden] == 3).mean() == pytest.approx(0.8, abs=0.01)
    assert (seen[hidden] == 7).mean() == pytest.approx(0.1, abs=0.01)
    assert (seen[~hidden] == 7).all()
    seen, hidden = mntp.mask_tokens(ids, 3, 1000, MNTP(replacement="mask"), rng)
    assert (seen[hidden] == 3).all()


def test_a_step_repeats_and_the_next_differs(tiny):
    batches = mntp.Batches(TITLES, tiny[1], 400, MNTP(batch_size=8))
    one, same, other = batches[3][0], batches[3][0], batches[4][0]
    assert torch.equal(one["input_ids"], same["input_ids"])
    assert torch.equal(one["sources"], same["sources"])
    assert one["input_ids"].shape != other["input_ids"].shape or not torch.equal(one["input_ids"], other["input_ids"])


def test_held_out_titles_are_not_trained_on():
    train, held = mntp.split_titles(TITLES, MNTP(held_out=0.25))
    assert len(held) == 4
    assert sorted(train + held) == sorted(TITLES)


def test_no_title_is_an_error(tiny):
    with pytest.raises(ValueError, match="no title to learn from"):
        mntp.Batches([], tiny[1], 400, MNTP())
