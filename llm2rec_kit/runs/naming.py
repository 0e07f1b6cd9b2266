"""What runs and artefacts may be called."""

from __future__ import annotations

from pathlib import Path

from llm2rec_kit import storage
from llm2rec_kit.settings.ranges import show_value
from llm2rec_kit.settings.stage import check_kind

LONGEST_NAME = 200  # bytes of a run's name: file systems take 255, and names are made of it


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be a run's name."""
    check_kind("run", str, name)
    plain_one = name and name == Path(name).name and not name.startswith(".") and name.isprintable()
    if not plain_one or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise ValueError(f"A run's name is one plain folder name of at most {LONGEST_NAME} bytes; found {show_value(name)}.")


def is_no_name(part: str) -> bool:
    """Tell whether a file or folder of this name is none of the artefacts: hidden, or put aside."""
    return part.startswith(".") or part.endswith(storage.DAMAGED)
