"""Writes the notebooks' parameters cells from the settings: `python tests/parameters_cells.py`; a test holds the cells to it.

A cell says which parameters stand in it, in which order and groups; value and meaning are those of the settings. To add a setting,
put its name on a line of the cell, as `data_new: int = 0`, and run this.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.settings.stage import COMMON, make_default

LONGEST = 120  # characters of a line
FIELDS = {f"{stage.prefix}_{f.name}": f for stage in S.STAGES for f in dataclasses.fields(stage)}


def line_of(name: str, value: Any, meaning: str) -> str:
    """A parameter with its meaning behind it, or, where that is too long for the line, above it; a long list goes on below."""
    line = f"{name}: {type(value).__name__} = {value!r}"
    beside = f"{line}  # {meaning}"
    return beside if len(beside) <= LONGEST else "\n".join([*_wrapped(meaning), *_broken(line)])


def _broken(line: str) -> list[str]:
    """The line, or where it is too long its parts, broken between the items of its list."""
    return textwrap.wrap(line, LONGEST, subsequent_indent=" " * (line.find("[") + 1), break_long_words=False)


def _wrapped(meaning: str) -> list[str]:
    """Comment lines, as few as may be and of about one length: a mark at the end does not stand alone."""
    ways = [textwrap.wrap(f"# {meaning}", width, subsequent_indent="# ") for width in range(60, LONGEST + 1)]
    return min(ways, key=len)


def source(old: str) -> str:
    """The source of a parameters cell with the parameters and the groups of `old`; what no stage has stays as it is there."""
    return "\n\n".join("\n".join(_lines(group)) for group in old.strip("\n").split("\n\n"))


def _lines(group: str) -> list[str]:
    written, found = group.splitlines(), []
    for node in (n for n in ast.parse(group).body if isinstance(n, ast.AnnAssign)):
        name = ast.unparse(node.target)
        field = FIELDS.get(name)
        assert field or name in COMMON, f"{name} is no setting"
        found.append(line_of(name, make_default(field), field.metadata["help"]) if field else written[node.lineno - 1])
    return found


def cell_of(book: dict[str, Any]) -> dict[str, Any]:
    """The cell tagged `parameters`."""
    (cell,) = (c for c in book["cells"] if "parameters" in c["metadata"].get("tags", []))
    return cell


def write(file: Path) -> None:
    """Put the cell into the notebook as it should be."""
    book = json.loads(file.read_text())
    cell = cell_of(book)
    cell["source"] = source("".join(cell["source"])).splitlines(keepends=True)
    file.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    for file in notebooks.list_series():
        write(file)
