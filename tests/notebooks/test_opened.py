"""The notebooks opened on a finished run, as in JupyterLab or by papermill: what is there is reused, and never replaced unasked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run

pytestmark = pytest.mark.usefixtures("no_pictures")

SERIES = notebooks.list_series()


@pytest.fixture
def run(toy_run, tmp_path):
    shutil.copytree(toy_run.run.path, tmp_path / "toy")
    return Run("toy", tmp_path)


def kept(run):
    """Bytes and times of every manifest, and of run.json."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.path.rglob("*.json") if "projector" not in p.parts}


def opened(run, number, typed="", cells=None):
    """What the cells say of a notebook whose parameters cell names the run, with `typed` lines put under it; all of them, or some."""
    (book,) = (b for b in SERIES if b.name.startswith(number))
    node = nbformat.read(book, as_version=4)
    cell = next(c for c in node.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = cell.source.replace('run: str = "demo"', f"run: str = {run.name!r}")
    cell.source = cell.source.replace('outputs: str = ""', f"outputs: str = {str(run.path.parent)!r}") + f"\n{typed}"
    node.cells = node.cells[:cells]
    places = {"metadata": {"path": str(book.parent)}}
    NotebookClient(node, timeout=900, kernel_name="python3", resources=places).execute()
    outputs = [o for c in node.cells for o in c.get("outputs", [])]
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


REUSED = {
    "01": ["corpus"],
    "02": ["backbone", "csft"],
    "03": ["mntp", "contrastive", "embeddings/raw", "encoder"],
    "04": ["evaluation/games/comparisons"],
    "05": ["maps"],
}


@pytest.mark.parametrize("number", REUSED)
def test_with_its_defaults_a_notebook_reuses_all_of_a_finished_run(run, number):
    before = kept(run)
    said = opened(run, number)
    assert kept(run) == before
    assert re.search(r"profile +┆ smoke +┆ run", said)
    for name in REUSED[number]:
        assert f"{name}: reused" in said
    assert "redoing" not in said
    assert number != "04" or " 0 trainings to do" in said


def test_of_a_run_without_run_json_the_manifests_tell_enough(run):
    (run.path / "run.json").unlink()
    before = kept(run)
    assert "maps: reused" in opened(run, "05", cells=7)
    assert kept(run) == before


def test_what_is_typed_stops_before_a_finished_artefact_is_replaced(run):
    before = kept(run)
    with pytest.raises(
        CellExecutionError, match=r"WouldReplace: Run 'toy' has finished 'maps' .*maps_clusters = 3 \(typed\)"
    ):
        opened(run, "05", "maps_clusters: int = 3", cells=7)
    with pytest.raises(CellExecutionError, match=r"maps_max_items = 20000 \(typed\).* \(maps_max_items = 60\)"):
        opened(run, "05", "maps_max_items = 20000", cells=7)
    assert kept(run) == before
    assert "redoing, forced" in opened(run, "05", "maps_clusters: int = 3\nforce: bool = True", cells=7)
    assert run.manifest("maps")["settings"]["clusters"] == 3


@pytest.mark.parametrize(("name", "value"), [("csft_steps", "3"), ("csft_batch_size", "128")])
def test_plain_papermill_does_not_replace_the_csft_of_a_finished_run(run, tmp_path, name, value):
    before = kept(run)
    words = ["-p", "run", "toy", "-p", "outputs", str(tmp_path), "-p", "csft_warmup_steps", "2", "-p", name, value]
    (book,) = (b for b in SERIES if b.name.startswith("02"))
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(book), "out.ipynb", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode != 0
    assert f"{name} = {value} (typed)" in done.stderr
    assert "What stands on it would be outdated: mntp, contrastive, encoder, 3 tables of embeddings" in done.stderr
    assert kept(run) == before
