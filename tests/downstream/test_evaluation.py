"""Shared rows equal plain ones, a planted rule is learned, ranks are right, runs repeat, statistics reach the table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.downstream import evaluation, recommenders
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Evaluation

SETTINGS = Evaluation(hidden=16, inner=32, epochs=3, evaluate_every=1, patience=2, batch_size=16, seeds=[1])


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
@pytest.mark.parametrize("padding_class", [False, True])
def test_shared_rows_give_the_plain_loss_and_gradient(name, padding_class):
    corpus = make_corpus(users=15, max_history=4, longest=9)
    torch.manual_seed(0)
    model = recommenders.make(name, SETTINGS, 4).double().eval()
    table = recommenders.ItemTable(corpus.n_items, 16).double()
    found = []
    for shared in (True, False):
        rows = evaluation.rows_of(corpus, corpus.samples("train"), shared=shared)
        value = evaluation.loss(model, table(), rows.histories, rows.labels, padding_class=padding_class)
        grads = torch.autograd.grad(value, [*model.parameters(), *table.parameters()])
        found.append((value, grads, len(rows.histories)))
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-9, atol=1e-12)
    assert found[0][2] < found[1][2]


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_rows_hold_every_sample_with_its_own_history(seed, max_history, shared):
    corpus = make_corpus(users=6, seed=seed, max_history=max_history)
    rows = evaluation.rows_of(corpus, corpus.samples("train"), shared=shared)
    held = sorted(
        (tuple(h[: p + 1].tolist()), y[p].item())
        for h, y in zip(rows.histories, rows.labels, strict=True)
        for p in range(max_history)
        if y[p]
    )
    wanted = sorted((tuple(corpus.history(t).tolist()), int(corpus.sequence[t])) for t in corpus.samples("train"))
    assert held == wanted


def test_batches_hold_every_row_once():
    samples = np.random.default_rng(0).integers(1, 9, 100)
    parts = evaluation.batches(samples, 32, np.random.default_rng(1))
    assert sorted(torch.cat(parts).tolist()) == list(range(100))
    assert np.mean([samples[p].sum() for p in parts]) == pytest.approx(32, rel=0.1)


def test_ranks_of_a_fixed_table_are_those_worked_out_by_hand():
    """A model that repeats its input: the score of item j after item i is the dot product of their rows."""
    table = torch.tensor([[9.0, 9.0], [1, 0], [0, 1], [1, 1], [1, 0]])
    rows = evaluation.Rows(torch.tensor([[1, 0], [2, 1]]), torch.tensor([[3, 0], [0, 2]]))
    found = evaluation.ranks(torch.nn.Identity(), table, rows)
    # after item 1: items 1, 3, 4 score 1, item 2 scores 0; target 3 ties with two. After 1 again: target 2 is last of four.
    assert found.tolist() == [3, 4]


@pytest.mark.parametrize("recommender", ["SASRec", "GRU4Rec"])
def test_a_planted_rule_is_learned(recommender):
    """Every item is followed by the next one: 1 2 3 ... 30 1 2 ..."""
    rng = np.random.default_rng(0)
    sequence = np.concatenate([(rng.integers(30) + np.arange(8)) % 30 + 1 for _ in range(200)]).astype(np.int32)
    offsets = np.arange(201) * 8
    targets = np.setdiff1d(np.arange(1600), offsets)
    splits = np.where(targets % 8 == 7, TEST, np.where(targets % 8 == 6, VALID, TRAIN)).astype(np.uint8)
    items = pl.DataFrame(
        {"item": np.arange(1, 31, dtype=np.int32), "source_id": [str(i) for i in range(30)], "title": "t", "domain": "d"}
    )
    users = pl.DataFrame({"user": np.arange(200, dtype=np.int32), "source_id": [str(i) for i in range(200)], "domain": "d"})
    corpus = Corpus(items, users, offsets, sequence, None, targets, splits, 5).check()
    settings = replace(
        SETTINGS,
        hidden=32,
        inner=64,
        epochs=60,
        patience=20,
        evaluate_every=10,
        batch_size=64,
        dropout=0.1,
        learning_rate=5e-3,
        learning_rate_gru=5e-3,
        metric="recall@10",
    )
    result = evaluation.train_and_rank(corpus, None, settings, recommender=recommender, seed=0)
    assert (result.ranks == 1).mean() > 0.95


def test_a_training_repeats_and_leaves_the_random_state_alone(corpus):
    before = torch.random.get_rng_state()
    one, two = (evaluation.train_and_rank(corpus, None, SETTINGS, recommender="SASRec", seed=5) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert (one.ranks == two.ranks).all()
    assert one.curve == two.curve
    assert one.best_epoch in dict(one.curve)


def test_an_empty_split_is_named(corpus):
    from dataclasses import replace as change

    with pytest.raises(ValueError, match="valid split has no sample"):
        evaluation.train_and_rank(
            change(corpus, splits=np.where(corpus.splits == VALID, TRAIN, corpus.splits)),
            None,
            SETTINGS,
            recommender="SASRec",
            seed=0,
        )


def test_many_trainings_equal_one_by_one_and_reach_the_table(corpus, tmp_path):
    rng = np.random.default_rng(0)
    tables = {"raw": rng.normal(size=(corpus.n_items + 1, 6)).astype(np.float32)}
    parts = {"toy": corpus.select(["toy"])}
    jobs = [evaluation.Job("toy", "SASRec", name, seed) for name in ("raw", "id") for seed in (1, 2)]
    run = Run("r", tmp_path)
    for job, result in evaluation.train_many(jobs, parts, tables, replace(SETTINGS, workers=2)):
        alone = evaluation.train_and_rank(corpus, tables.get(job.embedding), SETTINGS, recommender="SASRec", seed=job.seed)
        assert (alone.ranks == result.ranks).all()
        facts = {"domain": job.domain, "embedding": job.embedding}
        run.make(
            job.name, lambda f, r=result, n=job.name, x=facts: evaluation.write(r, f, n.split("/")[-1]) | x, settings={}
        )
    table = evaluation.table(run)
    assert evaluation.table(run, [jobs[0].name])["seeds"].to_list() == [1]
    assert table["embedding"].to_list() == ["raw", "id"]
    assert table["seeds"].to_list() == [2, 2]
    raw = [np.load(run.path_of(f"evaluation/toy/SASRec-raw-seed{s}").with_suffix(".npy")) for s in (1, 2)]
    assert table["recall@10 mean"][0] == pytest.approx(np.mean([(r <= 10).mean() for r in raw]))
    assert table["recall@10 std"][0] == pytest.approx(np.std([(r <= 10).mean() for r in raw]))
    verdict = evaluation.compare(run, "toy", [("raw", "id")], recommender_names=["SASRec"], seeds=[1, 2], metric="recall@10")
    assert verdict["after mean"][0] - verdict["before mean"][0] == pytest.approx(verdict["difference"][0])
    with pytest.raises(ValueError, match="no evaluation/toy/SASRec-csft-seed1"):
        evaluation.compare(run, "toy", [("raw", "csft")], recommender_names=["SASRec"], seeds=[1])


def test_ranks_stand_in_the_order_of_the_corpus(corpus):
    """As the baselines' do, also where the corpus does not list its samples by position."""
    order = np.random.default_rng(1).permutation(len(corpus.targets))
    mixed = replace(corpus, targets=corpus.targets[order], splits=corpus.splits[order]).check()
    straight, found = (evaluation.train_and_rank(c, None, SETTINGS, recommender="SASRec", seed=5) for c in (corpus, mixed))
    by_target = dict(zip(corpus.samples("test").tolist(), straight.ranks.tolist(), strict=True))
    assert mixed.samples("test").tolist() != corpus.samples("test").tolist()
    assert found.ranks.tolist() == [by_target[t] for t in mixed.samples("test").tolist()]


