"""A manifest: what an artefact was made from, what its files are, what was recorded; sealed with a hash over all of it.

It is written last, so what has one is complete. What is read from one may have been changed since, copied from elsewhere or
written by somebody else: it counts where it is what was written, of the artefact that is asked for, and names nothing
outside its folder.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from llm2rec_kit import storage

PARTS = {"settings": dict, "inputs": dict, "files": dict, "record": dict, "finished": str}


def read(path: Path, name: str) -> dict[str, Any]:
    """The manifest of artefact `name` at `path`. FileNotFoundError where there is none; ValueError that says how it is damaged."""
    made = storage.read_note(path)
    if lacks := [part for part, kind in PARTS.items() if not isinstance(made.get(part), kind)]:
        raise ValueError(f"{path} is damaged: it is no manifest, or not all of one ({', '.join(lacks)}).")
    if made.get("artefact", name) != name:
        found = reprlib.repr(made["artefact"])
        raise ValueError(f"{path} is damaged: it is the manifest of {found}, copied to where that of {name!r} belongs.")
    for file in made["files"]:
        try:
            storage.inside(path.parent, file)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: of the files that it names, {error}") from None
    return made


def damage(folder: Path, made: dict[str, Any]) -> str:
    """What is wrong with the first of a manifest's files that is not what it was, as a phrase; empty where all are sound."""
    return next((why for file in made["files"] if (why := damage_of(folder, made, file))), "")


def damage_of(folder: Path, made: dict[str, Any], file: str) -> str:
    """What is wrong with one of its files."""
    path = folder / file
    if why := storage.fault(path):
        return f"{path} {why}"
    try:
        sound = storage.file_digest(path) == made["files"][file]
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return "" if sound else f"{path} is damaged (its hash is not the manifest's)"
