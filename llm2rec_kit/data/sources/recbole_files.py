"""RecBole's atomic files: tab-separated, with a header of `name:type`.

Read are `<stem>.inter`, or `<stem>.train/valid/test.inter` or any part of those, and titles from `<stem>.item` (column
title) or `<stem>.text` (UniSRec: one text of title, categories and brand). Two forms of `.inter` exist:

plain     one event a row: user_id, item_id and maybe timestamp (seconds, as RecBole writes them). Without timestamps,
          parts are what counts where `<stem>.inter` stands beside them: it holds the same events once more.
sequence  one sample a row: user_id, item_id_list (the history, oldest first) and item_id (what came next).

Of the sequence form a user often has many rows, each a prefix of the next. All files are read together and the user's
longest row is kept, history and next item; of equally long rows the test file's, then valid's, then train's first. Where
the producer cut histories (to 50 items, often), rows are windows rather than prefixes; windows that continue each other are
joined, to older and to newer items. `facts["rows_not_part"]` counts rows that are no part of their user's sequence, which
are left out.
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data.sources import Interactions, delimited, keep_first_of_each_item, list_names, note_items, require_folder
from llm2rec_kit.data.times import as_milliseconds
from llm2rec_kit.settings import Data

PARTS = (".test", ".valid", ".train", "")  # the order decides between equally long rows of a user
TITLES = ((".item", "title"), (".text", "text"))  # the file of titles, the first that is there, and its column
INDICES = {"item": "item2index", "user": "user2index"}
LAYOUT = (
    "data_source 'recbole' expects a folder of RecBole atomic files: <name>.item with columns item_id and title "
    "(or <name>.text with item_id and text), and <name>.inter or <name>.train.inter, <name>.valid.inter, "
    "<name>.test.inter with columns user_id, item_id and either item_id_list or timestamp"
)


def load(settings: Data) -> Interactions:
    """Load interactions in `settings.path`, of `settings.domain` or the files' stem; ValueError where a part is missing."""
    folder, stem = _stem(settings.path)
    domain = settings.domain or stem
    facts: dict[str, Any] = {"source": "recbole", "stem": stem}
    items = _items(folder, stem, domain, facts)
    found = {part: _read(folder / f"{stem}{part}.inter") for part in PARTS if (folder / f"{stem}{part}.inter").exists()}
    frames = {part: frame for part, (frame, _, _) in found.items()}
    for part, frame in frames.items():
        _need(frame, ["user_id", "item_id"], folder / f"{stem}{part}.inter")
    frames = _without_the_whole(frames, folder, stem, facts)
    dropped = [("bad lines", few, why) for part, (_, few, why) in found.items() if few and part in frames]
    facts["files"] = [f"{stem}{part}.inter" for part in frames]
    as_lists = ["item_id_list" in frame.columns for frame in frames.values()]
    if any(as_lists) and not all(as_lists):
        raise ValueError(f"{folder}: some of {facts['files']} have the column item_id_list and some have not. {LAYOUT}.")
    events = _from_sequences(frames, facts) if all(as_lists) else _from_rows(frames, folder / stem, settings.dates)
    if odd := facts.get("rows_not_part"):
        dropped.append(("rows apart", odd, "no part of what their user's other rows make, and not their longest"))
    for column, kind in INDICES.items():
        events = _original_ids(events, column, folder / f"{stem}.{kind}")
    return Interactions(items=items, events=events, domains_in=[domain], facts=facts, dropped=dropped)


def find_files(settings: Data) -> list[Path]:
    """Find the files that `load` reads; ValueError where the folder has none, or those of several data sets."""
    folder, stem = _stem(settings.path)
    titles = next((folder / f"{stem}{kind}" for kind, _ in TITLES if (folder / f"{stem}{kind}").is_file()), None)
    names = [*(f"{stem}{part}.inter" for part in PARTS), *(f"{stem}.{kind}" for kind in INDICES.values())]
    found = [folder / name for name in names if (folder / name).exists()]
    return [*found, titles] if titles else found


