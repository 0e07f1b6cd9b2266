"""The history of a training: its rows of numbers by step, kept beside the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    """Keep the history as `history.json` beside the saved weights; the checkpoints have done their work and go."""
    (folder / "history.json").write_text(json.dumps(history, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read the history that `write_history` kept."""
    rows: list[dict[str, float]] = json.loads((Path(folder) / "history.json").read_text())
    return rows


def take_last_values(history: list[dict[str, float]]) -> dict[str, float]:
    """Take the last value of every number in a history, for a record."""
    return {k: v for row in history for k, v in row.items() if k not in ("step", "learning_rate", "grad_norm")}
