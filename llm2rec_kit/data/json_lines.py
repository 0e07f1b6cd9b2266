"""JSON lines: raw files of one JSON object a line, plain or gzip, read once and in constant memory.

A thread inflates (ISA-L: three times zlib's speed, and it lets go of the interpreter's lock), in another polars parses the
block before, and the one before that is with whoever reads. Polars refuses a whole block for one bad line; such a block is
halved until the bad lines are among few, and those are judged one by one: a sound file costs nothing more.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import polars as pl
from isal import isal_zlib
from tqdm.auto import tqdm

READ = 1 << 20  # bytes taken from the file at a time
BLOCK = 1 << 23  # most bytes that one reading may inflate to: a gzip of zeros stays small in memory
LONGEST = 1 << 26  # bytes of a line; a file with a longer one is no file of lines
FEW = 64  # lines judged one by one
Made = TypeVar("Made")
BOM = b"\xef\xbb\xbf"

ID, TEXT, TEXTS, INTEGER = "id", "text", "texts", "integer"
DTYPES = {ID: pl.String(), TEXT: pl.String(), TEXTS: pl.List(pl.String), INTEGER: pl.Int64()}
NOT_JSON, MISSING, WRONG_TYPE = "not JSON", "missing field", "wrong type"


@dataclass
class Report:
    """What was read of a file, and what was left out of it and why."""

    path: Path
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)  # lines left out, by reason
    first: dict[str, str] = field(default_factory=dict)  # the first line of each reason, with its number

    @property
    def lines(self) -> int:
        """Lines that hold something."""
        return self.rows + self.bad.total()

    def dropped(self) -> list[tuple[str, int, str]]:
        """Return the rows for `Interactions.dropped`, one a reason: (reason, lines, the file and the first of them)."""
        return [(why, n, f"of {self.path.name}; first {self.first.get(why, '')}") for why, n in sorted(self.bad.items())]

    def check(self, what: str) -> None:
        """Raise ValueError where no line was of use; `what` is what each line should have been."""
        if self.rows:
            return
        if not self.lines:
            raise ValueError(f"{self.path} is empty. Expected is one JSON object a line, each {what}.")
        reasons = "; ".join(f"{why}: {n}, the first being {self.first[why]!r}" for why, n in self.bad.most_common())
        raise ValueError(f"{self.path}: none of its {self.lines} lines is {what}. {reasons}.")


def read(path: Path, fields: dict[str, str], report: Report) -> Iterator[pl.DataFrame]:
    """Yield frames of the columns `fields` (name -> ID, TEXT, TEXTS or INTEGER), in the file's order; all else is skipped.

    An ID is a text (or a number) and must be there, an INTEGER must be a whole number; a line where they are not is left out
    and counted in `report`. A TEXT or TEXTS (a list of texts; one text becomes a list of one) may be missing or null, as NaN
    and Infinity are without quotes; a number or a truth value is read as text, a list or an object in a TEXT's place as
    none. Half of a surrogate pair, which no UTF-8 can hold, becomes U+FFFD in a text; an id with one is of the wrong type.
    Raises ValueError where the file is no sound gzip or holds no lines.
    """
    with closing(_made_ahead(_all_frames(path, fields, report))) as frames:
        for frame in frames:
            report.rows += len(frame)
            yield frame
    left_out = f", {report.bad.total():,} of them left out" if report.bad else ""
    print(f"  {path.name}: {report.lines:,} lines{left_out}", flush=True)


def read_first_lines(path: Path, lines: int) -> list[str]:
    """Read the first lines of the file as they stand, and no further."""
    found: list[bytes] = []
    with path.open("rb") as file:
        for block in _whole_lines(_pieces(file, path), path):
            found += block.removesuffix(b"\n").split(b"\n")
            if len(found) >= lines:
                break
    return [line.decode(errors="replace").removesuffix("\r") for line in found[:lines]]


def read_blocks(path: Path) -> Iterator[bytes]:
    """Yield whole lines of a plain or gzip file (told by its first bytes), some megabytes at a time, the next read ahead."""
    size = path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False, disable=not sys.stderr.isatty())
    with path.open("rb") as file, bar, closing(_made_ahead(_whole_lines(_pieces(file, path), path))) as blocks:
        for block in blocks:
            bar.update(file.tell() - bar.n)
            yield block


def _made_ahead(made: Generator[Made, None, None]) -> Generator[Made, None, None]:
    """What `made` yields, the next one made in a thread while this one is used."""
    with closing(made), ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, made, None)
        while (one := ahead.result()) is not None:
            ahead = pool.submit(next, made, None)
            yield one


def _pieces(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The file's content, inflated where it is gzip."""
    data = file.read(READ)
    if data[:2] == b"\x1f\x8b":
        yield from _inflated(file, data, path)
        return
    yield data.removeprefix(BOM)
    while data := file.read(4 * READ):
        yield data