def _stem(path: str) -> tuple[Path, str]:
    """The folder and the one stem of its .inter files."""
    folder = require_folder(path, LAYOUT)
    stems = set()
    for file in folder.glob("*.inter"):
        part = Path(file.stem).suffix
        stems.add(file.stem.removesuffix(part) if part and part in PARTS else file.stem)
    if len(stems) != 1:
        many = f"has the .inter files of several data sets {sorted(stems)}; give each its own folder"
        many = many if stems else f"has no .inter file; it holds {list_names(folder)}"
        raise ValueError(f"{LAYOUT}; {folder} {many}.")
    return folder, stems.pop()


def _items(folder: Path, stem: str, domain: str, facts: dict[str, Any]) -> pl.DataFrame:
    for kind, column in TITLES:
        if not (file := folder / f"{stem}{kind}").is_file():
            continue
        table, lost, why = _read(file)
        _need(table, ["item_id", column], file)
        note_items(facts, lost, why)
        facts["titles_from"] = f"{file.name}, column {column}"
        others = [c for c in table.columns if c not in ("item_id", column, "source_id", "title", "domain")]
        named = [pl.col("item_id").alias("source_id"), pl.col(column).alias("title"), pl.lit(domain).alias("domain")]
        return keep_first_of_each_item(table.select(*named, *others), facts)
    raise ValueError(f"{LAYOUT}; neither {stem}.item nor {stem}.text is in {folder}, which holds {list_names(folder)}.")


def _from_sequences(frames: dict[str, pl.DataFrame], facts: dict[str, Any]) -> pl.DataFrame:
    """Events (user, item) of each user's longest row, users in the order of their rows."""
    named = [f.select("user_id", "item_id_list", "item_id", file=k) for k, f in enumerate(frames.values())]
    rows = pl.concat(named).with_row_index("row")
    rows = rows.select(
        "row",
        "file",
        user="user_id",
        text=pl.concat_str("item_id_list", "item_id", separator=" ", ignore_nulls=True).str.strip_chars(),
    )
    rows = rows.with_columns(length=pl.col("text").str.count_matches(" ", literal=True))
    rows = rows.sort("length", "row", descending=[True, False])
    kept = rows.unique("user", keep="first", maintain_order=True)
    both = rows.join(kept.select("user", longest="text"), on="user", maintain_order="left")
    others = both.filter(~(pl.col("longest") + " ").str.starts_with(pl.col("text") + " "))["user"].unique()
    windows = rows.filter(pl.col("user").is_in(others.implode())).group_by("user", maintain_order=True)
    joined = [(user, *_joined(some["text"].to_list(), some["file"].to_list())) for (user,), some in windows]
    whole = pl.DataFrame(joined, schema={"user": pl.String, "whole": pl.String, "odd": pl.Int64}, orient="row")
    facts["rows_not_part"] = int(whole["odd"].sum())
    kept = kept.sort("row").join(whole, on="user", how="left", maintain_order="left")
    events = kept.select("user", item=pl.coalesce("whole", "text").str.split(" ")).explode("item")
    return events.filter(pl.col("item") != "")


def _joined(rows: list[str], files: list[int]) -> tuple[str, int]:
    """One user's rows, the longest first, as one sequence; and how many rows are no part of it. `files`: each row's.

    The first row is continued to older items, then to newer ones by the windows left of its own file: none is newer of others.

    >>> _joined(["c d e", "b c d", "a b c", "d e f", "a b", "x"], [3] * 6)
    ('a b c d e f', 1)
    """
    first, *rest = [tuple(row.split(" ")) for row in rows]
    sequence, window = deque(first), first
    before, after = defaultdict(list), defaultdict(list)  # what follows a window's first item, or is before its last
    for row, file in zip(rest, files[1:], strict=True):
        if len(row) == len(first):
            before[row[1:]].append((row, file))
    while found := before[window[:-1]]:
        window, _ = found.pop(0)
        sequence.appendleft(window[0])
    for row, file in chain.from_iterable(before.values()):
        if file == files[0]:
            after[row[:-1]].append(row)
    window = first
    while newer := after[window[1:]]:
        window = newer.pop(0)
        sequence.append(window[-1])
    text = " ".join(sequence)
    return text, sum(f" {row} " not in f" {text} " for row in rows)


