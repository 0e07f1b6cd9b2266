"""Cold items: what is held out is nowhere in training, comes back into the catalogue, and text places it where ids cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.downstream import cold, evaluation
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Evaluation

SETTINGS = Evaluation(
    hidden=16, inner=16, epochs=20, evaluate_every=5, learning_rate=0.01, batch_size=64, metric="recall@5", cutoffs=[5],
    recommenders=["SASRec"], embeddings=["raw", "id"], baselines=["nearest", "bm25"], seeds=[1, 2], device="cpu", workers=1,
    cold=0.25, dropout=0.1,
)  # fmt: skip


def histories(corpus) -> dict[tuple[int, int], list[int]]:
    """{(user, how many of the user's interactions come before): history} of the samples, by the items' own numbers."""
    own = corpus.items["source_id"].to_list()
    return {
        (int(corpus.owners(np.array([t]))[0]), own[corpus.sequence[t] - 1], int(s), k): [
            own[i - 1] for i in corpus.history(t)
        ]
        for k, (t, s) in enumerate(zip(corpus.targets, corpus.splits, strict=True))
    }


def test_items_in_no_training_sample_are_counted_one_by_one():
    corpus = make_corpus(users=6, items=30)
    train = corpus.samples("train")
    seen = {int(i) for t in train for i in [*corpus.history(t), corpus.sequence[t]]}
    expected = [i not in seen for i in range(1, 31)]
    assert any(expected)
    assert not all(expected)
    found = cold.mark_untrained(corpus)
    assert found[1:].tolist() == expected
    assert not found[0]
    row = cold.count_cold_items({"toy": (corpus, np.arange(31))}).to_dicts()[0]
    targets = corpus.sequence[corpus.samples("test")]
    assert row["asking for such an item"] == sum(expected[i - 1] for i in targets)
    assert row["in no training sample"] == sum(expected)


def test_the_corpus_without_items_is_as_if_they_had_never_been_there():
    corpus = make_corpus(users=15, max_history=3)
    held = np.array([2, 3, 11])
    warm, ids = cold.drop_items(corpus, held)
    warm.check()
    assert warm.n_items == 13
    assert ids.tolist() == [i for i in range(17) if i not in held]
    assert warm.titles == [corpus.titles[i - 1] for i in ids[1:]]
    for user in range(15):
        was = corpus.sequence[corpus.offsets[user] : corpus.offsets[user + 1]]
        now = warm.sequence[warm.offsets[user] : warm.offsets[user + 1]]
        assert ids[now].tolist() == [i for i in was if i not in held]
    alive = [t for t in corpus.targets if corpus.sequence[t] not in held]
    alive = [t for t in alive if set(corpus.sequence[corpus.offsets[corpus.owners(np.array([t]))[0]] : t]) - set(held)]
    assert ids[warm.sequence[warm.targets]].tolist() == corpus.sequence[alive].tolist()
    splits = dict(zip(corpus.targets.tolist(), corpus.splits.tolist(), strict=True))
    assert warm.splits.tolist() == [splits[t] for t in alive]


def test_every_purchase_of_a_held_item_is_asked_for_and_none_is_trained_on():
    corpus = make_corpus(users=30)
    held = cold.hold_out(corpus, 0.2, seed=5)
    assert len(held.items) == 3
    assert held.asked["cold"].tolist() == [t for t in corpus.targets if corpus.sequence[t] in held.items]
    assert not set(corpus.sequence[held.asked["known"]]) & set(held.items)
    assert len(held.asked["known"]) < len(corpus.samples("test"))
    assert cold.hold_out(corpus, 0.2, seed=5).items.tolist() == held.items.tolist()
    assert cold.hold_out(corpus, 0.2, seed=6).items.tolist() != held.items.tolist()
    assert len(cold.hold_out(corpus, 1e-9, seed=5).items) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Users who stay in one of four communities of ten items, which the embeddings tell; a run, its held items and its jobs."""
    rng = np.random.default_rng(0)
    corpus = make_corpus(users=150, items=40)
    owners = np.repeat(np.arange(150), np.diff(corpus.offsets))
    corpus = replace(corpus, sequence=(rng.integers(0, 10, len(owners)) * 4 + owners % 4 + 1).astype(np.int32))
    table = np.concatenate([np.zeros((1, 4)), np.eye(4)[np.arange(40) % 4] * 3 + rng.normal(size=(40, 4)) * 0.1])
    run = Run("r", tmp_path_factory.mktemp("outputs"))
    run.make("corpus", corpus.save, settings={}, quiet=True)
    table = table.astype(np.float32)
    build = lambda folder: np.save(folder / "raw.npy", table) or {"stage": "raw", "encoder": "backbone"}  # noqa: E731
    run.make("embeddings/raw", build, settings={}, quiet=True)
    parts = {"toy": corpus.select(["toy"])}
    held = {"toy": cold.hold_out(parts["toy"][0], SETTINGS.cold, SETTINGS.seeds[0])}
    jobs = cold.make_cold(run, held, parts, {"raw": table}, SETTINGS)
    return run, held, parts, {"raw": table}, jobs


def test_cutoffs_that_fit_the_whole_catalogue_fit_trainings_without_the_held_items(tmp_path):
    corpus, run = make_corpus(users=40, items=16), Run("r", tmp_path)
    run.make("corpus", corpus.save, settings={}, quiet=True)
    asked = replace(SETTINGS, cutoffs=[5, 12, 15], cold=0.3, embeddings=["id"], epochs=1, evaluate_every=1)
    parts = {"toy": corpus.select(["toy"])}
    held = cold.hold_out_each(parts, asked)
    assert held["toy"].warm.n_items == 11
    (job,) = cold.make_cold(run, held, parts, {}, asked)
    ranks = cold.read_cold(run, job, "cold")
    assert ranks.max() > 11  # among all of them
    assert run.record(cold.name_of(job))["cold"]["recall@15"] == pytest.approx((ranks <= 15).mean())
    assert run.manifest(cold.name_of(job))["settings"]["cutoffs"] == [5, 12, 15]
    assert cold.tabulate(run, parts["toy"][0], held["toy"], [job], {}, asked).height >= 2
    assert not run.stale(cold.name_of(job), settings=evaluation.list_settings(asked) | {"cold": 0.3}, inputs=job.inputs)


def test_text_places_cold_items_and_ids_do_not(made):
    run, held, parts, tables, jobs = made
    found = cold.tabulate(run, parts["toy"][0], held["toy"], jobs, tables, SETTINGS)
    rows = {(r["recommender"], r["embedding"]): r for r in found.to_dicts()}
    text, ids, chance = rows["SASRec", "raw"], rows["SASRec", "id"], rows["chance", "none"]
    assert chance["cold recall@5"] == pytest.approx(5 / 40)
    assert text["cold recall@5"] > 2 * chance["cold recall@5"]
    assert text["cold recall@5"] > 2 * ids["cold recall@5"]
    assert text["verdict"] == "better"
    assert ids["verdict"] is None
    assert text["low"] <= text["cold recall@5"] <= text["high"]
    assert ids["known recall@5"] > 1.5 * chance["cold recall@5"]  # what it was trained on it knows
    assert rows["nearest", "raw"]["known recall@5"] is None
    assert ("bm25", "none") in rows
    assert text["encoder saw"] == "nothing"


def test_what_is_kept_is_reused_and_is_none_of_the_evaluations(made, capsys):
    run, held, parts, tables, jobs = made
    assert cold.make_cold(run, held, parts, tables, SETTINGS) == jobs
    assert "0 trainings to do, 2 reused" in capsys.readouterr().out
    assert [cold.name_of(job) for job in jobs] == [
        "evaluation/toy/cold-SASRec-raw-seed1",
        "evaluation/toy/cold-SASRec-id-seed1",
    ]
    assert not evaluations.find_evaluations(run).made
    assert not evaluations.find_evaluations(run).missing
    record = run.record(cold.name_of(jobs[0]))
    assert record["held_out"] == 10
    assert record["samples_cold"] == len(held["toy"].asked["cold"])
    ranks = cold.read_cold(run, jobs[0], "cold")
    assert record["cold"]["recall@5"] == pytest.approx((ranks <= 5).mean())


def test_ranks_that_the_manifest_does_not_name_are_asked_for_anew(tmp_path):
    run, job = Run("r", tmp_path), evaluation.Job("toy", "SASRec", "id", 1)
    run.make(cold.name_of(job), lambda folder: {}, settings={}, quiet=True)
    with pytest.raises(ArtefactError, match=r"names no ranks of cold items\. Run notebooks/"):
        cold.read_cold(run, job, "cold")


def test_holding_items_out_changes_no_other_evaluation():
    assert evaluation.list_settings(SETTINGS) == evaluation.list_settings(replace(SETTINGS, cold=0.0))


def test_what_the_encoder_saw_is_said_by_domain(tmp_path):
    run, corpus = Run("r", tmp_path), make_corpus()
    both = replace(corpus, facts={"train_domains": ["toy"]})
    for name, stage, encoder in (
        ("csft", "csft", "csft"),
        ("mntp", "mntp", "mntp"),
        ("raw", "raw", "backbone"),
        ("mine", "own", None),
        ("bge", "baseline", "BAAI/bge"),
    ):
        about = {"stage": stage} | ({"encoder": encoder} if encoder else {})
        run.make(f"embeddings/{name}", lambda folder, a=about: a, settings={}, quiet=True)
    said = {
        n: cold.describe_encoder(run, both, "toy", n) for n in ("csft", "mntp", "raw", "mine", "bge", "id", "csft_add_id")
    }
    assert said == {
        "csft": "purchases",
        "mntp": "purchases and titles",
        "raw": "nothing",
        "mine": "not known",
        "bge": "nothing",
        "id": "no encoder",
        "csft_add_id": "purchases",
    }
    assert cold.describe_encoder(run, both, "another domain", "mntp") == "nothing"
    run.make("backbone", lambda folder: {"name": "tiny", "from_nothing": True}, settings={}, quiet=True)
    assert cold.describe_encoder(run, both, "toy", "raw") == "titles (its tokenizer)"


def test_a_table_of_text_and_ids_takes_new_items(made):
    """The held items' id part is zero, so their row is their text's."""
    _, held, _, tables, _ = made
    job = evaluation.Job("toy", "SASRec", "raw_add_id", 1)
    h, short = held["toy"], replace(SETTINGS, epochs=1, embeddings=["raw_add_id"], normalise="unit")
    ((_, result),) = evaluation.train_many([job], {"toy": (h.warm, h.ids)}, tables, short)
    ranks = cold.rank_cold(h, result, tables["raw"], short, "raw_add_id")
    assert {part: len(values) for part, values in ranks.items()} == {part: len(t) for part, t in h.asked.items()}
    assert pl.Series(ranks["cold"]).is_between(1, 40).all()


def test_items_are_held_out_in_each_domain_and_evaluated_there(made, capsys):
    run, held, parts, tables, jobs = made
    each = cold.hold_out_each(parts, SETTINGS)
    assert each["toy"].items.tolist() == held["toy"].items.tolist()
    assert each["toy"].counted == f"10 of 40 items held out, {len(held['toy'].asked['cold'])} purchases of them"
    found = cold.evaluate(run, parts["toy"][0], each, parts, tables, SETTINGS)
    assert "0 trainings to do" in capsys.readouterr().out
    assert found["toy"].equals(cold.tabulate(run, parts["toy"][0], held["toy"], jobs, tables, SETTINGS))
    assert cold.hold_out_each(parts, replace(SETTINGS, cold=0.0)) == {}
    assert cold.evaluate(run, parts["toy"][0], {}, parts, tables, SETTINGS) == {}
