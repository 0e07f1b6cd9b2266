"""Amazon reviews as published: one file of reviews and one of metadata a category, JSON lines, plain or gzip.

2023  `<Category>.jsonl[.gz]` with parent_asin, user_id, timestamp (milliseconds); `meta_<Category>.jsonl[.gz]` with
      parent_asin, title, store, categories, description. The item is `parent_asin`: a product with all its colours and sizes.
2018  `<Category>.json[.gz]` (or `<Category>_5.json[.gz]`) with asin, reviewerID, unixReviewTime (seconds, whole days);
      `meta_<Category>.json[.gz]` with asin, title, brand, category, description.

`data_path` is a folder that holds both files, or the file of reviews with the metadata beside it. Which edition it is, the
first review tells. Reviews become three numbers each as they are read (ids as categorical codes, time), so that 50 million
of them take 0.8 GB. That only the earliest review of a user and an item counts is a step of the cleaning (`data_repeats`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from llm2rec_kit.data import json_lines
from llm2rec_kit.data.json_lines import ID, INTEGER, TEXT, TEXTS
from llm2rec_kit.data.sources import Interactions, keep_first_of_each_item, leave_out, list_names, note_items
from llm2rec_kit.data.times import convert_by_size
from llm2rec_kit.settings import Data, describe_unknown
from llm2rec_kit.storage import expand_home

LOOKED_AT = 100  # first lines among which one must be a review, to tell the edition
WORDS_KEPT = 512  # words kept of a description: it may be a page long
FURTHER = ("category", "brand", "description")  # columns of the items, each read where `data_text` names it
FIELDS = ("title", "domain", *FURTHER)  # all that it may name


@dataclass(frozen=True)
class Edition:
    """Names of the fields in one year's files."""

    year: str
    user: str
    item: str
    time: str
    brand: str
    categories: str
    group: str


EDITIONS = (
    Edition("2023", "user_id", "parent_asin", "timestamp", "store", "categories", "main_category"),
    Edition("2018", "reviewerID", "asin", "unixReviewTime", "brand", "category", "main_cat"),
)
NAMES = {
    "reviews": ("{}.jsonl.gz", "{}.jsonl", "{}.json.gz", "{}.json", "{}_5.json.gz", "{}_5.json"),
    "metadata": ("meta_{}.jsonl.gz", "meta_{}.jsonl", "meta_{}.json.gz", "meta_{}.json"),
}
LAYOUT = (
    "data_source 'amazon' expects a folder with <Category>.jsonl[.gz] and meta_<Category>.jsonl[.gz] of Amazon Reviews 2023 "
    "(or <Category>.json[.gz] and meta_<Category>.json[.gz] of 2018)"
)


def load(settings: Data) -> Interactions:
    """Load the interactions of one category; its domain is `settings.domain`, else the paper's short name, else its own.

    Raises ValueError where a file is missing, cut off, empty or of another form; lines that are no reviews are `dropped`.
    """
    category, reviews, meta = _found(settings, fetch=settings.download)
    edition = _edition(reviews)
    domain = settings.domain or _name_domain(category)
    events, report = _events(reviews, edition)
    reviewed = events["item"] if settings.min_interactions > 0 else None
    facts: dict[str, Any] = {"source": "amazon", "edition": edition.year, "category": category, "reviews": report.lines}
    facts["files"] = [reviews.name, meta.name]
    items = _items(meta, edition, domain, settings, reviewed, facts)
    dropped, why = report.dropped(), "zero or before 1970: no time of a review"
    events = leave_out(events, events["time"] <= 0, "time not positive", why, dropped)
    return Interactions(items=items, events=events, domains_in=[domain], facts=facts, dropped=dropped)


def find_files(settings: Data) -> list[Path]:
    """Find the two files that `load` reads; ValueError where they are not there."""
    return list(_found(settings)[1:])


@cache
def read_published() -> dict[str, Any]:
    """Read the addresses of the 2023 files, the paper's short names, and users, items and reviews of each category."""
    said: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("amazon_2023.yaml").read_text())
    return said


def expand_name(category: str) -> str:
    """Replace a short name by the category's: `games` -> `Video_Games`; a full name stays."""
    return str(read_published()["short_names"].get(category, category))


def tell_domain(settings: Data) -> str:
    """Return the domain of the category that `settings` name; empty where a file's or folder's names say which it is."""
    named = settings.category and not expand_home(settings.path).is_file()
    return _name_domain(expand_name(settings.category)) if named else ""


def _name_domain(category: str) -> str:
    return next((str(short) for short, full in read_published()["short_names"].items() if full == category), category)


def _found(settings: Data, *, fetch: bool = False) -> tuple[str, Path, Path]:
    """Category, file of reviews and file of metadata under `settings.path`; with `fetch`, what is missing is downloaded."""
    if fetch:
        _check_published(settings)
    if not settings.path:
        raise ValueError(f"{LAYOUT}; data_path is empty. Set it to that folder. {_how_to_get(settings.category)}")
    path = expand_home(settings.path)
    if path.is_file():
        category = path.name.split(".")[0].removesuffix("_5")
        return category, path, _one_of(path.parent, "metadata", category, fetch)
    if not path.is_dir() and not fetch:
        raise ValueError(f"{LAYOUT}; {path} does not exist. {_how_to_get(settings.category)}")
    category = expand_name(settings.category) if settings.category else _only_category(path)
    return category, _one_of(path, "reviews", category, fetch), _one_of(path, "metadata", category, fetch)


def _check_published(settings: Data) -> None:
    """Raise ValueError where there is nothing to download by these settings."""
    if not settings.path or not settings.category:
        raise ValueError("data_download needs data_path, the folder to fetch into, and data_category, such as games.")
    if expand_name(settings.category) not in read_published()["categories"]:
        known = [*read_published()["short_names"], *read_published()["categories"]]
        raise ValueError(describe_unknown(settings.category, known, "category of Amazon Reviews 2023"))


