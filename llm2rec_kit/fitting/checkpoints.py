"""Checkpoints: `checkpoint-<step>/` with a marker that is written when everything else is on the disk.

A marker names every file with its size and hash. A folder without one was cut short (killed, disk full), one whose files
are not what the marker says is damaged; both are named and passed over, so what is resumed from is always whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llm2rec_kit import runs, storage

COMPLETE = "complete"  # the marker's name


def locate(folder: Path, step: int) -> Path:
    """Name the folder of a step's checkpoint."""
    return folder / f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """Read the step off the name of a checkpoint's folder."""
    return int(checkpoint.name.split("-")[1])


def seal(checkpoint: Path, more: dict[str, Any]) -> None:
    """Put every file of a written checkpoint (or prepared samples) on the disk, then its marker, which also holds `more`."""
    files = {}
    for file in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        _flush(file)
        files[file.relative_to(checkpoint).as_posix()] = [file.stat().st_size, runs.hash_file(file)]
    for folder in (*(p for p in checkpoint.rglob("*") if p.is_dir()), checkpoint, checkpoint.parent):
        _flush(folder)
    runs.write_json(checkpoint / COMPLETE, storage.seal({**more, "files": files}))
    _flush(checkpoint)


def read_marker(checkpoint: Path) -> dict[str, Any]:
    """Read what `seal` wrote; ValueError where that is damaged, FileNotFoundError without."""
    return storage.read_note(checkpoint / COMPLETE)


def find_fault(checkpoint: Path) -> str:
    """Say in a phrase why a checkpoint cannot be used; "" where it is whole."""
    try:
        files = {name: (size, digest) for name, (size, digest) in read_marker(checkpoint)["files"].items()}
    except FileNotFoundError:
        return "it was cut short while it was written"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its marker {COMPLETE!r} is damaged"
    for name, (size, digest) in files.items():
        file = checkpoint / name
        if why := storage.find_fault(file):
            return f"{name} {why}"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
        if runs.hash_file(file) != digest:
            return f"{name} is damaged (its hash is not the marker's)"
    return ""


def find_last(folder: Path) -> Path | None:
    """Find the newest whole checkpoint, or None; print the names of damaged newer ones."""
    for checkpoint in sorted(_all(folder), key=step_of, reverse=True):
        why = find_fault(checkpoint)
        if not why:
            return checkpoint
        print(f"  {checkpoint} is not used: {why}", flush=True)
    return None


def prune(folder: Path, steps: Collection[int]) -> None:
    """Remove all checkpoints but those of `steps`, each one's marker first: half removed is cut short."""
    for checkpoint in _all(folder):
        if step_of(checkpoint) not in steps:
            remove(checkpoint)


def remove(checkpoint: Path) -> None:
    """Remove one checkpoint, its marker first; nothing where there is none."""
    if checkpoint.is_symlink() or checkpoint.is_file():
        checkpoint.unlink()
        return
    storage.clear(checkpoint / COMPLETE)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    """What is named as checkpoints are."""
    return [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]


def _flush(target: Path) -> None:
    """Have the system write a file, or the entries of a folder, to the disk now."""
    handle = os.open(target, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
