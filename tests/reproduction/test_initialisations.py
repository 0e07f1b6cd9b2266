"""Start and length: the arms, what length alone makes, and the printed gains beside it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import paper
from llm2rec_kit.reproduction.studies import initialisations, question_arms
from llm2rec_kit.reproduction.studies.study import Study
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Encoding, Evaluation, Tables


def test_the_studies_differ_in_start_and_form_alone():
    asked = Tables(lengths=[1.0, 10.0], start_epochs=7)
    opened = {}

    def open_study(base, name, **changes):
        opened[name] = changes
        return name

    studies = initialisations.open_studies("base", asked, open_study, force=True)
    assert len(set(studies.values())) == len(studies) == 2 * (2 + 2)
    common = {"force": True, "evaluation_epochs": 7, "evaluation_evaluate_every": 5, "evaluation_patience": 20}
    for (start, form), name in studies.items():
        given = {"evaluation_" + k: v for k, v in initialisations.list_forms(asked.lengths)[form].items()}
        assert opened[name] == common | given | {"evaluation_initialisation": start}


def test_a_table_that_the_run_lacks_is_named_with_those_it_has(tmp_path):
    run = Run("r", tmp_path)
    run.make("embeddings/raw", lambda f: np.save(f / "raw.npy", np.ones((2, 2))), settings={})
    initialisations.check(run, Tables(starts=["raw", "id", "raw_add_id"]))
    with pytest.raises(ArtefactError, match="no embeddings 'minilm', which tables_starts names; it has raw"):
        initialisations.check(run, Tables(starts=["minilm"]))


def test_a_table_of_what_was_made_anew_since_is_refused(tmp_path):
    run = Run("r", tmp_path)
    for size in (2, 3):  # raw is of the first
        run.make("corpus", lambda f, n=size: np.save(f / "it.npy", np.ones(n)), settings={"size": size}, quiet=True)
        if not run.has("embeddings/raw"):
            run.make(
                "embeddings/raw", lambda f: np.save(f / "raw.npy", np.ones(2)), settings={}, inputs=["corpus"], quiet=True
            )
            initialisations.check(run, Tables(starts=["raw_add_id", "id"]))
    with pytest.raises(ArtefactError, match=r"embeddings/raw of run 'r' was made from .* Run notebooks/03_item_embedding"):
        initialisations.check(run, Tables(starts=["raw_add_id", "id"]))


@pytest.mark.parametrize("metric", paper.METRICS)
def test_the_gain_over_the_best_row_is_the_papers_improvement(metric):
    """The paper prints %Improv. over the best of all rows, which is one of the two kinds; both of its numbers are rounded."""
    printed = {(r["recommender"], r["dataset"]): r[metric] for r in paper.read_improvements().iter_rows(named=True)}
    found = initialisations.compute_printed_gains(metric)
    assert len(found) == len(printed)
    for row in found.iter_rows(named=True):
        of_all = row[f"over it, {row['best of all']} (%)"]
        assert of_all == pytest.approx(printed[row["recommender"], row["dataset"]], abs=0.6)
        assert of_all == min(row["over it, at length one (%)"], row["over it, as they come (%)"])


def test_lengths_are_those_of_what_the_adapter_reads(tmp_path):
    """Of text with ids beside it those of the text; a table without text has none. Own parts by hand: the mean of k² less the mean vector's square."""
    corpus, vectors = make_corpus(items=6), np.diag(np.arange(7.0))
    run = Run("r", tmp_path)
    run.make("corpus", lambda folder: corpus.save(folder), settings={})
    run.make("embeddings/raw", lambda f: np.save(f / "raw.npy", vectors), settings={})
    for given, lengths in (
        ({}, (3.5, (91 / 6 - 91 / 36) ** 0.5)),
        ({"normalise": "unit", "scale": 10.0}, (10.0, (100 - 100 / 6) ** 0.5)),
    ):
        study = Study(run, run, {"evaluation": Evaluation(**given)})
        assert initialisations._measure_lengths(study, "toy", "raw") == pytest.approx(lengths)
        assert initialisations._measure_lengths(study, "toy", "raw_add_id") == pytest.approx(lengths)
    assert np.isnan(initialisations._measure_lengths(study, "toy", "id")).all()


def measured(values: dict[tuple[str, str], float]) -> pl.DataFrame:
    """As `initialisations.collect_results`, of one row: {(start, form): value}."""
    return pl.DataFrame(
        [
            {"domain": "d", "recommender": "SASRec", "embedding": "raw", "start": s, "form": f, "recall@10 mean": v}
            for (s, f), v in values.items()
        ]
    )


