"""One finished run of the whole series at toy size, for every test that looks at it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from llm2rec_kit.runs import Run

CHANGED = {"maps.max_items": 60, "evaluation.epochs": 1, "csft.save_every": 3}


@dataclass(frozen=True)
class Finished:
    """The run, the command that made it, what it said, and the parameters that it set besides the profile's."""

    run: Run
    words: list[str]
    said: str
    changed: dict[str, int]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    outputs = tmp_path_factory.mktemp("outputs")
    words = [sys.executable, "-m", "llm2rec_kit.cli", "reproduce", "--profile", "smoke", "--run", "toy"]
    words += [w for name, value in CHANGED.items() for w in ("--set", f"{name}={value}")]
    words += ["--outputs", str(outputs)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=outputs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Finished(Run("toy", outputs), words, done.stdout, CHANGED)
