"""Item contrast: the loss by hand and against sentence-transformers, the views, the measures."""

from __future__ import annotations

import dataclasses
import math

import backbone_families
import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm2rec_kit.models import backbone, kernels
from llm2rec_kit.settings import Contrastive, SettingsError
from llm2rec_kit.training import contrastive, llmemb
from llm2rec_kit.training.titles import draw_rows

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
    views = [contrastive.make_view(ids, 3, Contrastive(mask_rate=0.95), rng) for _ in range(200)]
    assert all((v != 3).any() for v in views)
    assert all(np.isin(v, [3, *ids]).all() for v in views)
    assert (contrastive.make_view(ids, 3, Contrastive(views="dropout"), rng) == ids).all()


def test_dropout_views_differ_in_training_only_and_dropout_is_put_back(tiny):
    model, tokenizer = tiny
    backbone.lift_causal_mask(model)
    settings = Contrastive(views="dropout", batch_size=4)
    (micro,) = contrastive.Batches(TITLES, tokenizer, settings)[0]
    loss = contrastive.make_loss(settings)
    with contrastive.use_dropout(model, settings):
        assert model.train().base_model.layers[0].self_attn.attention_dropout == 0.2
        trained = [loss(model, micro)[0].item() for _ in range(2)]
        rested = [loss(model.eval(), micro)[0].item() for _ in range(2)]
    assert trained[0] != trained[1]
    assert rested[0] == rested[1]
    assert model.base_model.layers[0].self_attn.attention_dropout == 0


OTHER_PLACES = ["bloom", "persimmon", "gpt2", "gpt_bigcode", "opt", "biogpt", "xglm", "gpt_neox_japanese"]


def without_dropout(family):
    """A small model of the family in training mode, all of its own dropouts at 0."""
    model = backbone_families.build(family).train()
    for holder in (model.config, *model.modules()):
        for name, value in vars(holder).items():
            if ("drop" in name or name == "p") and isinstance(value, float):
                setattr(holder, name, 0.0)
    return model


def rates(model):
    """All that a dropout's rate can stand in."""
    holders = (model.config, *model.modules())
    return [vars(h)[name] for h in holders for name in sorted(vars(h)) if "drop" in name or name == "p"]


def differ(model):
    """Whether two passes over one text do."""
    ids = torch.arange(3, 15)[None]
    return not torch.equal(*(backbone.last_states(model, ids, None) for _ in range(2)))


@pytest.mark.parametrize("family", OTHER_PLACES)
def test_attention_dropout_is_found_wherever_a_family_keeps_it(family):
    model = without_dropout(family)
    before = rates(model)
    contrastive.check_dropout(model, Contrastive(views="both"))
    assert model.training
    with contrastive.use_dropout(model, Contrastive(views="dropout", dropout=0.5)):
        assert differ(model)
        assert not differ(model.eval())
        with contrastive.use_dropout(model.train(), Contrastive()):
            assert not differ(model)
    assert rates(model) == before


@pytest.mark.parametrize("family", ["ctrl", "falcon"])
def test_dropout_views_of_a_model_without_attention_dropout_are_refused(family, tmp_path):
    """CTRL has none in its code; Falcon's code leaves it out where positions are rotary, whatever the config says."""
    model = backbone_families.build(family)
    contrastive.check_dropout(model, Contrastive())
    batches = contrastive.Batches.__new__(contrastive.Batches)  # nothing of them is asked for
    with pytest.raises(SettingsError, match=f"family {family} has none.*contrastive_views mask"):
        contrastive.run(batches, model, Contrastive(views="dropout", max_tokens=8), tmp_path)
    assert not model.training


def test_a_mask_token_is_asked_for_only_where_views_hide_tokens(tiny, monkeypatch):
    """And then before MNTP, unless MNTP makes it."""
    model, tokenizer = tiny

    def refuse(tokenizer, kind):
        raise backbone.BackboneError("This tokenizer writes '_' as 2 tokens.")

    monkeypatch.setattr(backbone, "mask_token_id", refuse)
    contrastive.check_views(model, tokenizer, Contrastive(mask_token="new"))
    dropout = Contrastive(views="dropout", batch_size=4)
    contrastive.check_views(model, tokenizer, dropout)
    batches = contrastive.Batches(TITLES, tokenizer, dropout)
    assert batches[0][0]["count"] == 4
    assert len(contrastive.show_views(batches, tokenizer, 2, seed=0)) == 2
    items = [("games", [f"title is {title}", "category is Board"]) for title in TITLES]
    assert llmemb.Batches(items, tokenizer, Contrastive(batch_size=4))[0][0]["count"] == 4
    for settings in (Contrastive(), Contrastive(views="both")):
        with pytest.raises(backbone.BackboneError, match="as 2 tokens"):
            contrastive.check_views(model, tokenizer, settings)
        with pytest.raises(backbone.BackboneError, match="as 2 tokens"):
            contrastive.Batches(TITLES, tokenizer, settings)


