"""Docstrings of public functions and methods begin with a verb in its base form, and their examples hold."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1] / "llm2rec_kit"
# Rooms and single modules that are held to it.
ROOMS = [
    *("storage", "settings", "runs", "corpus", "paper_statistics", "paper", "geometry", "data"),
    *("pipeline", "export", "cli_product", "cli"),
    *("models", "encoding", "fitting", "training", "results", "downstream"),
    *("evaluating", "maps", "figures", "widgets", "reproduction"),
]
# What a function does. A new word comes here, where it is one.
VERBS = {
    *("Add", "Answer", "Apply", "Arrange", "Ask", "Begin", "Build", "Call", "Check", "Choose", "Clean"),
    *("Cluster", "Collect", "Compare", "Compute", "Contrast", "Convert", "Copy", "Correct", "Count", "Create"),
    *("Cut", "Decode", "Delete", "Describe", "Do", "Download", "Draw", "Drop", "Encode", "Escape", "Estimate"),
    *("Fetch", "Fill", "Find", "Fine-tune", "Fit", "Fold", "Format", "Gather", "Generate", "Give", "Group"),
    *("Hash", "Hold", "Import", "Inspect", "Join", "Judge", "Keep", "Label", "Lay", "Let", "Lift", "Link"),
    *("List", "Load", "Log", "Make", "Map", "Mark", "Mask", "Match", "Measure", "Meet", "Move", "Multiply"),
    *("Name", "Normalise", "Note", "Number", "Open", "Pad", "Pair", "Parse", "Part", "Pick", "Pool", "Prepare"),
    *("Print", "Put", "Raise", "Rank", "Read", "Recommend", "Register", "Remove", "Rename", "Render"),
    *("Renumber", "Replace", "Return", "Round", "Run", "Save", "Say", "Scale", "Score", "Select", "Send", "Set"),
    *("Show", "Split", "Start", "Sum", "Summarise", "Switch", "Tabulate", "Take", "Tell", "Test", "Time"),
    *("Tokenise", "Train", "Try", "Turn", "Unpack", "Use", "Vary", "Wait", "Whiten", "Write", "Yield"),
}


def files(room: str) -> list[Path]:
    """List the files of a room, or of a single module."""
    return sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]


def public(node: ast.Module | ast.ClassDef, above: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (name, function) of the public functions and methods, but for properties."""
    for one in node.body:
        if not isinstance(one, ast.FunctionDef | ast.ClassDef) or one.name.startswith("_"):
            continue
        if isinstance(one, ast.ClassDef):
            yield from public(one, f"{above}{one.name}.")
        elif not any("property" in ast.unparse(by) for by in one.decorator_list):
            yield f"{above}{one.name}", one


def begins_otherwise(text: str) -> list[str]:
    """List the public functions in Python's `text` whose docstring does not begin with one of VERBS, used as a verb."""
    firsts = {name: [*(ast.get_docstring(one) or "").split(), "nothing", "more"] for name, one in public(ast.parse(text))}
    return [f"{name}: {first}" for name, (first, second, *_) in firsts.items() if first not in VERBS or second == "of"]


@pytest.mark.parametrize("room", ROOMS)
def test_public_docstrings_begin_with_a_verb(room):
    found = [f"{file.relative_to(ROOT)} {one}" for file in files(room) for one in begins_otherwise(file.read_text())]
    assert not found, "say what the function does, in the imperative (or add the verb to VERBS)"


@pytest.mark.parametrize("room", ROOMS)
def test_the_examples_hold(room):
    for file in [file for file in files(room) if ">>> " in file.read_text()]:
        name = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        result = doctest.testmod(importlib.import_module(name), extraglobs={"np": np})
        assert result.attempted, name
        assert not result.failed, name


def test_what_is_told_apart():
    text = """
def good(): "Read the file."
def noun(): "The file."
def noun_too(): "Name of the file."
def bare(): pass
def _private(): "The file."
class Kept:
    @property
    def size(self): "Bytes."
    def path(self): "Where it is."
class _Hidden:
    def path(self): "Where it is."
"""
    assert begins_otherwise(text) == ["noun: The", "noun_too: Name", "bare: nothing", "Kept.path: Where"]
