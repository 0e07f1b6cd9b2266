"""Every artefact and note of a run against every way to damage it: what `make` and the report do.

Read the tables below. A cell says what happens:
  redone   made anew, and a line names what was wrong
  anew     a note, made anew as far as may be, and a line names what was wrong
  named    one paragraph names the file, and nothing else happens
  same     it is not read: the report is that of the sound run, to the byte
Never is anything damaged used in silence, and never is the error a bare one of the system, of JSON or of a library.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fault_run
import numpy as np
import pytest
from fault_run import FAULTS, make

from llm2rec_kit import runs, storage
from llm2rec_kit.reproduction import grid, notebooks, pictures, report
from llm2rec_kit.rowfile import RowFile
from llm2rec_kit.runs import ArtefactError, Run, read_records
from llm2rec_kit.training import checkpoints

FILES = {  # a file of each kind of artefact, and the artefact
    "corpus/items.parquet": "corpus",
    "backbone/model.safetensors": "backbone",
    "csft/model.safetensors": "csft",
    "csft/history.json": "csft",
    "mntp/model.safetensors": "mntp",
    "contrastive/model.safetensors": "contrastive",
    "embeddings/csft.npy": "embeddings/csft",
    "evaluation/toy/SASRec-csft-seed1.npy": "evaluation/toy/SASRec-csft-seed1",
    "evaluation/toy/SASRec-csft-seed1.safetensors": "evaluation/toy/SASRec-csft-seed1",
    "evaluation/toy/comparisons.parquet": "evaluation/toy/comparisons",
    "maps/points.npy": "maps",
}
UNREAD = (  # the report shows the record of what these belong to and reads nothing of them
    "evaluation/toy/SASRec-csft-seed1.npy",
    "evaluation/toy/SASRec-csft-seed1.safetensors",
    "evaluation/toy/comparisons.parquet",
)
MAY_BE_GONE = ("model.safetensors", "points.npy")  # whoever needs room deletes them; their records stay
MANIFESTS = [
    *(f"{name}/manifest.json" for name in ("corpus", "backbone", "csft", "mntp", "contrastive", "maps")),
    *("embeddings/csft.json", "evaluation/toy/SASRec-csft-seed1.json", "evaluation/toy/comparisons.json"),
    "evaluation/series.json",
]
OF_A_FILE = ("flipped", "truncated", "emptied", "removed", "another's", "folder", "loop", "elsewhere")
OF_A_MANIFEST = ("digit", *OF_A_FILE, "null", "list", "object", "not UTF-8")
SAID = {  # what the line that names a damaged file says of it
    "flipped": "damaged",
    "truncated": "damaged",
    "emptied": "damaged",
    "another's": "damaged",
    "removed": "missing",
    "folder": "is a folder",
    "loop": "loop of links|Too many levels",
    "elsewhere": "leads out of",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Run, Run, bytes]:
    """The run, another one of other content, and the results of the first."""
    base = tmp_path_factory.mktemp("sound")
    run, other = fault_run.made(Run("toy", base)), fault_run.made(Run("other", base), seed=1)
    fault_run.notebook(run)
    with pytest.MonkeyPatch.context() as patch:
        no_drawing(patch)
        report.write(run)
    return run, other, (run.path / "results.json").read_bytes()


def no_drawing(patch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn: that takes longer than all else."""
    patch.setattr(pictures, "png", lambda figure: b"")
    patch.setattr(pictures, "svg", lambda figure: "")


@pytest.fixture
def cell(sound, tmp_path, monkeypatch):
    """A copy of the run to damage, where the other's file of the same name is, and the sound run's results."""
    no_drawing(monkeypatch)
    run, other, results = sound
    shutil.copytree(run.path, tmp_path / "toy")
    shutil.copytree(other.path, tmp_path / "other")
    return Run("toy", tmp_path), tmp_path / "other", results


def named(error: BaseException, path: Path) -> bool:
    """Whether an error is the kit's own, one paragraph, and says which file is meant."""
    text = str(error)
    return isinstance(error, ArtefactError | ValueError) and str(path) in text and "\n" not in text and "Errno" not in text


def reported(run: Run, path: Path, results: bytes) -> str:
    """What the report does: "named", "same", or "other" where it shows something else."""
    try:
        report.write(run)
    except Exception as error:
        assert named(error, path), repr(error)
        return "named"
    return "same" if (run.path / "results.json").read_bytes() == results else "other"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fault", OF_A_FILE)
def test_a_file(cell, capsys, file, fault):
    run, other, results = cell
    name = FILES[file]
    path, before = run.path / file, (run.path / file).read_bytes()
    elsewhere = (other / file).read_bytes()
    FAULTS[fault](path, other / file)
    with pytest.raises(ArtefactError, match=SAID[fault]) as stop:
        run.require(name)
    assert named(stop.value, path)
    assert f"notebooks/{runs.MADE_BY[name.split('/')[0]]}.ipynb" in str(stop.value)
    needless = file in UNREAD or (fault == "removed" and path.name in MAY_BE_GONE)
    # Where a name in a manifest leads to is looked at wherever the manifest is read.
    assert reported(run, path, results) == ("same" if needless and fault not in ("loop", "elsewhere") else "named")
    capsys.readouterr()
    make(run, name)
    said = capsys.readouterr().out
    assert f"{name}: redoing" in said
    assert str(path) in said
    assert path.read_bytes() == before
    assert not path.is_symlink()
    assert reported(run, path, results) == "same"
    assert (other / file).read_bytes() == elsewhere


@pytest.mark.parametrize("file", MANIFESTS)
@pytest.mark.parametrize("fault", OF_A_MANIFEST)
def test_a_manifest(cell, capsys, file, fault):
    run, other, results = cell
    name = file.removesuffix("/manifest.json").removesuffix(".json")
    path = run.path / file
    record, elsewhere = run.record(name), (other / file).read_bytes()
    FAULTS[fault](path, other / file)
    if fault in ("another's", "elsewhere"):  # sound, and of other settings or inputs; only of the series are they the same
        same = name == "evaluation/series"
        assert (run.require(name) if same else stopped(run, name)) is not None
    else:
        error = stopped(run, name)
        assert named(error, path)
        assert f"notebooks/{runs.MADE_BY[name.split('/')[0]]}.ipynb" in str(error)
    if fault != "removed":
        assert reported(run, path, results) in (("named", "same") if fault in ("another's", "elsewhere") else ("named",))
    capsys.readouterr()
    make(run, name)
    said = capsys.readouterr().out
    if fault not in ("another's", "elsewhere"):
        assert (f"{name}: making" if fault == "removed" else f"{name}: redoing, {path}") in said
    assert run.record(name) == record
    assert run.require(name)
    assert reported(run, path, results) == "same"
    assert (other / file).read_bytes() == elsewhere


def stopped(run: Run, name: str) -> BaseException:
    with pytest.raises(ArtefactError) as stop:
        run.require(name)
    return stop.value
