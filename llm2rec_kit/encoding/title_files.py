"""Title files: what `llm2rec encode` reads. A title a row, none left out: row k of the embeddings is row k of the file."""

from __future__ import annotations

import difflib
from pathlib import Path

import polars as pl

from llm2rec_kit.data.sources import delimited

KINDS = (".txt", ".csv", ".tsv", ".item", ".parquet")


def read(file: str | Path, column: str = "title") -> list[str]:
    """Read the titles in `file`: a line each in .txt, the `column` of .csv, .tsv, .item (RecBole) or .parquet.

    Raises ValueError for another kind of file, one that cannot be read whole, a missing column, or one of other values than
    texts; and where titles are missing or empty, with how many are and the rows of the first.
    """
    file = Path(file)
    kind = file.suffix.lower()
    if not file.is_file():
        raise ValueError(f"There is no file {file}: {'that is something else' if file.exists() else 'nothing is there'}.")
    if kind not in KINDS:
        raise ValueError(f"{file} is none of {', '.join(KINDS)}.")
    try:
        titles = _lines(file) if kind == ".txt" else _column(file, kind, column)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}.") from None
    if not titles:
        raise ValueError(f"{file} holds no title.")
    if empty := [row for row, title in enumerate(titles, 1) if not title.strip()]:
        rows = f"row{'s' * (len(empty) > 1)} {', '.join(map(str, empty[:5]))}{', ...' * (len(empty) > 5)}"
        raise ValueError(
            f"{file}: {len(empty)} of {len(titles)} titles are missing or empty ({rows}), and such a title has no embedding. Row "
            "k of the embeddings is row k of the file: give these rows titles, or take them out."
        )
    return titles


def _lines(file: Path) -> list[str]:
    """The lines of a text file. Only a line feed (or a carriage return and one) ends a line: form feed, NEL, U+2028 and
    others that Python takes for ends, too, stand inside scraped titles."""
    delimited.look_through(file)
    text = delimited.decode_line(file, file.read_bytes().removeprefix(delimited.BOM))
    found = text.removesuffix("\n").split("\n")
    if "\n" not in text and "\r" in text.rstrip("\r"):
        raise ValueError(f"{file}: its lines end with a carriage return alone. Save it with line ends of \\n or \\r\\n.")
    return [line.removesuffix("\r") for line in found]


def _column(file: Path, kind: str, column: str) -> list[str]:
    """The values of a column, empty where one is missing; what stands after a colon (RecBole's type) need not be named."""
    table = _parquet(file) if kind == ".parquet" else _delimited(file, kind)
    named = {c.split(":")[0].strip(): c for c in reversed(table.columns)} | {c: c for c in table.columns}
    if column not in named:
        close = difflib.get_close_matches(column, named, 1, 0.5)
        found = ", ".join(f"{c!r:.60}" for c in table.columns[:12]) + ", ..." * (len(table.columns) > 12)
        near = f", perhaps {close[0]!r}" if close else ""
        raise ValueError(f"{file} has no column {column!r}; it has {found}. Name one with --column{near}.")
    values = table[named[column]]
    if not isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum | pl.Null):
        raise ValueError(f"{file}: titles are texts, and its column {named[column]!r} holds {values.dtype}.")
    return values.cast(pl.String).fill_null("").to_list()


def _delimited(file: Path, kind: str) -> pl.DataFrame:
    """The table of a .csv or a tab-separated file; ValueError where a line is no row, so that rows stay in step."""
    quoted, separator = (True, ",") if kind == ".csv" else (None, "\t")
    table, few, why = delimited.read_texts(file, separator=separator, quoted=quoted, fewest=1)
    if few:
        raise ValueError(f"{file}: {few} rows cannot be read, so later ones would move up. {why}.")
    lines = _lines(file)
    inside = table.select(pl.all().str.count_matches("\n").sum()).sum_horizontal().item()  # line ends within cells
    if len(table) + inside + 1 < len(lines):
        blank = next(number for number, line in enumerate(lines, 1) if not line)
        raise ValueError(f"{file}, line {blank}, is empty, so later rows would move up. Take it out.")
    return table


def _parquet(file: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{file} cannot be read as parquet: {' '.join(str(error).split()):.200}") from None
