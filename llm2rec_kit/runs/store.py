"""The store of an outputs folder: artefacts that its runs share, each a run of its own, named by what it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2rec_kit.runs import manifest
from llm2rec_kit.storage import hold_lock

if TYPE_CHECKING:
    from llm2rec_kit.runs.run import Run

STORE = ".store"  # in an outputs folder: what its runs share


def place(run: Run, name: str, key: dict[str, Any]) -> Path | None:
    """Return where the store beside a run keeps such an artefact (a run of its own); None without a store."""
    folder = run.path.parent / STORE
    if not folder.is_dir():
        return None
    said = json.dumps([name, manifest.select_counted(key, key)], sort_keys=True)
    return folder / hashlib.sha256(said.encode()).hexdigest()[:32]


@contextlib.contextmanager
def hold(run: Run, name: str, key: dict[str, Any], busy: str) -> Iterator[Path | None]:
    """Hold the artefact's place in the store alone, and yield it: of two runs that need it, one makes it, one waits."""
    path = place(run, name, key)
    if path is None:
        yield None
        return
    with hold_lock(path.with_name(f".{path.name}.lock"), busy):
        yield path
