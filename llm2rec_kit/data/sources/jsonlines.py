"""JSON lines, read in blocks: as fast as polars reads them where a block is sound, line by line where it is not.

Published files of hundreds of millions of lines hold lines that are not JSON, fields of the wrong type and text that no
Unicode string may hold. A block in which polars stumbles, or might convert what it should refuse (a list where text is
due), is read again with the standard library, one line at a time; each bad line is left out and counted with its reason.
Both ways give the same rows (a test holds them to it). Memory is one block, whatever the file's size.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

BLOCK = 16 << 20  # bytes of text at once
LONGEST_LINE = 64 << 20  # bytes; a longer line is no JSON line of any published file
TYPES = {"text": pl.String, "whole": pl.Int64, "number": pl.Float64, "flag": pl.Boolean}
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of an escaped pair: polars makes a lone one a zero byte
TWO_ON_A_LINE = re.compile(rb"\}[ \t\r]*\{")  # polars takes them as two lines
LONE = re.compile("[\ud800-\udfff]")


@dataclass
class Bad:
    """Lines left out, by reason, and where the first of each was found (line numbers from 1)."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    mended: int = 0  # lines kept in which text that is no Unicode was replaced

    def note(self, why: str, line: int) -> None:
        """Count one line."""
        self.counts[why] = self.counts.get(why, 0) + 1
        self.first.setdefault(why, line)

    @property
    def total(self) -> int:
        """Lines left out."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        return ", ".join(f"{n} {why} (the first is line {self.first[why]:,})" for why, n in self.counts.items())


def read(
    file: Path,
    fields: dict[str, str],
    needed: list[str],
    bad: Bad,
    keep: Callable[[pl.DataFrame], pl.DataFrame] = lambda block: block,
) -> pl.DataFrame:
    """The lines of `file` (plain or gzip) as a frame with the columns `fields`, name -> text, whole, number or flag.

    A field that a line lacks is null. Left out and counted in `bad`: lines that are not JSON, not an object or not UTF-8,
    with a value of another type, or without one of the `needed` fields. `keep` cuts each block down before the next is read.
    ValueError where the file is missing, empty, damaged or cut off, or where no line at all is as it should be.
    """
    parts = [keep(block) for block in blocks(file, fields, needed, bad)]
    if not parts:
        raise ValueError(
            f"{file} holds no line with the fields {needed}: it {f'has {bad}' if bad.total else 'is empty'}. "
            "Expected is one JSON object a line."
        )
    return pl.concat(parts)


def blocks(file: Path, fields: dict[str, str], needed: list[str], bad: Bad) -> Iterator[pl.DataFrame]:
    """The blocks of `read` one after another, only those with rows."""
    schema = {name: TYPES[kind] for name, kind in fields.items()}
    other, line = other_than_text(fields), 1
    for block in _raw(file):
        frame = _fast(block, schema, needed, other)
        if frame is None:
            frame = _slow(block, schema, needed, bad, line)
        if len(frame):
            yield frame
        line += block.count(b"\n")


def other_than_text(fields: dict[str, str]) -> re.Pattern[bytes]:
    """Finds a text field that holds something else than text or null, which polars would turn into text."""
    texts = "|".join(re.escape(name) for name, kind in fields.items() if kind == "text")
    return re.compile(rf'"(?:{texts})"\s*:\s*[^"\sn]'.encode())


def _fast(block: bytes, schema: dict[str, Any], needed: list[str], other: re.Pattern[bytes]) -> pl.DataFrame | None:
    """The block as polars reads it, or None where that may differ from what `_slow` would keep."""
    if block[:1] != b"{":  # polars would unpack a block that begins like an archive
        return None
    if SURROGATE.search(block) or TWO_ON_A_LINE.search(block) or other.search(block):
        return None
    try:
        frame = pl.read_ndjson(io.BytesIO(block), schema=schema)
    except pl.exceptions.PolarsError:
        return None
    large = [name for name, kind in schema.items() if kind == pl.Float64 and (frame[name].abs() > 1e300).any()]
    return None if large or any(frame[name].null_count() for name in needed) else frame


def _slow(block: bytes, schema: dict[str, Any], needed: list[str], bad: Bad, line: int) -> pl.DataFrame:
    rows = []
    for number, text in enumerate(block.split(b"\n"), line):
        if not text.strip():
            continue
        try:
            row = json.loads(text.decode(), object_pairs_hook=_first_wins, parse_constant=_refuse)
        except UnicodeDecodeError:
            bad.note("not UTF-8", number)
            continue
        except (ValueError, RecursionError):
            bad.note("not JSON", number)
            continue
        why, values = _values(row, schema, needed)
        if why:
            bad.note(why, number)
            continue
        if any(isinstance(v, str) and LONE.search(v) for v in values):
            values = [LONE.sub("�", v) if isinstance(v, str) else v for v in values]
            bad.mended += 1
        rows.append(values)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _values(row: Any, schema: dict[str, Any], needed: list[str]) -> tuple[str, list[Any]]:
    """Why the line is left out (or nothing), and its values in the schema's order."""
    if not isinstance(row, dict):
        return "not an object", []
    values = []
    for name, kind in schema.items():
        value = row.get(name)
        if value is None:
            if name in needed:
                return f"without {name}", []
        elif kind == pl.Float64 and type(value) in (int, float):
            if abs(value) > 1e300:
                return f"with a number too large as {name}", []
            value = float(value)
        elif kind == pl.Int64 and type(value) is float and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        elif {str: pl.String, bool: pl.Boolean, int: pl.Int64}.get(type(value)) != kind:
            return f"with a {type(value).__name__} as {name}", []
        elif kind == pl.Int64 and not -(2**63) <= value < 2**63:
            return f"with a number too large as {name}", []
        values.append(value)
    return "", values


def _raw(file: Path) -> Iterator[bytes]:
    """The text of `file` in blocks that end at line ends."""
    rest = b""
    with _opened(file) as source:
        try:
            while data := source.read(BLOCK):
                data = rest + data
                end = data.rfind(b"\n") + 1
                if end:
                    yield data[:end]
                rest = data[end:]
                if len(rest) > LONGEST_LINE:
                    raise ValueError(f"{file} has no line end for {LONGEST_LINE >> 20} MiB: it is no file of JSON lines.")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            what = "is cut off: its gzip data ends early" if isinstance(error, EOFError) else f"is damaged: {error}"
            raise ValueError(f"{file} {what}. Fetch or copy it again.") from None
    if rest.strip():
        yield rest


def _opened(file: Path) -> BinaryIO:
    if not file.is_file():
        raise ValueError(f"{file} does not exist.")
    with file.open("rb") as opened:
        zipped = opened.read(2) == b"\x1f\x8b"
    return gzip.open(file) if zipped else file.open("rb")


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))  # a name given twice: the first counts, as in polars


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
