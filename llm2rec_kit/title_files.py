"""Title files: what `llm2rec encode` reads. A title a row, in the file's order, none left out: row k of the embeddings is
row k of the file."""

from __future__ import annotations

import difflib
from pathlib import Path

import polars as pl

from llm2rec_kit import delimited_text

KINDS = (".txt", ".csv", ".tsv", ".item", ".parquet")


def read(file: str | Path, column: str = "title") -> list[str]:
    """The titles in `file`: a line each in .txt, the `column` of .csv, .tsv, .item (RecBole) or .parquet.

    Raises ValueError for another kind of file, one that cannot be read, a missing column, or one of other values than
    texts; and where a title is missing or empty, with how many are and the rows of the first.
    """
    file = Path(file)
    kind = file.suffix.lower()
    if not file.is_file():
        raise ValueError(
            f"{file} is {'no file' if file.exists() else 'not there'}. Expected are titles: {', '.join(KINDS)}."
        )
    if kind not in KINDS:
        raise ValueError(f"{file} is none of {', '.join(KINDS)}.")
    try:
        titles = delimited_text.lines(file) if kind == ".txt" else _column(file, kind, column).to_list()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}.") from None
    empty = [row for row, title in enumerate(titles, 1) if title is None or not title.strip()]
    if empty or not titles:
        first = ", ".join(map(str, empty[:5])) + ", ..." * (len(empty) > 5)
        what = f"{len(empty)} of its {len(titles)} titles are empty (row {first})" if titles else "it holds no title"
        raise ValueError(
            f"{file}: {what}, and an empty title has no embedding. Give it a title or leave the row out: "
            "row k of the embeddings is row k of the file."
        )
    return titles


def _column(file: Path, kind: str, column: str) -> pl.Series:
    """The column of titles, by its name before the colon (RecBole's type), as text."""
    table = _parquet(file) if kind == ".parquet" else delimited_text.table(file, "," if kind == ".csv" else "\t")
    named = {c.split(":")[0].strip(): c for c in reversed(table.columns)} | {c: c for c in table.columns}
    if column not in named:
        close = difflib.get_close_matches(column, named, 1, 0.5)
        found = ", ".join(map(repr, table.columns[:20])) + ", ..." * (len(table.columns) > 20)
        raise ValueError(
            f"{file} has no column {column!r}; it has {found}. "
            f"Name one with --column{f', perhaps {close[0]!r}' if close else ''}."
        )
    values = table[named[column]]
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.Null:
        values = values.cast(pl.String)
    if values.dtype != pl.String:
        raise ValueError(
            f"{file}: titles are texts; the column {named[column]!r} holds {values.dtype}. Name another with --column."
        )
    return values


def _parquet(file: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{file} cannot be read as parquet: {' '.join(str(error).split())[:300]}") from None