def test_titles_of_a_batch_are_distinct(tiny):
    batches = contrastive.Batches([*TITLES, *TITLES], tiny[1], Contrastive(batch_size=100, views="dropout"))
    assert len(batches.tokens) == len(set(TITLES))
    (micro,) = batches[0]
    assert sum(len(chunk["input_ids"]) for chunk in micro["chunks"]) == 2 * len(set(TITLES)) == len(micro["place"])


def test_titles_cut_to_the_same_tokens_are_taken_once(tiny):
    first = TITLES[0]
    batches = contrastive.Batches([first, f"{first} again", TITLES[1]], tiny[1], Contrastive(max_tokens=3))
    assert len(batches.tokens) == 2


def test_a_title_does_not_repel_itself_whatever_its_case_and_spacing():
    """Rows 0 and 2 are one title: by hand, neither is in the other's denominator."""
    torch.manual_seed(0)
    first, second = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    same = torch.from_numpy(contrastive.number_titles(["Iron Vale", "Moss", " iron  VALE"]))
    unit = torch.nn.functional.normalize
    scores = (unit(first) @ unit(second).T / 0.2).exp()
    rows = [
        -(scores[0, 0] / (scores[0, 0] + scores[0, 1])).log(),
        -(scores[1, 1] / scores[1].sum()).log(),
        -(scores[2, 2] / (scores[2, 2] + scores[2, 1])).log(),
    ]
    columns = [
        -(scores[0, 0] / (scores[0, 0] + scores[1, 0])).log(),
        -(scores[1, 1] / scores[:, 1].sum()).log(),
        -(scores[2, 2] / (scores[2, 2] + scores[1, 2])).log(),
    ]
    assert contrastive.info_nce(first, second, 0.2, same=same).item() == pytest.approx(sum(rows).item(), abs=1e-12)
    both = contrastive.info_nce(first, second, 0.2, symmetric=True, same=same).item()
    assert both == pytest.approx(sum(rows + columns).item() / 2, abs=1e-12)


def test_one_title_alone_costs_nothing_and_gives_no_gradient():
    first = torch.randn(2, 4, requires_grad=True)
    value = contrastive.info_nce(first, torch.randn(2, 4), 0.2, same=torch.tensor([7, 7]))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert first.grad.abs().max() < 1e-6


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=8), st.booleans(), st.booleans())
def test_a_repeated_title_leaves_the_loss_of_the_others_denominators(keys, symmetric, of_views):
    """Against a slow loop over rows, for any pattern of repeats of titles, or of first views and of second ones."""
    torch.manual_seed(len(keys))
    first, second = torch.randn(len(keys), 4).double(), torch.randn(len(keys), 4).double()
    scores = torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T / 0.1
    expected, firsts, seconds = 0.0, [a for a, _ in keys], [b if of_views else a for a, b in keys]
    for table, numbers in ((scores, seconds), (scores.T, firsts)) if symmetric else ((scores, seconds),):
        for i in range(len(keys)):
            kept = [j for j in range(len(keys)) if j == i or numbers[j] != numbers[i]]
            expected += (torch.logsumexp(table[i, kept], 0) - table[i, i]).item() / (2 if symmetric else 1)
    found = contrastive.info_nce(first, second, 0.1, symmetric, torch.tensor([firsts, seconds] if of_views else firsts))
    assert found.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("batch_tokens", [1, 60, 16384])
def test_the_loss_is_info_nce_of_the_two_views_however_they_are_read(tiny, batch_tokens):
    model, tokenizer = tiny
    backbone.lift_causal_mask(model)
    settings = Contrastive(batch_size=6, batch_tokens=batch_tokens)
    batches = contrastive.Batches(TITLES, tokenizer, settings)
    rng = np.random.default_rng([settings.seed, 2, 0])
    chosen = [batches.tokens[i] for i in draw_rows(len(TITLES), 6, settings.seed, 0)]
    views = [contrastive.make_view(t, batches.mask_id, settings, rng) for _ in range(2) for t in chosen]
    alone = torch.cat([model.base_model(input_ids=torch.tensor(v[None])).last_hidden_state.mean(1) for v in views])
    expected = contrastive.info_nce(alone[:6], alone[6:], settings.temperature)
    found, count = contrastive.make_loss(settings)(model, batches[0][0])
    assert count == 6
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def gradients(model, micro, settings):
    torch.manual_seed(3)
    value, count = contrastive.make_loss(settings)(model, micro)
    (value / count).backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return value.item(), found


