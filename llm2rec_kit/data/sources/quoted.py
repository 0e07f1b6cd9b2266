"""Quoted cells: delimited files in which a quote character occurs, read whole or refused by line.

Two ways are in use to write a quote inside a quoted cell: doubled (RFC 4180, pandas, R, Excel) and after a backslash (Spark,
which then doubles a backslash too, and others that do not). A file says nowhere which way is its own, and a reader that
takes the wrong one merges rows without a word. So a file is read in each way that its characters allow: it is taken where
exactly one table comes out of it, with as many cells in every row as the header has names, and refused otherwise.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

# What stands inside a quoted cell, what of it is an escape, and what that means. No pattern here can backtrack.
READINGS = {
    "doubled": (rb'[^"]*+(?:""[^"]*+)*+', '""', '"'),
    "after a backslash": (rb'[^"]*+(?:(?<=\\)"[^"]*+)*+', r"\\\"", '"'),
    "after a backslash, which is doubled itself": (rb'[^"\\]*+(?:\\["\\][^"\\]*+)*+', r'\\(["\\])', "${1}"),
}
BLANK_REST = re.compile(rb"[\r\n]*+\Z")
CHUNK = 1 << 16  # records made columns at a time
WHAT_TO_DO = (
    'Inside a quoted cell each quote is written twice ("") or, in the whole file alike, after a backslash, and each cell '
    "that is opened is closed. Write the file anew so (pandas does; Spark with the option escape set to a quote), or as Parquet"
)


@dataclass
class Found:
    """What one reading makes of a file."""

    table: pl.DataFrame
    end: int  # where in the file it stopped: at its end, or at a record that this way does not read
    needless: int = 0  # quoted cells that hold neither separator, line end nor quote
    spread: list[tuple[int, str]] = field(default_factory=list)  # records over several lines: place and text
    pairs: list[int] = field(default_factory=list)  # places of records with two backslashes in a row


def read(file: Path, names: list[str], start: int, separator: str, *, backslash: bool = True) -> pl.DataFrame:
    """Read the rows after the header, which ends at byte `start`: every cell as text, an empty one null.

    `backslash`: whether a quote may also be written after a backslash. Raises ValueError, one paragraph with the line, where
    no way of quoting gives each row a cell for each of `names`, or where several do and differ.
    """
    data = _bytes(file)
    ways = list(READINGS) if backslash and (data.find(b'\\"') >= 0 or data.find(b"\\\\") >= 0) else ["doubled"]
    found = {way: _found(data, names, start, separator, way) for way in ways}
    whole = {way: one for way, one in found.items() if BLANK_REST.match(data, one.end)}
    if not whole:
        raise _unreadable(file, data, max(one.end for one in found.values()), separator, len(names))
    (way, first), *others = whole.items()
    if way != "doubled" and first.pairs:
        raise _two_ways(file, data, first.pairs[0])
    for _, one in others:
        if not first.table.equals(one.table):
            row = _first_difference(first.table, one.table)
            raise _two_ways(file, data, _place(data, names, start, separator, way, row))
    _refuse_swallowed(file, data, first, separator)
    return first.table


def is_quoted(file: Path, names: list[str], start: int, separator: str) -> bool:
    """Tell whether a file of a layout without quoting was written with quotes all the same.

    It was where every cell that begins with a quote is a whole quoted cell with something in it that needs the quotes.
    Titles that just stand in quotes do not make a file quoted.
    """
    data = _bytes(file)
    if not re.search(rb'[\n%s]"' % re.escape(separator.encode()), data):
        return False
    one = _found(data, names, start, separator, "doubled")
    if one.needless or not BLANK_REST.match(data, one.end):
        return False
    try:
        _refuse_swallowed(file, data, one, separator)
    except ValueError:
        return False
    return True


def _bytes(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:  # never closed by hand: a match of a pattern may still point into it
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _pattern(columns: int, separator: str, way: str) -> re.Pattern[bytes]:
    """A record: its cells as groups, quotes included, without the line end."""
    divider = re.escape(separator.encode())
    # A quote may stand in the middle of a cell, 24" screen; one after a backslash has been written for a quoted cell.
    bare = (
        rb'(?!")[^\\%s\n]*+(?:\\(?!")[^\\%s\n]*+)*+' % (divider, divider) if way == "doubled" else rb'[^"%s\n]*+' % divider
    )
    cell = rb'("%s"|%s)' % (READINGS[way][0], bare)
    some = b"" if columns > 1 else rb"(?=[^\n])"  # the only cell of a row holds something: nothing is no row
    return re.compile(rb"(?:\r?\n)*+" + some + divider.join([cell] * columns) + rb"\r?(?:\n|\Z)")


def _found(data: mmap.mmap, names: list[str], start: int, separator: str, way: str) -> Found:
    match = _pattern(len(names), separator, way).match
    frames, place = [], start
    found = Found(pl.DataFrame(schema=dict.fromkeys(names, pl.String)), start)
    while True:
        rows: list[tuple[bytes, ...]] = []
        places: list[int] = []
        while len(rows) < CHUNK and (one := match(data, place)):
            rows.append(one.groups())
            places.append(place)
            place = one.end()
        if not rows:
            break
        columns = zip(names, zip(*rows, strict=True), strict=True)
        raw = pl.DataFrame({name: pl.Series(cells, dtype=pl.Binary) for name, cells in columns}).cast(pl.String)
        _note(found, raw, places, separator)
        frames.append(raw.select(_cells(names, way)))
    found.end = place
    found.table = pl.concat([found.table, *frames])
    return found


def _cells(names: list[str], way: str) -> list[pl.Expr]:
    """Cells as they are meant: without their quotes and escapes, empty ones null."""
    _, written, meant = READINGS[way]
    exprs = []
    for name in names:
        cell = pl.col(name)
        inner = cell.str.strip_prefix('"').str.strip_suffix('"').str.replace_all(written, meant)
        bare = cell.str.strip_suffix("\r") if name == names[-1] else cell
        value = pl.when(cell.str.starts_with('"')).then(inner).otherwise(bare)
        exprs.append(pl.when(value != "").then(value).alias(name))
    return exprs


def _note(found: Found, raw: pl.DataFrame, places: list[int], separator: str) -> None:
    """Add to `found` what the records' own text tells of them."""
    quoted = pl.all().str.starts_with('"')
    needed = pl.all().str.contains(f'(?s)^".*({re.escape(separator)}|\n|"").*"$') & (pl.all() != '""')
    found.needless += raw.select((quoted & ~needed).sum()).sum_horizontal().item()
    pairs = raw.select(pl.any_horizontal(pl.all().str.contains("\\\\", literal=True))).to_series()
    found.pairs += [places[k] for k in pairs.arg_true()]
    several = raw.select(pl.any_horizontal(pl.all().str.contains("\n", literal=True))).to_series()
    found.spread += [(places[k], separator.join(raw.row(k))) for k in several.arg_true()]


