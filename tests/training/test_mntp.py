"""MNTP: which tokens are hidden, and that the loss is transformers' dense one with masked labels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import make_corpus
from transformers import DataCollatorForLanguageModeling

from llm2rec_kit import pipeline
from llm2rec_kit.fitting import distributed
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import MNTP, Backbone, SettingsError
from llm2rec_kit.training import mntp

TITLES = make_corpus().titles


def test_loss_equals_the_dense_loss_with_masked_labels(tiny):
    model, tokenizer = tiny
    backbone.lift_causal_mask(model)
    batches = mntp.Batches(TITLES, tokenizer, model.config.vocab_size, MNTP(rate=0.4, batch_size=16))
    (micro,) = batches[0]
    labels = torch.full_like(micro["input_ids"], -100)
    labels.view(-1)[micro["sources"] + 1] = micro["labels"]  # the label stands one after the position that predicts it
    dense = model(input_ids=micro["input_ids"], attention_mask=micro["attention_mask"], labels=labels).loss
    total, count = mntp.compute_loss(model, micro)
    assert count > 10
    assert (total / count).item() == pytest.approx(dense.item(), abs=1e-6)


@pytest.mark.parametrize("how", ["80_10_10", "mask"])
def test_loss_equals_transformers_own_collator_and_dense_loss(tiny, how):
    """DataCollatorForLanguageModeling's masks, `model(labels=...)`'s dense logits: the same as the gathered ones."""
    model, tokenizer = tiny
    settings = MNTP(rate=0.3, replacement=how, mask_token="new")
    mntp.prepare(model, tokenizer, settings)
    more = {} if how == "80_10_10" else {"mask_replace_prob": 1.0, "random_replace_prob": 0.0}
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.3, seed=1, **more)
    given = collate([tokenizer(t, add_special_tokens=False) for t in TITLES])
    with torch.no_grad():
        dense = model(**given).loss
    # A label stands where its token does; the state before it predicts it, and the first token has none before it.
    rows, places = torch.nonzero(given["labels"][:, 1:] != -100, as_tuple=True)
    micro = {
        "input_ids": given["input_ids"],
        "attention_mask": given["attention_mask"],
        "sources": rows * given["input_ids"].shape[1] + places,
        "labels": given["labels"][rows, places + 1],
    }
    with torch.no_grad():
        total, count = mntp.compute_loss(model, micro)
    assert count > 20
    assert (total / count).item() == pytest.approx(dense.item(), abs=1e-6)


def test_masks_are_drawn_as_the_collator_draws_them(tiny):
    """Shares of hidden, replaced, random and kept tokens, ours and transformers', over 40,000 tokens."""
    model, tokenizer = tiny
    settings = MNTP(mask_token="new")
    mntp.prepare(model, tokenizer, settings)
    ids = np.full(400, 7)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.2, seed=1)
    theirs = collate([{"input_ids": ids.tolist()} for _ in range(100)])
    rng = np.random.default_rng(0)
    ours = [mntp.mask_tokens(ids, tokenizer.mask_token_id, len(tokenizer), settings, rng) for _ in range(100)]
    seen, hidden = (np.stack(x) for x in zip(*ours, strict=True))

    def shares(seen, hidden):
        masked, kept = (seen[hidden] == tokenizer.mask_token_id).mean(), (seen[hidden] == 7).mean()
        return [hidden.mean(), masked, kept]

    expected = shares(theirs["input_ids"].numpy(), (theirs["labels"] != -100).numpy())
    assert shares(seen, hidden) == pytest.approx(expected, abs=0.015)
    assert seen.max() < len(tokenizer)


@pytest.mark.parametrize("kind", ["blank", "eos", "new"])
def test_the_mask_token_is_what_the_settings_say(tiny, kind):
    model, tokenizer = tiny
    settings = MNTP(mask_token=kind, replacement="mask", rate=0.99, batch_size=4)
    mntp.prepare(model, tokenizer, settings)
    assert backbone.is_bidirectional(model)
    expected = {"blank": tokenizer.encode("_")[0], "eos": tokenizer.eos_token_id, "new": len(tokenizer) - 1}[kind]
    (micro,) = mntp.Batches(TITLES, tokenizer, len(tokenizer), settings)[0]
    places = micro["sources"] + 1
    assert (micro["input_ids"].flatten()[places] == expected).all()
    assert (micro["labels"] != expected).all()


