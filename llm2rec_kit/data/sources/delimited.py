"""Delimited files of numbers: rows that are not as the layout says are left out and counted, cheaply at any size."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl


def numbers(
    source: Path | bytes, schema: dict[str, pl.DataType], *, what: str, separator: str = ",", header: bool = True
) -> tuple[pl.DataFrame, int]:
    """The rows of a file (or of its bytes) whose cells are all numbers of the `schema`'s types, and how many are not.

    `header`: whether the first line names the columns; it must then name those of `schema`, in that order. Raises ValueError,
    naming `what`, where the file is empty, where the header is another one, or where a row has more cells than columns.
    """
    found = _first_line(source).strip("\ufeff\r\n").split(separator)
    if not "".join(found).strip() and (len(source) if isinstance(source, bytes) else source.stat().st_size) < 2:
        raise ValueError(f"{what} is empty.")
    if header and [c.strip() for c in found] != list(schema):
        raise ValueError(f"{what} must begin with the columns {list(schema)}; found {found[:12]}.")
    if not header and len(found) != len(schema):
        raise ValueError(f"{what} must have {len(schema)} columns divided by {separator!r}; it begins with {found[:6]}.")
    try:
        frame = pl.read_csv(
            io.BytesIO(source) if isinstance(source, bytes) else source,
            schema=schema,
            separator=separator,
            has_header=header,
            quote_char=None,
            ignore_errors=True,  # a cell that is no number becomes null, and its row is counted below
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{what} cannot be read as {len(schema)} columns divided by {separator!r}: {error}") from None
    whole = frame.drop_nulls()
    if whole.is_empty():
        raise ValueError(f"{what} has no row of {len(schema)} numbers divided by {separator!r}; it begins with {found[:6]}.")
    return whole, len(frame) - len(whole)


def _first_line(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return source[:1000].split(b"\n", 1)[0].decode("utf-8", "replace")
    with source.open("rb") as file:
        return file.readline(1000).decode("utf-8", "replace")
