"""Every artefact and note of a run against every way to damage it: what `make` and the report do.

Read the tables below. A cell says what happens:
  redone   made anew, and a line names what was wrong
  anew     a note, made anew as far as may be, and a line names what was wrong
  named    one paragraph names the file, and nothing else happens
  same     it is not read: the report is that of the sound run, to the byte
Never is anything damaged used in silence, and never is the error a bare one of the system, of JSON or of a library.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fault_run
import numpy as np
import pytest
from fault_run import FAULTS, make

from llm2rec_kit import runs, storage
from llm2rec_kit.figures import report_figures
from llm2rec_kit.fitting import checkpoints
from llm2rec_kit.reproduction.grid import graph
from llm2rec_kit.reproduction.report import document
from llm2rec_kit.reproduction.runner import forced
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.storage.npy_writer import RowFile

FILES = {  # a file of each kind of artefact, and the artefact
    "corpus/samples.parquet": "corpus",
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
    "evaluation/toy/SASRec-csft-seed1.safetensors",
    "evaluation/toy/comparisons.parquet",
)
MAY_BE_GONE = ("model.safetensors", "points.npy")  # whoever needs room deletes them; their records stay
MANIFESTS = [
    *(f"{name}/manifest.json" for name in ("corpus", "backbone", "csft", "mntp", "contrastive", "maps")),
    *("embeddings/csft.json", "evaluation/toy/SASRec-csft-seed1.json", "evaluation/toy/comparisons.json"),
    "evaluation/series.json",
]
OF_A_FILE = ("flipped", "truncated", "emptied", "removed", "other run", "folder", "loop", "elsewhere")
OF_A_MANIFEST = ("digit", *OF_A_FILE, "null", "list", "object", "not UTF-8")
SAID = {  # what the line that names a damaged file says of it
    "flipped": "damaged",
    "truncated": "damaged",
    "emptied": "damaged",
    "other run": "damaged",
    "removed": "missing",
    "folder": "is a folder",
    "loop": "cannot be read",
    "elsewhere": "damaged",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Run, Run, bytes]:
    """The run, another one of other content, and the results of the first."""
    base = tmp_path_factory.mktemp("sound")
    run, other = fault_run.made(Run("toy", base)), fault_run.made(Run("other", base), seed=1)
    fault_run.notebook(run)
    with pytest.MonkeyPatch.context() as patch:
        no_drawing(patch)
        document.write(run)
    return run, other, (run.path / "results.json").read_bytes()


def no_drawing(patch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn: that takes longer than all else."""
    patch.setattr(report_figures, "render_png", lambda figure: b"")
    patch.setattr(report_figures, "render_svg", lambda figure: "")


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
        document.write(run)
    except Exception as error:
        return "named" if named(error, path) else repr(error)
    return "same" if (run.path / "results.json").read_bytes() == results else "other"


def left_out(run: Run) -> list[str]:
    """What the report says that it leaves out: of other inputs or settings."""
    return json.loads((run.path / "results.json").read_text())["left_out"]


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
    assert reported(run, path, results) == ("same" if needless else "named")
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
    # Another run's is sound in itself; what it does not fit to is named. Of the series it is the same.
    whole = fault in ("other run", "elsewhere")
    if not (whole and name == "evaluation/series"):
        error = stopped(run, name)
        assert named(error, path.parent if whole else path)
        assert f"notebooks/{runs.MADE_BY[name.split('/')[0]]}.ipynb" in str(error)
    if fault != "removed" or name == "corpus":
        shown = reported(run, path.parent if whole else path, results)
        if "are not of what it holds now" in shown:  # none of them, where all stand on it
            assert whole
        else:
            assert shown == "named" or (whole and (shown == "same" or name in left_out(run)))
    capsys.readouterr()
    make(run, name)
    said = capsys.readouterr().out
    if not whole:
        assert (f"{name}: making" if fault == "removed" else f"{name}: redoing, {path}") in said
    assert run.record(name) == record
    assert run.require(name)
    assert (other / file).read_bytes() == elsewhere


def stopped(run: Run, name: str) -> BaseException:
    with pytest.raises(ArtefactError) as stop:
        run.require(name)
    return stop.value


def test_a_file_that_is_none_of_a_folders_own(cell, capsys):
    """A library that reads the folder takes it for one, an adapter's configuration above all."""
    run, _, results = cell
    for name in ("corpus", "backbone", "csft", "mntp", "contrastive", "maps"):
        path = run.path / name / "adapter_config.json"
        path.write_text("{}")
        for ask in (run.require, lambda name: make(run, name)):
            with pytest.raises(ArtefactError, match="none of the files of") as stop:
                ask(name)
            assert named(stop.value, path)
        assert reported(run, path, results) == "named"
        path.rename(path.with_name(".hidden"))
        (path.parent / "README.md").write_text("a card")
        make(run, name)
        assert "reused" in capsys.readouterr().out
        assert reported(run, path, results) == "same"


def test_a_file_under_no_artefacts_name(cell):
    run, _, results = cell
    (run.path / "embeddings" / "more.npy").write_bytes(b"!")  # what no manifest names is nobody's
    assert reported(run, run.path, results) == "same"
    for place in ("embeddings", "evaluation/toy"):
        path = run.path / place / "more.json"
        path.write_text("{}")
        assert reported(run, path, results) == "named"
        path.unlink()


