"""Goodreads: the UCSD Book Graph, shelves of goodreads.com as of late 2017 (Wan and McAuley, RecSys 2018, ACL 2019).

For academic use; not to be redistributed. Page: https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html. Whole: 876,145
users, 2,360,655 books, 228,648,342 interactions, of them 112,131,203 reads and 104,551,549 ratings. Genres (they overlap)
are in `GENRES`. Which part the paper uses is not said; its Goodreads has 4,550 items and 158,347 interactions.

Layout, one JSON object a line, gzip:

goodreads_interactions_<genre>.json.gz   user_id, book_id (text), review_id, is_read (bool), rating (0-5, 0: none),
(whole: goodreads_interactions_dedup)    review_text_incomplete, date_added, date_updated, read_at, started_at
                                         (each "Fri Apr 19 08:15:15 -0700 2013" or empty)
goodreads_books_<genre>.json.gz          book_id, title, title_without_series, description, work_id, publisher, format,
(whole: goodreads_books)                 language_code, publication_year, ... (all text)

or, of the whole only and without any time, goodreads_interactions.csv (user_id, book_id, is_read, rating, is_reviewed; all
whole numbers) with book_id_map.csv (book_id_csv, book_id). A .json without gzip is read as well.

Traps: shelves hold books never read (`goodreads_events` says which rows count); read_at is often empty and holds years such
as 0013 and 2560; a book's editions are separate ids (work_id joins them).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data import json_lines, sources
from llm2rec_kit.data.json_lines import ID, TEXT
from llm2rec_kit.data.sources import Dropped, Interactions, delimited, downloads, leave_out, note_items, require_folder
from llm2rec_kit.data.times import LATEST
from llm2rec_kit.settings import Data

ADDRESS = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/"
GENRES = {  # name: books, interactions, as the page says
    "children": (124_082, 10_059_349),
    "comics_graphic": (89_411, 7_347_630),
    "fantasy_paranormal": (258_585, 55_397_550),
    "history_biography": (302_935, 31_479_229),
    "mystery_thriller_crime": (219_235, 24_799_896),
    "poetry": (36_514, 2_734_350),
    "romance": (335_449, 42_792_856),
    "young_adult": (93_398, 34_919_254),
}
WHOLE = "all"
TIME = "%a %b %d %H:%M:%S %z %Y"  # "Fri Apr 19 08:15:15 -0700 2013"; a weekday that does not fit the date is refused
TEXTS = ["description", "work_id", "publisher", "format", "language_code", "publication_year"]
FIELDS = ("title", "domain", *TEXTS)  # all that `data_text` may name
NAME = re.compile(r"goodreads_interactions(?:_(\w+))?\.(json|csv)(?:\.gz)?")
CSV = {"user_id": pl.Int32, "book_id": pl.Int32, "is_read": pl.Int8, "rating": pl.Int8, "is_reviewed": pl.Int8}
MAP = "book_id_map.csv"
LAYOUT = (
    "data_source 'goodreads' expects a folder with goodreads_interactions_<genre>.json.gz and "
    "goodreads_books_<genre>.json.gz (whole: goodreads_interactions_dedup.json.gz, or goodreads_interactions.csv with "
    "book_id_map.csv, and goodreads_books.json.gz)"
)
CHOICES = {"read": "the book is not marked as read", "rated": "the book has no rating", "shelved": ""}


def load(settings: Data) -> Interactions:
    """Load the interactions of one genre, or all, in `settings.path`; the domain is `settings.domain` or its name."""
    if settings.download:
        _download(settings)
    folder = require_folder(settings.path, LAYOUT)
    genre, file = _interactions_file(folder, settings.category)
    books_file = _books_file(folder, genre)
    facts: dict[str, Any] = {"source": "goodreads", "genre": genre, "files": [file.name, books_file.name]}
    if genre in GENRES:
        facts["published"] = dict(zip(("books", "interactions"), GENRES[genre], strict=True))
    dropped: list[Dropped] = []
    read = _from_csv if ".csv" in file.name else _from_json
    events = read(file, settings, facts, dropped)
    domain = settings.domain or ("goodreads" if genre == WHOLE else f"goodreads_{genre}")
    items = _books(books_file, events["item"].unique(), domain, facts)
    return Interactions(items=items, events=events, domains_in=[domain], facts=facts, dropped=dropped)


def find_files(settings: Data) -> list[Path]:
    """Find the files that `load` reads; ValueError where one is not there."""
    folder = require_folder(settings.path, LAYOUT)
    genre, file = _interactions_file(folder, settings.category)
    return [file, _books_file(folder, genre), *([file.with_name(MAP)] if ".csv" in file.name else [])]


def _from_json(file: Path, settings: Data, facts: dict[str, Any], dropped: list[Dropped]) -> pl.DataFrame:
    """Events (user, item, time) of the JSON lines, in the file's order."""
    fields = {"user_id": ID, "book_id": ID, "is_read": ID, "rating": TEXT, "date_added": TEXT}
    if settings.goodreads_time == "read_at":
        fields["read_at"] = TEXT
    report = json_lines.Report(file)
    left, odd, chosen, without = [], 0, 0, 0
    for frame in json_lines.read(file, fields, report):
        known = frame.filter(pl.col("is_read").is_in(["true", "false"]))
        some = known.filter(_chosen(settings.goodreads_events, one="true"))
        odd, chosen = odd + len(frame) - len(known), chosen + len(some)
        time = _milliseconds("date_added")
        if "read_at" in fields:
            when = _milliseconds("read_at")
            when = pl.when(when.is_between(1, LATEST)).then(when)
            without += some.select(when.is_null().sum()).item()
            time = pl.coalesce(when, time)
        left.append(some.select(user="user_id", item="book_id", time=time))
    report.check("a shelf with user_id, book_id and is_read")
    dropped += report.dropped()
    if odd:
        dropped.append(("wrong type", odd, f"of {file.name}; is_read is neither true nor false"))
    _note_choice(settings.goodreads_events, report.rows - odd - chosen, dropped)
    facts["time"] = f"read_at, for {without} of {chosen} rows date_added instead" if "read_at" in fields else "date_added"
    events, why = pl.concat(left), "date_added is missing or not like 'Fri Apr 19 08:15:15 -0700 2013'"
    return leave_out(events, events["time"].is_null(), "bad times", why, dropped)