def _without_the_whole(
    frames: dict[str, pl.DataFrame], folder: Path, stem: str, facts: dict[str, Any]
) -> dict[str, pl.DataFrame]:
    """`frames` but that of `<stem>.inter` where parts of the plain form, without timestamps, stand beside it; told.

    With timestamps an event that stands in two files is one, as any repeated row (`cleaning`); without, it would be two.
    """
    columns = {column for frame in frames.values() for column in frame.columns}
    if "" not in frames or len(frames) == 1 or columns & {"item_id_list", "timestamp"}:
        return frames
    parts = {part: frame for part, frame in frames.items() if part}
    names = ", ".join(f"{stem}{part}.inter" for part in parts)
    if ".train" not in parts:
        raise ValueError(
            f"{folder}: {stem}.inter stands beside {names}, without timestamps, so that what both hold cannot be told. Move "
            f"{stem}.inter away, name it {stem}.train.inter if it holds what comes before, or move the others away."
        )
    facts["not_read"] = f"{stem}.inter: {names} beside it are"
    print(f"recbole: not read {facts['not_read']}", flush=True)
    return parts


def _from_rows(frames: dict[str, pl.DataFrame], stem: Path, dates: str) -> pl.DataFrame:
    """Events (user, item[, time]) of the plain form, the files in the order train, valid, test."""
    ordered = {f"{stem.name}{part}.inter": frames[part] for part in reversed(PARTS) if part in frames}
    timed = {name: "timestamp" in frame.columns for name, frame in ordered.items()}
    if any(timed.values()) and not all(timed.values()):
        lacks = [name for name, has in timed.items() if not has]
        raise ValueError(
            f"{stem.parent}: {lacks} have no column timestamp, and {[name for name in timed if name not in lacks]} have: what is "
            "of which time cannot be told. Give all files the column, or none, or move the others away."
        )
    columns = ["user_id", "item_id", *(["timestamp"] if any(timed.values()) else [])]
    events = pl.concat([f.select(columns) for f in ordered.values()]).rename({"user_id": "user", "item_id": "item"})
    if "timestamp" not in columns:
        return events
    time = as_milliseconds(events["timestamp"], f"the column timestamp of {stem.name}.inter", dates).alias("time")
    return events.drop("timestamp").with_columns(time)


def _original_ids(events: pl.DataFrame, column: str, file: Path) -> pl.DataFrame:
    """Events with the source's own ids where UniSRec's index file (id, tab, index; no header) stands beside."""
    if not file.is_file():
        return events
    index, few, _ = delimited.read_texts(file, separator="\t", quoted=False, names=["id", "index"])
    if few or index["index"].is_null().any() or index["index"].is_duplicated().any():
        raise ValueError(f"{file} must hold an id, a tab and an index of its own in each line; some lack one, or share it.")
    return events.with_columns(pl.col(column).replace(index["index"], index["id"]))


def _read(file: Path) -> tuple[pl.DataFrame, int, str]:
    """A tab-separated file as text, the types cut from the header (`title:token_seq` -> `title`); rows left out, and why."""
    table, lost, why = delimited.read_texts(file, separator="\t", quoted=None)
    names = {c: c.split(":")[0].strip() for c in table.columns}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{file}: its header names a column twice: {list(names)}.")
    return table.rename(names), lost, why


def _need(table: pl.DataFrame, wanted: list[str], file: Path) -> None:
    if missing := [c for c in wanted if c not in table.columns]:
        raise ValueError(f"{file}: the columns {missing} are missing; found {table.columns}. {LAYOUT}.")
