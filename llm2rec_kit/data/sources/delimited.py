"""Delimited files: texts, every cell as it stands, and numbers. No row is lost without a count: what polars made of a file
is compared with what its lines say, at the price of one more pass over its bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from llm2rec_kit.data.sources import quoted as quotes

BLOCK = 1 << 24  # bytes looked at together
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$"
DIGITS = 15  # of a whole number that is read as one
BOM = b"\xef\xbb\xbf"
Schema = Mapping[str, pl.DataType | type[pl.DataType]]  # a column's name and type
NO_TEXT = {
    b"\x1f\x8b": "is packed with gzip: unpack it",
    b"\xff\xfe": "is UTF-16 text (its line 1 begins with that mark): save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text (its line 1 begins with that mark): save it as UTF-8",
}


def read_texts(
    file: Path,
    *,
    separator: str = ",",
    quoted: bool | None = True,
    backslash: bool = True,
    names: list[str] | None = None,
    fewest: int = 2,
) -> tuple[pl.DataFrame, int, str]:
    """Read a file's table, every cell as text (String, an empty one null); returns also how many rows it left out, and why.

    The first line names the columns, unless `names` does. `quoted`: whether cells may stand in quotes (None: where the whole
    file is so written); `backslash`: see `quoted.read`; `fewest`: columns that there must be. Rows with too few cells are
    left out and counted, in a file with quotes refused. Raises ValueError, one paragraph, naming the file and the line, for
    whatever else would lose or change a row: too many cells, open quotes, another separator or encoding, a column twice.
    """
    lines, has_quotes = look_through(file)
    names, start, before = (names, 0, 0) if names else _header(file, separator, quoted=quoted is True, fewest=fewest)
    try:
        if has_quotes and (quoted or (quoted is None and quotes.is_quoted(file, names, start, separator))):
            return quotes.read(file, names, start, separator, backslash=backslash and quoted is True), 0, ""
        table = pl.read_csv(
            file, separator=separator, has_header=before > 0, new_columns=names, quote_char=None, infer_schema=False
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _named(file, str(file), separator, len(names), error) from None
    if len(table) != lines - before or table.columns != names:
        raise ValueError(
            f"{file} has {lines - before} lines of rows, and {len(table)} rows were read of it; save it as Parquet."
        )
    if not table[names[-1]].null_count():
        return table, 0, ""
    few, _, blank = _unlike(file, separator, len(names))
    kept = table.with_row_index("").filter(~pl.col("").is_in(np.concatenate([few, blank]) - before - 1)).drop("")
    why = f"{file.name}: fewer cells than the {len(names)} columns, first in line {few[0]}" if len(few) else ""
    return kept, len(few), why


def read_numbers(
    source: Path | bytes, schema: Schema, *, what: str, separator: str = ",", header: bool = True
) -> tuple[pl.DataFrame, int]:
    """Read the rows of a file (or its bytes) whose cells are all numbers of the `schema`'s types, and count the others.

    `header`: whether the first line names the columns; it must then name those of `schema`, in that order. Raises
    ValueError, naming `what`, where the file is empty, where the header is another one, or where a row has too many cells.
    """
    with _opened(source) as file:
        first, more = file.readline(1000), file.read(1)
    if reason := _no_text(first):
        raise ValueError(f"{what} {reason}.")
    found = first.decode("utf-8", "replace").strip("\ufeff\r\n").split(separator)
    if not "".join(found).strip() and not more:
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
        raise _named(source, what, separator, len(schema), error) from None
    whole = frame.drop_nulls()
    if whole.is_empty():
        raise ValueError(f"{what} has no row of {len(schema)} numbers divided by {separator!r}; it begins with {found[:6]}.")
    return whole, len(frame) - len(whole)


def parse_numbers(table: pl.DataFrame, *, but: Collection[str]) -> pl.DataFrame:
    """Parse each column of texts whose every cell is a number (some may be empty) as Int64 or Float64, those in `but` not.

    What begins with a needless 0, or has more digits than a float keeps, is a code and no number: article 007, a bar code.
    """
    made = {}
    for column in table.get_columns():
        cells = column.drop_nulls()
        if column.name in but or column.dtype != pl.String or cells.is_empty() or not cells.str.contains(NUMBER).all():
            continue
        whole = cells.str.contains(r"^-?[0-9]+$").all()
        if whole and (cells.str.len_chars() > DIGITS).any():
            continue
        made[column.name] = column.cast(pl.Int64 if whole else pl.Float64)
    return table.with_columns(**made)


def decode_line(file: Path, data: bytes, line: int = 1) -> str:
    """Decode `data`, which begins at this line of the file; ValueError naming the line where it is no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[max(0, error.start - 20) : error.start].split(b"\n")[-1]
        line += data.count(b"\n", 0, error.start)
        raise ValueError(
            f"{file}, line {line}, is no UTF-8 text: it has the byte 0x{data[error.start]:02x} after "
            f"{before.decode('utf-8', 'replace')!r}. If the file is Latin-1 or Windows-1252, save it as UTF-8."
        ) from None