def test_a_copy_under_another_name_is_no_second_seed(cell):
    run, _, results = cell
    folder = run.path / "evaluation" / "toy"
    for end in (".npy", "-listed.npy", ".safetensors", ".json"):
        shutil.copyfile(folder / f"SASRec-csft-seed1{end}", folder / f"SASRec-csft-seed3{end}")
    with pytest.raises(
        ArtefactError, match=r"seed3\.json is damaged: it is the manifest of 'evaluation/toy/SASRec-csft-seed1'"
    ):
        run.require("evaluation/toy/SASRec-csft-seed3")
    assert reported(run, folder / "SASRec-csft-seed3.json", results) == "named"
    shutil.copytree(run.path / "csft", run.path / "mntp", dirs_exist_ok=True)
    with pytest.raises(ArtefactError, match="it is the manifest of 'csft'"):
        run.require("mntp")


# -- notes ------------------------------------------------------------------------------------------------------------


def of_run_json(base: Path) -> tuple[Path, Callable[[], object]]:
    run = Run("toy", base)
    return run.path / "run.json", lambda: [
        {k: run.read_info()[k] for k in ("name", "seeds")},
        sorted(run.read_info()["stages"]),
    ]


def of_a_begun_artefact(base: Path) -> tuple[Path, Callable[[], object]]:
    run = Run("toy", base)

    def dies(folder: Path) -> None:
        (folder / "step").write_text("half")
        raise MemoryError

    with pytest.raises(MemoryError):
        run.make("encoder", dies, settings={"steps": 10}, quiet=True)

    def again() -> object:
        seen = []
        run.make("encoder", lambda folder: seen.append((folder / "step").exists()), settings={"steps": 10}, quiet=True)
        return seen == [False]  # begun anew

    return run.path / ".encoder.partial" / ".key.json", again


def of_rows(base: Path) -> tuple[Path, Callable[[], object]]:
    def begun() -> RowFile:
        return RowFile(base / "rows.npy", 4, 2, {"model": 1})

    begun().write(0, np.ones((2, 2)))

    def again() -> object:
        rows = begun()
        done = rows.done
        rows.write(done, np.ones((4 - done, 2)))
        return done == 0, rows.finish().tolist(), [p.name for p in base.glob(".rows*") if not p.name.endswith(".damaged")]

    return next(base.glob(".rows.npy.*.partial.0-of-1")), again


def of_a_node(base: Path) -> tuple[Path, Callable[[], object]]:
    run, node = Run("toy", base), graph.Node("04-abc", "04_downstream_eval", {})
    book = fault_run.notebook(run)
    storage.write_note(run.path / graph.DONE, {"node": node.name, "notebook": graph._digest(book), "seconds": 1.0})
    assert graph.read_finished(run, node, book)
    return run.path / graph.DONE, lambda: graph.read_finished(run, node, book)


def of_a_forced_series(base: Path) -> tuple[Path, Callable[[], object]]:
    run = Run("toy", base)

    def name() -> str:
        with contextlib.suppress(MemoryError), forced.name_series(run, {"force": True, "csft_steps": 3}, []):
            kept.append(runs.series.find_forced())
            raise MemoryError
        return kept[-1]

    kept: list[str] = []
    name()
    assert name() == kept[0]
    return run.path / ".forced.json", lambda: name() != kept[0]


def of_a_checkpoint(base: Path) -> tuple[Path, Callable[[], object]]:
    for step in (1, 2):
        place = checkpoints.locate(base / "checkpoints", step)
        place.mkdir(parents=True)
        (place / "weights").write_bytes(bytes(100))
        checkpoints.seal(place, {"pending": 3})
    return place / checkpoints.COMPLETE, lambda: checkpoints.find_last(base / "checkpoints").name


def of_an_executed_notebook(base: Path) -> tuple[Path, Callable[[], object]]:
    run = Run("toy", base)
    return fault_run.notebook(run), lambda: document.collect(run)["beyond"]


NOTES: dict[str, tuple[Callable[[Path], tuple[Path, Callable[[], object]]], str]] = {
    "run.json": (of_run_json, "anew"),
    "the key of what is begun": (of_a_begun_artefact, "anew"),
    "the mark of rows": (of_rows, "anew"),
    "a node of a grid": (of_a_node, "anew"),
    "a forced series": (of_a_forced_series, "anew"),
    "a checkpoint's marker": (of_a_checkpoint, "anew"),
    "an executed notebook": (of_an_executed_notebook, "named"),
}
OF_A_NOTE = ("digit", "truncated", "emptied", "null", "list", "not UTF-8", "folder", "loop")
ANEW = {  # what is had where a note is damaged
    "the key of what is begun": True,
    "the mark of rows": (True, [[1.0, 1.0]] * 4, []),
    "a node of a grid": None,
    "a forced series": True,
    "a checkpoint's marker": "checkpoint-1",
}


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("fault", OF_A_NOTE)
def test_a_note(cell, capsys, note, fault):
    run, _, _ = cell
    prepare, expected = NOTES[note]
    path, use = prepare(run.path.parent)
    if note == "run.json":
        ANEW[note] = use()
    FAULTS[fault](path, path)
    capsys.readouterr()
    if expected == "named":
        with pytest.raises(ValueError, match="Run the notebook again") as stop:
            use()
        assert named(stop.value, path)
        return
    assert use() == ANEW[note]
    said = capsys.readouterr().out
    assert str(path if note != "a checkpoint's marker" else path.parent) in said
    assert "Errno" not in said
    if fault == "folder" and note == "run.json":
        assert (path.with_name("run.json.damaged") / "inside").read_text() == "kept"
    assert use() is not None or note == "a node of a grid"  # and not in the way any more
