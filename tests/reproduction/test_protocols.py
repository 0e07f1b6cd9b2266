"""What notebook 06 measures by: metrics, domains, tests beside the printed ones, each table's rows; arms that cannot be had."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import paper
from llm2rec_kit.downstream import evaluation
from llm2rec_kit.downstream.ranking import Ranking
from llm2rec_kit.models.checkpoint import BackboneError
from llm2rec_kit.reproduction.studies import answers, directions, paper_arms, protocols
from llm2rec_kit.reproduction.studies.protocols import Protocol
from llm2rec_kit.reproduction.studies.study import Study
from llm2rec_kit.results import significance
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import CSFT, MNTP, Backbone, Contrastive, Evaluation, Tables

SEEDS = [1, 2]
USERS = 300


def evaluated(run: Run, embedding: str, ranks: np.ndarray, seed: int) -> str:
    """Keep these ranks as an evaluation of SASRec on toy."""
    facts = {"domain": "toy", "recommender": "SASRec", "embedding": embedding, "seed": seed}
    stem = f"SASRec-{embedding}-seed{seed}"
    found = Ranking(ranks.astype(np.int32), np.ones((1, 4), dtype=np.int32))
    run.make(
        f"evaluation/toy/{stem}",
        lambda folder: evaluation.write_ranking(found, folder, stem, facts=facts, cutoffs=[5], counts=np.ones(4)),
        settings={},
        quiet=True,
    )
    return f"evaluation/toy/{stem}"


@pytest.fixture
def protocol(tmp_path):
    """Of a run that was evaluated at 5 and tests MRR: raw, and csft, whose targets stand at half the rank."""
    corpus, run = make_corpus(users=USERS), Run("r", tmp_path)
    corpus = dataclasses.replace(corpus, facts=corpus.facts | {"train_domains": ["toy"]})
    run.make("corpus", corpus.save, settings={}, quiet=True)
    run.make("backbone", lambda folder: {"parameters": 321}, settings={}, quiet=True)
    base = np.random.default_rng(0).integers(2, 60, USERS)
    for seed in SEEDS:
        evaluated(run, "raw", base + seed, seed)
        evaluated(run, "csft", base // 2 + seed, seed)
    settings = {"evaluation": Evaluation(cutoffs=[5], tested="mrr"), "backbone": Backbone()}
    settings |= {"csft": CSFT(steps=1500), "mntp": MNTP(steps=7), "contrastive": Contrastive(steps=8)}
    return Protocol(Study(run, run, settings), Tables(recommenders=["SASRec"], seeds=SEEDS))


def test_metrics_are_the_runs_then_the_papers_then_the_tested_one(protocol):
    assert protocol.metrics == ["recall@5", "ndcg@5", *paper.METRICS, "mrr"]
    assert protocol.computed == list(paper.METRICS)
    assert (protocol.metric, protocol.printed) == ("mrr", "ndcg@10")
    assert protocol.columns[:2] == ["recall@5 mean", "ndcg@5 mean"]
    assert protocol.columns[-1] == "mrr std"


def test_the_domains_and_the_budget_are_told(protocol):
    row = {"domain": "toy", "CSFT": "in-domain", "test users (n)": USERS, "test samples": USERS}
    assert protocol.domains.to_dicts() == [row | {"data set of the paper": "none"}]
    assert protocol.budget == "csft 1,500, mntp 7, contrastive 8"
    assert "hand-made data, backbone tiny; steps: csft 1,500" in protocol.summary
    assert "No domain is one of the paper's data sets" in protocol.summary
    kept = {"csft": {"kept_step": 1200}, "mntp": {}}  # stopped by patience, say; without validation nothing is said
    for name, record in kept.items():
        protocol.study.run.make(name, lambda folder, record=record: record, settings={"steps": 1500}, quiet=True)
    assert protocol.budget == "csft 1,200, mntp 7, contrastive 8"
    protocol.study.run.make("embeddings/csft", lambda folder: {}, settings={}, inputs=["csft"], quiet=True, force=True)
    assert answers.describe_budget(protocol.study.run, "csft") == "csft 1,200 steps"


def test_tests_stand_beside_the_papers_and_those_it_prints_are_returned(protocol, monkeypatch):
    shown = {}
    monkeypatch.setattr(protocols.styled_tables, "show_each", shown.update)
    names, pair = {"raw": "bidirectional", "csft": "csft"}, (("SASRec", "raw"), ("SASRec", "csft"))
    (printed,) = protocol.show_tests("Table 4", [pair], names, metric="ndcg@10")
    assert list(shown) == [f"toy (in-domain): n = {USERS} users; tests corrected together: 1"]
    (row,) = printed.to_dicts()
    assert (row["table"], row["domain"], row["n"]) == ("Table 4", "toy (in-domain)", USERS)
    assert (row["verdict"], row["metric"]) == ("better", "ndcg@10")
    expected = significance.compare(protocol.study.run, "toy", [pair], seeds=SEEDS, metric="ndcg@10")
    assert row["p_holm"] == expected["p_holm"][0]
    assert row["agreement"] == directions.SAME  # the paper's CSFT is higher in all of its in-domain sets, too
    (printed,) = protocol.show_tests("Table 4", [pair], names)
    assert len(printed) == 0  # it prints no MRR
    shown.clear()
    elsewhere = {"kind": "out-of-domain", "of": "tiny-8", "metric": "ndcg@10", "domains": ["toy"]}
    (printed,) = protocol.show_tests("Table 4", [pair], names, **elsewhere)
    assert list(shown) == [f"toy (out-of-domain), tiny-8: n = {USERS} users; tests corrected together: 1"]
    assert printed["table"].to_list() == ["Table 4, tiny-8 (out-of-domain)"]
    assert printed["domain"].to_list() == ["toy (in-domain)"]


def test_a_table_is_evaluated_shown_in_the_order_of_its_labels_and_returned(protocol, monkeypatch):
    shown, asked = {}, []

    def evaluate(study, tables, *, recommenders, seeds):
        asked.append((tables, recommenders, seeds))
        return [f"evaluation/toy/SASRec-{table}-seed{seed}" for table in tables for seed in seeds]

    monkeypatch.setattr(protocols.styled_tables, "show_each", shown.update)
    monkeypatch.setattr(protocols.experiments, "evaluate", evaluate)
    labels = [{"embedding": "csft", "model": "trained"}, {"embedding": "raw", "model": "as it comes"}]
    found = protocol.evaluate(labels, ["SASRec"])
    assert asked == [(["csft", "raw"], ["SASRec"], SEEDS)]
    ((title, frame),) = shown.items()
    assert title == f"toy (in-domain): n = {USERS} test users, seeds {SEEDS}; best by mrr"
    assert frame.columns == ["recommender", "embedding", "model", "place", *protocol.metrics]
    assert frame.select("model", "place").rows() == [("trained", "best"), ("as it comes", "")]
    names = evaluate(None, ["csft", "raw"], recommenders=[], seeds=SEEDS)
    expected = significance.tabulate(protocol.study.run, names, metric_names=protocol.metrics, intervals=True)
    assert found.equals(expected)


def test_cells_are_averaged_by_stage(protocol):
    results = pl.DataFrame({"domain": "toy", "embedding": ["a", "b", "c"], "mrr mean": [0.1, 0.2, 0.3]})
    cells = {("raw", "last", "causal"): "a", ("raw", "mean", "causal"): "b", ("csft", "last", "causal"): "c"}
    raw, csft = protocol.average_cells(results, cells).to_dicts()
    assert raw == {"domain": "toy", "stage": "raw", "last-causal": 0.1, "mean-causal": 0.2}
    assert csft == {"domain": "toy", "stage": "csft", "last-causal": 0.3, "mean-causal": None}


def test_backbones_are_tabulated_under_the_papers_names(protocol):
    names = [f"evaluation/toy/SASRec-{table}-seed1" for table in ("raw", "csft")]
    found = protocol.tabulate_backbones({"tiny-8": (protocol.study, names)}, "recall@5")
    assert found.select("backbone", "parameters", "model", "seeds", "embedding").rows() == [
        ("tiny-8", 321, "LLM2Vec", 1, "raw"),
        ("tiny-8", 321, "csft", 1, "csft"),
    ]
    assert all(row["low"] <= row["recall@5"] <= row["high"] for row in found.to_dicts())
    assert len(protocol.tabulate_backbones({})) == 0


def test_encoders_are_timed_over_the_whole_catalogue_after_a_warm_up(protocol, monkeypatch):
    read, how = [], []
    encoder = SimpleNamespace(encode=lambda texts: read.append(len(texts)))
    monkeypatch.setattr(protocols.pipeline, "read_texts", lambda corpus, text: how.append(text) or ["t"] * 100)
    monkeypatch.setattr(protocols.experiments, "load_encoder", lambda study, start, **h: how.append((start, h)) or encoder)
    arms = [paper_arms.BACKBONE, paper_arms.Arm("m", "e", "Mine", {"text": "attributes", "attention": "causal"})]
    row = {"domain": "toy", "recommender": "SASRec"}
    results = pl.DataFrame(
        [row | {"embedding": "raw", "recall@10 mean": 0.5}, row | {"embedding": "m", "recall@10 mean": 0.7}]
    )
    found = protocol.time_encoders(arms, results)
    assert read == [64, 100] * 2
    assert how == ["title", ("backbone", {}), "attributes", ("e", {"attention": "causal"})]
    assert found.select("model", "items", "recall@10").rows() == [("LLM2Vec (raw)", 100, 0.5), ("Mine (m)", 100, 0.7)]
    assert (found["items a second"] * found["seconds"]).to_list() == pytest.approx([100, 100])
    assert arms[1].how == {"text": "attributes", "attention": "causal"}  # as it was


class Nowhere:
    """Makes everything but what is called `gone`."""

    def embed(self, study, start, name="", **how):
        if start == "gone":
            raise BackboneError("there is no 'gone'")
        return name or start

    def train(self, study, stage, start, **how):
        return stage

    def open_study(self, base, name, **changes):
        if changes["backbone_name"] == "gone":
            raise BackboneError("there is no 'gone'")
        return name

    def evaluate(self, study, tables, **how):
        return [f"{study}: {', '.join(tables)}", how]


def test_what_cannot_be_had_is_told_and_left_out(capsys):
    asked = Tables(encoders=["gone", "BAAI/bge-large-en-v1.5"], backbones=["gone", "tiny-16"], seeds=[5])
    assert [arm.model for arm in paper_arms.make_encoders(Nowhere(), "study", asked)] == ["BGE"]
    found = paper_arms.make_backbones(Nowhere(), "base", asked, force=True)
    how = {"recommenders": ["SASRec"], "seeds": [5]}
    assert found == {"tiny-16": ("tables-tiny-16", ["tables-tiny-16: raw, csft", how])}
    assert capsys.readouterr().out.splitlines() == ["gone is left out: there is no 'gone'"] * 2
