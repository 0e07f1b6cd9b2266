"""pyproject, lock, environment.yml and notebooks say the same."""

import ast
import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llm2rec_kit import __version__
from llm2rec_kit import settings as S

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
STAGES = {
    "01_data_prep": [S.Data],
    "02_csft": [S.Backbone, S.CSFT],
    "03_item_embedding": [S.MNTP, S.Contrastive, S.Encoding],
    "04_downstream_eval": [S.Evaluation],
    "05_embedding_maps": [S.Maps],
    "06_paper_tables": [S.Tables],
    "07_beyond_the_paper": [S.Questions],
}


def locked() -> dict[str, Requirement]:
    lines = (line.strip() for line in (ROOT / "requirements.lock").read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [canonicalize_name(r.name) for r in found]
    assert len(set(names)) == len(names), "a package is locked twice"
    return dict(zip(names, found, strict=True))


def version(requirement: Requirement) -> str:
    assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), f"{requirement} is not one exact version"
    assert requirement.url is None
    return str(requirement.specifier).removeprefix("==")


@pytest.mark.parametrize("line", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
def test_every_dependency_is_locked_at_a_version_that_it_allows(line):
    wanted = Requirement(line)
    assert wanted.specifier.contains(version(locked()[canonicalize_name(wanted.name)]))


def test_torch_is_pinned_alike():
    assert "torch==2.13.0" in PROJECT["dependencies"]
    assert version(locked()["torch"]) == "2.13.0"


def test_the_lock_holds_for_linux_and_macos():
    assert not [name for name in locked() if re.match(r"nvidia|triton|cuda", name)]
    assert not [r for r in locked().values() if "+" in str(r.specifier)]


def test_what_is_installed_is_what_is_locked():
    wrong = {}
    for name, requirement in locked().items():
        if requirement.marker is None or requirement.marker.evaluate():
            found = importlib.metadata.version(name).split("+")[0]
            if found != version(requirement):
                wrong[name] = (found, version(requirement))
    assert not wrong, "installed, locked"


def test_environment_yml_is_the_same_environment():
    python = next(d for d in ENVIRONMENT["dependencies"] if str(d).startswith("python"))
    assert python == "python=3.11"
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11")
    (pip,) = [d["pip"] for d in ENVIRONMENT["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert ENVIRONMENT["name"] == "llm2rec_kit"


def test_licence_version_and_ci():
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "MIT"
    assert PROJECT["version"] == __version__ == importlib.metadata.version("llm2rec-kit")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def make(*words: str, **environment: str) -> str:
    done = subprocess.run(
        ["make", "--dry-run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MAKEFLAGS": "", **environment},
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "says", "not_says"),
    [
        ((), "--profile demo", "--force"),
        (("FORCE=1",), "--force", "--data"),
        (("PROFILE=games", "DATA=a b", "RUN=r"), '--profile games --data "a b" --run "r"', "--force"),
    ],
)
def test_make_reproduce_hands_its_variables_on(words, says, not_says):
    line = next(line for line in make("reproduce", *words).splitlines() if "llm2rec reproduce" in line)
    assert says in line
    assert not_says not in line


@pytest.mark.parametrize("name", STAGES)
class TestNotebook:
    """The committed notebooks: clean, tagged, and with the settings' own defaults."""

    def read(self, name: str) -> dict:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        if not path.is_file():
            pytest.skip(f"{path.name} does not exist yet")
        return json.loads(path.read_text())

    def given(self, name: str) -> dict:
        (cell,) = [c for c in self.read(name)["cells"] if "parameters" in c["metadata"].get("tags", [])]
        return {n.target.id: ast.literal_eval(n.value) for n in ast.parse("".join(cell["source"])).body}

    def test_is_committed_without_outputs_for_any_python3(self, name):
        notebook = self.read(name)
        assert notebook["metadata"]["kernelspec"]["name"] == "python3"
        code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        assert not [c for c in code if c["outputs"] or c["execution_count"] is not None]

    def test_has_every_setting_of_its_stages_at_its_default(self, name):
        given = self.given(name)
        assert {"profile": "demo", "run": "demo", "outputs": "", "force": False}.items() <= given.items()
        for stage in STAGES[name]:
            assert {f"{stage.prefix}_{k}" for k in stage().as_dict()} <= given.keys()
        defaults = {f"{s.prefix}_{f.name}": getattr(s(), f.name) for s in S.STAGES for f in dataclasses.fields(s)}
        assert {k: v for k, v in given.items() if k in defaults} == {k: defaults[k] for k in given if k in defaults}
        assert given.keys() - defaults.keys() == {"profile", "run", "outputs", "force"}

    def test_plain_papermill_sees_the_same_parameters(self, name):
        from papermill import inspect_notebook

        self.read(name)
        assert list(inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))) == list(self.given(name))
