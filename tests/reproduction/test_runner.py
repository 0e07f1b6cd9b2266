"""The runner: everything is checked before the first notebook, a failed one is kept and says how to go on."""

from __future__ import annotations

import json

import nbformat
import pytest

from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.settings import SettingsError

PARAMETERS = """run: str = "demo"  # name of the run
outputs: str = ""  # where
force: bool = False  # redo
csft_steps: int = 10  # steps, a count
"""


@pytest.fixture
def root(tmp_path):
    """A project of two notebooks; the second fails where csft_steps is 13."""
    (tmp_path / "notebooks").mkdir()
    bodies = [
        'print("steps", csft_steps)',
        'from pathlib import Path\nassert csft_steps != 13, "unlucky"\nPath(outputs, run, "made").touch()',
    ]
    for name, body in zip(("01_a", "02_b"), bodies, strict=True):
        cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        book = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(body)], metadata={"kernelspec": kernel})
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "p.yaml").write_text("csft_steps: 3  # steps\n")
    return tmp_path


def go(root, **kwargs):
    return notebooks.reproduce(str(root / "p.yaml"), root=root, outputs=str(root / "out"), **kwargs)


def test_the_series_runs_with_the_profiles_values(root, capsys):
    run = go(root)
    said = capsys.readouterr().out
    assert "[1/2] 01_a" in said
    assert "steps 3" in said
    assert run.path == root / "out" / "p"
    assert (run.path / "made").exists()
    executed = json.loads((run.path / "notebooks" / "01_a.ipynb").read_text())
    assert "steps 3" in json.dumps(executed["cells"])


def test_overrides_only_and_from(root, capsys):
    go(root, overrides={"csft_steps": 4}, only=["01"], run="x")
    assert "steps 4" in capsys.readouterr().out
    assert not (root / "out" / "x" / "made").exists()
    go(root, start="02", run="x")
    assert (root / "out" / "x" / "made").exists()
    with pytest.raises(SettingsError, match=r"No notebook is left"):
        go(root, start="07")


def test_a_failed_notebook_is_kept_and_says_how_to_go_on(root):
    with pytest.raises(notebooks.NotebookFailed, match=r"02_b stopped: AssertionError: unlucky(.|\n)*--from 02"):
        go(root, overrides={"csft_steps": 13})
    kept = json.loads((root / "out" / "p" / "notebooks" / "02_b.ipynb").read_text())
    assert "unlucky" in json.dumps(kept)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"csft_stepz": 1}, "Did you mean 'csft_steps'"),
        ({"csft_steps": "many"}, "takes int"),
        ({"profile": "games"}, "--profile names the one that counts"),
    ],
)
def test_a_bad_parameter_stops_before_anything_runs(root, overrides, words):
    with pytest.raises(SettingsError, match=words):
        go(root, overrides=overrides)
    assert not (root / "out").exists()


def test_profiles_of_the_kit_fit_the_notebooks():
    known = sorted({name for book in notebooks.list_series() for name in notebooks.read_parameters(book)})
    for name in notebooks.list_profiles():
        values = notebooks.load_profile(name)
        notebooks.check(values, known)
    assert set(notebooks.list_profiles()) >= {"demo", "games", "smoke"}


def test_every_line_of_a_profile_says_what_it_means():
    from importlib import resources

    for name in notebooks.list_profiles():
        lines = resources.files("llm2rec_kit.reproduction").joinpath("profiles", f"{name}.yaml").read_text().splitlines()
        assert all(line.startswith("#") or "  # " in line for line in lines), name


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(SettingsError, match=r"Unknown profile 'dmo'\. Did you mean 'demo'"):
        notebooks.load_profile("dmo")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data_source": "recbole"}, "say where they are, with DATA"),
        ({"data_source": "recbole", "data_path": "/nowhere"}, "no data at /nowhere"),
    ],
)
def test_missing_data_is_named_before_anything_runs(values, words):
    with pytest.raises(ValueError, match=words):
        notebooks.check_data(values)