@pytest.mark.parametrize("views", ["mask", "dropout", "both"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_cached_gradient_is_that_of_the_plain_large_batch(tiny, views, symmetric):
    """Chunk by chunk with dropout on, against one graph over all chunks: the same random state gives the same views."""
    model, tokenizer = tiny
    backbone.lift_causal_mask(model).train()
    plain = Contrastive(views=views, batch_size=16, batch_tokens=64, symmetric=symmetric)
    cached = dataclasses.replace(plain, gradient_cache=True)
    (micro,) = contrastive.Batches(TITLES, tokenizer, plain)[0]
    assert len(micro["chunks"]) > 3
    with contrastive.use_dropout(model, plain), kernels.use_fast_linears(model):
        value, expected = gradients(model, micro, plain)
        cached_value, found = gradients(model, micro, cached)
    assert cached_value == pytest.approx(value, rel=1e-6)
    assert max(g.abs().max() for g in expected) > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_cached_gradient_without_dropout_is_that_of_one_undivided_batch(tiny):
    model, tokenizer = tiny
    backbone.lift_causal_mask(model).train()
    whole = Contrastive(batch_size=16)
    cut = dataclasses.replace(whole, gradient_cache=True, batch_tokens=40)
    (one,), (many,) = (contrastive.Batches(TITLES, tokenizer, s)[0] for s in (whole, cut))
    assert len(one["chunks"]) == 1 < len(many["chunks"])
    _, expected = gradients(model, one, whole)
    _, found = gradients(model, many, cut)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_cache_keeps_one_chunk_s_activations(tiny):
    """What autograd holds between forward and backward: nothing of the layers, where the plain way holds all of it."""
    model, tokenizer = tiny
    held = {}
    for cache in (False, True):
        settings = Contrastive(batch_size=16, batch_tokens=64, gradient_cache=cache)
        (micro,) = contrastive.Batches(TITLES, tokenizer, settings)[0]
        kept: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(t, kept=kept, own=own):
            if t.untyped_storage().data_ptr() not in own:
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            contrastive.make_loss(settings)(model.train(), micro)
        held[cache] = sum(kept.values())
    assert held[True] < 0.1 * held[False]


def test_training_tells_where_it_began_and_what_became_of_the_space(tiny, tmp_path):
    model, tokenizer = tiny
    settings = Contrastive(steps=20, batch_size=8, learning_rate=1e-3, warmup_steps=0, views="both")
    history = contrastive.train(TITLES, model, tokenizer, settings, tmp_path)
    assert history[0]["step"] == 0
    names = {"validation_alignment", "validation_uniformity", "validation_effective_rank"}
    probed = [row for row in history if names <= row.keys()]
    assert [row["step"] for row in probed] == [0, *range(2, 21, 2)]
    assert probed[-1]["validation_uniformity"] < probed[0]["validation_uniformity"]
    assert model.base_model.layers[0].self_attn.attention_dropout == 0


def test_the_probe_repeats_and_leaves_training_as_it_was(tiny):
    model, tokenizer = tiny
    settings = Contrastive(views="dropout")
    batches = contrastive.Batches(TITLES, tokenizer, settings)
    with contrastive.use_dropout(backbone.lift_causal_mask(model).train(), settings):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        first = contrastive.probe(model, batches)
        assert torch.rand(1) == expected
        assert first == contrastive.probe(model, batches)
    assert model.training
    assert first["alignment"] > 0
    assert 1 < first["effective_rank"] <= len(TITLES)


def test_one_title_has_no_negative(tiny):
    with pytest.raises(ValueError, match="two distinct titles"):
        contrastive.Batches(["same", "same"], tiny[1], Contrastive())


def test_views_that_are_shown_are_those_that_training_makes(tiny):
    _, tokenizer = tiny
    masked = contrastive.Batches(TITLES, tokenizer, Contrastive(mask_rate=0.5))
    found = contrastive.show_views(masked, tokenizer, 4, seed=1)
    rng = np.random.default_rng(1)
    for ids, row in zip(masked.tokens, found.to_dicts(), strict=False):
        views = [tokenizer.decode(contrastive.make_view(ids, masked.mask_id, masked.settings, rng)) for _ in range(2)]
        assert [row["first view"], row["second view"]] == views
        assert row["title"] == tokenizer.decode(ids)
    assert (found["first view"] != found["second view"]).any()
    same = contrastive.show_views(contrastive.Batches(TITLES, tokenizer, Contrastive(views="dropout")), tokenizer, 4, seed=1)
    assert same["first view"].to_list() == same["second view"].to_list() == same["title"].to_list()
