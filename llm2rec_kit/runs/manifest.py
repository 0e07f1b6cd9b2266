"""A manifest: what an artefact was made from, what its files are, what was recorded; sealed with a hash over all of it.

It is written last, so what has one is complete. What is read from one may have been changed since, copied from elsewhere or
written by somebody else: it counts where it is what was written, of the artefact that is asked for, and names nothing
outside its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
from pathlib import Path
from typing import Any

from llm2rec_kit import storage

FOLDER_NOTE = "manifest.json"  # the manifest of an artefact that is a folder, in it
HARMLESS = (".md", ".png", ".svg", ".pdf", ".html", ".pyc")
PARTS = {"settings": dict, "inputs": dict, "files": dict, "record": dict, "finished": str}


def read(path: Path, name: str) -> dict[str, Any]:
    """Read the manifest of artefact `name` at `path`; FileNotFoundError without one, ValueError for a damaged one."""
    made = storage.read_note(path)
    if lacks := [part for part, kind in PARTS.items() if not isinstance(made.get(part), kind)]:
        raise ValueError(f"{path} is damaged: it is no manifest, or not all of one ({', '.join(lacks)}).")
    if made.get("artefact", name) != name:
        found = str(made["artefact"])[:200]
        raise ValueError(f"{path} is damaged: it is the manifest of {found!r}, copied to where that of {name!r} belongs.")
    for file in made["files"]:
        try:
            place(path.parent, file)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged: it names a file that is none of this folder's, {reprlib.repr(file)}."
            ) from error
    return made


def place(folder: Path, file: str) -> Path:
    """Return where a file of an artefact in `folder` is; ValueError where that is not in `folder`. It may itself be a link:
    what is written, moved or deleted there is the link; what is read has the right hash."""
    if Path(file).name in ("", "..") or b"\0" in os.fsencode(file):
        raise ValueError(f"{reprlib.repr(file)} names no file.")
    above = folder if Path(file).name == file else storage.require_inside(folder, str(Path(file).parent))
    return above / Path(file).name


def find_damage(folder: Path, made: dict[str, Any], *, gone: bool = False) -> str:
    """Say how the first damaged file is damaged, as a phrase; empty where all are sound or, with `gone`, away."""
    files = (file for file in made["files"] if not gone or os.path.lexists(folder / file))
    return next((why for file in files if (why := find_damage_of_file(folder, made, file))), "")


def find_stray(folder: Path, made: dict[str, Any]) -> Path | None:
    """Find a file in an artefact's folder that is none of its own, and that a library might read for one; None where there
    is none. Cards, figures and hidden files may be there."""
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir() and p.suffix not in HARMLESS):
        name = path.relative_to(folder).as_posix()
        if name not in made["files"] and name != FOLDER_NOTE and not any(part.startswith(".") for part in name.split("/")):
            return path
    return None


def find_damage_of_file(folder: Path, made: dict[str, Any], file: str) -> str:
    """Say what is wrong with a file of an artefact, as a phrase; empty where it is sound."""
    path = folder / file
    if why := storage.find_fault(path):
        return f"{path} {why}"
    try:
        sound = storage.hash_file_once(path) == made["files"][file]
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return "" if sound else f"{path} is damaged (its hash is not the manifest's)"


def hash_content(made: dict[str, Any]) -> str:
    """Compute the content hash of a manifest's artefact: of its files' hashes."""
    return hashlib.sha256(json.dumps(made["files"], sort_keys=True).encode()).hexdigest()


def select_counted(made: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and inputs of `made` (a key or a manifest) that count: all but those that `key` keeps aside."""
    aside = key.get("aside", ())
    return {"settings": {k: v for k, v in made["settings"].items() if k not in aside}, "inputs": made["inputs"]}
