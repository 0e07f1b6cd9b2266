"""A grid: many settings at once, whatever several of them share computed once.

A *cell* is one choice on every axis. It runs the notebooks 01, 02, ... in a chain. A notebook of one cell is the same *node*
as that of another, and runs once, where everything that it depends on agrees: parameters and the contents of files. Each
node has a run's folder of its own, which begins with links to what the node before it made. Below that, the runs of a grid
share a store (`runs.store`): two nodes that differ in the temperature alone make MNTP once between them.

Nothing but files is shared, so a cluster of several machines needs `outputs` on a file system that all of them see.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.data import mixing, sources
from llm2rec_kit.encoding import own_tables
from llm2rec_kit.models import checkpoint, packages
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.runner import feasibility, notebooks
from llm2rec_kit.runs import STORE, Run, find_outputs
from llm2rec_kit.settings import own_parts, plain_yaml
from llm2rec_kit.settings.ranges import clip, show_value

KEYS = ("name", "profile", "notebooks", "set", "axes")
AXES = ("datasets", "backbones", "stages", "seeds", "settings")
LISTS = {"stages": "evaluation_embeddings", "seeds": "evaluation_seeds"}  # axes that may be plain lists: one entry a cell
REPORT = tuple(f"{stage.prefix}_report_to" for stage in (S.CSFT, S.MNTP, S.Contrastive))
# Parameters that change no number by themselves.
NO_RESULT = ("run", "outputs", "force", "evaluation_workers", "own_parts", *REPORT)
LANGUAGE_MODEL = ("backbone_", "csft_", "mntp_", "contrastive_", "encoding_")
UNUSED = {  # settings that do not reach an embedding, by its stage; of any other name nothing is known to be unused
    "id": LANGUAGE_MODEL,
    "raw": ("csft_", "mntp_", "contrastive_"),
    "csft": ("mntp_", "contrastive_"),
    "mntp": ("contrastive_",),
}
# In the keys of 04, where it knows not all settings, and of what follows. Earlier versions had nodes without it, whose 05
# may show another cell's tables: they are not taken for these.
WHOLE = {"04, and what follows": "of this cell alone"}
DONE = "node.json"
_ONE_AT_A_TIME = threading.Lock()  # in a worker: papermill sets the folder of the whole process
MOST_CELLS = 10_000
BEGUN = ".begun"  # in the folder of a node that a worker is at


@dataclass(frozen=True)
class Node:
    """A notebook to run: its parameters, the node that it begins with, its name (number and hash of what it depends on)."""

    name: str
    book: str
    values: dict[str, Any] = field(compare=False)
    before: str = ""


@dataclass(frozen=True)
class Cell:
    """One choice on every axis, and its nodes in the order of the notebooks."""

    labels: dict[str, str]
    nodes: list[str]


@dataclass(frozen=True)
class Grid:
    """Cells and nodes of a grid file, and the folder they live in.

    plain_axes  those of LISTS whose options choose embeddings, or seeds, and nothing else: an evaluation says as much itself.
    """

    name: str
    profile: str
    folder: Path
    cells: list[Cell]
    nodes: dict[str, Node]
    root: Path | None = None
    plain_axes: tuple[str, ...] = ()

    @property
    def runs(self) -> Path:
        """Where the nodes' runs are."""
        return self.folder / "runs"


def load(path: str | Path, outputs: str = "", root: Path | None = None) -> Grid:
    """Read a grid file, check every cell, order its nodes. SettingsError or ValueError for what cannot be run."""
    path = Path(path)
    if not plain_yaml.describe_path(path):
        raise ValueError(f"There is no grid file {clip(str(path))}. docs/grid.md shows one.")
    what = f"Grid {show_value(path.name)}"
    asked = plain_yaml.read_mapping(plain_yaml.read_text(path, what), what)
    if unknown := [key for key in asked if key not in KEYS]:
        raise S.SettingsError(S.describe_unknown(unknown[0], list(KEYS), "key of a grid file"))
    name, profile = asked.get("name", path.stem), asked.get("profile", "demo")
    if not isinstance(name, str) or not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"A grid's name is one plain folder name; found {show_value(name)}.")
    folder = find_outputs(outputs).resolve() / name
    books = _books(asked.get("notebooks", 4), root)
    base = {"evaluation_workers": 1, **_profile(profile, path.parent), **_named(asked.get("set", {}), "set")}
    nodes: dict[str, Node] = {}
    cells = []
    axes = asked.get("axes", {})
    there = {path.stem for path in (folder / "runs").glob("*/embeddings/*.npy")}
    for labels, chosen in _choices(axes):
        values = plain_yaml.convert_numbers(base | chosen | {"outputs": str(folder / "runs")})
        if isinstance(values.get("own_parts"), list) and all(isinstance(part, str) for part in values["own_parts"]):
            values["own_parts"] = own_parts.resolve_parts(values["own_parts"], path.parent)
        _check(values, books, root)
        values = _placed(values, path.parent, find_outputs(outputs).resolve())
        needed = {name for book in books for name in notebooks.read_parameters(book)}
        notebooks.look_for_files(values, needed, there=there)
        cells.append(Cell(labels, _add_nodes(nodes, books, values)))
    return Grid(name, profile, folder, cells, nodes, root, _find_plain(axes))


