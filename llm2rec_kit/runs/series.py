"""What a series tells the kernels of its notebooks, through the environment."""

from __future__ import annotations

import os

FORCED = "LLM2REC_FORCED"  # in the environment of a forced series: its name, which what it makes carries
SERIES = "LLM2REC_SERIES"  # in the environment of a kernel that runs a notebook of a series: what changed may be replaced


def find_forced() -> str:
    """Return the name of the forced series that is under way; empty where none is."""
    return os.environ.get(FORCED, "")