def _inflated(file: BinaryIO, data: bytes, path: Path) -> Iterator[bytes]:
    """The members of a gzip file one after another; `data` is its beginning."""
    member, start = None, BOM
    try:
        while data := data or file.read(READ):
            if member is None:  # between members; zeros may pad the end
                member = isal_zlib.decompressobj(wbits=31) if (data := data.lstrip(b"\0")) else None
                continue
            if piece := member.decompress(data, BLOCK):
                yield piece.removeprefix(start)
                start = b""
            data = member.unconsumed_tail
            if member.eof:
                data, member = member.unused_data, None
    except isal_zlib.error as error:  # type: ignore[misc]  # isal's stub has the class as an instance
        raise ValueError(
            f"{path} is damaged: its gzip stream cannot be read after {file.tell():,} of {path.stat().st_size:,} bytes "
            f"({error}). Delete it and fetch it again."
        ) from None
    if member is not None:
        raise ValueError(
            f"{path} ends in the middle of its gzip stream, after {path.stat().st_size:,} bytes: the copy or download was "
            "cut off. Delete it and fetch it again."
        )


def _whole_lines(pieces: Iterator[bytes], path: Path) -> Generator[bytes, None, None]:
    rest: list[bytes | memoryview] = []
    for piece in pieces:
        if cut := piece.rfind(b"\n") + 1:
            yield b"".join([*rest, memoryview(piece)[:cut]])
            rest = [piece[cut:]]
        else:
            rest.append(piece)
            if sum(map(len, rest)) > LONGEST:
                raise ValueError(f"{path}: a line is longer than {LONGEST >> 20} MiB. Expected is one JSON object a line.")
    if end := b"".join(rest):
        yield end


def _all_frames(path: Path, fields: dict[str, str], report: Report) -> Generator[pl.DataFrame, None, None]:
    """The file's frames; the bad lines that are left out are counted in `report` as they are met."""
    number = 1
    for block in read_blocks(path):
        yield from _frames(block, number, fields, report)
        number += block.count(b"\n")


def _frames(block: bytes, number: int, fields: dict[str, str], report: Report) -> list[pl.DataFrame]:
    """Frames of a block whose first line has this number."""
    if block.isspace():
        return []
    if (frame := _parsed(block, fields)) is not None:
        return [frame]
    cut = block.rfind(b"\n", 0, len(block) // 2) + 1
    if block.count(b"\n") <= FEW or not cut:
        return [_one_by_one(block, number, fields, report)]
    later = number + block.count(b"\n", 0, cut)
    return _frames(block[:cut], number, fields, report) + _frames(block[cut:], later, fields, report)


def _parsed(block: bytes, fields: dict[str, str]) -> pl.DataFrame | None:
    """The block as polars reads it; None where a line of it is bad, or may be."""
    if not re.match(rb"\s*\{", block):  # polars would unpack bytes that begin like an archive
        return None
    try:
        frame = pl.read_ndjson(block, schema={name: DTYPES[kind] for name, kind in fields.items()})
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    needed = [name for name, kind in fields.items() if kind in (ID, INTEGER)]
    if any(frame[name].null_count() for name in needed):
        return None
    # What polars does without a word: a list or an object in a text's place becomes its JSON, half a surrogate pair a NUL.
    for name, kind in fields.items():
        texts = frame[name].explode() if kind == TEXTS else frame[name]
        if kind != INTEGER and texts.str.contains(r"^\[.*\]$|^\{.*\}$|\x00").any():
            return None
    return frame


def _one_by_one(block: bytes, number: int, fields: dict[str, str], report: Report) -> pl.DataFrame:
    rows = []
    for k, line in enumerate(block.split(b"\n")):
        if not line.strip():
            continue
        found = _judged(line, fields)
        if isinstance(found, str):
            report.bad[found] += 1
            report.first.setdefault(found, f"line {number + k}: {line[:120].decode(errors='replace')}")
        else:
            rows.append(found)
    return pl.DataFrame(rows, schema={name: DTYPES[kind] for name, kind in fields.items()}, orient="row")


def _judged(line: bytes, fields: dict[str, str]) -> tuple[Any, ...] | str:
    """The row of a line, or the reason why it has none."""
    try:
        # Of a name that comes twice the first counts, as polars takes it.
        found = json.loads(line.decode(), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    except (ValueError, RecursionError):
        return NOT_JSON
    if not isinstance(found, dict):
        return NOT_JSON
    row = []
    for name, kind in fields.items():
        value = None if _is_missing(found.get(name)) else found[name]
        if value is None and kind in (ID, INTEGER):
            return MISSING
        try:
            row.append(None if value is None else TAKEN[kind](value))
        except (TypeError, ValueError, OverflowError):
            return WRONG_TYPE
    return tuple(row)


def _is_missing(value: Any) -> bool:
    """Whether a value is none: null, or NaN and Infinity, which are no JSON and what Python writes for missing numbers."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _id(value: Any) -> str:
    if isinstance(value, list | dict) or "\0" in (text := _written(value)):
        raise TypeError
    text.encode()  # half a surrogate pair cannot be: UnicodeEncodeError is a ValueError
    return text


def _integer(value: Any) -> int:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,19}", value):
        raise TypeError
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, float) and value % 1):
        raise TypeError
    if not -(2**63) <= int(value) < 2**63:
        raise OverflowError
    return int(value)


def _text(value: Any) -> str | None:
    if _is_missing(value) or isinstance(value, list | dict):
        return None
    return mend_surrogates(_written(value).replace("\0", "�"))


def _texts(value: Any) -> list[str | None]:
    return [_text(one) for one in (value if isinstance(value, list) else [value])]


def mend_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which no UTF-8 can hold, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _written(value: Any) -> str:
    """Text as it is; a number or a truth value as polars writes it: true, 1 for 1.0."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


TAKEN = {ID: _id, INTEGER: _integer, TEXT: _text, TEXTS: _texts}
