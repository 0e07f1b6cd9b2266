"""Tables: anyone's own data, as two CSV or Parquet files or two data frames.

A folder holds `interactions.csv` (or .parquet) with columns user, item and optionally timestamp, and `items.csv` (or
.parquet) with columns item, title and optionally domain and further text columns. A path to one file takes it as the
interactions; where it has a title column itself, no items file is needed, and where there is one, it wins: a title beside an
interaction may be the headline of a review. Columns with other names are named by `data_columns`, as ["user=customer_id",
"item=sku", "time=bought_at", "title=name", "domain=shop"], or where the two files differ ["interactions.item=sku",
"items.item=product_id"]; a name that is given must exist. Without a column timestamp, one that is called time, date or
datetime is the time, which is told. Further columns of the items are kept, text as text and numbers as numbers (of a CSV
file those whose every cell is one, but for the fields of a text, `data_text`'s too); every other column is left out and told. In code,
`from_frames` takes polars or pandas frames.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data import sources
from llm2rec_kit.data.sources import Interactions, delimited, frames, list_names, require_columns
from llm2rec_kit.data.times import ABSENT, as_milliseconds
from llm2rec_kit.settings import Data, SettingsError, parse_template
from llm2rec_kit.settings.ranges import clip
from llm2rec_kit.storage import expand_home, find_fault

KINDS = (".parquet", ".csv")
ROLES = {"user": "user", "item": "item", "time": "timestamp", "title": "title", "domain": "domain"}  # default column names
FILES = ("interactions", "items")
TEXTS = ("category", "brand", "description")  # columns of items that stay text whatever stands in them: for `data_text`
TIMES = ("timestamp", "time", "date", "datetime")  # taken for the time, in any case, where no column has its name
TIME_ENDINGS = ("time", "date", "timestamp", "_at", "_ts", "epoch")  # of names that may be one, which is only told
LAYOUT = (
    "data_source 'table' expects a folder with interactions.csv or .parquet (columns user, item and optionally "
    "timestamp) and items.csv or .parquet (columns item, title and optionally domain); data_columns names other columns"
)


def load(settings: Data) -> Interactions:
    """Load the interactions in `settings.path`; ValueError where a file or a column is missing, naming what was found."""
    if not settings.path:
        raise ValueError(f"{LAYOUT}; data_path is empty: set it to that folder.")
    path = expand_home(settings.path)
    if (why := find_fault(path)) and not os.path.isdir(path):
        raise ValueError(f"{LAYOUT}; {clip(str(path))} {why}. Set data_path to a folder with them.")
    names = _names(settings.columns)
    of_events = names["interactions"]
    events_file = _find(path, "interactions") if path.is_dir() else path
    events, lost, why = _read(events_file)
    _require(events, [of_events["user"], of_events["item"]], str(events_file), "interactions")
    items_file, items, lost_items = _items(events_file, events.columns, names, settings.columns)
    of_items = of_events if items is None else names["items"]
    facts = _not_read(events_file, events.columns, items_file, items, of_events, path)
    _check_given(settings.columns, (events_file, events), (items_file, items))
    texts = {*of_events.values(), *of_items.values(), *parse_template(settings.text)}
    if items is None:
        events = _with_numbers(events_file, events, texts)
    else:
        _require(items, [of_items["item"], of_items["title"]], str(items_file), "items")
        items = _with_numbers(items_file, items, texts)
    found = from_frames(
        events,
        items,
        user=of_events["user"],
        item=of_events["item"],
        item_of_items=of_items["item"],
        title=of_items["title"],
        time=_time_column(events.columns, of_events["time"], events_file.name, facts),
        domain_column=of_items["domain"],
        domain=settings.domain or (Path(os.path.abspath(path)).name if path.is_dir() else path.stem),
        dates=settings.dates,
        what=(events_file.name, items_file.name),
    )
    facts = found.facts | facts
    _refuse_if_strict(facts, settings)
    sources.note_items(facts, *lost_items)
    return replace(found, facts=facts, dropped=[("bad lines", lost, why)] * bool(lost) + found.dropped)


def find_files(settings: Data) -> list[Path]:
    """Find the files that `load` reads: the interactions and, unless `settings` take their titles, the items beside them."""
    path = expand_home(settings.path)
    folder, events = (path, _found(path, "interactions")) if path.is_dir() else (path.parent, path)
    alone = any(pair.startswith("interactions.title=") for pair in settings.columns)
    return [file for file in dict.fromkeys((events, None if alone else _found(folder, "items"))) if file]


def from_frames(
    events: Any,
    items: Any = None,
    *,
    user: str = "user",
    item: str = "item",
    item_of_items: str = "",
    time: str | None = "timestamp",
    title: str = "title",
    domain: str = "own",
    domain_column: str = "domain",
    dates: str = "iso",
    what: tuple[str, str] = ("the events frame", "the items frame"),
) -> Interactions:
    """Make interactions from two polars or pandas frames with these column names.

    `item` names the item's id in both frames, unless `item_of_items` does in `items`; without `items`, titles and further
    columns are those of `events`, the latter where all rows of an item say the same. `time` None: rows are in the order of
    consumption. Times may be dates or numbers, and `dates` the order of some, as `times.as_milliseconds` takes them. A column
    `domain_column` in `items` wins over the name `domain`. Ids are compared as text, whole floats (pandas) as whole numbers.
    Further columns of text, numbers and truth values are kept; what is left out of either frame is told. `what` names the
    frames in errors. Raises ValueError naming missing columns; rows that `sources.keep_sound_rows` refuses are counted.
    Ids that are a word for no value, and without `items` items of several titles or domains, are told.
    """
    events = frames.as_polars(events)
    own = [user, item, *([time] if time else [])]
    require_columns(events, own, what[0])
    alone = items is None
    items, name = (events, what[0]) if alone else (frames.as_polars(items), what[1])
    item_of_items = item if alone else item_of_items or item
    require_columns(items, [item_of_items, title], name)
    facts: dict[str, Any] = {"source": "table"}
    kept = pl.DataFrame({"user": frames.as_ids(events, user, what[0]), "item": frames.as_ids(events, item, what[0])})
    if time:
        times = frames.as_text(events, time, what[0]) if events[time].dtype == pl.Binary else events[time]
        kept = kept.with_columns(time=as_milliseconds(times, f"the column {time!r} of {what[0]}", dates))
    table = pl.DataFrame(
        {"source_id": frames.as_ids(items, item_of_items, name), "title": frames.as_text(items, title, name)}
    )
    domains: pl.Series | str = domain
    if domain_column in items.columns:
        domains = frames.as_text(items, domain_column, name).replace("", None).fill_null(domain)
    named, of = [title, item_of_items, domain_column, *(own if alone else [])], table["source_id"] if alone else None
    further, lost = _further(items, named, of)
    _tell_left_out({name: lost} if alone else {what[0]: [c for c in events.columns if c not in own], name: lost}, facts)
    _tell_absent_ids(kept, facts)
    table = table.with_columns(pl.lit(domains).alias("domain"), *further)
    table = sources.keep_first_of_each_item(_titled_by_events(table, facts) if alone else table, facts)
    found = table["domain"].unique(maintain_order=True).to_list()
    return sources.keep_sound_rows(Interactions(items=table, events=kept, domains_in=found, facts=facts))


def from_pair(events: Any, items: Any, settings: Data, what: tuple[str, str]) -> Interactions:
    """Make interactions from two frames with the default columns of `from_frames`; times are found by a column's name."""
    facts: dict[str, Any] = {}
    events = frames.as_polars(events)
    time = _time_column(events.columns, ROLES["time"], what[0], facts)
    found = from_frames(events, items, time=time, domain=settings.domain or settings.source, dates=settings.dates, what=what)
    _refuse_if_strict(found.facts, settings)
    return replace(found, facts=found.facts | facts)


