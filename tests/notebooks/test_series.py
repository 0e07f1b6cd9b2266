"""All five notebooks at toy size: they run, what they promise is there, a second run reuses everything and changes no number."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llm2rec_kit.reproduction import notebooks
from llm2rec_kit.runs import Run, read_records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    words = [
        sys.executable,
        "-m",
        "llm2rec_kit.cli",
        "reproduce",
        "--profile",
        "smoke",
        "--run",
        "toy",
        "--outputs",
        str(outputs),
        "--set",
        "maps.max_items=60",
        "--set",
        "evaluation.epochs=1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=outputs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Run("toy", outputs), words, done.stdout


def test_the_terminal_ends_with_the_table_and_where_to_look(finished):
    run, _, said = finished
    assert "oracle" in said
    assert said.strip().endswith(f"report: {run.path / 'report.html'}\nexecuted notebooks: {run.path / 'notebooks'}")
    assert (run.path / "report.html").stat().st_size > 50_000


def test_every_stage_left_its_artefacts(finished):
    run, _, _ = finished
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
        assert run.require(name)
    assert (
        len(run.names("evaluation/games")) == 2 * 5 + 5 + 2 * 4 + 1 + 1
    )  # trained, five baselines, nearest and nearestmean, oracle, comparisons


def test_notebooks_recorded_numbers_and_pictures(finished):
    run, _, _ = finished
    pictures = 0
    for book in notebooks.series():
        executed = run.path / "notebooks" / book.name
        assert read_records(executed), book
        cells = json.loads(executed.read_text())["cells"]
        assert not any(o["output_type"] == "error" for c in cells for o in c.get("outputs", []))
        pictures += sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))
    assert pictures >= 12
    leak = read_records(run.path / "notebooks" / "03_item_embedding.ipynb")["leak"]
    assert leak["causal"] == 0
    assert leak["bidirectional"] > 0


def test_a_second_run_reuses_everything_and_changes_no_number(finished):
    run, words, _ = finished
    before = (run.path / "results.json").read_bytes()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "0 trainings to do" in done.stdout
    for name in ("corpus", "backbone", "csft", "mntp", "contrastive", "embeddings/raw", "maps"):
        assert f"{name}: reused" in done.stdout
    assert (run.path / "results.json").read_bytes() == before
