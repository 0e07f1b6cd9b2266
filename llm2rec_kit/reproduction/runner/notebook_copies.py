"""The kit's notebooks laid out in a user's folder: written there once, brought up to date, never over the user's work."""

from __future__ import annotations

import os
from pathlib import Path

from llm2rec_kit import storage
from llm2rec_kit.runs import places


def lay_out(folder: str | Path, *, force: bool = False) -> tuple[list[str], list[str]]:
    """Write the kit's notebooks into `folder`; returns the names written, and those there already as they are.

    Those that an earlier version wrote and nobody changed are replaced. ValueError, before anything is written, where one
    was changed, unless `force`, and for no folder or the kit's own. A note there says which outputs/ keeps their runs.
    """
    folder, source = storage.expand_home(folder).resolve(), places.find_notebooks()
    if folder.is_relative_to(places.PACKAGE) or (folder / "x").parent == source:
        raise ValueError(f"{folder} is where the kit itself has its notebooks. Give another folder.")
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Give a new one, or one to lay the notebooks out in.")
    pages = sorted(p for p in source.iterdir() if p.suffix in (".ipynb", ".md"))
    note, digests = folder / places.LAID_OUT, {page.name: storage.hash_file(page) for page in pages}
    known = storage.read_note_or_nothing(note, "Which of the notebooks were changed there is not known.")
    there = {name: _digest(folder / name) for name in digests if os.path.lexists(folder / name)}
    kept = [name for name, digest in there.items() if digest == digests[name]]
    changed = [name for name, digest in there.items() if name not in kept and digest != known.get("notebooks", {}).get(name)]
    if changed and not force:
        raise ValueError(
            f"{folder} has other notebooks of these names, changed or executed there: {', '.join(changed)}. Nothing was written. "
            "Take another folder, or --force to overwrite them."
        )
    runs = os.path.relpath(places.find_project_root(), folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [page for page in pages if page.name not in kept]
    for page in written:
        storage.write_bytes(folder / page.name, page.read_bytes())
    storage.write_note(note, {"runs": runs, "notebooks": digests})  # last: until then the old ones are known as unchanged
    return [page.name for page in written], kept


def _digest(path: Path) -> str:
    """The hash of a file; of what is none a text that is no hash."""
    return storage.hash_file(path) if path.is_file() else "no file"
