"""What a model writes next: beam search is the library's, the matching and the shares are ours."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from conftest import make_corpus
from families import FAMILIES, HYBRIDS, write
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel

from llm2rec_kit.models import backbone
from llm2rec_kit.settings import CSFT, Backbone
from llm2rec_kit.training import csft, generation
from llm2rec_kit.training.samples import prepare


@pytest.fixture(scope="module")
def learned():
    """A model that has learned one sequence by heart."""
    corpus = make_corpus(users=1, items=6, longest=8, seed=2)
    model, tokenizer = backbone.make_tiny(
        corpus.titles, Backbone(hidden=48, layers=2, heads=2, vocabulary=400, device="cpu", dtype="float32")
    )
    prepared = prepare(corpus, corpus.targets, tokenizer, CSFT())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    micro = csft.collate(prepared, np.arange(len(prepared.counts)), tokenizer.pad_token_id)
    for _ in range(120):
        optimizer.zero_grad()
        value, n = csft.compute_loss(model.train(), micro)
        (value / n).backward()
        optimizer.step()
    return corpus, model.eval(), tokenizer, prepared


def test_a_model_that_knows_the_sequence_writes_it(learned):
    corpus, model, tokenizer, prepared = learned
    every = np.arange(len(prepared))[::-1]
    written = generation.generate_titles(model, tokenizer, corpus, prepared, every, CSFT(), beams=3)
    assert written["sample"].to_list() == np.repeat(every, 3).tolist()
    assert written["rank"].to_list() == [1, 2, 3] * len(every)
    first = written.filter(rank=1)
    came = corpus.sequence[prepared.target[every]]
    titles = np.array(corpus.titles)
    assert first["next"].mean() > 0.8
    right = first["next"].to_numpy()
    assert titles[first["item"].to_numpy()[right] - 1].tolist() == titles[came[right] - 1].tolist()
    assert (first["written"].to_numpy()[right] == titles[came[right] - 1]).all()
    scores = written["score"].to_numpy().reshape(-1, 3)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert ((written["item"] == 0) == ~written["written"].is_in(corpus.titles)).all()


@torch.no_grad()
def test_one_beam_is_the_likeliest_token_each_time_whatever_the_batch(learned):
    corpus, model, tokenizer, prepared = learned
    every = np.arange(len(prepared))
    written = generation.generate_titles(model, tokenizer, corpus, prepared, every, CSFT(), beams=1)
    for s, text in zip(every, written["written"], strict=True):
        ids = prepared.alone(s)[0].tolist()
        for _ in range(int(prepared.answers.lengths.max())):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        new = tokenizer.decode(ids[len(prepared.alone(s)[0]) :])
        assert text == new.split("\n")[0].split(tokenizer.eos_token)[0].strip()


@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS])
def test_beams_that_share_what_they_read_write_what_they_write_alone(family, tmp_path, monkeypatch):
    corpus = make_corpus()
    model = AutoModelForCausalLM.from_pretrained(write(family, tmp_path / "model"))
    tokenizer = backbone.train_tokenizer(corpus.titles, 400)
    prepared = prepare(corpus, corpus.targets, tokenizer, CSFT())
    asked = (model, tokenizer, corpus, prepared, np.arange(12), CSFT())
    calls, read_once = [], generation._read_once
    monkeypatch.setattr(generation, "_read_once", lambda *given: calls.append(read_once(*given)) or calls[-1])
    shared = generation.generate_titles(*asked, beams=4)
    assert [bool(call) for call in calls] == [family not in HYBRIDS] * len(calls)  # states of convolutions are not copied
    monkeypatch.setattr(generation, "_read_once", lambda *given: {})
    alone = generation.generate_titles(*asked, beams=4)
    assert shared.drop("score").equals(alone.drop("score"))
    assert shared["score"].to_list() == pytest.approx(alone["score"].to_list(), rel=1e-5)


def test_what_the_model_s_own_generation_config_asks_for_changes_nothing(learned):
    corpus, model, tokenizer, prepared = learned
    asked = (model, tokenizer, corpus, prepared, np.arange(4), CSFT())
    plain, own = generation.generate_titles(*asked, beams=3), model.generation_config
    model.generation_config = GenerationConfig(repetition_penalty=1.5, no_repeat_ngram_size=2, length_penalty=-2.0)
    try:
        assert generation.generate_titles(*asked, beams=3).equals(plain)
        assert model.generation_config.repetition_penalty == 1.5
    finally:
        model.generation_config = own


def test_histories_and_titles_fit_a_table_of_positions():
    corpus = make_corpus()
    tokenizer = backbone.train_tokenizer(corpus.titles, 400)
    prepared = prepare(corpus, corpus.targets, tokenizer, CSFT(max_tokens=40))
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=40, n_embd=16, n_layer=1, n_head=2)
    longest = int(prepared.longest)
    assert sum(map(len, prepared.alone(longest))) == 40
    torch.manual_seed(0)
    found = generation.generate_titles(
        GPT2LMHeadModel(config), tokenizer, corpus, prepared, np.array([longest]), CSFT(), beams=2
    )
    assert found.height == 2


def test_shares_count_histories():
    written = pl.DataFrame(
        {
            "sample": [7, 7, 3, 3, 5, 5],
            "rank": [1, 2] * 3,
            "item": [4, 0, 0, 9, 0, 0],
            "next": [True, False, False, False, False, False],
        }
    )
    assert generation.measure_shares(written) == pytest.approx(
        {"first_real": 1 / 3, "any_real": 2 / 3, "next_first": 1 / 3, "next_any": 1 / 3}
    )


def test_no_history_is_no_title(learned):
    corpus, model, tokenizer, prepared = learned
    written = generation.generate_titles(model, tokenizer, corpus, prepared, np.array([], dtype=int), CSFT())
    assert written.is_empty()
    assert generation.measure_shares(written) == dict.fromkeys(("first_real", "any_real", "next_first", "next_any"), 0.0)


def test_what_two_models_write_is_told_beside_what_came(learned):
    corpus, model, tokenizer, prepared = learned
    untrained, _ = backbone.make_tiny(
        corpus.titles, Backbone(hidden=48, layers=2, heads=2, vocabulary=400, device="cpu", dtype="float32")
    )
    written = generation.ask({"before": untrained, "after": model}, tokenizer, corpus, prepared, CSFT(), beams=3)
    every = np.arange(len(prepared))
    alone = generation.generate_titles(model, tokenizer, corpus, prepared, every, CSFT(), beams=3)
    assert list(written) == ["before", "after"]
    assert written["after"].equals(alone)
    told = generation.as_text(written, corpus, prepared, most=2).split("\n\n")
    assert len(told) == 2
    for sample, part in enumerate(told):
        history, came, *lines = part.strip().splitlines()
        target = prepared.target[sample]
        assert history.split(" | ") == [corpus.titles[i - 1] for i in corpus.history(target)][-3:]
        title = corpus.titles[corpus.sequence[target] - 1]
        assert came == f"   came next: {title}"
        assert [line.split(":")[0].strip() for line in lines] == ["before", "after", "after", "after"]
        for line, row in zip(lines[1:], alone.filter(sample=sample).to_dicts(), strict=True):
            assert repr(row["written"]) in line
            assert line.endswith("(what came)") == (row["written"] == title)
            assert line.endswith("(no such item)") == (row["written"] not in corpus.titles)
