"""How item tables were read off their models, and one model read in several ways: what pooling and mask alone do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from llm2rec_kit import geometry
from llm2rec_kit import settings as S
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.runs import Run

SHOWN = ("attention", "pooling", "items", "mean_norm", "effective_rank", "leak")


def of_tables(run: Run, tables: Iterable[str]) -> pl.DataFrame:
    """Tabulate what the records of item tables say of how each was read, and of its shape; null where one does not say."""
    records = {table: run.record(f"embeddings/{table}") for table in tables}
    rows = [{"table": table, **{name: record.get(name) for name in SHOWN}} for table, record in records.items()]
    return pl.DataFrame(rows, infer_schema_length=None)


def compare(path: str | Path, titles: Sequence[str], ways: Iterable[S.Encoding], place: S.Backbone) -> pl.DataFrame:
    """Encode `titles` with the model in `path` in each of `ways`: a row a way, with the shape of its space (`geometry`)."""
    rows = []
    for how in ways:
        vectors = Encoder.load(path, how, place).encode(titles)
        norm = float(np.linalg.norm(vectors, axis=1).mean())
        shape = {"uniformity": geometry.uniformity(vectors), "effective rank": geometry.effective_rank(vectors)}
        rows.append({"pooling": how.pooling, "attention": how.attention, "mean norm": norm, **shape})
    return pl.DataFrame(rows)
