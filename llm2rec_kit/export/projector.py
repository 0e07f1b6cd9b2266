"""What TensorBoard's embedding projector reads: vectors and metadata as tab-separated text, and a note that names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from llm2rec_kit.storage import tab_separated, write_text, write_whole


def write(folder: Path, tables: dict[str, tuple[str, np.ndarray]], metadata: pl.DataFrame, *, digits: int = 6) -> str:
    """Write `<name>.tsv` for each name -> (title, vectors), metadata.tsv, a row a vector, and projector_config.pbtxt.

    Returns what `tab_separated.write` had to change in the metadata, a sentence or nothing.
    """
    with write_whole(folder / "metadata.tsv") as part:
        told = tab_separated.write(metadata, part)
    entries = []
    for name, (title, vectors) in tables.items():
        with write_whole(folder / f"{name}.tsv") as part:
            np.savetxt(part, vectors, fmt=f"%.{digits}g", delimiter="\t")
        fields = {"tensor_name": title, "tensor_path": f"{name}.tsv", "metadata_path": "metadata.tsv"}
        lines = "".join(f"  {field}: {json.dumps(value, ensure_ascii=False)}\n" for field, value in fields.items())
        entries.append(f"embeddings {{\n{lines}}}\n")
    write_text(folder / "projector_config.pbtxt", "".join(entries))
    return told