def test_the_loss_of_an_epoch_is_the_mean_over_samples():
    """Weights stand still, so batches of any size must give the loss of all samples at once."""
    corpus = make_corpus(users=40)
    torch.manual_seed(0)
    settings = replace(SETTINGS, dropout=0.0, batch_size=3)
    model, table = recommenders.make("SASRec", settings, 4).double(), recommenders.ItemTable(corpus.n_items, 16).double()
    rows = evaluation.rows_of(corpus, corpus.samples("train"), shared=True)
    still = torch.optim.SGD([*model.parameters(), *table.parameters()], lr=0.0)
    found = evaluation._epoch(model, table, rows, still, settings, np.random.default_rng(0))
    assert found == pytest.approx(evaluation.loss(model, table(), rows.histories, rows.labels).item(), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "evaluation_epochs must be at least 1; found 0"),
        ({"evaluate_every": 0}, "evaluation_evaluate_every must be"),
        ({"batch_size": 0}, "evaluation_batch_size must be"),
        ({"metric": "hit@3"}, "'hit@3' is none of"),
        ({"cutoffs": [10, 0]}, "'recall@0' is none of"),
    ],
)
def test_settings_that_cannot_work_are_named_before_training(corpus, change, words):
    with pytest.raises(ValueError, match=words):
        evaluation.train_and_rank(corpus, None, replace(SETTINGS, **change), recommender="SASRec", seed=0)
