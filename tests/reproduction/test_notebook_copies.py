"""Laying the notebooks out: once, up to date, never over what was changed; and where runs are kept outside of a checkout."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm2rec_kit import runs
from llm2rec_kit.reproduction.report import expected
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.reproduction.runner.notebook_copies import lay_out
from llm2rec_kit.runs import info, places


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package away from any checkout with two notebooks in it, and an empty working directory."""
    package, here = tmp_path / "site-packages" / "llm2rec_kit", tmp_path / "here"
    (package / "notebooks").mkdir(parents=True)
    here.mkdir()
    for name in ("01_one.ipynb", "02_two.ipynb"):
        (package / "notebooks" / name).write_text(f"{name}, first version")
    monkeypatch.setattr(places, "PACKAGE", package)
    monkeypatch.chdir(here)
    return package


def test_what_was_changed_is_kept_and_what_was_not_is_brought_up_to_date(installed, tmp_path):
    assert lay_out("books") == (["01_one.ipynb", "02_two.ipynb"], [])
    assert lay_out("books") == ([], ["01_one.ipynb", "02_two.ipynb"])
    books = tmp_path / "here" / "books"
    (installed / "notebooks" / "01_one.ipynb").write_text("second version")
    assert lay_out("books") == (["01_one.ipynb"], ["02_two.ipynb"])
    assert (books / "01_one.ipynb").read_text() == "second version"

    (books / "02_two.ipynb").write_text("mine")
    (installed / "notebooks" / "01_one.ipynb").write_text("third version")
    with pytest.raises(ValueError, match=r"changed or executed there: 02_two\.ipynb\. Nothing was written.*--force"):
        lay_out("books")
    assert (books / "01_one.ipynb").read_text() == "second version"
    assert (books / "02_two.ipynb").read_text() == "mine"
    assert lay_out("books", force=True) == (["01_one.ipynb", "02_two.ipynb"], [])
    assert (books / "02_two.ipynb").read_text() == "02_two.ipynb, first version"


def test_one_of_the_same_name_that_was_there_before_is_not_taken_for_ours(installed, tmp_path):
    (tmp_path / "here" / "01_one.ipynb").write_text("somebody's")
    with pytest.raises(ValueError, match="01_one"):
        lay_out(".")
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["01_one.ipynb"]


@pytest.mark.parametrize("force", [False, True])
def test_the_kit_s_own_notebooks_are_no_place_for_them(installed, tmp_path, force):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="where the kit itself has its notebooks"):
        lay_out(installed / "notebooks", force=force)
    with pytest.raises(ValueError, match="is no folder"):
        lay_out(tmp_path / "file", force=force)


def test_runs_are_where_the_user_is_or_where_the_notebooks_were_laid_out_from(installed, tmp_path, monkeypatch):
    here = tmp_path / "here"
    assert places.find_checkout() is None
    assert runs.find_outputs() == here / "outputs"
    lay_out("deep/books")
    monkeypatch.chdir(here / "deep" / "books")
    assert runs.find_outputs() == here / "outputs"
    monkeypatch.chdir(here / "deep")
    assert runs.find_outputs() == here / "deep" / "outputs"
    assert [b.name for b in notebooks.list_series()] == ["01_one.ipynb", "02_two.ipynb"]


def test_a_checkout_that_the_user_is_in_keeps_the_runs_but_not_its_notebooks(installed, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    for part in ("notebooks", "llm2rec_kit", "pyproject.toml"):
        (checkout / part).mkdir(parents=True)
    monkeypatch.chdir(checkout / "notebooks")
    assert runs.find_outputs() == checkout / "outputs"
    assert notebooks.list_series()[0].parent == installed / "notebooks"


def test_expected_numbers_are_kept_beside_the_runs_and_come_before_the_kit_s(installed, tmp_path):
    path = expected.locate("demo", tmp_path / "runs")
    assert path == tmp_path / "runs" / "expected" / "demo.yaml"
    assert expected.load("demo", tmp_path / "runs")["settings"]  # the kit's own
    path.parent.mkdir(parents=True)
    path.write_text("date: mine")
    assert expected.load("demo", tmp_path / "runs") == {"date": "mine"}


@pytest.mark.parametrize(
    ("told", "commit"),
    [('{"url": "u", "vcs_info": {"vcs": "git", "commit_id": "abc"}}', "abc"), ('{"url": "u"}', None), (None, None)],
)
def test_the_commit_of_a_wheel_is_the_one_that_pip_noted(installed, monkeypatch, told, commit):
    class Distribution:
        def read_text(self, name):
            return told

    monkeypatch.setattr(info.importlib.metadata, "distribution", lambda name: Distribution())
    found = info.read_git.__wrapped__()
    assert found == ({"commit": commit, "dirty": False} if commit else None)


def test_this_tree_is_a_checkout():
    code = "from llm2rec_kit.runs import places; print(places.find_notebooks() == places.PACKAGE.parent / 'notebooks')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
