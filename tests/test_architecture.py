"""Imports point one way, rooms stay small, and the page that shows them is current."""

from __future__ import annotations

import ast
from collections import Counter

import architecture
import pytest

LARGEST_ROOM = 12  # modules, without the room's own __init__
LONGEST_FILE = 450
LONGEST_FUNCTION = 50  # lines, from `def` to its end
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_imports_point_to_the_ground():
    assert architecture.faults(architecture.edges()) == []


@pytest.mark.parametrize(
    ("module", "to", "fault"),
    [
        ("training.csft", "fitting.trainer", False),
        ("fitting.trainer", "training.csft", True),
        ("data.cleaning", "data.sources", False),
        ("storage", "cli", True),
        ("elsewhere", "storage", True),
    ],
)
def test_the_rule_sees_an_import_that_points_up(module, to, fault):
    assert bool(architecture.faults([(module, to)])) == fault


def test_no_room_holds_more_than_a_dozen_modules():
    rooms = Counter(name.rpartition(".")[0] for name, file in architecture.modules().items() if file.name != "__init__.py")
    assert {room: n for room, n in rooms.items() if n > LARGEST_ROOM and room} == {}


def test_no_file_is_longer_than_can_be_read():
    long = {name for name, file in architecture.modules().items() if len(file.read_text().splitlines()) > LONGEST_FILE}
    assert long == set()


def test_no_function_is_longer_than_a_screen():
    trees = {name: ast.parse(file.read_text()) for name, file in architecture.modules().items()}
    functions = [(name, node) for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    assert len(functions) > 1000
    long = [f"{name}.{f.name}: {n}" for name, f in functions if (n := f.end_lineno - f.lineno + 1) > LONGEST_FUNCTION]
    assert long == []


def test_the_page_is_what_the_imports_say():
    assert architecture.PAGE.read_text() == architecture.page(), "python tests/architecture.py makes it anew"
