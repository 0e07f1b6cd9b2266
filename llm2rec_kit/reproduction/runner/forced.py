"""A forced series: what it makes carries its name, so that one that was interrupted goes on and makes nothing twice."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm2rec_kit import storage
from llm2rec_kit.reproduction.runner import unchanged
from llm2rec_kit.runs import FORCED, Run, collect_provenance


@contextlib.contextmanager
def name_series(run: Run, values: dict[str, Any], books: list[Path]) -> Iterator[None]:
    """Name a series that `values` force, so that all that its notebooks make carries the name (`Run.made_by_this_force`).

    The name stays in the run's folder until the series has ended or another is asked for: so an interrupted one goes on,
    unless the code is another by now, committed or not.
    """
    mark = run.path / ".forced.json"
    if not values.get("force"):
        storage.clear(mark)
        yield
        return
    known = storage.read_note_or_nothing(mark, "The forced series begins anew.")
    code = [{book.stem: storage.hash_file_once(book) for book in books}, unchanged.hash_kit()]
    asked = [values, *code, collect_provenance()["versions"], collect_provenance()["git"]]
    if known.get("asked") == asked:
        print(f"going on with the forced series that was interrupted (to begin it anew: delete {mark})", flush=True)
    else:
        known = {"asked": asked, "name": secrets.token_hex(8)}
        storage.write_note(mark, known)
    before = os.environ.get(FORCED)
    os.environ[FORCED] = known["name"]
    try:
        yield
    finally:
        os.environ.pop(FORCED)
        if before is not None:
            os.environ[FORCED] = before
    mark.unlink(missing_ok=True)