def test_rows_are_padded_on_the_right_and_predicted_from_the_position_before(tiny):
    _, tokenizer = tiny
    settings = MNTP(rate=0.5, batch_size=8)
    (micro,) = mntp.Batches(TITLES, tokenizer, len(tokenizer), settings)[0]
    mask = micro["attention_mask"]
    assert (mask.diff(dim=1) <= 0).all()
    assert (mask[:, 0] == 1).all()
    places = micro["sources"] + 1
    assert mask.flatten()[places].all()
    assert (places % mask.shape[1] > 0).all()
    # The first token has none before it: it may be hidden, as by transformers' collator, and is not predicted.
    known = {tuple(tokenizer.encode(t)[1:]) for t in TITLES}
    whole = micro["input_ids"].flatten().clone()
    whole[places] = micro["labels"]
    rows = whole.view(mask.shape)
    assert {tuple(r[m.bool()].tolist()[1:]) for r, m in zip(rows, mask, strict=True)} <= known


def test_validation_by_hand(tiny):
    model, tokenizer = tiny
    backbone.lift_causal_mask(model)
    batches = mntp.Batches(TITLES, tokenizer, len(tokenizer), MNTP(rate=0.4, batch_tokens=60))
    found = mntp.validate(model, batches)
    total, right, count = 0.0, 0, 0
    for micro in batches.micro_batches(np.arange(len(TITLES)), np.random.default_rng(42)):
        with torch.no_grad():
            logits = model(input_ids=micro["input_ids"], attention_mask=micro.get("attention_mask")).logits
        log_p = logits.flatten(0, 1)[micro["sources"]].log_softmax(-1)
        total -= log_p[torch.arange(len(log_p)), micro["labels"]].sum().item()
        right += (log_p.argmax(-1) == micro["labels"]).sum().item()
        count += len(log_p)
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["accuracy"] == right / count
    assert found["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    assert found == mntp.validate(model, batches)


def name_an_image(tokenizer) -> None:
    """Give the tokenizer a named token of another kind of input that the model has no row for, as Gemma 3's has."""
    tokenizer._set_model_specific_special_tokens({"image_token": "<image>"})
    tokenizer.add_tokens(["<image>"], special_tokens=True)


def test_no_replacement_is_a_token_that_the_model_has_no_row_for(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    rows, seen = backbone.token_rows(model), []
    assert mntp.count_tokens(model, tokenizer) == len(tokenizer)  # where all have one, as ever
    name_an_image(tokenizer)
    assert len(tokenizer) == rows + 1
    monkeypatch.setattr(mntp, "fit", lambda name, model, batches, *how, validate, **more: seen.append((batches, validate)))
    mntp.train(TITLES, model, tokenizer, MNTP(held_out=0.5), tmp_path)
    ((batches, validate),) = seen
    assert batches.vocabulary == validate.keywords["batches"].vocabulary == rows


def test_a_sharded_training_without_validation_is_saved_whole(tiny, tmp_path, monkeypatch):
    """The history ends before the last step where nothing is validated, and the tokenizer names more than there are rows."""
    model, tokenizer = tiny
    name_an_image(tokenizer)
    run = Run("r", tmp_path)
    corpus = make_corpus()
    corpus.facts["domains_in"] = ["toy"]
    run.make("corpus", lambda folder: corpus.save(folder), settings={}, quiet=True)
    run.make("csft", lambda folder: backbone.save(model, tokenizer, folder), settings={}, quiet=True)
    monkeypatch.setattr(distributed, "is_sharded", lambda: True)
    settings = MNTP(steps=101, batch_size=2, held_out=0.0, learning_rate=1e-2, save_every=1000)
    folder = pipeline.train_stage(run, settings, Backbone(device="cpu")).make(run)
    saved, _ = backbone.load(folder, Backbone(device="cpu"))
    assert backbone.token_rows(saved) == backbone.token_rows(model)
    assert not torch.equal(saved.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [True, False])
def test_with_adapters_a_new_mask_token_is_learned_and_nothing_else_of_the_table(tiny, tmp_path, tied):
    model, tokenizer = tiny
    if not tied:
        model = type(model)(type(model.config)(**model.config.to_dict() | {"tie_word_embeddings": False}))
    start, tokens = copy.deepcopy(model), copy.deepcopy(tokenizer)
    settings = MNTP(steps=4, batch_size=8, learning_rate=1e-2, mask_token="new", tuning="lora", save_every=2, held_out=0.25)
    mntp.train(TITLES, model, tokenizer, settings, tmp_path)
    untrained = copy.deepcopy(start)
    mntp.prepare(untrained, copy.deepcopy(tokens), settings)
    changed = (model.get_input_embeddings().weight != untrained.get_input_embeddings().weight).any(1).nonzero()
    assert changed.flatten().tolist() == [tokenizer.mask_token_id]
    assert model.state_dict().keys() == untrained.state_dict().keys()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    backbone.save(model, tokenizer, tmp_path / "stage")
    again, _ = backbone.load(tmp_path / "stage", Backbone(device="cpu"))
    mntp.train(TITLES, start, tokens, settings, tmp_path)  # over already: read from its last checkpoint
    for one in (again, start):
        assert all(torch.equal(weight, one.state_dict()[name]) for name, weight in model.state_dict().items())


def test_training_learns_the_titles_and_the_new_token_is_saved_with_it(tiny, tmp_path):
    model, tokenizer = tiny
    settings = MNTP(steps=20, batch_size=8, learning_rate=3e-3, mask_token="new", held_out=0.25)
    history = mntp.train(TITLES, model, tokenizer, settings, tmp_path)
    seen = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert seen[-1] < seen[0]
    assert {"validation_accuracy", "validation_perplexity"} <= {k for row in history for k in row}
    assert backbone.measure_leak(model, padded=True) > 0
    backbone.save(model, tokenizer, tmp_path / "stage")
    again, tokens = backbone.load(tmp_path / "stage", Backbone(device="cpu"))
    assert tokens.mask_token_id == tokenizer.mask_token_id == len(tokens) - 1
    assert backbone.is_bidirectional(again)
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert tokens(TITLES)["input_ids"] == tokenizer(TITLES)["input_ids"]


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


def test_titles_of_one_token_are_refused_before_the_model_is_touched(tiny, tmp_path):
    """They would give a perplexity of 1.0: with no token to predict the mean loss is 0."""
    model, tokenizer = tiny
    mntp.check_titles(["a", "a b"], tokenizer)
    with pytest.raises(SettingsError, match="Every title of the training domains is one token"):
        mntp.train(["a", "b"], model, tokenizer, MNTP(), tmp_path)
    assert not backbone.is_bidirectional(model)


def test_masks_that_are_shown_are_those_that_training_draws(tiny):
    _, tokenizer = tiny
    batches = mntp.Batches(TITLES, tokenizer, len(tokenizer), MNTP(rate=0.5, replacement="mask"))
    found = mntp.show_masks(batches, tokenizer, 5, seed=4)
    assert found["title"].to_list() == TITLES[:5]
    rng = np.random.default_rng(4)
    for ids, row in zip(batches.tokens, found.to_dicts(), strict=False):
        seen, hidden = mntp.mask_tokens(ids, batches.mask_id, len(tokenizer), batches.settings, rng)
        assert row["what the model sees"] == tokenizer.decode(seen)
        assert row["what the model sees"].count("_") == hidden.sum()
        assert "".join(row["to predict"].split(" | ")) == tokenizer.decode(ids[hidden])


def test_gaps_are_filled_as_training_predicts_them(tiny):
    """The likeliest token of a gap is the label that the loss of training finds likeliest."""
    model, tokenizer = tiny
    settings = MNTP(replacement="mask")
    mntp.prepare(model, tokenizer, settings)
    gaps = mntp.draw_gaps(["x", *TITLES], tokenizer, 6, seed=3)
    assert [title for title, _ in gaps] == TITLES[:6]  # one token alone leaves nothing to read a filling from
    assert gaps == mntp.draw_gaps(TITLES, tokenizer, 6, seed=3)
    found = mntp.fill_gaps(model, tokenizer, gaps, settings, most=2)
    for (title, place), row in zip(gaps, found.to_dicts(), strict=True):
        ids = np.array(tokenizer(title)["input_ids"])
        assert 0 < place < len(ids)
        assert row["truth"] == tokenizer.decode(ids[place])
        seen = np.where(np.arange(len(ids)) == place, backbone.mask_token_id(tokenizer, "blank"), ids)
        assert row["seen"] == tokenizer.decode(seen)
        micro = {"input_ids": torch.tensor(seen[None]), "sources": torch.tensor([place - 1])}
        with torch.no_grad():
            likeliest = [tokenizer.decode(token) for token in mntp._logits(model, micro)[0].topk(2).indices]
        assert row["fillings"] == " | ".join(likeliest)
        assert row["found"] == (likeliest[0] == row["truth"])
    assert mntp.fill_gaps(model, tokenizer, [], settings).columns == found.columns
