"""Makes docs/architecture.md from the imports: `python tests/architecture.py`; a test holds the page to it, and the imports to ORDER."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGE = "llm2rec_kit"
PAGE = PROJECT / "docs" / "architecture.md"
# Rooms and single modules from the ground up. A room imports from what stands before it, never from what stands after.
ORDER = [
    *("storage", "settings", "runs", "corpus", "paper_statistics", "paper", "geometry"),
    *("data", "models", "encoding", "fitting", "training", "results", "downstream", "pipeline", "evaluating"),
    *("maps", "figures", "widgets"),
    *(f"reproduction.{room}" for room in ("studies", "plan", "runner", "report", "grid")),
    *("export", "cli_product", "cli"),
]
HEAD = """# Architecture

Data flows one way: settings and files at the ground, corpus, models, training, recommenders, maps, and the whole series above them.
What notebooks make meets in a run's folder as *artefacts* (`runs/`): each has a manifest, written last, with its settings and the hashes of its
inputs. A room knows the rooms before it and none after it; `downstream`, `training` and `maps` do not know each other's insides at all.
This page is made from the imports by `python tests/architecture.py`; a test keeps it current and holds the imports to the order below.

An arrow says that a room imports from another; what follows from other arrows, and what everything uses (settings, storage, runs), is left out.

"""


def modules() -> dict[str, Path]:
    """{dotted name without the package: file}."""
    root = PROJECT / PACKAGE
    files = (f for f in root.rglob("*.py") if f != root / "__init__.py")
    return {".".join(f.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def room_of(module: str) -> str:
    """The room or single module of ORDER that a module belongs to; the module itself if none."""
    return next((room for room in ORDER if module == room or module.startswith(f"{room}.")), module)


def imports(file: Path, known: set[str]) -> Iterator[str]:
    """Modules of the package that a file imports anywhere in it, in functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix(f"{PACKAGE}.") for a in node.names if a.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{PACKAGE}."):
            base = node.module.removeprefix(PACKAGE).removeprefix(".")
            for a in node.names:
                full = f"{base}.{a.name}".removeprefix(".")
                if full in known or base:
                    yield full if full in known else base


def edges() -> dict[tuple[str, str], list[str]]:
    """{(module that imports, module): ...} between modules of the package."""
    known = modules()
    return {(name, to): [] for name, file in known.items() for to in imports(file, set(known)) if to != name}


def faults(pairs: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> list[str]:
    """Imports that point up, and modules without a room."""
    found = []
    for module, to in sorted(pairs):
        above, below = room_of(module), room_of(to)
        for name, room in ((module, above), (to, below)):
            if room not in ORDER:
                found.append(f"{name} stands in no room of ORDER")
        if above in ORDER and below in ORDER and ORDER.index(below) > ORDER.index(above):
            found.append(f"{module} imports {to}: {above} stands before {below}")
    return found


def drawing() -> str:
    """A Mermaid graph of rooms: direct imports, but for those that follow from others."""
    ground = {"settings", "storage", "runs", "cli"}
    pairs = {(room_of(a), room_of(b)) for a, b in edges()}
    pairs = {(a, b) for a, b in pairs if a != b and not {a, b} & ground}
    reach: dict[str, set[str]] = {}
    for room in ORDER:  # from the ground up, so that what a room reaches is known before the rooms above it
        direct = {b for a, b in pairs if a == room}
        reach[room] = direct | {far for b in direct for far in reach.get(b, ())}
    kept = [(a, b) for a, b in pairs if not any(b in reach[other] for x, other in pairs if x == a and other != b)]
    lines = [f"    {a.replace('.', '_')}[{a}] --> {b.replace('.', '_')}[{b}]" for a, b in sorted(kept)]
    return "\n".join(["```mermaid", "graph TD", *lines, "```"])


def table() -> str:
    """A row a room, from the ground up: its modules and the first line of what it says of itself."""
    known, rows = modules(), ["| room | modules | what it holds |", "|---|---|---|"]
    for room in ORDER:
        inside = sorted(m.removeprefix(f"{room}.") for m in known if m.startswith(f"{room}."))
        said = ast.get_docstring(ast.parse(known[room].read_text())) or ""
        shown = ", ".join(f"`{m}`" for m in inside if m.count(".") == 0)
        rows.append(f"| `{room}` | {shown} | {' '.join(said.split(chr(10) * 2)[0].split())} |")
    return "\n".join(rows)


def page() -> str:
    """The whole page."""
    return f"{HEAD}{drawing()}\n\n## Rooms, from the ground up\n\n{table()}\n"


if __name__ == "__main__":
    PAGE.write_text(page())