def _further(items: pl.DataFrame, named: list[str], of: pl.Series | None) -> tuple[list[pl.Series], list[str]]:
    """The columns of items beside those `named` that are kept: text, numbers as Int64 or Float64; and what each other is.
    Of rows that are events of the items `of`, columns of the items alone."""
    kept, lost = [], []
    for column in items.get_columns():
        name, kind = column.name, column.dtype
        if name in named:
            continue
        if name in (*sources.OWN_NAMES, "source_id", "title", "domain"):
            lost.append(f"{name} (a name that the kit gives itself)")
        elif frames.is_text(column) or kind == pl.Boolean:
            kept.append(column.cast(pl.String))
        elif kind.is_numeric():
            kept.append(frames.as_number(column))
        else:
            lost.append(f"{name} ({kind})")
    if of is not None:
        kept, differing = _of_items(of, kept)
        lost += differing
    return kept, lost


def _of_items(ids: pl.Series, columns: list[pl.Series]) -> tuple[list[pl.Series], list[str]]:
    """Which columns of events are the items': no item has rows that differ, blank ones aside; and what each other is.

    The rating or the text of one event, a test event perhaps, would stand for what the item is."""
    texts = pl.col(pl.String).str.strip_chars().replace("", None)
    values = pl.DataFrame([ids, *columns]).with_columns(texts, pl.col(pl.Float64).fill_nan(None))
    counts = values.drop_nulls("source_id").group_by("source_id").agg(pl.all().drop_nulls().n_unique())
    differ = {c.name: int((counts[c.name] > 1).sum()) for c in columns}
    said = [f"{name} (differs between the rows of {n} of {len(counts)} items)" for name, n in differ.items() if n]
    return [c for c in columns if not differ[c.name]], said


