"""The summary of notebooks 06 and 07: computed, kept, read back, and of an earlier version's run; never of other artefacts."""

from __future__ import annotations

import hashlib
import json

import polars as pl
import pytest

from llm2rec_kit import storage
from llm2rec_kit.reproduction.studies import directions, records
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import RECORD_MIME, Run

TALLY = {"same way": 2, "the other way": 0, "no detectable difference": 1, "the paper is of two minds": 0}
RECORDS = {
    "directions": TALLY,
    "by_table": {"Table 3": TALLY},
    "starts_games_contrastive": {"answer": "longer is better", "users": 3},
    "table3_games_SASRec_raw": {"ndcg@10 mean": 0.1},
}


@pytest.fixture
def run(tmp_path):
    run = Run("toy", tmp_path)
    make(run, 1)
    return run


def make(run, seed):
    run.make("corpus", lambda folder: (folder / "file").write_text(str(seed)) and {}, settings={"seed": seed}, quiet=True)


def executed(run, name, records):
    """An executed notebook with these records, as the runner keeps it."""
    outputs = [{"data": {RECORD_MIME: storage.seal({"name": k, "values": v})}} for k, v in records.items()]
    book = run.path / "notebooks" / f"{name}.ipynb"
    book.parent.mkdir(exist_ok=True)
    book.write_text(json.dumps({"cells": [{"outputs": outputs}]}))


def test_what_was_computed_is_what_the_notebook_begins_with_next_time(run):
    made = records.summarise(run, "06_paper_tables", RECORDS)
    assert made["answer"].to_list() == ["3 tested: 2 same way, 1 no detectable difference"] * 2 + ["longer is better"]
    assert made["question"][2] == "start and length of embeddings, games contrastive"
    assert records.summarise(run, "06_paper_tables").equals(made)


def test_answers_stand_behind_the_questions_in_words(run):
    made = records.summarise(run, "07_beyond_the_paper", {"answers": {"views": "level", "temperature": "0.1 is better"}})
    assert made["answer"].to_list() == ["0.1 is better", "level"]
    assert made["question"][0].startswith("Temperature")


def test_a_run_of_an_earlier_version_is_summarised_from_its_executed_notebook(run):
    executed(run, "07_beyond_the_paper", {"answers": {"views": "level"}})
    assert records.summarise(run, "07_beyond_the_paper")["answer"].to_list() == ["level"]


def test_a_run_without_studies_says_so_in_a_line(run, capsys):
    executed(run, "06_paper_tables", {"run": {"n": 1}})  # was stopped before its end
    assert records.summarise(run, "06_paper_tables") is None
    assert "06_paper_tables in run 'toy' is not there yet" in capsys.readouterr().out
    assert records.summarise(Run("none", run.path.parent), "06_paper_tables") is None


def test_a_summary_of_other_artefacts_is_told_and_not_shown(run, capsys):
    records.summarise(run, "06_paper_tables", RECORDS)
    executed(run, "06_paper_tables", RECORDS)
    make(run, 2)
    assert records.summarise(run, "06_paper_tables") is None
    assert "no longer holds" in capsys.readouterr().out


def evaluate(run, ranks, **place):
    name = "evaluation/toy/SASRec-raw-seed1"
    run.make(name, lambda f: (f / "ranks").write_text(ranks) and {}, settings={}, quiet=True, force=True)
    evaluations.note_series(run, {"epochs": 3}, [1], [name], place=place)


def test_a_summary_over_evaluations_that_were_made_anew_under_the_same_names_is_of_others(run, capsys):
    evaluate(run, "1 2 3")
    for name, last in records.LAST.items():
        found = {last: {"views": "level"} if last == "answers" else TALLY}
        executed(run, name, found)
        records.summarise(run, name, found)
    assert {*records.read_current(run)} == {*records.LAST}
    for workers in (0, 2):  # which changes no result, and was not kept before
        evaluate(run, "1 2 3", device="cpu", workers=workers)
        assert {*records.read_current(run)} == {*records.LAST}
    assert capsys.readouterr().out == ""
    evaluate(run, "4 5 6")
    assert records.summarise(run, "06_paper_tables") is None
    assert records.read_current(run) == {}
    said = capsys.readouterr().out
    assert "The answers of 07_beyond_the_paper in run 'toy' are of artefacts that it no longer holds: left out." in said
    (run.path / "notebooks" / "07_beyond_the_paper.json").unlink()  # as an earlier version left it
    assert {*records.read_current(run)} == {"07_beyond_the_paper"}


def test_what_a_series_says_of_tests_and_baselines_ages_no_summary(run):
    evaluate(run, "1 2 3")
    executed(run, "06_paper_tables", RECORDS)
    records.summarise(run, "06_paper_tables", RECORDS)
    name = "evaluation/toy/SASRec-raw-seed1"
    for metric in ("ndcg@10", "mrr"):
        evaluations.note_series(run, {"epochs": 3}, [1], [name], beside={"tested": metric, "baselines": ["bm25"]})
        assert run.manifest(evaluations.SERIES)["settings"]["tested"] == metric
        assert {*records.read_current(run)} == {"06_paper_tables"}


def test_a_summary_that_an_earlier_version_kept_is_checked_as_it_was_then(run):
    evaluate(run, "1 2 3")
    manifests = [run.manifest(name) for name in ("corpus", "evaluation/series")]
    said = [[m["artefact"], m["files"], m["settings"]] for m in manifests]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    executed(run, "06_paper_tables", RECORDS)
    kept = {"made_of": digest, "rows": [{"question": "which?", "answer": "this"}]}
    storage.write_note(run.path / "notebooks" / "06_paper_tables.json", kept)
    assert records.summarise(run, "06_paper_tables")["answer"].to_list() == ["this"]
    assert {*records.read_current(run)} == {"06_paper_tables"}
    make(run, 2)
    assert records.read_current(run) == {}


def test_a_damaged_summary_is_told_and_the_notebook_goes_on(run, capsys):
    records.summarise(run, "06_paper_tables", RECORDS)
    path = run.path / "notebooks" / "06_paper_tables.json"
    path.write_text(path.read_text().replace("longer", "shorter"))
    assert records.summarise(run, "06_paper_tables") is None
    assert "damaged" in capsys.readouterr().out


def test_directions_are_counted_by_table_whatever_stands_behind_its_name():
    rows = pl.DataFrame(
        {
            "table": ["Table 3", "Figure 4, tiny-96", "Figure 4, tiny-48 (in-domain)"],
            "agreement": ["same way", "the other way", "same way"],
        }
    )
    assert {name: sum(tally.values()) for name, tally in directions.count_by_table(rows).items()} == {
        "Table 3": 1,
        "Figure 4": 2,
    }
    assert directions.count_by_table(rows)["Figure 4"]["the other way"] == 1
    assert directions.count_by_table(pl.DataFrame()) == {}
