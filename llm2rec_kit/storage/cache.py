"""The folder of what may be made again: models unpacked from packages, machine code of maps."""

from __future__ import annotations

import os
from pathlib import Path


def find_cache() -> Path:
    """Find the kit's cache folder: $LLM2REC_CACHE, or llm2rec_kit in the user's cache folder. It need not be there."""
    if own := os.environ.get("LLM2REC_CACHE"):
        try:
            return Path(own).expanduser().absolute()
        except RuntimeError:
            raise ValueError(f"LLM2REC_CACHE is {own[:80]!r}, and nobody has that home. Give another folder.") from None
    users = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (users if users.is_absolute() else Path.home() / ".cache") / "llm2rec_kit"