def _tell_left_out(left_out: dict[str, list[str]], facts: dict[str, Any]) -> None:
    """Note in `facts`, and print, which columns of which frame are not used."""
    if said := "; ".join(f"{', '.join(columns)} of {frame}" for frame, columns in left_out.items() if columns):
        facts["columns_left_out"] = said
        print(f"table: columns left out: {said}", flush=True)


def _tell_absent_ids(events: pl.DataFrame, facts: dict[str, Any]) -> None:
    """Note in `facts`, and print, how many events have a user or an item whose id is a word for no value, such as NULL."""
    words = [word for word in ABSENT if word]
    found = [(c, events[c].filter(events[c].str.to_lowercase().is_in(words))) for c in ("user", "item")]
    if said := "; ".join(f"{len(ids)} events have as {c} {ids[0]!r} or the like" for c, ids in found if len(ids)):
        facts["absent_ids"] = f"{said}, which may be a word for no value"
        print(f"table: {facts['absent_ids']}", flush=True)


def _titled_by_events(table: pl.DataFrame, facts: dict[str, Any]) -> pl.DataFrame:
    """Items of rows of events, those with a title first (`sources.keep_first_titled`). How many items have rows of several
    titles, or of several domains, blank ones aside, is noted in `facts` and printed."""
    for column in ("title", "domain"):
        named = table.filter(pl.col("source_id") != "", pl.col(column).str.strip_chars() != "").unique(["source_id", column])
        if several := int((named.group_by("source_id").len()["len"] > 1).sum()):
            said = f"{several} of {named['source_id'].n_unique()} items have several {column}s; the first counts"
            facts[f"several_{column}s"] = said
            print(f"table: {said}", flush=True)
    return sources.keep_first_titled(table)


def _refuse_if_strict(facts: dict[str, Any], settings: Data) -> None:
    """Raise ValueError where the settings are strict and ids may be none."""
    if settings.strict and (said := facts.get("absent_ids")):
        raise ValueError(
            f"data_strict is on, and in the source {settings.source!r} {said}. Leave such a cell empty, give the id another name, "
            "or set data_strict to False."
        )


def _with_numbers(file: Path, table: pl.DataFrame, named: Collection[str]) -> pl.DataFrame:
    """`table`, of a CSV file with its columns of numbers as numbers; those `named`, and fields of a text, stay text."""
    return delimited.parse_numbers(table, but=[*named, *TEXTS, *TIMES]) if file.suffix == ".csv" else table


def _names(pairs: list[str]) -> dict[str, dict[str, str]]:
    """{file: {role: column}} of pairs, one file's over those of both; SettingsError where user and item are one column."""
    names = {file: dict(ROLES) for file in FILES}
    for pair in sorted(pairs, key=lambda pair: "." in pair.partition("=")[0]):
        stated, column = pair.split("=", 1)
        file, _, role = stated.rpartition(".")
        for one in [file] if file else FILES:
            names[one][role] = column
    if names["interactions"]["user"] == names["interactions"]["item"]:
        raise SettingsError(
            f"data_columns takes the column {names['interactions']['user']!r} for the user and the item; they are two columns."
        )
    return names


def _check_given(pairs: list[str], of_events: tuple[Path, pl.DataFrame], of_items: tuple[Path, pl.DataFrame | None]) -> None:
    """Raise ValueError for a column that `data_columns` names and that is not where it is looked for."""
    for pair in sorted(pairs):
        stated, column = pair.split("=", 1)
        chosen, _, role = stated.rpartition(".")
        file, frame = of_items if chosen == "items" or (not chosen and role in ("title", "domain")) else of_events
        if frame is None and chosen == "items":
            raise ValueError(f"data_columns names {pair}, and titles and domains are read of {of_events[0]}.")
        file, frame = (file, frame) if frame is not None else of_events
        if chosen == "interactions" and role in ("title", "domain") and of_items[1] is not None:
            raise ValueError(
                f"data_columns names {pair}, and titles and domains are those of {of_items[0]}: take items.{role}."
            )
        if column not in frame.columns:
            raise ValueError(
                f"data_columns names {pair}, and no such column is in {file}; found {frame.columns}. A column of one file alone is "
                f'named as in ["{"items" if role == "title" else "interactions"}.{role}=its_name"].'
            )