def _refuse_swallowed(file: Path, data: mmap.mmap, found: Found, separator: str) -> None:
    """Raise ValueError where a cell over several lines looks like rows that a stray quote has swallowed: each of its lines
    has the cells of a row, and begins as rows do. A text with line ends of its own does not."""
    columns, kinds = found.table.width, None
    for place, text in found.spread:
        lines = text.split("\n")
        if any(line.count(separator) != columns - 1 for line in lines):
            continue
        kinds = kinds or {_kind(cell or "") for cell in found.table.to_series().unique()}
        if all(_kind(line.split(separator)[0]) in kinds for line in lines[1:]):
            raise ValueError(
                f"{file}, line {_line(data, place)}: a quote that is opened here is closed {len(lines) - 1} lines further on, and "
                f"each line between looks like a row by itself: was the quote left open? {WHAT_TO_DO}; where line ends in a "
                "cell are meant, as spaces."
            )


def _kind(cell: str) -> frozenset[str]:
    """What a cell is made of: digits, letters, white space, each other character by itself."""
    return frozenset("0" if c.isdigit() else "a" if c.isalpha() else " " if c.isspace() else c for c in cell)


def _two_ways(file: Path, data: mmap.mmap, place: int) -> ValueError:
    return ValueError(
        f"{file}, line {_line(data, place)}: a backslash here can be read in two ways, as itself or as what some programs write before "
        f"a quote or another backslash, and the file does not show which is meant. {WHAT_TO_DO}."
    )


def _unreadable(file: Path, data: mmap.mmap, place: int, separator: str, columns: int) -> ValueError:
    """What is wrong with the record at `place`."""
    while data[place : place + 1] in (b"\r", b"\n"):
        place += 1
    end = data.find(b"\n", place)
    line = data[place : end if end >= 0 else len(data)]
    where = f"{file}, line {_line(data, place)}"
    if b'"' not in line:
        found = line.count(separator.encode()) + 1
        return ValueError(f"{where}, has {found} cells divided by {separator!r}, and the header names {columns} columns.")
    return ValueError(
        f"{where}: the quotes of the row that begins here do not make {columns} cells divided by {separator!r}; a quote is left "
        f"open, stands undoubled inside a quoted cell, or cells are missing. {WHAT_TO_DO}."
    )


def _first_difference(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """The first row in which two tables of the same columns differ."""
    both = min(len(one), len(other))
    unlike = [(one[name].head(both).ne_missing(other[name].head(both))).arg_true() for name in one.columns]
    return min((int(rows[0]) for rows in unlike if len(rows)), default=both)


def _place(data: mmap.mmap, names: list[str], place: int, separator: str, way: str, row: int) -> int:
    """Where in the file a row of a reading begins."""
    match = _pattern(len(names), separator, way).match
    for _ in range(row):
        if one := match(data, place):
            place = one.end()
    return place


def _line(data: mmap.mmap, place: int) -> int:
    """The number of the line at `place`, from 1; line ends before it belong to the lines above."""
    while data[place : place + 1] in (b"\r", b"\n"):
        place += 1
    return data[:place].count(b"\n") + 1
