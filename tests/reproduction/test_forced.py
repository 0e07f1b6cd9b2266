"""A forced series: everything is made again once, and where it was killed the same command goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from test_runner_faults import book

from llm2rec_kit.reproduction.runner import notebooks, unchanged
from llm2rec_kit.reproduction.runner.notebooks import NotebookFailed, reproduce
from llm2rec_kit.runs import Run


class Series:
    """Two notebooks, executed here: 01 makes `corpus`, 02 `csft`, which leaves a checkpoint and dies while `dies`."""

    def __init__(self, root: Path) -> None:
        self.root, self.made, self.dies = root, [], False
        for name in ("01_data.ipynb", "02_csft.ipynb"):
            book(root, name, "csft_steps: int = 10  # steps\n")
        (root / "toy.yaml").write_text("csft_steps: 3  # steps\n")

    def execute(self, path: Path, target: Path, values: dict, label: str, stream) -> str:
        run = Run(values["run"], values["outputs"])
        if path.name.startswith("01"):
            run.make("corpus", lambda folder: self.made.append("corpus"), settings={}, force=values.get("force", False))
            return ""
        try:
            run.make("csft", self.train, settings={}, inputs=["corpus"], force=values.get("force", False))
        except MemoryError:
            return "its kernel died"
        return ""

    def train(self, folder: Path) -> None:
        self.made.append("csft, resumed" if (folder / "checkpoint").exists() else "csft")
        (folder / "checkpoint").touch()
        if self.dies:
            raise MemoryError

    def go(self, **more) -> list[str]:
        """What was made by a `reproduce`."""
        self.made = []
        reproduce(str(self.root / "toy.yaml"), root=self.root, outputs=str(self.root / "out"), **more)
        return self.made


@pytest.fixture
def series(tmp_path, monkeypatch) -> Series:
    made = Series(tmp_path)
    monkeypatch.setattr(notebooks, "_execute", made.execute)
    return made


def killed(series: Series, **more) -> str:
    series.dies = True
    with pytest.raises(NotebookFailed) as stop:
        series.go(**more)
    series.dies = False
    return str(stop.value).splitlines()[-1]


def test_a_forced_series_that_was_killed_goes_on_with_the_same_command(series):
    series.go()
    assert killed(series, force=True).endswith("--force")
    assert series.made == ["corpus", "csft"]
    assert series.go(force=True) == ["csft, resumed"]
    assert series.go(force=True) == ["corpus", "csft"]  # it had ended: this is another one
    assert series.go() == []


def test_what_is_left_of_an_unforced_training_is_not_resumed_by_a_forced_one(series):
    killed(series)
    assert series.go(force=True) == ["corpus", "csft"]


@pytest.mark.parametrize("other", [{"overrides": {"csft_steps": 4}}, {"only": ["01"]}])
def test_another_forced_command_begins_anew(series, other):
    killed(series, force=True)
    assert "corpus" in series.go(force=True, **other)


def change_kit(series: Series, monkeypatch) -> None:
    monkeypatch.setattr(unchanged, "places", SimpleNamespace(PACKAGE=series.root / "kit"))


def change_notebook(series: Series, monkeypatch) -> None:
    book(series.root, "01_data.ipynb", "csft_steps: int = 10  # steps\n", "'a cell more'")


@pytest.mark.parametrize("change", [change_kit, change_notebook])
def test_code_that_was_edited_meanwhile_begins_a_forced_series_anew(series, monkeypatch, change):
    """Uncommitted code is the same commit, dirty, before and after."""
    killed(series, force=True)
    change(series, monkeypatch)
    assert series.go(force=True) == ["corpus", "csft"]


def test_a_command_in_between_ends_the_forced_series(series):
    killed(series, force=True)
    assert series.go() == ["csft, resumed"]
    assert series.go(force=True) == ["corpus", "csft"]


def test_the_command_to_go_on_names_the_forced_part(series):
    assert killed(series, force=True, only=["02", "01"]).endswith("--force --only 02,01")
    assert killed(series, start="01").endswith("--from 02")


def test_the_command_to_go_on_runs_no_notebook_that_was_not_asked_for(series):
    book(series.root, "03_tables.ipynb", "csft_steps: int = 10  # steps\n")
    assert killed(series, only=["02", "01"]).endswith("--only 02")
    assert killed(series, start="02").endswith("--from 02")
    (series.root / "toy.yaml").write_text('notebooks: ["01", "02"]  # those run\ncsft_steps: 3  # steps\n')
    assert killed(series).endswith("--only 02")


def test_force_outside_a_series_always_redoes(tmp_path):
    run, made = Run("r", tmp_path), []
    for _ in range(2):
        run.make("corpus", lambda folder: made.append(1), settings={}, force=True)
    assert len(made) == 2
    assert not run.made_by_this_force("corpus")


def test_what_a_notebook_makes_carries_the_series(tmp_path):
    cell = (
        "from llm2rec_kit.runs import Run\nRun(run, outputs).make('corpus', lambda folder: None, settings={}, force=force)"
    )
    book(tmp_path, "01_data.ipynb", "csft_steps: int = 10  # steps\n", cell)
    (tmp_path / "toy.yaml").write_text("csft_steps: 3  # steps\n")
    run = reproduce(str(tmp_path / "toy.yaml"), root=tmp_path, outputs=str(tmp_path / "out"), force=True)
    assert run.manifest("corpus")["forced"]