def _only_category(folder: Path) -> str:
    endings = tuple(name.removeprefix("meta_{}") for name in NAMES["metadata"])
    names = {p.name.split(".")[0].removeprefix("meta_") for p in folder.glob("meta_*") if p.name.endswith(endings)}
    if len(names) == 1:
        return names.pop()
    found = f"the metadata of {sorted(names)}" if names else f"{sorted(p.name for p in folder.iterdir())[:20]}"
    raise ValueError(f"{LAYOUT}; {folder} holds {found}. Say which by data_category. {_how_to_get('')}")


def _one_of(folder: Path, what: str, category: str, fetch: bool) -> Path:
    """The file of "reviews" or "metadata" in `folder`, under any of its names; with `fetch` fetched where there is none."""
    names = [name.format(category) for name in NAMES[what]]
    if found := next((folder / name for name in names if (folder / name).is_file()), None):
        return found
    if fetch:
        from llm2rec_kit.data.sources import downloads

        about = read_published()
        users, items, reviews = about["categories"][category]
        print(f"{category}: {reviews} reviews by {users} users of {items} items, from {about['page']}", flush=True)
        return downloads.fetch(about[what].format(category=category), folder)
    raise ValueError(
        f"The {what} of {category} are missing: none of {names} is in {folder}, which holds {list_names(folder)}. "
        f"{_how_to_get(category)}"
    )


def _how_to_get(category: str) -> str:
    name = expand_name(category) if category else "<Category>"
    addresses = " and ".join(read_published()[kind].format(category=name) for kind in ("reviews", "metadata"))
    return f"The files of 2023 are at {addresses}; data_download fetches them."


def _edition(reviews: Path) -> Edition:
    """Whose fields the first review has."""
    lines = json_lines.read_first_lines(reviews, LOOKED_AT)
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for edition in EDITIONS:
            if isinstance(found, dict) and {edition.user, edition.item, edition.time} <= found.keys():
                return edition
    if not any(line.strip() for line in lines):
        raise ValueError(f"{reviews} is empty. {LAYOUT}.")
    fields = " or ".join(f"{e.user}, {e.item}, {e.time} ({e.year})" for e in EDITIONS)
    raise ValueError(
        f"{reviews}: none of its first {len(lines)} lines is a review. Expected is a JSON object with the fields {fields}; "
        f"the first line is {lines[0][:200]!r}. {LAYOUT}."
    )


def _events(path: Path, edition: Edition) -> tuple[pl.DataFrame, json_lines.Report]:
    """Events with ids as categoricals (4 bytes each, whatever the id's length) and times in milliseconds."""
    report = json_lines.Report(path)
    fields = {edition.user: ID, edition.item: ID, edition.time: INTEGER}
    users, items = (pl.Categorical(pl.Categories.random()) for _ in range(2))
    columns = {
        "user": pl.col(edition.user).cast(users),
        "item": pl.col(edition.item).cast(items),
        # Milliseconds of 2023, seconds of 2018, also where a copy has changed them.
        "time": convert_by_size(pl.col(edition.time)),
    }
    frames = [frame.select(**columns) for frame in json_lines.read(path, fields, report)]
    report.check(f"a review with {', '.join(fields)}")
    return pl.concat(frames, rechunk=True), report


def _items(
    path: Path, edition: Edition, domain: str, settings: Data, reviewed: pl.Series | None, facts: dict[str, Any]
) -> pl.DataFrame:
    """The item table: of the items in `reviewed` (None: all), with the columns that the text template asks for."""
    report = json_lines.Report(path)
    frames = list(_item_frames(path, edition, settings.text, report, reviewed))
    report.check(f"an item with {edition.item}")
    facts["items_in_metadata"] = report.rows
    if report.bad:
        facts["metadata_lines_left_out"] = dict(report.bad)
        note_items(facts, report.bad.total(), f"of {path.name}: {dict(report.bad)}")
    table = pl.concat(frames).with_columns(domain=pl.lit(domain))
    if torn := table["title"].str.contains("�", literal=True).sum():
        facts["titles_with_replaced_characters"] = torn
    first = ["source_id", "title", "domain"]
    return keep_first_of_each_item(table.select(*first, *[c for c in table.columns if c not in first]), facts)


def _item_frames(
    path: Path, edition: Edition, template: str, report: json_lines.Report, reviewed: pl.Series | None
) -> Iterator[pl.DataFrame]:
    fields = {edition.item: ID, "title": TEXT}
    columns = {"source_id": pl.col(edition.item), "title": pl.col("title")}
    if "{brand}" in template:
        fields[edition.brand] = TEXT
        columns["brand"] = pl.col(edition.brand)
    if "{category}" in template:
        fields |= {edition.categories: TEXTS, edition.group: TEXT}
        inner = pl.col(edition.categories).list.join(", ", ignore_nulls=True)
        columns["category"] = pl.when(inner != "").then(inner).otherwise(pl.col(edition.group))
    if "{description}" in template:
        fields["description"] = TEXTS
        words = pl.col("description").list.join(" ", ignore_nulls=True).str.split(" ")
        columns["description"] = words.list.head(WORDS_KEPT).list.join(" ")
    wanted = pl.lit(True)
    if reviewed is not None:
        # An id that no review has gets a new code, and new codes are larger: no table of names has to be searched.
        wanted = pl.col(edition.item).cast(reviewed.dtype).to_physical() <= reviewed.to_physical().max()
    for frame in json_lines.read(path, fields, report):
        yield frame.filter(wanted).select(**columns)
