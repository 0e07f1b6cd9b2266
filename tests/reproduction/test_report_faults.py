"""The report of a run folder made by hand, against numbers worked out by hand."""

import json
import re

import numpy as np
import pytest

from llm2rec_kit import storage
from llm2rec_kit.reproduction.report import document
from llm2rec_kit.reproduction.studies import records
from llm2rec_kit.results import metrics
from llm2rec_kit.runs import RECORD_MIME, ArtefactError, Run

PNG = bytes.fromhex("89504e470d0a1a0a")  # a signature is enough to be embedded


def ranks_of(recall):
    """200 ranks whose recall is that at any cutoff from 4 to 49."""
    return np.where(np.arange(200) < round(200 * recall), 4, 50).astype(np.int32)


def evaluated(run, domain, recommender, embedding, seed, recall, *, settings=None, inputs=("corpus",)):
    name = f"{recommender}-{embedding}-seed{seed}"

    def build(folder):
        np.save(folder / f"{name}.npy", ranks := ranks_of(recall))
        facts = {"domain": domain, "recommender": recommender, "embedding": embedding, "seed": seed}
        return facts | {"metrics": metrics.summarise(ranks, [10, 20])}

    run.make(f"evaluation/{domain}/{name}", build, settings=settings or {"hidden": 8}, inputs=inputs, quiet=True)


def made(tmp_path, name="toy", source="synthetic"):
    run = Run(name, tmp_path)
    counts = {"users": 3, "items": 4, "interactions": 9, "samples": 6, "train": 2, "valid": 2, "test": 2, "mean length": 3.0}
    statistics = [{"domain": d, **counts} for d in ("games", "tools", "total")]
    corpus = {
        "source": source,
        "split": "leave_one_out",
        "train_domains": ["games"],
        "statistics": statistics,
        "cleaning": [],
    }

    def keep(record):
        return lambda folder: (folder / "file").touch() or record

    data = {"source": source, "path": "/secret/place", "seed": 1}
    run.make("corpus", keep(corpus), settings=data, quiet=True)
    backbone = {"name": "tiny", "parameters": 2_500_000, "from_nothing": True}
    run.make("backbone", keep(backbone), settings={"seed": 1}, quiet=True)
    run.make("csft", keep({"validation_loss": 2.5, "steps": 10}), settings={"steps": 10}, inputs=["corpus"], quiet=True)
    for domain in ("games", "tools"):
        for seed, recall in ((1, 0.10), (2, 0.20)):
            evaluated(run, domain, "SASRec", "raw", seed, recall)
            evaluated(run, domain, "SASRec", "csft", seed, recall * 2)
        evaluated(run, domain, "popularity", "none", 0, 0.05)
        evaluated(run, domain, "oracle", "none", 0, 0.9)
    rows = [
        {
            "recommender": "SASRec",
            "before": "raw",
            "after": "csft",
            "metric": "ndcg@10",
            "difference": 0.07,
            "low": 0.01,
            "high": 0.12,
            "p": 0.01,
            "p_holm": 0.02,
            "verdict": "better",
        }
    ]
    run.make("evaluation/games/comparisons", lambda folder: {"domain": "games", "rows": rows}, settings={}, quiet=True)
    (run.path / "figures").mkdir()
    (run.path / "figures" / "by_kind.png").write_bytes(PNG)
    return run


@pytest.fixture
def run(tmp_path):
    return made(tmp_path)


def row(results, domain, recommender, embedding):
    return next(r for r in results["results"][domain] if (r["recommender"], r["embedding"]) == (recommender, embedding))


def test_mean_and_population_std_over_seeds(run):
    found = row(document.collect(run), "games", "SASRec", "raw")
    assert found["seeds"] == 2
    assert found["mean"]["recall@10"] == pytest.approx(0.15)
    assert found["std"]["recall@10"] == pytest.approx(0.05)  # the sample std would be 0.0707


def test_results_json_holds_no_time_date_or_path_and_repeats(run, tmp_path):
    document.write(run)
    text = (run.path / "results.json").read_text()
    again = made(tmp_path / "other")
    document.write(again)
    assert (again.path / "results.json").read_text() == text
    assert not re.search(r"/secret|finished|seconds|\d{4}-\d\d-\d\d", text)
    assert json.loads(text)["settings"]["csft"] == {"steps": 10}


def test_results_json_does_not_know_the_order_in_which_numbers_came(run):
    """A training that was resumed from a checkpoint logs the same numbers in another order."""
    run.make("mntp", lambda f: {"validation_loss": 1.0, "validation_accuracy": 0.5}, settings={}, quiet=True)
    document.write(run)
    text = (run.path / "results.json").read_text()
    run.make("mntp", lambda f: {"validation_accuracy": 0.5, "validation_loss": 1.0}, settings={}, force=True, quiet=True)
    document.write(run)
    assert (run.path / "results.json").read_text() == text