def _from_csv(file: Path, settings: Data, facts: dict[str, Any], dropped: list[Dropped]) -> pl.DataFrame:
    """Events (user, item) of the CSV of the whole, in its order; the file has no times."""
    if settings.goodreads_time == "read_at":
        raise ValueError(f"{file} has no times, so goodreads_time 'read_at' cannot be had; use the .json.gz files.")
    rows, bad = delimited.read_numbers(file, CSV, what=str(file))
    if bad:
        dropped.append(("bad lines", bad, f"{file.name}: not five whole numbers"))
    chosen = rows.filter(_chosen(settings.goodreads_events, one=1))
    _note_choice(settings.goodreads_events, len(rows) - len(chosen), dropped)
    names = file.with_name(MAP)
    if not names.is_file():
        raise ValueError(f"{names} is missing: it gives the book ids of {file.name}. {LAYOUT}.")
    ids, lost = delimited.read_numbers(names, {"book_id_csv": pl.Int32, "book_id": pl.Int32}, what=str(names))
    note_items(facts, lost, f"of {names.name} that are not two whole numbers")
    ids = ids.unique("book_id_csv", keep="first").rename({"book_id_csv": "book_id", "book_id": "item"})
    events = chosen.select("user_id", "book_id").join(ids, on="book_id", how="left", maintain_order="left")
    known = leave_out(events, events["item"].is_null(), "bad lines", f"the book is not in {names.name}", dropped)
    facts["files"].append(names.name)
    facts["time"] = "none: the file's row order is taken, which its makers do not call chronological"
    return known.select(user=pl.col("user_id").cast(pl.String), item=pl.col("item").cast(pl.String))


def _books(file: Path, wanted: pl.Series, domain: str, facts: dict[str, Any]) -> pl.DataFrame:
    """The books that have interactions: source_id, title, domain and texts."""
    report = json_lines.Report(file)
    fields = {"book_id": ID, "title": TEXT, **dict.fromkeys(TEXTS, TEXT)}
    frames = [f.filter(pl.col("book_id").is_in(wanted.implode())) for f in json_lines.read(file, fields, report)]
    report.check("a book with book_id")
    books = pl.concat(frames)
    note_items(facts, report.bad.total(), f"of {file.name}: {dict(report.bad)}")
    facts["books"] = {"in_the_file": report.rows, "with_interactions": books["book_id"].n_unique()}
    texts = [pl.when(pl.col(t).str.len_chars() > 0).then(pl.col(t)) for t in TEXTS]
    return books.select(pl.col("book_id").alias("source_id"), "title", pl.lit(domain).alias("domain"), *texts)


def _chosen(events: str, one: str | int) -> pl.Expr:
    """Rows that count: `one` is what is_read holds for a book that was read."""
    rated = pl.col("rating").cast(pl.Float64, strict=False) >= 1
    return {"read": pl.col("is_read") == one, "rated": rated, "shelved": pl.lit(True)}[events]


def _note_choice(events: str, rows: int, dropped: list[Dropped]) -> None:
    if rows:
        dropped.append((sources.CHOSEN + events, rows, f"goodreads_events is {events!r} and {CHOICES[events]}"))


def _milliseconds(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime(TIME, strict=False, time_unit="ms").dt.epoch("ms")


def _interactions_file(folder: Path, category: str) -> tuple[str, Path]:
    """Genre (or "all") and file of the interactions: `category`'s, or the only ones; JSON, which has times, before CSV."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), reverse=True):  # .json.gz and .json come after, and so win over, .csv
        if match := NAME.fullmatch(file.name):
            genre = WHOLE if match[1] in (None, "dedup") else match[1]
            if match[2] == "json" or genre not in found:
                found[genre] = file
    if category and category not in found:
        raise ValueError(f"{LAYOUT}; {folder} has no interactions of {category!r}: it holds {sources.list_names(folder)}.")
    if len(found) != 1 and not category:
        what = f"has those of {sorted(found)}: set data_category to one" if found else f"holds {sources.list_names(folder)}"
        raise ValueError(f"{LAYOUT}; {folder} {what}.")
    genre = category or next(iter(found))
    return genre, found[genre]


def _books_file(folder: Path, genre: str) -> Path:
    stem = "goodreads_books" + ("" if genre == WHOLE else f"_{genre}")
    for name in (f"{stem}.json.gz", f"{stem}.json"):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{LAYOUT}; {stem}.json.gz is not in {folder}, which holds {sources.list_names(folder)}.")


def _download(settings: Data) -> None:
    known = [*GENRES, WHOLE]
    if settings.category not in known or not settings.path:
        raise ValueError(
            f"data_download fetches one part of Goodreads into data_path: set data_category to one of {known} and data_path to "
            f"a folder; found {settings.category!r} and {settings.path!r}."
        )
    names = [f"byGenre/goodreads_{kind}_{settings.category}.json.gz" for kind in ("interactions", "books")]
    if settings.category == WHOLE:
        names = ["goodreads_interactions_dedup.json.gz", "goodreads_books.json.gz"]
    for name in names:
        downloads.fetch(ADDRESS + name, settings.path)