def _require(frame: pl.DataFrame, wanted: list[str], file: str, which: str) -> None:
    """`require_columns` of a file; the error shows how a column of another name is named."""
    try:
        require_columns(frame, wanted, file)
    except ValueError as error:
        lacks = next(name for name in wanted if name not in frame.columns)
        role = next((role for role, name in ROLES.items() if name == lacks), "item")
        other = next((c for c in frame.columns if c not in wanted), "its_name")
        raise ValueError(
            f'{error} A column of another name is named by data_columns, as in ["{role}={other}"], or of this file alone '
            f'["{which}.{role}={other}"].'
        ) from None


def _items(
    events_file: Path, events: list[str], names: dict[str, dict[str, str]], pairs: list[str]
) -> tuple[Path, pl.DataFrame | None, tuple[int, str]]:
    """The items file, its frame, and rows left out of it; the interactions' file and None where the titles are there.

    That is where no items file is, or where `data_columns` names as title one of the interactions, or one they alone have.
    """
    given = [pair.partition("=")[0] for pair in pairs]
    in_events = names["interactions"]["title"] in events
    file = _found(events_file.parent, "items")
    if file is None or file == events_file:
        return events_file if in_events else _find(events_file.parent, "items"), None, (0, "")
    if in_events and "interactions.title" in given:
        return events_file, None, (0, "")
    items, lost, why = _read(file)
    if in_events and "title" in given and names["items"]["title"] not in items.columns:
        return events_file, None, (0, "")
    return file, items, (lost, why)


def _not_read(
    events_file: Path, events: list[str], items_file: Path, items: pl.DataFrame | None, names: dict[str, str], path: Path
) -> dict[str, Any]:
    """A fact, told too, where a file or a column that the layout knows is not read: {"not_read": what and why}."""
    taken = dict.fromkeys([*([events_file] if path.is_dir() else []), *([] if items is None else [items_file])])
    said = [
        f"{other.name}: {file.name} beside it is"
        for file in taken
        for other in map(file.with_suffix, KINDS)
        if other != file and other.is_file()
    ]
    if items is None:
        beside = _found(events_file.parent, "items")
        if beside not in (None, events_file):
            said.append(f"{beside.name}: data_columns takes the titles of {events_file.name}")
    elif unread := [names[role] for role in ("title", "domain") if names[role] in events]:
        said.append(f"the columns {unread} of {events_file.name}: titles and domains are those of {items_file.name}")
    if told := "; ".join(said):
        print(f"table: not read {told}", flush=True)
    return {"not_read": told} if told else {}


def _time_column(columns: list[str], wanted: str, file: str, facts: dict[str, Any]) -> str | None:
    """The column of times: `wanted`, else the one that is plainly one by its name, which is told; None where there is none.

    The order of events decides everything, so a column that may be the time is never passed over without a word.
    """
    if wanted in columns:
        return wanted
    plain = [c for c in columns if c.strip().lower() in TIMES]
    likely = [c for c in columns if c.strip().lower().endswith(TIME_ENDINGS)]
    if len(plain) > 1:
        raise ValueError(
            f"{file} has no column {wanted!r}, and several that may be the time, {plain}: say which by data_columns, such as "
            f'["time={plain[0]}"].'
        )
    if plain:
        facts["time"] = f"the column {plain[0]!r} of {file}, since it has no {wanted!r}; another by data_columns"
        print(f"table: the time is {facts['time']}", flush=True)
        return plain[0]
    if likely:
        facts["time"] = (
            f"none: {file} has no column {wanted!r}, so the order of its rows is taken; if {likely[0]!r} is the time, set "
            f'data_columns=["time={likely[0]}"]'
        )
        print(f"table: times are {facts['time']}", flush=True)
    return None


def _found(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{kind}" for kind in KINDS if (folder / f"{stem}{kind}").is_file()), None)


def _find(folder: Path, stem: str) -> Path:
    if (file := _found(folder, stem)) is not None:
        return file
    there = next((folder / f"{stem}{kind}" for kind in KINDS if os.path.lexists(folder / f"{stem}{kind}")), None)
    spark = ""
    if there is not None:
        folders = "is a folder, as Spark writes one: put its parts into one file"
        spark = f" {there.name} {folders if there.is_dir() else find_fault(there)}."
    raise ValueError(f"{LAYOUT}; no {stem}.csv or {stem}.parquet in {folder}, which holds {list_names(folder)}.{spark}")


def _read(path: Path) -> tuple[pl.DataFrame, int, str]:
    """A CSV file with every value as text (so that an id 007 stays one), or a Parquet file; rows left out, and why."""
    if path.suffix not in KINDS:
        raise ValueError(f"{LAYOUT}; found the file {path.name}, which is neither .csv nor .parquet.")
    if path.suffix == ".csv":
        return delimited.read_texts(path)
    try:
        return pl.read_parquet(path), 0, ""
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None