def look_through(file: Path) -> tuple[int, bool]:
    """Count a file's lines, and tell whether a quote occurs in it; ValueError where it is empty or no text."""
    lines, has_quotes, last = 0, False, b""
    for block in _blocks(file):
        if not last and (reason := _no_text(block)):
            raise ValueError(f"{file} {reason}.")
        if (at := block.find(b"\0")) >= 0:
            line = lines + block.count(b"\n", 0, at) + 1
            raise ValueError(
                f"{file}, line {line}, holds a NUL byte: the file is damaged, or no UTF-8 text. Save it as UTF-8."
            )
        has_quotes = has_quotes or b'"' in block
        lines += block.count(b"\n")
        last = block[-1:]
    if not last:
        raise ValueError(f"{file} is empty.")
    return lines + (last != b"\n"), has_quotes


def _header(file: Path, separator: str, *, quoted: bool, fewest: int) -> tuple[list[str], int, int]:
    """The names of the columns, where in the file (bytes) their line ends, and its number; empty lines may go before it."""
    number, line = 0, b""
    with file.open("rb") as opened:
        while not line.strip(b"\r\n"):
            number += 1
            if not (line := opened.readline()):
                raise ValueError(f"{file} is empty.")
            line = line.removeprefix(BOM)
        start = opened.tell()
    text = decode_line(file, line, number).rstrip("\r\n")
    if "\r" in text:
        raise ValueError(f"{file}: its lines end with a carriage return alone. Save it with line ends of \\n or \\r\\n.")
    try:
        names = next(csv.reader([text], delimiter=separator, strict=True)) if quoted else text.split(separator)
    except csv.Error:
        raise ValueError(f"{file}, line {number}: the quotes of the header do not close; it begins {text[:60]!r}.") from None
    if len(names) < fewest:
        other = next((f", divided by {s!r}" for s in ";\t|, " if s in text), "")
        raise ValueError(f"{file}: columns divided by {separator!r} are expected; its first line is {text[:120]!r}{other}.")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{file}: its header names a column twice: {twice[:5]}.")
    return [name or f"column {k}" for k, name in enumerate(names, 1)], start, number


def _unlike(source: Path | bytes, separator: str, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lines (int64, from 1) with fewer cells than `columns`, those with more, and the blank ones; quotes unheeded."""
    found: tuple[list[np.ndarray], ...] = ([], [], [])
    line = 1
    for block in _blocks(source):
        seen = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(seen == ord("\n"))
        ends = ends if block.endswith(b"\n") else np.append(ends, len(seen))
        starts = np.concatenate([[0], ends[:-1] + 1])
        cells = np.diff(np.searchsorted(np.flatnonzero(seen == ord(separator)), ends), prepend=0) + 1
        empty = (ends == starts) | ((ends == starts + 1) & (seen[starts.clip(max=len(seen) - 1)] == ord("\r")))
        for kept, where in zip(found, ((cells < columns) & ~empty, cells > columns, empty), strict=True):
            kept.append(np.flatnonzero(where) + line)
        line += len(ends)
    few, many, blank = (np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64) for kept in found)
    return few, many, blank


def _named(source: Path | bytes, what: str, separator: str, columns: int, error: Exception) -> ValueError:
    """Why a file could not be read, with the line where one is at fault."""
    if isinstance(source, Path) and "utf" in str(error):
        line = 1
        for block in _blocks(source):
            try:
                decode_line(source, block, line)
            except ValueError as named:
                return named
            line += block.count(b"\n")
    _, many, _ = _unlike(source, separator, columns)
    if len(many):
        return ValueError(
            f"{what}, line {many[0]}, has more cells than the {columns} columns, divided by {separator!r} ({len(many)} such lines). A text "
            "that holds the separator stands in quotes, where the layout has them."
        )
    return ValueError(f"{what} cannot be read as {columns} columns divided by {separator!r}: {str(error).splitlines()[0]}")


def _no_text(head: bytes) -> str:
    return next((why for mark, why in NO_TEXT.items() if head.startswith(mark)), "")


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _blocks(source: Path | bytes) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time."""
    with _opened(source) as file:
        while block := file.read(BLOCK):
            yield block + file.readline()
