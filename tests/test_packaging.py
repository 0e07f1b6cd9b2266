"""pyproject, lock file and environment.yml say the same; notebooks are committed as they should be."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.settings import STAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(n): v for n, v in re.findall(r"(?m)^([\w.-]+)==([\w.]+)$", (ROOT / "requirements.lock").read_text())
}
CARD = {"jupyterlab", "torch", "transformers", "peft", "matplotlib", "umap-learn", "ipywidgets", "papermill"}


def requirements():
    return [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def test_the_lock_satisfies_pyproject():
    for r in requirements():
        assert r.specifier.contains(LOCK[canonicalize_name(r.name)]), r


def test_the_lock_holds_exact_versions_only_and_they_are_installed():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(LOCK)
    assert not any(n.startswith(("nvidia", "triton")) for n in LOCK)
    for name, version in LOCK.items():
        installed = Version(importlib.metadata.version(name))
        assert installed.public == version, f"{name}: the lock says {version}, installed is {installed}; run make again"


def test_torch_is_pinned_everywhere():
    assert "torch==2.13.0" in PROJECT["dependencies"]
    assert LOCK["torch"] == "2.13.0"


def test_the_packages_of_the_card_are_there():
    assert {r.name for r in requirements()} >= CARD


def test_environment_yml_takes_the_same_lock():
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in parts
    assert parts[-1] == {"pip": ["-r requirements.lock", "-e ."]}


@pytest.mark.parametrize("book", notebooks.list_series(ROOT), ids=lambda p: p.stem)
def test_notebooks_are_committed_bare_with_the_settings_own_defaults(book):
    content = nbformat.read(book, as_version=4)
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    assert not any(c.get("outputs") or c.get("execution_count") for c in content.cells)
    found = notebooks.read_parameters(book)
    for stage in STAGES:
        names = [f.name for f in dataclasses.fields(stage)]
        here = {n.removeprefix(stage.prefix + "_") for n in found if n.startswith(stage.prefix + "_")}
        assert here <= set(names)
        for name in here:
            p = found[f"{stage.prefix}_{name}"]
            assert p.default == getattr(stage(), name)
            assert p.type == type(p.default).__name__
            assert p.help


def test_every_setting_is_a_parameter_of_some_notebook():
    known = {name for book in notebooks.list_series(ROOT) for name in notebooks.read_parameters(book)}
    assert known == {"profile", "run", "outputs", "force"} | {
        f"{s.prefix}_{f.name}" for s in STAGES for f in dataclasses.fields(s)
    }


def test_papermill_sees_the_parameters_too():
    import papermill

    for book in notebooks.list_series(ROOT):
        assert set(papermill.inspect_notebook(book)) == set(notebooks.read_parameters(book))


def test_only_the_tests_name_pickles_and_eval():
    for file in (ROOT / "llm2rec_kit").rglob("*.py"):
        assert not re.search(r"(?<![\w.])eval\(|pickle|torch\.load\(", file.read_text()), file


def test_findings_stand_alone_on_pinned_packages():
    scripts = sorted((ROOT / "findings").iterdir())
    assert scripts
    for script in scripts:
        text = script.read_text()
        assert os.access(script, os.X_OK), script
        assert "set -euo pipefail\ndir=$(mktemp -d)\ntrap 'rm -rf \"$dir\"' EXIT\n" in text, script
        installs = re.findall(r'(?m)^"\$dir/venv/bin/pip" install (.*) \|\| exit 2$', text)
        assert len(installs) == text.count(" install ") > 0, script
        packages = [word for line in installs for word in line.split() if not word.startswith("-")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", package) for package in packages), script
        assert "llm2rec" not in text.lower(), script
        compile(text.split("<<'PY'\n")[1].removesuffix("PY\n"), script, "exec")