def test_what_length_alone_makes():
    values = {("official", "length 1"): 0.08, ("official", "length 50"): 0.12, ("scaled", "length 1"): 0.16}
    found = initialisations.compute_gains(measured(values | {("scaled", "length 50"): 0.12}), [1.0, 7.0, 50.0], "recall@10")
    assert found.drop("domain", "recommender", "embedding").to_dicts() == [
        {
            "official: length 1 to length 50 (%)": 50.0,
            "scaled: length 1 to length 50 (%)": -25.0,
            "length 1: official to scaled (%)": 100.0,
        }
    ]


@pytest.mark.parametrize("lengths", [[1.0], [1.0, 1.0]])
def test_of_one_length_what_length_makes_is_told_beside_the_table_as_it_comes(lengths):
    values = {("official", "length 1"): 0.08, ("official", "as it comes"): 0.1}
    found = measured(values | {("scaled", "length 1"): 0.16, ("scaled", "as it comes"): 0.12})
    gains = initialisations.compute_gains(found, lengths, "recall@10")
    assert gains.drop("domain", "recommender", "embedding").to_dicts() == [
        {
            "official: length 1 to as it comes (%)": 25.0,
            "scaled: length 1 to as it comes (%)": -25.0,
            "length 1: official to scaled (%)": 100.0,
        }
    ]
    said = initialisations.describe_gains(found, initialisations.compute_printed_gains("recall@10"), lengths, "recall@10")
    assert said.startswith("SASRec: length alone, from length 1 to as it comes, moves recall@10 by +25% to +25% under the")


def test_between_which_lengths_is_said_whatever_they_are():
    values = {(start, f"length {x}"): 0.1 for start in ("official", "scaled") for x in (30, 100)}
    printed = initialisations.compute_printed_gains("recall@10")
    said = initialisations.describe_gains(measured(values), printed, [30.0, 100.0], "recall@10")
    assert said.startswith("SASRec: length alone, from length 30 to length 100, moves recall@10 by +0% to +0% under the")


def normalise_arms(encoding=None, **evaluation):
    return question_arms.list_normalise_arms({"encoding": encoding or Encoding(), "evaluation": Evaluation(**evaluation)})


def test_embeddings_are_asked_about_as_they_come_whatever_the_run_gives():
    """At a scale or a length of the run's own, no arm would be what it is called."""
    scaled = normalise_arms(normalise="unit", scale=100.0)
    assert all(changes["evaluation_scale"] == 1 and "encoding_normalise" not in changes for _, _, changes in scaled)
    encoded = normalise_arms(Encoding(normalise="unit"))
    assert all(changes["encoding_normalise"] == "none" for _, _, changes in encoded)
    usual = normalise_arms()
    assert [(name, study) for name, study, changes in usual if not changes] == [("none", "questions_none")]
    assert [arm[:2] for arm in scaled] == [arm[:2] for arm in encoded] == [arm[:2] for arm in usual]


def test_embeddings_are_asked_about_under_both_starts():
    arms = normalise_arms(normalise="unit", initialisation="official")
    assert [name for name, _, changes in arms if not changes] == ["unit"]
    assert len({study for _, study, _ in arms}) == len(arms) == 8
    pairs = question_arms.pair_against_none([name for name, _, _ in arms])
    assert ("none", "whitened") in pairs
    assert ("none, scaled start", "unit, scaled start") in pairs
    assert all(before.endswith("scaled start") == after.endswith("scaled start") for before, after in pairs)


def test_every_start_and_form_is_evaluated_over_the_tables_asked():
    made = []
    do = SimpleNamespace(
        open_study=lambda base, name, **changes: name,
        take_table=lambda study, table: made.append((study, table)) or table,
        evaluate=lambda study, tables, **how: made.append((study, tables, how)) or [f"SASRec-{t}" for t in tables],
    )
    asked = Tables(recommenders=["SASRec"], seeds=[1], starts=["raw", "id"], lengths=[1.0])
    studies, names = initialisations.train(do, "base", asked, force=True)
    assert names == ["SASRec-raw", "SASRec-id"]
    how = {"recommenders": ["SASRec"], "seeds": [1]}
    expected = [[(one, "raw"), (one, "id"), (one, ["raw", "id"], how)] for one in studies.values()]
    assert made == [call for calls in expected for call in calls]
    assert initialisations.train(do, "base", Tables(starts=[])) == ({}, [])


def test_each_table_is_asked_about_in_each_domain(monkeypatch):
    monkeypatch.setattr(initialisations, "make_answer", lambda studies, table, domain, **how: (table, domain, how["metric"]))
    asked = Tables(starts=["raw", "id"])
    found = initialisations.answer_each({("official", "whitened"): "study"}, asked, ["games", "arts"], "mrr")
    assert list(found) == ["starts_games_raw", "starts_games_id", "starts_arts_raw", "starts_arts_id"]
    assert found["starts_arts_id"] == ("id", "arts", "mrr")
    assert initialisations.answer_each({}, asked, ["games"], "mrr") == {}
