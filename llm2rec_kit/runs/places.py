"""Where things are, in a checkout and outside of one: the notebooks of this code, the folder that runs go to, their names.

The repository has the notebooks once, at its top; a wheel carries them inside the package. `llm2rec notebooks` lays them out
in a user's folder with a note, so that a kernel started there finds the runs of the command line.
"""

from __future__ import annotations

from pathlib import Path

from llm2rec_kit import storage
from llm2rec_kit.settings.ranges import show_value
from llm2rec_kit.settings.stage import check_kind

PACKAGE = Path(__file__).resolve().parents[1]
PROFILES = PACKAGE / "reproduction" / "profiles"  # those that come with the kit, .yaml files
LAID_OUT = ".llm2rec_notebooks.json"  # the note in a folder of laid-out notebooks
LONGEST_NAME = 200  # bytes of a run's name: file systems take 255, and names are made of it


def find_checkout() -> Path | None:
    """Find the checkout that this code runs from (`pip install -e` included); None where it was installed from a wheel."""
    return PACKAGE.parent if _is_checkout(PACKAGE.parent) else None


def find_notebooks() -> Path:
    """Find the notebooks of this very code: of a checkout at its top, of a wheel in the package."""
    return (find_checkout() or PACKAGE) / "notebooks"


def find_project_root() -> Path:
    """Find the folder whose `outputs/` holds the runs: the checkout of this code, else that of the working directory, else
    the working directory or where the notebooks in it were laid out from."""
    if found := find_checkout() or next((f for f in (Path.cwd(), *Path.cwd().parents) if _is_checkout(f)), None):
        return found
    note = storage.read_note_or_nothing(Path(LAID_OUT), "Runs are kept in outputs/ of the working directory.")
    return Path.cwd().joinpath(note.get("runs", "")).resolve()


def find_outputs(outputs: str | Path = "") -> Path:
    """Find where runs live: `outputs`, or that of `find_project_root`; SettingsError for what is neither text nor a path."""
    if not isinstance(outputs, Path):
        check_kind("outputs", str, outputs)
    return storage.expand_home(outputs) if outputs else find_project_root() / "outputs"


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be a run's name."""
    check_kind("run", str, name)
    plain_one = name and name == Path(name).name and not name.startswith(".") and name.isprintable()
    if not plain_one or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise ValueError(f"A run's name is one plain folder name of at most {LONGEST_NAME} bytes; found {show_value(name)}.")


def is_no_name(part: str) -> bool:
    """Tell whether a file or folder of this name is none of the artefacts: hidden, or put aside."""
    return part.startswith(".") or part.endswith(storage.DAMAGED)


def _is_checkout(folder: Path) -> bool:
    parts = (folder / "notebooks", folder / "llm2rec_kit", folder / "pyproject.toml")
    return all(part.exists() for part in parts)
