"""The page that a reader meets first in JupyterLab: which runs there are, where their notebooks, report and figures lie."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from IPython.display import Markdown

from llm2rec_kit.runs import find_outputs, info

SHOWN = {"report.html": "report", "explorer.html": "explorer"}  # of a run's folder, where they are there


def make_page(outputs: str = "") -> Markdown:
    """List the runs in `outputs` (default: the project's) with links, seen from the working folder, which is a notebook's own."""
    folder = find_outputs(outputs)
    runs = sorted(p.parent for p in folder.glob(f"*/{info.FILE}")) if folder.is_dir() else []
    if not runs:
        return Markdown(
            f"No run in `{folder}` yet. `make reproduce` makes the first, `demo`; so does running 01 to 05 here."
        )
    return Markdown("\n\n".join(_links(run) for run in runs))


def _links(run: Path) -> str:
    """Format a run's name, what it has, its executed notebooks. JupyterLab opens no folder by a link, so that is named."""
    there = [_link(words, run / name) for name, words in SHOWN.items() if (run / name).exists()]
    books = [_link(book.stem, book) for book in sorted((run / "notebooks").glob("*.ipynb"))]
    executed = f"; executed: {', '.join(books)}" if books else ""
    figures = f"; figures in the folder `{os.path.relpath(run / 'figures')}`" if (run / "figures").is_dir() else ""
    return f"**{run.name}**: {', '.join(there) or 'no report yet'}{executed}{figures}"


def _link(words: str, path: Path) -> str:
    return f"[{words}]({quote(os.path.relpath(path))})"