def run_node(node: Node, folder: str, root: Path | None = None, *before: Any) -> dict[str, Any]:
    """Run one node in the grid's folder unless it is done; returns what node.json holds. Runs in a worker.

    `before` are the results of the nodes before it: only there so that the cluster orders them. Raises NotebookFailed.
    """
    with _ONE_AT_A_TIME:
        return _run_node(node, Path(folder), next(b for b in notebooks.list_series(root) if b.stem == node.book))


def _run_node(node: Node, folder: Path, book: Path) -> dict[str, Any]:
    run = Run(node.name, folder / "runs")
    if (done := read_finished(run, node, book)) is not None:
        return done
    if node.before:
        parent = Run(node.before, run.path.parent)
        for name in parent.artefacts():
            if not run.has(name):
                run.link_from(parent, name)
    run.write_info("asked", {"profile": "", "command": f"a node of the grid in {folder}", "parameters": node.values})
    begun = run.path / BEGUN
    begun.touch()
    try:
        with (run.path / "log.txt").open("a") as log:
            seconds = notebooks.run_one(book, {**node.values, "run": node.name}, run, stream=log)
    finally:
        begun.unlink(missing_ok=True)
    done = {"node": node.name, "notebook": _digest(book), "seconds": seconds}
    storage.write_note(run.path / DONE, done)
    return done


def read_finished(run: Run, node: Node, book: Path) -> dict[str, Any] | None:
    """Read the node's node.json where it ran with the notebook as it is now; None otherwise, also where it is damaged."""
    done = storage.read_note_or_nothing(run.path / DONE, f"Node {node.name} is run again; what is finished in it is reused.")
    return done if done.get("node") == node.name and done.get("notebook") == _digest(book) else None


def prepare(grid: Grid) -> None:
    """Make the grid's folders, and keep in grid.json what its cells are and where they run."""
    (grid.runs / STORE).mkdir(parents=True, exist_ok=True)
    cells = [{"labels": c.labels, "runs": c.nodes} for c in grid.cells]
    nodes = {n.name: {"notebook": n.book, "begins with": n.before, "parameters": n.values} for n in grid.nodes.values()}
    for left in grid.runs.glob(f"*/{BEGUN}"):  # of an earlier call that was killed
        storage.clear(left)
    told = {"name": grid.name, "profile": grid.profile, "cells": cells, "nodes": nodes}
    storage.write_json(grid.folder / "grid.json", told)


def list_ancestors(grid: Grid, name: str) -> list[str]:
    """List the nodes before a node, nearest first."""
    found = []
    while name := grid.nodes[name].before:
        found.append(name)
    return found


# -- from a file to a graph -------------------------------------------------------------------------------------------


def _books(last: Any, root: Path | None) -> list[Path]:
    """The notebooks from 01 to number `last`."""
    every = notebooks.list_series(root)
    numbers = [int(book.name[:2]) for book in every]
    if type(last) is not int or last not in numbers:
        raise S.SettingsError(
            f"`notebooks` is the number of the last one to run, one of {numbers}; found {show_value(last)}."
        )
    return [book for book, number in zip(every, numbers, strict=True) if number <= last]


def _profile(profile: str, folder: Path) -> dict[str, Any]:
    """A profile by name, or by a path from the grid file's folder."""
    beside = folder / str(profile)
    there = beside.suffix in (".yaml", ".yml") and plain_yaml.describe_path(beside)
    return notebooks.load_profile(str(beside) if there else str(profile))


def _named(chosen: Any, where: str) -> dict[str, Any]:
    """{flat name: value}: a grid file may write csft.steps or csft_steps."""
    if not isinstance(chosen, dict):
        raise S.SettingsError(f"`{where}` must hold `parameter: value` lines; found {show_value(chosen)}.")
    return {str(name).replace(".", "_", 1): value for name, value in chosen.items()}


def _choices(axes: Any) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """All combinations: ({axis: label}, {parameter: value})."""
    if not isinstance(axes, dict):
        raise S.SettingsError(f"`axes` must hold some of {', '.join(AXES)}; found {show_value(axes)}.")
    columns = [_options(axis, options) for axis, options in axes.items()]
    if (cells := math.prod(map(len, columns))) > MOST_CELLS:
        raise S.SettingsError(f"`axes` make {cells:,} cells; a grid has at most {MOST_CELLS:,}. Make several grids of it.")
    combined = []
    for row in itertools.product(*columns):
        values: dict[str, Any] = {}
        for axis, label, chosen in row:
            if twice := sorted(values.keys() & chosen.keys()):
                raise S.SettingsError(f"Two axes set {show_value(twice[0])}; the second is {axis!r} ({clip(label, 80)}).")
            values |= chosen
        combined.append(({axis: label for axis, label, _ in row}, values))
    return combined


