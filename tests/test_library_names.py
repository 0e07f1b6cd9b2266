"""Notebooks and benchmarks against the libraries: every name that they take from a module is there, and takes what it is given.

Some of their lines run only where an optional package or a setting asks for them, and benchmarks are run by hand: a name that
moved would be found hours into somebody's run.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")])


def code(file: Path) -> ast.Module:
    """The code of a script, or of all cells of a notebook, without its magics."""
    text = file.read_text()
    if file.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        lines = "\n".join("".join(c["source"]) for c in cells).splitlines()
        text = "\n".join("" if line.startswith(("%", "!")) else line for line in lines)
    return ast.parse(text)


def imported(tree: ast.Module, faults: list[str]) -> dict[str, Any]:
    """What each imported name stands for; a name that is bound a second time is left out. Adds to `faults` what is not there."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            name = alias.asname or alias.name.split(".")[0]
            try:
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module)
                    found[name] = (
                        getattr(module, alias.name)
                        if hasattr(module, alias.name)
                        else importlib.import_module(f"{node.module}.{alias.name}")
                    )
                else:
                    whole = importlib.import_module(alias.name)
                    found[name] = whole if alias.asname else importlib.import_module(name)
            except ImportError as error:
                if "llm2rec_kit" in ast.unparse(node):  # others may be optional
                    faults.append(f"line {node.lineno}: {error}")
    bound = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    bound += [n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)]
    return {name: thing for name, thing in found.items() if name not in bound}


def resolved(node: ast.expr, known: dict[str, Any]) -> Any:
    """What `module.name` or `module.Class.name` stands for, None where that cannot be told; AttributeError where it is nothing."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = resolved(node.value, known)
    return getattr(owner, node.attr) if isinstance(owner, types.ModuleType | type) else None


def faults_of(tree: ast.Module) -> list[str]:
    """What a script takes from modules and is not there, and what it calls with arguments that are not taken."""
    faults: list[str] = []
    known = imported(tree, faults)
    for node in ast.walk(tree):
        try:
            if isinstance(node, ast.Attribute):
                resolved(node, known)
            elif isinstance(node, ast.Call) and callable(thing := resolved(node.func, known)):
                _fitting(thing, node)
        except (AttributeError, TypeError) as error:
            faults.append(f"line {node.lineno}: {ast.unparse(node)[:100]}: {error}")
    return faults


def _fitting(thing: Any, call: ast.Call) -> None:
    """Raise TypeError where `thing`, if it is ours, does not take the call's arguments: other libraries' signatures may be dressed."""
    if not (getattr(thing, "__module__", None) or "").startswith("llm2rec_kit"):
        return
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return  # made in C, without a signature
    words = {k.arg: None for k in call.keywords if k.arg}
    if any(isinstance(a, ast.Starred) for a in call.args) or len(words) < len(call.keywords):
        signature.bind_partial(**words)
    else:
        signature.bind(*call.args, **words)


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_every_name_that_a_notebook_or_benchmark_takes_exists_and_takes_its_arguments(file):
    assert faults_of(code(file)) == []


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("from llm2rec_kit.maps import projection\nprojection.effective_rank(3)", "effective_rank"),
        ("from llm2rec_kit.maps import nowhere", "nowhere"),
        ("from llm2rec_kit import geometry as g\ng.uniformity(1, tempo=2)", "tempo"),
        ("from llm2rec_kit.corpus import Corpus\ncorpus = Corpus.lode('x')", "lode"),
        ("import numpy as np\nnp.lexsorted([1])", "lexsorted"),
        ("from llm2rec_kit.runs import show_record\nshow_record('one')", "values"),
    ],
)
def test_a_name_that_moved_is_found(script, fault):
    (found,) = {f.split(": ", 1)[0]: f for f in faults_of(ast.parse(script))}.values()
    assert fault in found
