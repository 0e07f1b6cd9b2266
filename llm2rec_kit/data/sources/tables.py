"""Tables: anyone's own data, as two CSV or Parquet files or two data frames.

A folder holds `interactions.csv` (or .parquet) with columns user, item and optionally timestamp, and `items.csv` (or
.parquet) with columns item, title and optionally domain and further text columns. A path to one file takes it as the
interactions; where it has a title column itself, no items file is needed. Columns with other names are named by
`data_columns`, as ["user=customer_id", "item=sku", "time=bought_at", "title=name", "domain=shop"]; a name that is given
must exist. In code, `from_frames` takes polars or pandas frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data.sources import (
    Interactions,
    as_milliseconds,
    first_of_each_item,
    listing,
    mended,
    require_columns,
    sound,
)
from llm2rec_kit.settings import Data, SettingsError

KINDS = (".parquet", ".csv")
ROLES = {"user": "user", "item": "item", "time": "timestamp", "title": "title", "domain": "domain"}  # default column names
LAYOUT = (
    "data_source 'table' expects a folder with interactions.csv or .parquet (columns user, item and optionally "
    "timestamp) and items.csv or .parquet (columns item, title and optionally domain); data_columns names other columns"
)


def load(settings: Data) -> Interactions:
    """Interactions from `settings.path`; ValueError where a file or a column is missing, naming what was found."""
    if not settings.path:
        raise ValueError(f"{LAYOUT}; data_path is empty: set it to that folder.")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise ValueError(f"{LAYOUT}; {path} does not exist. Set data_path to a folder that does.")
    names = _names(settings.columns)
    events_file = _find(path, "interactions") if path.is_dir() else path
    events = _read(events_file)
    require_columns(events, [names["user"], names["item"]], str(events_file))
    items_file = events_file if names["title"] in events.columns else _find(events_file.parent, "items")
    items = None if items_file == events_file else _read(items_file)
    for role in [one.split("=", 1)[0] for one in settings.columns]:
        found = [*events.columns, *(items.columns if items is not None else [])]
        if names[role] not in found:
            raise ValueError(f"data_columns names {role}={names[role]}, and no such column is in {path}; found {found}.")
    return from_frames(
        events,
        items,
        user=names["user"],
        item=names["item"],
        title=names["title"],
        time=names["time"] if names["time"] in events.columns else None,
        domain_column=names["domain"],
        domain=settings.domain or (path.name if path.is_dir() else path.stem),
        dates=settings.dates,
        what=(events_file.name, items_file.name),
    )


def from_frames(
    events: Any,
    items: Any = None,
    *,
    user: str = "user",
    item: str = "item",
    time: str | None = "timestamp",
    title: str = "title",
    domain: str = "own",
    domain_column: str = "domain",
    dates: str = "iso",
    what: tuple[str, str] = ("the events frame", "the items frame"),
) -> Interactions:
    """Interactions from two polars or pandas frames with these column names.

    `item` names the item's id in both frames; without `items`, titles and further columns are those of `events`. `time`
    None: rows are in the order of consumption. Times may be dates or numbers, and
    `dates` the order of some, as `times.as_milliseconds` takes them. A column `domain_column` in `items` wins over the name
    `domain`. Ids are compared as text; whole floats, as pandas makes of whole numbers with gaps, as whole numbers. `what` names
    the frames in errors. Raises ValueError naming missing columns; rows that `sources.sound` refuses are counted.
    """
    events = _polars(events)
    own = [user, item, *([time] if time else [])]
    require_columns(events, own, what[0])
    if items is None:
        require_columns(events, [title], what[0])
        items = events.drop(user, *([time] if time else [])).unique(item, keep="first", maintain_order=True)
    items = _polars(items)
    require_columns(items, [item, title], what[1])
    facts: dict[str, Any] = {"source": "table"}
    kept = events.select(
        user=_ids(events, user),
        item=_ids(events, item),
        **({"time": as_milliseconds(events[time], f"the column {time!r} of {what[0]}", dates)} if time else {}),
    )
    named = [title, item, domain_column]
    domains = pl.col(domain_column).cast(pl.String).fill_null(domain) if domain_column in items.columns else pl.lit(domain)
    texts = [c for c in items.columns if items[c].dtype == pl.String and c not in (*named, "source_id", "title", "domain")]
    table = items.select(
        _ids(items, item).alias("source_id"), pl.col(title).cast(pl.String).alias("title"), domains.alias("domain"), *texts
    )
    table = first_of_each_item(table, facts)
    found = table["domain"].unique(maintain_order=True).to_list()
    return sound(Interactions(items=table, events=kept, domains_in=found, facts=facts))


def _names(pairs: list[str]) -> dict[str, str]:
    """Column name of each role; SettingsError for a pair that is not role=name, or an unknown role."""
    names = dict(ROLES)
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not equals or not name or role not in ROLES:
            raise SettingsError(f"data_columns takes role=name with a role of {list(ROLES)}; found {pair!r}.")
        names[role] = name
    return names


def _ids(frame: pl.DataFrame, column: str) -> pl.Series:
    ids = frame[column]
    if ids.dtype.is_float():
        ids = ids.fill_nan(None)
        if not ((ids == ids.floor()) & ids.is_finite()).fill_null(True).all():
            raise ValueError(f"the column {column!r} holds ids and has numbers that are not whole, such as {ids.max()}.")
        ids = ids.cast(pl.Int64)
    if ids.dtype.is_nested() or ids.dtype == pl.Object:
        raise ValueError(f"the column {column!r} must hold ids, text or whole numbers; found the type {ids.dtype}.")
    return ids.cast(pl.String)


def _find(folder: Path, stem: str) -> Path:
    for kind in KINDS:
        if (folder / f"{stem}{kind}").is_file():
            return folder / f"{stem}{kind}"
    raise ValueError(f"{LAYOUT}; no {stem}.csv or {stem}.parquet in {folder}, which holds {listing(folder)}.")


def _read(path: Path) -> pl.DataFrame:
    """A CSV file with every value as text (so that an id 007 stays one), or a Parquet file."""
    if path.suffix not in KINDS:
        raise ValueError(f"{LAYOUT}; found the file {path.name}, which is neither .csv nor .parquet.")
    try:
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from None


def _polars(frame: Any) -> pl.DataFrame:
    """A polars frame as it is; a pandas frame column by column, its NaN as null (needs neither pandas nor pyarrow)."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if not hasattr(frame, "columns"):
        raise ValueError(f"a polars or pandas DataFrame is expected; found {type(frame).__name__}.")
    columns = {str(c): [_plain(v) for v in frame[c].tolist()] for c in frame.columns}
    return pl.DataFrame(columns, strict=False)


def _plain(value: Any) -> Any:
    """A cell of a pandas frame: NaN and NaT as None, text that is no Unicode mended."""
    if isinstance(value, str):
        return mended(value)
    return None if value is None or value != value else value
