"""Sources: where interactions come from. One file a source, each with `load(settings) -> Interactions`.

A loader reads and says what it dropped; it does not clean, filter or split. That is `llm2rec_kit.data.cleaning`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data import json_lines
from llm2rec_kit.runs import file_digest
from llm2rec_kit.settings import Data

MODULES = {"synthetic": "synthetic", "recbole": "recbole_files", "table": "tables", "amazon": "amazon"}
SECONDS_END = 1e11  # a number below is taken as seconds (the year 5138 is far), one above as milliseconds


@dataclass(frozen=True)
class Interactions:
    """What a source holds, before cleaning.

    items       DataFrame: source_id, title, domain (String), further text columns as found; one row an item.
    events      DataFrame: user, item (String: the source's own ids; Categorical where there are very many), time (Int64, milliseconds since 1970; absent or
                all null where the source has none). Without times, row order is the order of consumption of a user.
    domains_in  in-domain domains: those that training sees by default.
    facts       plain values worth keeping: source, files, what was assumed.
    dropped     (step, events dropped, why) for whatever the loader left out.
    """

    items: pl.DataFrame
    events: pl.DataFrame
    domains_in: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    dropped: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_columns(self.items, ["source_id", "title", "domain"], "the items of a source")
        require_columns(self.events, ["user", "item"], "the events of a source")

    @property
    def has_times(self) -> bool:
        """Whether the events carry timestamps."""
        return "time" in self.events.columns and self.events["time"].null_count() < len(self.events)


def load(settings: Data) -> Interactions:
    """The interactions of `settings.source`; ValueError, one paragraph, where its files are missing or malformed."""
    if settings.source not in MODULES:
        raise ValueError(f"{settings.source!r} is no source of interactions; there are {sorted(MODULES)}.")
    return importlib.import_module(f"{__name__}.{MODULES[settings.source]}").load(settings)


def fingerprint(settings: Data) -> dict[str, str]:
    """sha256 of each file that the source reads, by name: a corpus is stale once its source changed."""
    root = Path(settings.path).expanduser()
    return {p.relative_to(root.parent).as_posix(): file_digest(p) for p in _files(settings)}


def raw_lines(settings: Data, lines: int = 2, longest: int = 300) -> pl.DataFrame:
    """The first lines of the source's text files as they stand (file, line, text), cut at `longest` characters.

    Empty for a source that reads no files; a file that is no text is named with its size.
    """
    rows = []
    for path in _files(settings):
        if path.suffix in (".parquet", ".zip"):
            rows.append((path.name, None, f"({path.stat().st_size:,} bytes, not text)"))
            continue
        for number, text in enumerate(json_lines.first(path, lines), 1):
            rows.append((path.name, number, text if len(text) <= longest else f"{text[:longest]} …"))
    return pl.DataFrame(rows, schema={"file": pl.String, "line": pl.Int64, "text": pl.String}, orient="row")


def _files(settings: Data) -> list[Path]:
    """The files that the source reads; a module may say which, else all under `settings.path`."""
    root = Path(settings.path).expanduser()
    if not settings.path or not root.exists() or settings.source not in MODULES:
        return []
    module = importlib.import_module(f"{__name__}.{MODULES[settings.source]}")
    if hasattr(module, "files"):
        return module.files(settings)
    return [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())


def require_columns(frame: pl.DataFrame, wanted: list[str], what: str) -> None:
    """Raise ValueError naming the missing and the found columns of `frame`."""
    if missing := [c for c in wanted if c not in frame.columns]:
        raise ValueError(f"{what} must have the columns {wanted}: {missing} missing, found {frame.columns}.")


def first_of_each_item(items: pl.DataFrame, facts: dict[str, Any]) -> pl.DataFrame:
    """`items` without null ids and with the first row of each source_id; notes in `facts` how many rows that cost."""
    kept = items.filter(pl.col("source_id").is_not_null()).unique("source_id", keep="first", maintain_order=True)
    if len(kept) < len(items):
        facts["item_rows_dropped"] = f"{len(items) - len(kept)} rows with no id or an id seen before"
    return kept


def as_milliseconds(times: pl.Series, what: str) -> pl.Series:
    """Times as Int64 milliseconds since 1970.

    Takes dates, datetimes, numbers (seconds where all are below 1e11, else milliseconds) and text holding either.
    """
    if times.dtype == pl.String:
        numbers = times.cast(pl.Float64, strict=False)
        if numbers.null_count() > times.null_count():
            return as_milliseconds(_parsed(times, what), what)
        times = numbers
    if times.dtype.is_temporal():
        return times.cast(pl.Datetime("ms")).cast(pl.Int64)
    if not times.dtype.is_numeric() and times.dtype != pl.Null:
        raise ValueError(
            f"{what} must hold numbers (seconds or milliseconds since 1970) or dates; found the type {times.dtype}."
        )
    numbers = times.cast(pl.Float64).fill_nan(None)
    seconds = len(numbers.drop_nulls()) > 0 and float(numbers.abs().max()) < SECONDS_END
    return (numbers * 1000 if seconds else numbers).round().cast(pl.Int64)


def _parsed(times: pl.Series, what: str) -> pl.Series:
    try:
        return times.str.to_datetime(strict=True, time_unit="ms")
    except pl.exceptions.PolarsError:
        raise ValueError(
            f"{what} must hold seconds or milliseconds since 1970, or dates such as 2021-03-04 or "
            f"2021-03-04T05:06:07; found for example {times.drop_nulls().head(3).to_list()}."
        ) from None
