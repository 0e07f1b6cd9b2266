"""The working folder of an artefact that is being made: hidden beside its place, gone on with after an interruption.

A note in it says what the artefact is made from and, once all is built, what was recorded: from then on nothing has to be
built again, whatever comes before the manifest is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm2rec_kit import storage
from llm2rec_kit.runs import manifest, meter
from llm2rec_kit.runs.records import check_record
from llm2rec_kit.runs.series import find_forced
from llm2rec_kit.storage import clear, hash_file

KEY_NOTE = ".key.json"


def open_at(target: Path, name: str, key: dict[str, Any], *, force: bool) -> tuple[Path, dict[str, Any] | None]:
    """Return the working folder of artefact `name` that is to be at `target`: kept from an interrupted make of the same key
    or, with `force`, of this forced series; else an empty one. With it what `build_in` noted, where all is built there."""
    folder = target.with_name(f".{target.name}{storage.PARTIAL}")
    if folder.is_symlink() or not folder.is_dir():  # what is begun elsewhere is not this run's
        clear(folder)
    begun = storage.read_note_or_nothing(folder / KEY_NOTE, f"What was begun of {name!r} is not gone on with.")
    whole = all(isinstance(begun.get(part), dict) for part in ("settings", "inputs"))
    same = whole and manifest.select_counted(begun, key) == manifest.select_counted(key, key)
    built = begun.get("built")
    changed = built and built["sizes"] != _list_sizes(folder)
    if same and not changed and (not force or (find_forced() and begun.get("forced") == find_forced())):
        return folder, built
    clear(folder)
    folder.mkdir(parents=True)
    storage.write_note(folder / KEY_NOTE, key | {"forced": find_forced()})
    return folder, None


def build_in(
    folder: Path, name: str, build: Callable[[Path], dict[str, Any] | None], spent: float | dict[str, Any]
) -> dict[str, Any]:
    """Build artefact `name` in its working folder and return what the note then says of it: `record`, and `cost` with what
    was `spent` elsewhere (`Run.make`). An error that comes before any file leaves no folder: nothing is there to go on from."""
    try:
        with meter.measure() as cost:
            record = build(folder) or {}
    except BaseException:
        with contextlib.suppress(OSError):  # else it would stand in the place of what was raised
            if not _find_files(folder):
                clear(folder)
        raise
    check_record(f"The record of {name!r}", record)
    built = {"record": record, "cost": meter.add_work_elsewhere(cost, spent), "sizes": _list_sizes(folder)}
    storage.write_note(folder / KEY_NOTE, storage.read_note(folder / KEY_NOTE) | {"built": built})
    return built


def hash_files(folder: Path) -> dict[str, str]:
    """Compute the hashes of the artefact's files: {path in the folder: sha256}."""
    return {name: hash_file(path) for name, path in _find_files(folder).items()}


def _find_files(folder: Path) -> dict[str, Path]:
    """All files but the notes of `Run` itself, {path in the folder: path}, sorted."""
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: path for name, path in found.items() if name not in (KEY_NOTE, manifest.FOLDER_NOTE)}


def _list_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file: what a crash of the machine cut short is not taken for whole."""
    return {name: path.stat().st_size for name, path in _find_files(folder).items()}
