"""Tables: anyone's own data, as two CSV or Parquet files or two data frames.

A folder holds `interactions.csv` (or .parquet) with columns user, item and optionally timestamp, and `items.csv` (or
.parquet) with columns item, title and optionally domain and further text columns. A path to one file takes it as the
interactions; where it has a `title` column itself, no items file is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data.sources import Interactions, as_milliseconds, first_of_each_item, require_columns
from llm2rec_kit.settings import Data

KINDS = (".parquet", ".csv")
LAYOUT = (
    "data_source 'table' expects a folder with interactions.csv or .parquet (columns user, item and optionally "
    "timestamp) and items.csv or .parquet (columns item, title and optionally domain)"
)


def load(settings: Data) -> Interactions:
    """Interactions from `settings.path`; ValueError where a file or a column is missing, naming what was found."""
    if not settings.path:
        raise ValueError(f"{LAYOUT}; data_path is empty: set it to that folder.")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise ValueError(f"{LAYOUT}; {path} does not exist. Set data_path to a folder that does.")
    events_file = _find(path, "interactions") if path.is_dir() else path
    events = _read(events_file)
    require_columns(events, ["user", "item"], str(events_file))
    own_titles = "title" in events.columns
    items_file = events_file if own_titles else _find(events_file.parent, "items")
    items = _read(items_file)
    require_columns(items, ["item", "title"], str(items_file))
    if own_titles:
        items = items.drop("user", *[c for c in ("timestamp",) if c in items.columns]).unique(
            "item", keep="first", maintain_order=True
        )
    return from_frames(
        events,
        items,
        user="user",
        item="item",
        title="title",
        time="timestamp" if "timestamp" in events.columns else None,
        domain=settings.domain or (path.name if path.is_dir() else path.stem),
    )


def from_frames(
    events: Any,
    items: Any,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "timestamp",
    title: str = "title",
    domain: str = "own",
) -> Interactions:
    """Interactions from two polars or pandas frames with these column names.

    `item` names the item's id in both frames. `time` None: rows are in the order of consumption. Times may be dates or
    numbers; numbers below 1e11 are taken as seconds, above as milliseconds. A `domain` column in `items` wins over the
    `domain` argument. Ids are compared as text. Raises ValueError naming missing columns.
    """
    events, items = _polars(events), _polars(items)
    require_columns(events, [user, item, *([time] if time else [])], "the events frame")
    require_columns(items, [item, title], "the items frame")
    facts: dict[str, Any] = {"source": "table"}
    table = items.rename({item: "source_id"} | ({} if title == "title" else {title: "title"}))
    if "domain" not in table.columns:
        table = table.with_columns(domain=pl.lit(domain))
    table = table.with_columns(
        pl.col("source_id", "title").cast(pl.String), pl.col("domain").cast(pl.String).fill_null(domain)
    )
    table = table.select(
        "source_id",
        "title",
        "domain",
        *[c for c in table.columns if table[c].dtype == pl.String and c not in ("source_id", "title", "domain")],
    )
    kept = events.select(
        user=pl.col(user).cast(pl.String),
        item=pl.col(item).cast(pl.String),
        **({"time": as_milliseconds(events[time], f"the column {time!r}")} if time else {}),
    )
    whole = kept.filter(pl.col("user").is_not_null() & pl.col("item").is_not_null())
    dropped = [("empty ids", len(kept) - len(whole), "no user or no item")] if len(whole) < len(kept) else []
    table = first_of_each_item(table, facts)
    return Interactions(
        items=table,
        events=whole,
        domains_in=table["domain"].unique(maintain_order=True).to_list(),
        facts=facts,
        dropped=dropped,
    )


def _find(folder: Path, stem: str) -> Path:
    for kind in KINDS:
        if (folder / f"{stem}{kind}").is_file():
            return folder / f"{stem}{kind}"
    found = sorted(p.name for p in folder.iterdir())[:20]
    raise ValueError(f"{LAYOUT}; no {stem}.csv or {stem}.parquet in {folder}, which holds {found}.")


def _read(path: Path) -> pl.DataFrame:
    """A CSV file with every value as text (so that an id 007 stays one), or a Parquet file."""
    if path.suffix not in KINDS:
        raise ValueError(f"{LAYOUT}; found the file {path.name}, which is neither .csv nor .parquet.")
    try:
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from None


def _polars(frame: Any) -> pl.DataFrame:
    """A polars frame as it is; a pandas frame column by column, its NaN as null (needs neither pandas nor pyarrow)."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if not hasattr(frame, "columns"):
        raise ValueError(f"a polars or pandas DataFrame is expected; found {type(frame).__name__}.")
    columns = {str(c): [None if v != v else v for v in frame[c].tolist()] for c in frame.columns}
    return pl.DataFrame(columns, strict=False)
