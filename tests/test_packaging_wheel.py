"""The kit as a wheel, installed away from the checkout: the notebooks inside, runs where the user is, nothing written into it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "llm2rec_kit", "notebooks")


def files_of(folder: Path) -> set[str]:
    """Relative paths of all files in a folder but compiled ones."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name for name in found if "__pycache__" not in name and ".ipynb_checkpoints" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this tree, built with the packages that are installed: no network."""
    source, to = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:  # a copy: a build leaves folders behind, and takes what it finds in them
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    words = ["wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(to), str(source)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = to.glob("*.whl")
    return built


class Installed:
    """An environment that has the wheel, and borrows all other packages from this one."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python, self.words = folder / "bin" / "python", folder / "bin" / "llm2rec"
        site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self.python)]
        install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
        subprocess.run([*pip, *install], check=True, capture_output=True, env=self.environment())
        self.package = site / "llm2rec_kit"

    def environment(self) -> dict[str, str]:
        """Without what leads to the checkout."""
        return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess:
        return subprocess.run([*words], cwd=cwd, capture_output=True, text=True, env=self.environment())

    def llm2rec(self, *words: str, cwd: Path) -> str:
        done = self.run(str(self.words), *words, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def kit(wheel, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("environment"), wheel)


def test_the_wheel_holds_the_package_and_the_notebooks_once(wheel):
    with zipfile.ZipFile(wheel) as held:
        names = {n for n in held.namelist() if not n.split("/")[0].endswith(".dist-info")}
        book = held.read("llm2rec_kit/notebooks/01_data_prep.ipynb")
    package = {f"llm2rec_kit/{name}" for name in files_of(ROOT / "llm2rec_kit")}
    books = {f"llm2rec_kit/notebooks/{name}" for name in files_of(ROOT / "notebooks")}
    assert names == package | books
    assert book == (ROOT / "notebooks" / "01_data_prep.ipynb").read_bytes()


def test_every_package_is_named():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "llm2rec_kit").rglob("*.py")}
    assert sorted(asked["packages"]) == sorted({*found, *asked["package-dir"]})


def test_params_and_plans_work_in_an_empty_folder(kit, tmp_path):
    assert "csft_learning_rate" in kit.llm2rec("params", "02", cwd=tmp_path)
    said = kit.llm2rec("reproduce", "--profile", "demo", "--plan", cwd=tmp_path)
    assert "Measured: the run of" in said
    (tmp_path / "grid.yaml").write_text("profile: smoke\nnotebooks: 1\naxes:\n  seeds: [1, 2]\n")
    assert str(tmp_path / "outputs" / "grid") in kit.llm2rec("grid", "grid.yaml", "--plan", cwd=tmp_path)
    assert files_of(tmp_path) == {"grid.yaml"}


def test_a_run_lies_where_the_user_is_and_a_laid_out_notebook_finds_it(kit, tmp_path):
    before = files_of(kit.package)
    kit.llm2rec("reproduce", "--profile", "smoke", "--only", "01", "--run", "first", cwd=tmp_path)
    run = tmp_path / "outputs" / "first"
    assert (run / "corpus" / "manifest.json").is_file()
    about = json.loads((run / "run.json").read_text())
    assert about["git"] is None  # of no checkout
    values = about["asked"]["parameters"]
    assert Path(values["outputs"]) == tmp_path / "outputs"

    said = kit.llm2rec("notebooks", "books", cwd=tmp_path)
    assert str(tmp_path / "outputs") in said
    given = {k: v for k, v in values.items() if k.startswith("data_")} | {"run": "first"}
    (tmp_path / "given.yaml").write_text(json.dumps(given))
    words = [str(kit.python), "-m", "papermill", "01_data_prep.ipynb", "../out.ipynb", "-f", "../given.yaml"]
    done = kit.run(*words, cwd=tmp_path / "books")
    assert done.returncode == 0, done.stderr
    assert "corpus: reused" in (tmp_path / "out.ipynb").read_text()
    assert not (tmp_path / "books" / "outputs").exists()
    assert files_of(kit.package) == before
