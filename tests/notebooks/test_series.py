"""The notebooks at toy size: they run, what they promise is there, and each runs alone under plain papermill, reusing all of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from llm2rec_kit.reproduction.report import brief, document
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.reproduction.studies import records
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import Run, read_records
from llm2rec_kit.runs.places import find_project_root

PROFILE = find_project_root() / "llm2rec_kit" / "reproduction" / "profiles" / "smoke.yaml"


def test_the_terminal_ends_with_the_table_and_where_to_look(toy_run):
    run, said = toy_run.run, toy_run.said
    assert "oracle" in said
    assert said.strip().endswith(f"report: {run.path / 'report.html'}\nexecuted notebooks: {run.path / 'notebooks'}")
    assert (run.path / "report.html").stat().st_size > 50_000


def test_the_terminal_follows_every_notebook_through_its_headings(toy_run):
    for k, book in enumerate(notebooks.list_series(), 1):
        start = f"[{k}/{len(notebooks.list_series())}] {book.stem}\n"
        part = toy_run.said.split(start)[1].split(f"{book.stem} done in")[0]
        assert part.count("  cell ") >= 5
        assert f"  cell 1/{len(json.loads(book.read_text())['cells']) + 1}: " in part


def test_every_stage_left_its_artefacts(toy_run):
    for name in (
        "corpus",
        "backbone",
        "csft",
        "mntp",
        "contrastive",
        "encoder",
        "maps",
        *(f"embeddings/{s}" for s in ("raw", "csft", "mntp", "contrastive")),
    ):
        assert toy_run.run.require(name)
    assert (
        len(toy_run.run.names("evaluation/games")) == 2 * 5 + 5 + 2 * 4 + 1 + 1
    )  # trained, five baselines, nearest and nearestmean, oracle, comparisons


def test_notebooks_recorded_numbers_and_pictures(toy_run):
    run = toy_run.run
    pictures = 0
    for book in notebooks.list_series():
        executed = run.path / "notebooks" / book.name
        assert read_records(executed), book
        cells = json.loads(executed.read_text())["cells"]
        assert not any(o["output_type"] == "error" for c in cells for o in c.get("outputs", []))
        pictures += sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
    assert pictures >= 12
    leak = read_records(run.path / "notebooks" / "03_item_embedding.ipynb")["leak"]
    assert leak["causal"] == 0
    assert leak["bidirectional"] > 0


def test_run_json_tells_what_it_was_and_what_it_cost(toy_run):
    about = toy_run.run.read_info()
    assert about["asked"]["profile"] == "smoke"
    assert about["asked"]["parameters"]["csft_save_every"] == 3
    assert set(about["notebooks"]) == {book.stem for book in notebooks.list_series()}
    assert all(n["cpu_seconds"] > 0.5 for n in about["notebooks"].values())
    assert about["seeds"] == {"corpus": 2024, "backbone": 42, "csft": 42, "mntp": 42, "contrastive": 42, "maps": 42}
    for name in ("csft", "mntp", "contrastive"):
        assert about["stages"][name]["cpu_seconds"] > 0
        assert about["stages"][name]["peak_memory_mib"] > 100


def test_the_report_marks_the_best_of_all_rows_by_the_tests_that_the_ranks_give(toy_run):
    held = evaluations.find_evaluations(toy_run.run)
    results = document.collect(toy_run.run, held)
    places = brief.judge_standings(toy_run.run, results, held)
    assert set(places) == set(results["results"])
    for domain, rows in results["results"].items():
        marks = list(places[domain].values())
        assert len(marks) == len(rows) - 1  # all but the oracle
        assert marks.count("best") == 1 or (marks.count("best") == 0 and marks.count("tied for best") > 1)
        top, *_ = [
            k for k, r in enumerate(rows[:-1]) if r["mean"]["ndcg@10"] == max(r["mean"]["ndcg@10"] for r in rows[:-1])
        ]
        assert places[domain][rows[top]["recommender"], rows[top]["embedding"]]
    page = (toy_run.run.path / "report.html").read_text()
    assert all(a["question"] in page for a in brief.answer_questions(results, places))


@pytest.mark.parametrize(("name", "rows"), [("06_paper_tables", 5), ("07_beyond_the_paper", 10)])
def test_what_the_studies_say_is_kept_for_the_notebook_s_first_lines(toy_run, name, rows):
    found = records.summarise(toy_run.run, name)
    assert len(found) >= rows
    path = toy_run.run.path / "notebooks" / f"{name}.json"
    kept, away = path.read_bytes(), path.with_suffix(".away")
    path.rename(away)  # as in a run of an earlier version: what the executed notebook recorded
    recorded = records.summarise(toy_run.run, name)
    away.rename(path)
    assert path.read_bytes() == kept
    assert found.filter(~found["question"].str.contains(r"^(Table|Figure) ")).equals(recorded)


def test_a_second_call_keeps_the_copies_of_01_to_05_as_they_are(toy_run):
    copies = {book.name: toy_run.run.path / "notebooks" / book.name for book in notebooks.list_series()[:5]}
    before = {name: path.read_bytes() for name, path in copies.items()}
    results = (toy_run.run.path / "results.json").read_bytes()
    words = [*toy_run.words, "--only", "01,02,03,04,05"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=toy_run.run.path.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count(" kept as it is: nothing that it was made of has changed\n") == 5, done.stdout[:3000]
    assert {name: path.read_bytes() for name, path in copies.items()} == before
    assert (toy_run.run.path / "results.json").read_bytes() == results


@pytest.mark.usefixtures("no_pictures")
def test_a_notebook_runs_alone_under_plain_papermill_from_anywhere_and_reuses_what_is_there(toy_run, tmp_path):
    """Notebook 06; test_opened has 01 to 05, and browser/test_notebooks all of them."""
    shutil.copytree(toy_run.run.path, tmp_path / "outputs" / "toy")
    (book,) = (b for b in notebooks.list_series() if b.name.startswith("06"))
    words = [sys.executable, "-m", "papermill", str(book), "out.ipynb", "-f", str(PROFILE), "-p", "run", "toy"]
    words += ["-p", "outputs", str(tmp_path / "outputs")]
    words += [w for name, value in toy_run.changed.items() for w in ("-p", name.replace(".", "_"), str(value))]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    said = "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    for name in ("mntp_from_backbone", "llm2vec", "llmemb", "csft_mixed", "backbone", "csft"):
        assert f"{name}: reused" in said
    assert said.count(": 0 recommenders to train") == 5 + 8  # start and length: two starts, four forms
    run = Run("toy", tmp_path / "outputs")
    before = (run.path / "results.json").read_bytes()
    document.write(run)
    assert (run.path / "results.json").read_bytes() == before


FEW = {
    "evaluation.embeddings": ["raw", "contrastive"],
    "evaluation.recommenders": ["SASRec"],
    "evaluation.baselines": ["popularity"],
}
FEW |= {"tables.models": [], "tables.backbones": [], "tables.cells": [], "tables.normalised": False, "tables.starts": []}


@pytest.mark.usefixtures("no_pictures")
def test_the_papers_metrics_are_read_off_the_ranks_of_a_run_that_was_evaluated_at_others(toy_run, tmp_path):
    shutil.copytree(toy_run.run.path, tmp_path / "outputs" / "toy")
    asked = toy_run.changed | FEW | {"evaluation.cutoffs": [5], "evaluation.tested": "recall@20"}
    words = [sys.executable, "-m", "llm2rec_kit.cli", "reproduce", "--profile", "smoke", "--run", "toy", "--only", "04,06"]
    words += [w for name, value in asked.items() for w in ("--set", f"{name}={json.dumps(value)}")]
    done = subprocess.run([*words, "--outputs", str(tmp_path / "outputs")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "this replaces, in run 'toy': " in done.stdout.split("[1/2]")[0]
    assert "(evaluation_cutoffs [10, 20] -> [5])" in done.stdout
    run = Run("toy", tmp_path / "outputs")
    found = read_records(run.path / "notebooks" / "06_paper_tables.ipynb")["table3_games_SASRec_raw"]
    ranks = np.load(run.path / "evaluation" / "games" / "SASRec-raw-seed2024.npy")
    for k in (5, 10, 20):
        assert found[f"recall@{k} mean"] == pytest.approx((ranks <= k).mean())
    said = (run.path / "notebooks" / "06_paper_tables.ipynb").read_text()
    assert "recall@10, ndcg@10, recall@20, ndcg@20 are computed from them" in said
    assert "no: it prints no recall@20" in said  # of Tables 4 and 5
    assert "higher in 3 of 3" in said  # of Table 3
    results = json.loads((run.path / "results.json").read_text())
    assert {m for rows in results["results"].values() for row in rows for m in row["mean"]} == {"recall@5", "ndcg@5", "mrr"}
    assert {row["metric"] for rows in results["comparisons"].values() for row in rows} == {"recall@20"}