def _options(axis: str, options: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """(axis, label, {parameter: value}) of every option of an axis."""
    if axis not in AXES:
        raise S.SettingsError(S.describe_unknown(str(axis), list(AXES), "axis"))
    if isinstance(options, list) and axis in LISTS:
        if twice := next((one for k, one in enumerate(options) if one in options[:k]), None):
            raise S.SettingsError(f"Axis {axis!r} holds {show_value(twice)} twice.")
        options = {str(one): {LISTS[axis]: [one]} for one in options}
    if not isinstance(options, dict) or not options:
        as_list = " (or a plain list)" if axis in LISTS else ""
        raise S.SettingsError(
            f"Axis {axis!r} must hold `label: {{parameter: value}}` lines{as_list}; found {show_value(options)}."
        )
    return [(axis, str(label), _named(chosen, clip(f"{axis}.{label}", 80))) for label, chosen in options.items()]


def _find_plain(axes: dict[str, Any]) -> tuple[str, ...]:
    """The axes of LISTS, written as lists or as mappings, of whose options none sets anything but that list."""
    chosen = {axis: set().union(*(values for *_, values in _options(axis, axes[axis]))) for axis in axes if axis in LISTS}
    return tuple(axis for axis, names in chosen.items() if names <= {LISTS[axis]})


def _placed(values: dict[str, Any], beside: Path, outputs: Path) -> dict[str, Any]:
    """Make the paths in `values` absolute, seen from the grid file's folder; models also from here, a mix's runs in `outputs`."""
    values = notebooks.resolve_folders(notebooks.resolve_folders(values, beside), Path())
    if values.get("data_mix"):
        values["data_mix"] = [one if "/" in one else str((outputs / one).resolve()) for one in values["data_mix"]]
    return values


def _check(values: dict[str, Any], books: list[Path], root: Path | None) -> None:
    """Raise SettingsError for the values of a cell that cannot be, alone or together."""
    every = {name for book in notebooks.list_series(root) for name in notebooks.read_parameters(book)}
    notebooks.check({k: v for k, v in values.items() if k in every or k not in NO_RESULT}, sorted(every))
    feasibility.check_across_stages(values, [book.name[:2] for book in books])


def _add_nodes(nodes: dict[str, Node], books: list[Path], values: dict[str, Any]) -> list[str]:
    """Put the nodes of one cell among `nodes`, unless they are there already; returns their names in order."""
    chain: list[str] = []
    known: dict[str, Any] = {}
    for book in books:
        own = {k: values.get(k, p.default) for k, p in notebooks.read_parameters(book).items() if k != "profile"}
        known |= {k: v for k, v in own.items() if k not in NO_RESULT} | _contents(own)
        relevant = _relevant(known, own)
        if book != books[-1] and relevant != known:  # 05 draws every table of the cell, and begins with what 04 has
            relevant = known = known | WHOLE
        key = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]
        name = f"{book.name[:2]}-{key}"
        own["outputs"] = values["outputs"]
        nodes.setdefault(name, Node(name, book.stem, own, chain[-1] if chain else ""))
        chain.append(name)
    return chain


def _contents(own: dict[str, Any]) -> dict[str, Any]:
    """Hash the files that a notebook's parameters lead to: {"<parameter>, files": ...}, nothing where there are none."""
    found: dict[str, Any] = {}
    if "data_source" in own:
        data = S.Data.from_parameters(own)
        found["data_path"] = mixing.hash_parts(data) if data.source == "mix" else sources.hash_files(data)
    for name in assets.MODELS:
        asked = own.get(name, [])
        models = [asked] if isinstance(asked, str) else asked
        # A folder or file, as `_placed` left it, or one out of a package.
        found[name] = [checkpoint.hash_contents(m) for m in models if Path(m).is_absolute() or m in packages.MODELS]
    if "encoding_own" in own:
        tables = S.Encoding.from_parameters(own).own_files
        found["encoding_own"] = {
            name: own_tables.hash_files(str(own_tables.check_file(name, t))) for name, t in tables.items()
        }
    lists = [key for key in own if key.endswith("_recommenders") or key == "evaluation_baselines"]
    found["own_parts"] = own_parts.hash_parts([name for key in lists for name in own[key]])
    return {f"{name}, files": files for name, files in found.items() if files}


def _relevant(known: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Select the settings that can change what this notebook makes: no temperature changes an evaluation of `raw`. Of a
    notebook that others begin with, all count: they read more than it does."""
    if "evaluation_embeddings" not in own:
        return known
    unused = set.intersection(*({*UNUSED.get(stage, ())} for stage in own["evaluation_embeddings"] or [""]))
    return {k: v for k, v in known.items() if not k.startswith(tuple(unused))}


def _digest(book: Path) -> str:
    """Hash of what a notebook does: the source of its code cells."""
    cells = json.loads(book.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]
