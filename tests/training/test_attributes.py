"""LLMEmb's views: what of an item is read, what a view leaves out, and who repels whom."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from llm2rec_kit.models import backbone
from llm2rec_kit.settings import Contrastive, SettingsError
from llm2rec_kit.training import llmemb

ITEMS = pl.DataFrame(
    {
        "item": [1, 2, 3, 4],
        "source_id": ["a", "b", "c", "d"],
        "title": ["Chess", "Go", "Chess", "Darts"],
        "domain": "games",
        "category": ["Board", "Board", "Board", None],
        "brand": ["Oak", "", "Oak", "  "],
    }
)


def test_an_item_is_its_text_columns_without_empty_values():
    assert llmemb.columns(ITEMS) == ["title", "category", "brand"]
    found = llmemb.list_attributes(ITEMS)
    assert found[0] == ("games", ["title is Chess", "category is Board", "brand is Oak"])
    assert found[1] == ("games", ["title is Go", "category is Board"])
    assert found[3] == ("games", ["title is Darts"])


def test_whole_numbers_are_written_without_a_point():
    items = ITEMS.with_columns(year=pl.Series([2001.0, float("nan"), 1999.0, None]), price=pl.Series([0.5, 2.0, None, 1.25]))
    found = llmemb.list_attributes(items)
    assert found[0][1][-2:] == ["year is 2001", "price is 0.5"]
    assert found[1][1][-1] == "price is 2"
    assert found[2][1][-1] == "year is 1999"


def test_of_a_templated_text_the_plain_title_counts():
    items = ITEMS.with_columns(plain_title=pl.col("title"), title=pl.lit("Chess. Oak"))
    assert llmemb.list_attributes(items)[0][1][0] == "title is Chess"


def test_titles_alone_are_no_attributes():
    bare = ITEMS.drop("category", "brand")
    assert llmemb.columns(bare) == []
    with pytest.raises(ValueError, match="no attributes besides their titles"):
        llmemb.list_attributes(bare)


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(1, 0.9, 1), (2, 0.4, 1), (2, 0.99, 1), (3, 0.4, 2), (5, 0.4, 3), (5, 1.0, 1)]
)
def test_a_view_leaves_out_a_share_of_the_attributes(count, share, kept):
    """int(count * share), one at least of two or more, and one stays."""
    item = ("games", [f"{k} is {k}" for k in range(count)])
    views = [llmemb.make_view(item, share, np.random.default_rng(seed)) for seed in range(60)]
    assert {len(v[1]) for v in views} == {kept}
    assert all(set(v[1]) <= set(item[1]) and len(set(v[1])) == kept for v in views)
    assert {tuple(v[1]) for v in views} > {tuple(views[0][1])} or count == 1  # order and choice are drawn
    assert all(v[0] == "games" for v in views)


def test_items_of_one_text_are_taken_once_and_equal_views_do_not_repel(tiny):
    _, tokenizer = tiny
    settings = Contrastive(batch_size=3, mask_rate=0.4, steps=1)
    batches = llmemb.Batches(llmemb.list_attributes(ITEMS), tokenizer, settings)
    assert [item[1][0] for item in batches.items] == ["title is Chess", "title is Go", "title is Darts"]
    for seed in range(20):
        tokens, same = batches.views(np.array([0, 1, 2]), np.random.default_rng(seed))
        for views, numbers in zip((tokens[:3], tokens[3:]), same, strict=True):
            texts = np.array([tokenizer.decode(t) for t in views])
            assert ((numbers[:, None] == numbers) == (texts[:, None] == texts)).all()


def test_training_keeps_the_causal_mask_and_brings_views_together(tiny, tmp_path):
    model, tokenizer = tiny
    items = llmemb.list_attributes(pl.concat([ITEMS.with_columns(title=pl.col("title") + f" {k}") for k in range(8)]))
    settings = Contrastive(steps=4, batch_size=8, warmup_steps=0, learning_rate=1e-3, mask_rate=0.4, symmetric=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    history = llmemb.train(items, model, tokenizer, settings, tmp_path)
    assert not backbone.is_bidirectional(model)
    assert backbone.measure_leak(model) == 0
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())
    losses = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert losses[-1] < losses[0]


def test_other_views_are_refused(tiny, tmp_path):
    with pytest.raises(SettingsError, match="found 'dropout'"):
        llmemb.train(llmemb.list_attributes(ITEMS), *tiny, Contrastive(views="dropout"), tmp_path)


def test_views_are_shown_beside_their_items():
    found = llmemb.show_views(ITEMS, 0.4, count=3)
    assert found["item"].to_list() == [llmemb.make_prompt(item).split("\n")[1] for item in llmemb.list_attributes(ITEMS)[:3]]
    for row in found.iter_rows(named=True):
        whole, *views = (set(row[column].split("; ")) for column in ("item", "view 1", "view 2"))
        assert all(view < whole and len(view) == len(whole) - 1 for view in views)
    assert not found.equals(llmemb.show_views(ITEMS, 0.4, count=3, seed=1))
