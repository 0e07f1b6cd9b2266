"""The notebooks as lessons: short cells without functions of their own, and parameters cells that say what the settings say."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import parameters_cells
import pytest

from llm2rec_kit.runs.places import find_project_root

LONGEST_CELL = 15  # lines, without blank ones and comments
LONGEST_LINE = 120  # characters
MOST_LINES = 600  # of all notebooks together
BOOKS = sorted((find_project_root() / "notebooks").glob("*.ipynb"))


def cells(book: Path) -> Iterator[tuple[str, bool]]:
    """The source of each code cell, and whether it is the one tagged `parameters`."""
    for cell in json.loads(book.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"]), "parameters" in cell["metadata"].get("tags", [])


def counted(source: str) -> int:
    """Lines that are neither blank nor only a comment."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


def own_functions(source: str) -> list[str]:
    """What a cell defines: functions, classes, and lambdas of more than a line."""
    code = "\n".join("" if line.startswith(("%", "!")) else line for line in source.splitlines())
    nodes = list(ast.walk(ast.parse(code)))
    defined = [n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return defined + ["lambda" for n in nodes if isinstance(n, ast.Lambda) and n.end_lineno > n.lineno]


@pytest.mark.parametrize("book", BOOKS, ids=lambda b: b.stem)
def test_a_cell_can_be_read_at_a_glance(book):
    long = [source for source, given in cells(book) if not given and counted(source) > LONGEST_CELL]
    wide = [line for source, _ in cells(book) for line in source.splitlines() if len(line) > LONGEST_LINE]
    assert (long, wide) == ([], [])


@pytest.mark.parametrize("book", BOOKS, ids=lambda b: b.stem)
def test_what_a_cell_calls_stands_in_the_library(book):
    assert [name for source, _ in cells(book) for name in own_functions(source)] == []


def test_all_of_the_code_is_an_afternoons_reading():
    lines = {book.stem: sum(counted(source) for source, given in cells(book) if not given) for book in BOOKS}
    assert sum(lines.values()) < MOST_LINES, lines


@pytest.mark.parametrize("book", BOOKS, ids=lambda b: b.stem)
def test_parameters_cells_are_written_from_the_settings(book):
    (source,) = (source for source, given in cells(book) if given)
    assert source == parameters_cells.source(source), "python tests/parameters_cells.py writes them anew"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("%matplotlib inline\nx = 1", []),
        ("if x:\n    def f():\n        return 1", ["f"]),
        ("class A:\n    pass", ["A"]),
        ("g = lambda a: a\nh = lambda a: (\n    a)", ["lambda"]),
    ],
)
def test_the_rule_sees_functions(source, found):
    assert own_functions(source) == found


def test_a_meaning_too_long_for_its_line_stands_above_it_and_is_read_back(tmp_path):
    from llm2rec_kit.reproduction.runner import notebooks

    long = " ".join(["word"] * 40) + " [O]"
    lines = [parameters_cells.line_of("a", 1, "short"), parameters_cells.line_of("b", [2], long)]
    source = "\n".join([*lines, parameters_cells.line_of("c", "#", "")])
    assert all(len(line) <= LONGEST_LINE for line in source.splitlines())
    assert source.splitlines()[0] == "a: int = 1  # short"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [source]}
    (tmp_path / "book.ipynb").write_text(json.dumps({"cells": [cell]}))
    found = notebooks.read_parameters(tmp_path / "book.ipynb")
    assert {name: (p.default, p.help) for name, p in found.items()} == {"a": (1, "short"), "b": ([2], long), "c": ("#", "")}