def test_baselines_and_ceiling_come_last(run):
    names = [r["recommender"] for r in document.collect(run)["results"]["games"]]
    assert names == ["SASRec", "SASRec", "popularity", "oracle"]


def test_seeds_of_another_experiment_are_left_out_and_named(run, monkeypatch):
    monkeypatch.setattr("llm2rec_kit.runs.run._now", lambda: "2999-01-01T00:00:00+00:00")
    evaluated(run, "games", "SASRec", "raw", 3, 0.5, settings={"hidden": 99})
    results = document.collect(run)
    found = row(results, "games", "SASRec", "raw")
    assert (found["seeds"], found["mean"]["recall@10"]) == (1, 0.5)
    names = (f"evaluation/{d}/SASRec-{e}-seed{k}" for d in ("games", "tools") for e in ("csft", "raw") for k in (1, 2))
    assert results["left_out"] == sorted(names)
    assert "Left out: 8 older" in document.render_table(results)
    document.write(run)
    assert all("Left out: 8 older" in (run.path / f"report.{kind}").read_text() for kind in ("md", "html"))


def test_evaluations_of_an_older_corpus_are_left_out(run):
    record = run.record("corpus")
    run.make("corpus", lambda folder: (folder / "file").write_text("new") and record, settings={"seed": 2}, quiet=True)
    with pytest.raises(ValueError, match="04_downstream_eval"):
        document.collect(run)
    evaluated(run, "games", "SASRec", "raw", 1, 0.4)
    results = document.collect(run)
    assert list(results["results"]) == ["games"]  # `tools` was not evaluated again: no row, and no crash
    assert len(results["left_out"]) == 11
    document.write(run)


def test_answers_of_other_artefacts_than_the_run_holds_are_not_reported(run):
    record = storage.seal({"name": "answers", "values": {"views": "level"}})
    book = run.path / "notebooks" / "07_beyond_the_paper.ipynb"
    book.parent.mkdir(exist_ok=True)
    book.write_text(json.dumps({"cells": [{"outputs": [{"data": {RECORD_MIME: record}}]}]}))
    records.summarise(run, "07_beyond_the_paper", {"answers": {"views": "level"}})
    assert document.collect(run)["beyond"] == {"07_beyond_the_paper": {"answers": {"views": "level"}}}
    run.make("csft", lambda f: (f / "file").write_text("new") and {}, settings={"steps": 11}, inputs=["corpus"], quiet=True)
    assert document.write(run)["beyond"] == {}
    assert "Beyond the paper" not in (run.path / "report.html").read_text()


def test_a_damaged_input_is_named(run):
    (run.path / "corpus" / "file").write_text("!")
    with pytest.raises(ArtefactError, match="corpus/file is damaged"):
        document.collect(run)


def test_without_evaluation_it_says_which_notebook(tmp_path):
    run = Run("empty", tmp_path)
    with pytest.raises(ArtefactError, match="01_data_prep"):
        document.write(run)


def test_the_terminal_table_is_narrow_and_says_synthetic(run):
    text = document.render_table(document.write(run))
    assert max(map(len, text.splitlines())) <= 110
    assert text.count("synthetic") == 2
    assert re.search(r"SASRec +csft +2 +0\.3000 \+- 0\.1000", text)


def test_real_data_is_not_called_synthetic(tmp_path):
    run = made(tmp_path, source="recbole")
    assert "synthetic" not in document.render_table(document.write(run))
    for kind in ("md", "html"):
        assert "synthetic" not in (run.path / f"report.{kind}").read_text()


def test_the_page_stands_alone(run):
    document.write(run)
    page = (run.path / "report.html").read_text()
    assert "data:image/png;base64,iVBORw0KGgo" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "prefers-color-scheme: dark" in page
    assert "synthetic" in page
    assert re.search(r'class="best">0\.3000', page)
    assert "+0.0700" in page


def test_the_page_escapes_what_comes_from_data(tmp_path):
    run = made(tmp_path, source="<script>alert(1)</script>")
    document.write(run)
    assert "<script>" not in (run.path / "report.html").read_text()


def test_markdown_tables_have_as_many_cells_as_heads(run):
    document.write(run)
    lines = (run.path / "report.md").read_text().splitlines()
    tables = [k for k, line in enumerate(lines) if re.fullmatch(r"\|[-:|]+\|", line)]
    assert len(tables) == 7  # two in short, data, two domains, one comparison, times
    for k in tables:
        body = [line for line in lines[k - 1 :] if line][: lines[k - 1 :].index("") if "" in lines[k - 1 :] else None]
        assert {line.count("|") for line in body} == {lines[k].count("|")}
