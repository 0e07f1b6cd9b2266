"""Item contrast: the loss by hand and against sentence-transformers, the views, the measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import make_corpus

from llm2rec_kit import backbone
from llm2rec_kit.settings import Contrastive
from llm2rec_kit.training import contrastive
from llm2rec_kit.training.trainer import drawn

TITLES = make_corpus().titles


def test_info_nce_by_hand():
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    t, c = 0.5, 1 / math.sqrt(2)
    row0 = -1 / t + math.log(math.exp(1 / t) + math.exp(c / t))
    row1 = -c / t + math.log(math.exp(0) + math.exp(c / t))
    assert contrastive.info_nce(first, second, t).item() == pytest.approx(row0 + row1, rel=1e-6)
    col0 = -1 / t + math.log(math.exp(1 / t) + math.exp(0))
    col1 = -c / t + math.log(2 * math.exp(c / t))
    both = contrastive.info_nce(first, second, t, symmetric=True).item()
    assert both == pytest.approx((row0 + row1 + col0 + col1) / 2, rel=1e-6)


def test_info_nce_is_multiple_negatives_ranking_loss():
    losses = pytest.importorskip("sentence_transformers.losses")
    first, second = torch.randn(7, 5), torch.randn(7, 5)
    theirs = losses.MultipleNegativesRankingLoss(model=None, scale=1 / 0.2)
    expected = theirs.compute_loss_from_embeddings([first, second], None)
    assert contrastive.info_nce(first, second, 0.2).item() / 7 == pytest.approx(expected.item(), rel=1e-5)


def test_mask_views_differ_and_keep_a_token(tiny):
    rng = np.random.default_rng(0)
    ids = np.arange(10, 15)
    views = [contrastive.view(ids, 3, Contrastive(mask_rate=0.95), rng) for _ in range(200)]
    assert all((v != 3).any() for v in views)
    assert all(np.isin(v, [3, *ids]).all() for v in views)
    assert (contrastive.view(ids, 3, Contrastive(views="dropout"), rng) == ids).all()


def test_dropout_views_differ_in_training_only_and_dropout_is_put_back(tiny):
    model, tokenizer = tiny
    backbone.bidirectional(model)
    settings = Contrastive(views="dropout", batch_size=4)
    (micro,) = contrastive.Batches(TITLES, tokenizer, settings)[0]
    loss = contrastive.loss_of(settings)
    with contrastive.dropout(model, settings):
        assert model.train().base_model.layers[0].self_attn.attention_dropout == 0.2
        trained = [loss(model, micro)[0].item() for _ in range(2)]
        rested = [loss(model.eval(), micro)[0].item() for _ in range(2)]
    assert trained[0] != trained[1]
    assert rested[0] == rested[1]
    assert model.base_model.layers[0].self_attn.attention_dropout == 0


def test_titles_of_a_batch_are_distinct(tiny):
    batches = contrastive.Batches([*TITLES, *TITLES], tiny[1], Contrastive(batch_size=100, views="dropout"))
    assert len(batches.tokens) == len(set(TITLES))
    (micro,) = batches[0]
    assert sum(len(chunk["input_ids"]) for chunk in micro["chunks"]) == 2 * len(set(TITLES)) == len(micro["place"])


@pytest.mark.parametrize("batch_tokens", [1, 60, 16384])
def test_the_loss_is_info_nce_of_the_two_views_however_they_are_read(tiny, batch_tokens):
    model, tokenizer = tiny
    backbone.bidirectional(model)
    settings = Contrastive(batch_size=6, batch_tokens=batch_tokens)
    batches = contrastive.Batches(TITLES, tokenizer, settings)
    rng = np.random.default_rng([settings.seed, 2, 0])
    chosen = [batches.tokens[i] for i in drawn(len(TITLES), 6, settings.seed, 0)]
    views = [contrastive.view(t, batches.mask_id, settings, rng) for _ in range(2) for t in chosen]
    alone = torch.cat([model.base_model(input_ids=torch.tensor(v[None])).last_hidden_state.mean(1) for v in views])
    expected = contrastive.info_nce(alone[:6], alone[6:], settings.temperature)
    found, count = contrastive.loss_of(settings)(model, batches[0][0])
    assert count == 6
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_title_has_no_negative(tiny):
    with pytest.raises(ValueError, match="two distinct titles"):
        contrastive.Batches(["same", "same"], tiny[1], Contrastive())
