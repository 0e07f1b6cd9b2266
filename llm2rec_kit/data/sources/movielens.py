"""MovieLens: the GroupLens ratings (Harper and Konstan, TiiS 2015), in each layout that was published.

For research use; not to be redistributed without permission. Page: https://grouplens.org/datasets/movielens/.

100k       u.data: user, movie, rating, time divided by tabs; u.item: id|title|release|video|address|19 genre flags; Latin-1
1m, 10m    ratings.dat: user::movie::rating::time; movies.dat: id::title::genre|genre; Latin-1 (1m) or UTF-8 (10m)
20m .. 32m ratings.csv: userId,movieId,rating,timestamp; movies.csv: movieId,title,genres (divided by |); UTF-8

Times are seconds. Users, movies and ratings of each are in `PUBLISHED`. The layout is told by the files; a folder is read
that holds them itself or in one folder below, as the zips unpack. Titles are kept as published, the year and a
trailing article included ("Matrix, The (1999)"); genres are the column `category`. A rating counts, whatever its stars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit.data.sources import Interactions, delimited, downloads, list_names, note_items, require_folder
from llm2rec_kit.settings import Data
from llm2rec_kit.storage import expand_home

ADDRESS = "https://files.grouplens.org/datasets/movielens/"
PUBLISHED = {  # name: users, movies, ratings, as the README says (1m: "approximately 3,900" movies), and md5 of the zip
    "100k": (943, 1_682, 100_000, "0e33842e24a9c977be4e0107933c0723"),
    "1m": (6_040, 3_900, 1_000_209, "c4d9eecfca2ab87c1945afe126590906"),
    "10m": (71_567, 10_681, 10_000_054, "ce571fd55effeba0271552578f2648bd"),
    "20m": (138_493, 27_278, 20_000_263, "cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": (162_541, 62_423, 25_000_095, "6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": (200_948, 87_585, 32_000_204, "d472be332d4daa821edc399621853b57"),
}
FILES = [("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv")]
RATINGS = {"userId": pl.Int64, "movieId": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
GENRES = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"]
GENRES += ["Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"]  # u.item's order
LAYOUT = (
    "data_source 'movielens' expects a folder with u.data and u.item (100k), ratings.dat and movies.dat (1m, 10m) or "
    "ratings.csv and movies.csv (20m, 25m, 32m)"
)
FIELDS = ("title", "domain", "category")  # all that `data_text` may name
Movie = tuple[str, str, str | None]  # id, title, genres


def load(settings: Data) -> Interactions:
    """Load the MovieLens set in the folder `settings.path`; the domain is `settings.domain` or "movielens".

    `settings.download` fetches and unpacks the set that `settings.category` names (one of `PUBLISHED`) first. Rows of
    another form are left out and counted; ValueError where a file is missing, empty or of another layout.
    """
    if settings.download:
        _download(settings)
    folder, (ratings, movies) = _layout(require_folder(settings.path, LAYOUT), settings.category)
    domain = settings.domain or "movielens"
    facts: dict[str, Any] = {"source": "movielens", "files": [ratings, movies]}
    dropped = []
    rows, bad = _ratings(folder / ratings)
    if bad:
        dropped.append(("bad lines", bad, f"{ratings}: not user, movie, rating and time as numbers"))
    facts["published"] = _as_published(rows)
    events = rows.select(
        user=pl.col("userId").cast(pl.String), item=pl.col("movieId").cast(pl.String), time=pl.col("timestamp") * 1000
    )
    items = _movies(folder / movies, facts).with_columns(domain=pl.lit(domain))
    return Interactions(items=items, events=events, domains_in=[domain], facts=facts, dropped=dropped)


def find_files(settings: Data) -> list[Path]:
    """Find the two files that `load` reads; ValueError where they are not there."""
    folder, names = _layout(require_folder(settings.path, LAYOUT), settings.category)
    return [folder / name for name in names]


def _ratings(file: Path) -> tuple[pl.DataFrame, int]:
    if file.suffix == ".csv":
        return delimited.read_numbers(file, RATINGS, what=str(file))
    if file.suffix == ".data":
        return delimited.read_numbers(file, RATINGS, what=str(file), separator="\t", header=False)
    text = file.read_bytes()
    if text.strip() and b"::" not in text[:200]:
        raise ValueError(f"{file} must hold user::movie::rating::time; it begins with {text[:40]!r}.")
    return delimited.read_numbers(
        text.replace(b"::", b"\t"), RATINGS, what=f"{file} (:: read as tabs)", separator="\t", header=False
    )


def _movies(file: Path, facts: dict[str, Any]) -> pl.DataFrame:
    """Movies as source_id, title, category (genres divided by commas)."""
    if file.suffix == ".csv":
        rows = _movies_csv(file)
    else:
        text, facts["encoding"] = _decoded(file)
        lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
        rows = [_of_flags(line) if file.name == "u.item" else _of_colons(line) for line in lines]
    kept = [row for row in rows if row]
    note_items(facts, len(rows) - len(kept), f"of {file.name} not of the form id, title, genres")
    if not kept:
        raise ValueError(f"{file} has no line of the form id, title, genres. {LAYOUT}.")
    return pl.DataFrame(kept, schema=dict.fromkeys(("source_id", "title", "category"), pl.String), orient="row")


def _movies_csv(file: Path) -> list[Movie | None]:
    table, few, _ = delimited.read_texts(file)
    if table.columns != ["movieId", "title", "genres"]:
        raise ValueError(f"{file} must have the columns ['movieId', 'title', 'genres']; found {table.columns}.")
    rows = [
        (i, t, (g or "").replace("|", ", ").replace("(no genres listed)", "") or None) if i and i.isdigit() and t else None
        for i, t, g in table.rows()
    ]
    return rows + [None] * few


def _of_colons(line: str) -> Movie | None:
    movie, _, rest = line.partition("::")
    title, _, genres = rest.rpartition("::")  # a title may hold colons itself
    return (movie, title, genres.replace("|", ", ") or None) if movie.isdigit() and title else None


def _of_flags(line: str) -> Movie | None:
    """A line of u.item; its last 19 cells are 0 or 1 each."""
    cells = line.split("|")
    flags = cells[-len(GENRES) :]
    if len(cells) != 5 + len(GENRES) or not cells[0].isdigit() or not cells[1] or not set(flags) <= {"0", "1"}:
        return None
    genres = [name for name, flag in zip(GENRES, flags, strict=True) if flag == "1" and name != "unknown"]
    return cells[0], cells[1], ", ".join(genres) or None


def _decoded(file: Path) -> tuple[str, str]:
    """Text and encoding: UTF-8 (10m) where every byte is, else Latin-1 (100k, 1m), as published."""
    data = file.read_bytes()
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _as_published(rows: pl.DataFrame) -> dict[str, Any]:
    """Which published set has this many ratings; its numbers beside those found."""
    for name, (users, movies, ratings, _) in PUBLISHED.items():
        if ratings == len(rows):
            said = {"set": name, "users": users, "movies": movies, "ratings": ratings}
            return said | {"users_found": rows["userId"].n_unique()}
    return {"set": "none", "ratings": len(rows)}


def _layout(folder: Path, category: str) -> tuple[Path, tuple[str, str]]:
    """The folder of the files (`folder`, or one below it: `ml-<category>` first) and their names."""
    below = sorted(p for p in folder.iterdir() if p.is_dir())
    named = [p for p in below if category and p.name == f"ml-{category}"]
    found = [(p, names) for p in named or [folder, *below] for names in FILES if all((p / n).is_file() for n in names)]
    if len(found) != 1:
        many = f"holds several: {[str(p / names[0]) for p, names in found]}; set data_category or data_path to one"
        raise ValueError(f"{LAYOUT}; {folder} {many if found else f'holds {list_names(folder)}'}.")
    return found[0]


def _download(settings: Data) -> None:
    if settings.category not in PUBLISHED or not settings.path:
        raise ValueError(
            f"data_download fetches one MovieLens set into data_path: set data_category to one of {list(PUBLISHED)} and "
            f"data_path to a folder; found {settings.category!r} and {settings.path!r}."
        )
    folder, name = expand_home(settings.path), f"ml-{settings.category}"
    if any(all((folder / name / n).is_file() for n in names) for names in FILES):
        return
    archive = downloads.fetch(f"{ADDRESS}{name}.zip", folder, checksum=f"md5:{PUBLISHED[settings.category][3]}")
    downloads.unpack(archive, folder / name, [n for names in FILES for n in names])
