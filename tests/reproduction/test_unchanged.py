"""A finished notebook's copy is kept while all that it was made of is as it was; each way in which it is not runs it again."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_runner_faults import book

from llm2rec_kit import storage
from llm2rec_kit.reproduction.runner import notebooks, unchanged
from llm2rec_kit.runs import Run

DATA = "data_source: str = 'synthetic'  # source\ndata_path: str = ''  # folder\n"
TRAINING = "csft_steps: int = 10  # steps\nbackbone_trust_remote_code: bool = False  # code\n"


class Series:
    """01 makes `corpus` and a figure, 02 makes `csft` of it, executed here; what is made anew has other bytes."""

    def __init__(self, root: Path) -> None:
        self.root, self.ran, self.made, self.meanwhile = root, [], 0, lambda: None
        book(root, "01_data_prep.ipynb", DATA)
        book(root, "02_csft.ipynb", TRAINING)
        (root / "toy.yaml").write_text("csft_steps: 3  # steps\n")
        self.run = Run("toy", root / "out")

    def execute(self, path: Path, target: Path, values: dict, label: str, stream) -> str:
        self.ran.append(path.name[:2])
        run, force = Run(values["run"], values["outputs"]), values.get("force", False)
        if path.name.startswith("01"):
            run.make("corpus", self.build, settings={}, force=force)
            storage.write_text(run.path / "figures" / "timeline.png", "a picture")
        else:
            run.make("csft", self.build, settings={"steps": values["csft_steps"]}, inputs=["corpus"], force=force)
        self.meanwhile()
        storage.write_text(target, path.read_text())
        return "its kernel died" if values.get("csft_steps") == 13 else ""

    def build(self, folder: Path) -> None:
        self.made += 1
        (folder / "data").write_text(f"made as number {self.made}")

    def go(self, **more) -> list[str]:
        """The notebooks that a `reproduce` ran."""
        self.ran = []
        notebooks.reproduce(str(self.root / "toy.yaml"), root=self.root, outputs=str(self.root / "out"), **more)
        return self.ran


@pytest.fixture
def series(tmp_path, monkeypatch) -> Series:
    made = Series(tmp_path)
    monkeypatch.setattr(notebooks, "_execute", made.execute)
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "code.py").write_text("answer = 42\n")
    monkeypatch.setattr(unchanged, "places", SimpleNamespace(PACKAGE=tmp_path / "kit"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "packages")])
    (tmp_path / "packages" / "thing-1.0.dist-info").mkdir(parents=True)
    return made


def test_a_copy_that_stands_is_kept_and_that_is_said(series, capsys):
    assert series.go() == ["01", "02"]
    said = capsys.readouterr().out
    assert "kept" not in said
    assert "runs again" not in said
    copies = {path: path.stat() for path in (series.run.path / "notebooks").glob("*.ipynb")}
    costs = series.run.read_info()["notebooks"]
    assert series.go() == []
    said = capsys.readouterr().out
    assert "[1/2] 01_data_prep kept as it is" in said
    assert "[2/2] 02_csft kept as it is" in said
    assert f"delete its copy in {series.run.path / 'notebooks'}" in said
    assert {path: path.stat() for path in copies} == copies
    assert series.run.read_info()["notebooks"] == costs
    assert series.go(only=["02"]) == []


def change_notebook(series: Series) -> None:
    book(series.root, "02_csft.ipynb", TRAINING, "'a cell more'")


def change_environment(series: Series) -> None:
    os.environ["MPLBACKEND"] = "svg"


def upgrade_package(series: Series) -> None:
    (series.root / "packages" / "thing-1.0.dist-info").rename(series.root / "packages" / "thing-1.1.dist-info")


def edit(name: str, text: str = "other"):
    return lambda series: (series.run.path / name).write_text(text)


def delete(name: str):
    return lambda series: storage.clear(series.run.path / name)


WAYS = {
    "a notebook's source": (change_notebook, ["02"], "the notebook"),
    "the kit": (lambda s: (s.root / "kit" / "code.py").write_text("answer = 43\n"), ["01", "02"], "the kit"),
    "the kit, a file more": (lambda s: (s.root / "kit" / "more.yaml").touch(), ["01", "02"], "the kit"),
    "a package": (upgrade_package, ["01", "02"], "packages"),
    "the environment": (change_environment, ["01", "02"], "the environment"),
    "a setting": (lambda s: (s.root / "toy.yaml").write_text("csft_steps: 4\n"), ["01", "02"], "parameters"),
    "an artefact's file, damaged": (edit("corpus/data"), ["01", "02"], "corpus/data"),
    "an artefact's file, missing": (delete("csft/data"), ["02"], "csft/data"),
    "an artefact, missing": (delete("csft"), ["02"], "csft/data, csft/manifest.json"),
    "a manifest, damaged": (edit("csft/manifest.json", "{}"), ["02"], "csft/manifest.json"),
    "an artefact more": (lambda s: s.run.make("backbone", s.build, settings={}), ["02"], "backbone/data"),
    "a figure, missing": (delete("figures/timeline.png"), ["01"], "figures/timeline.png"),
    "a figure, changed": (edit("figures/timeline.png"), ["01"], "figures/timeline.png"),
    "a copy, missing": (delete("notebooks/02_csft.ipynb"), ["02"], "notebooks/02_csft.ipynb"),
    "a copy, opened and saved": (edit("notebooks/01_data_prep.ipynb"), ["01"], "notebooks/01_data_prep.ipynb"),
    "a note, damaged": (edit("notebooks/.01_data_prep.json", "{"), ["01"], "is damaged"),
    "a note, missing": (delete("notebooks/.01_data_prep.json"), ["01"], ""),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_longer_as_it_was_runs_again(series, monkeypatch, capsys, way):
    monkeypatch.setenv("MPLBACKEND", "agg")
    change, ran, named = WAYS[way]
    series.go()
    change(series)
    capsys.readouterr()
    assert series.go() == ran
    assert named in capsys.readouterr().out
    assert series.go() == []


@pytest.mark.parametrize("settings", [{"csft_steps": 4}, {"backbone_trust_remote_code": True}])
def test_other_parameters_run_the_notebooks_that_have_them(series, settings):
    series.go()
    assert series.go(overrides=settings) == ["02"]


def test_what_only_the_profile_says_is_shown_by_every_notebook(series):
    series.go()
    (series.root / "toy.yaml").write_text("csft_steps: 3\ndata_source: synthetic\n")
    assert series.go() == ["01", "02"]


def test_code_from_elsewhere_is_never_taken_for_unchanged(series):
    for _ in range(2):
        assert "02" in series.go(overrides={"backbone_trust_remote_code": True})


def test_a_notebook_that_makes_no_artefact_of_the_run_always_runs(series):
    book(series.root, "06_paper_tables.ipynb", "csft_steps: int = 10  # steps\n")
    assert series.go() == ["01", "02", "06"]
    assert series.go() == ["06"]


def test_what_later_notebooks_make_outdates_nothing(series):
    series.go()
    series.run.make("maps", series.build, settings={})
    (series.run.path / "figures" / "later.png").touch()
    (series.run.path / "report.html").touch()
    assert series.go() == []


def test_the_data_s_files_count(series):
    folder = series.root / "raw"
    folder.mkdir()
    (folder / "x.inter").write_text("one")
    asked = {"data": str(folder), "overrides": {"data_source": "recbole"}}
    assert series.go(**asked) == ["01", "02"]
    assert series.go(**asked) == []
    (folder / "x.inter").write_text("two")
    assert series.go(**asked) == ["01"]


def test_a_notebook_that_stopped_runs_again_and_none_before_it(series):
    with pytest.raises(notebooks.NotebookFailed):
        series.go(overrides={"csft_steps": 13})
    with pytest.raises(notebooks.NotebookFailed):
        series.go(overrides={"csft_steps": 13})
    assert series.ran == ["02"]


def test_a_finished_copy_is_none_any_more_once_its_notebook_has_begun_again(series):
    series.go()

    def kill() -> None:
        raise KeyboardInterrupt

    series.meanwhile = kill
    with pytest.raises(KeyboardInterrupt):
        series.go(overrides={"csft_steps": 4})
    series.meanwhile = lambda: None
    assert series.go() == ["02"]


def test_what_changed_while_a_notebook_ran_may_not_be_what_it_shows(series):
    def change() -> None:
        if series.ran[-1] == "02":
            edit("corpus/data")(series)

    series.meanwhile = change
    series.go()
    series.meanwhile = lambda: None
    assert not (series.run.path / "notebooks" / ".02_csft.json").exists()


def test_a_copied_run_shows_another_s_paths(series):
    series.go()
    shutil.copytree(series.run.path, series.root / "out" / "other")
    assert series.go(run="other") == ["01", "02"]


def test_forced_notebooks_always_run_and_are_kept_afterwards(series):
    series.go()
    assert series.go(force=True) == ["01", "02"]
    assert series.go() == []
