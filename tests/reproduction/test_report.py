"""The report of a fabricated run: numbers by hand, everything escaped, nothing from outside."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llm2rec_kit.figures import training_figures
from llm2rec_kit.reproduction.report import document
from llm2rec_kit.runs import Run


@pytest.fixture
def run(tmp_path):
    run = Run("r", tmp_path)
    statistics = [
        {"domain": d, "users": 5, "items": 9, "interactions": 40, "train": 20, "valid": 5, "test": 5}
        for d in ("games", "crafts")
    ]
    corpus = {
        "source": "synthetic",
        "split": "leave_one_out",
        "train_domains": ["games"],
        "statistics": statistics,
        "cleaning": [],
    }
    run.make("corpus", lambda f: corpus, settings={"seed": 1})
    run.make("backbone", lambda f: {"name": "<tiny>", "parameters": 2_000_000, "from_nothing": True}, settings={})
    for domain in ("games", "crafts"):
        for embedding in ("raw", "csft"):
            for seed in (1, 2):
                name = f"evaluation/{domain}/SASRec-{embedding}-seed{seed}"
                value = {"raw": 0.1, "csft": 0.2}[embedding] + seed / 100
                run.make(name, evaluation(name, domain, "SASRec", embedding, seed, value), settings={})
        name = f"evaluation/{domain}/oracle-none-seed0"
        run.make(name, evaluation(name, domain, "oracle", "none", 0, 0.9), settings={})
    row = {
        "recommender": "SASRec",
        "before": "raw",
        "after": "csft",
        "metric": "recall@20",
        "difference": 0.1,
        "low": 0.05,
        "high": 0.15,
        "p_holm": 1e-9,
        "verdict": "better",
    }
    run.make("evaluation/games/comparisons", lambda f: {"domain": "games", "rows": [row]}, settings={})
    return run


def evaluation(name, domain, recommender, embedding, seed, value):
    def build(folder):
        ranks = np.where(np.arange(200) < round(200 * value), 1, 50)  # every metric is the value
        np.save(folder / f"{name.split('/')[-1]}.npy", ranks)
        facts = {"domain": domain, "recommender": recommender, "embedding": embedding, "seed": seed}
        return facts | {"metrics": {m: value for m in ("recall@10", "ndcg@10", "recall@20", "ndcg@20")}}

    return build


def test_means_and_standard_deviations(run):
    results = document.write(run)
    raw, csft, oracle = results["results"]["games"]
    assert (raw["embedding"], csft["embedding"], oracle["recommender"]) == ("raw", "csft", "oracle")
    assert raw["mean"]["recall@10"] == pytest.approx(0.115)
    assert raw["std"]["recall@10"] == pytest.approx(0.005)
    assert json.loads((run.path / "results.json").read_text()) == json.loads(json.dumps(results))


def test_results_hold_no_time_and_repeat(run):
    document.write(run)
    first = (run.path / "results.json").read_bytes()
    document.write(run)
    assert (run.path / "results.json").read_bytes() == first
    assert b"seconds" not in first
    assert str(run.path).encode() not in first


def test_the_page_is_whole_and_escaped(run):
    document.write(run)
    page = (run.path / "report.html").read_text()
    assert "synthetic" in page
    assert "&lt;tiny&gt;" in page
    assert "<tiny>" not in page
    assert "out-of-domain" in page
    assert "http" not in page.split("</head>")[0].replace("http-equiv", "")
    text = (run.path / "report.md").read_text()
    assert "| games | 5 | 9 | 40 | 20 | 5 | 5 |" in text
    assert "<td>games</td><td>5</td><td>9</td><td>40</td>" in page
    assert "built-in" not in text + page
    assert "| SASRec | csft | 2 | **0.2150** ± 0.0050 |" in text
    assert "| oracle | none | 1 | 0.9000 |" in text  # above all, and not marked: it is no trained recommender
    for said in (text, page):  # the tests' own metric
        assert "Does a stage help? recall@20 averaged over seeds" in said
        assert "NDCG@10" not in said
    assert "<th>recall@20 difference</th>" in page
    assert "| SASRec | raw | csft | +0.1000 | +0.0500 to +0.1500 | 1e-09 | better |" in text


def test_expected_numbers_stand_in_the_report_by_the_metrics_that_they_have(run, monkeypatch):
    settings = document.collect(run)["settings"]
    wanted = {"date": "2026-11-24", "machine": "CPU", "settings": settings}
    wanted["results"] = {"games SASRec raw": {"recall@10": [0.1, 0.01], "ndcg@10": [0.115, 0.01]}}
    monkeypatch.setattr(document.expected, "load", lambda profile, outputs: wanted)
    run.write_info("asked", {"profile": "mine", "command": "llm2rec"})
    document.write(run)
    text, page = ((run.path / f"report.{kind}").read_text() for kind in ("md", "html"))
    head, _, line = text.split("## Against the expected numbers of profile mine")[1].splitlines()[4:7]
    assert head == "| line | recall@10 | expected | ndcg@10 | expected | verdict |"
    assert line == "| games SASRec raw | 0.1150 | 0.1000 ± 0.0100 | 0.1150 | 0.1150 ± 0.0100 | differs |"
    assert "<th>recall@10</th><th>expected</th><th>ndcg@10</th><th>expected</th>" in page


def test_figures_have_the_same_captions_in_both_reports(run):
    (run.path / "figures").mkdir()
    training_figures.save(training_figures._figure(1)[0], run.path / "figures" / "by_kind")
    document.write(run)
    text, page = ((run.path / f"report.{kind}").read_text() for kind in ("md", "html"))
    captions = {"![tests](figures/tests.png)": document.OWN["tests"]}
    captions["![Maps of the embeddings, coloured by kind of item](figures/by_kind.png)"] = document.CAPTIONS["by_kind"]
    for image, caption in captions.items():
        assert f"{image}\n\n{caption}\n" in text
        assert f"<figcaption>{caption}</figcaption>" in page


def test_the_terminal_table_fits(run):
    lines = document.render_table(document.write(run)).splitlines()
    assert max(map(len, lines)) <= 110
    assert any("oracle" in line and "0.9000" in line for line in lines)


def test_a_run_without_evaluation_says_what_to_run(tmp_path):
    run = Run("r", tmp_path)
    run.make("corpus", lambda f: {"source": "x", "statistics": []}, settings={})
    with pytest.raises(ValueError, match="04_downstream_eval"):
        document.write(run)
