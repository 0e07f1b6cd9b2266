"""Goodreads: small files in the published form, JSON and CSV; shelves, times, and what is left out."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.data.sources import downloads, goodreads
from llm2rec_kit.settings import Data

ADDED = "Fri Apr 19 08:15:15 -0700 2013"
MILLISECONDS = 1_366_384_515_000  # 2013-04-19 15:15:15 UTC
LATER = "Sat Apr 20 08:15:15 -0700 2013"


def shelf(user: str, book: str, read: bool = True, rating: int = 4, added: str = ADDED, read_at: str = "") -> dict:
    """A line as the published files have it."""
    return {
        "user_id": user,
        "book_id": book,
        "review_id": "fbd6a22a155c87a84fba7537f06cc94b",
        "is_read": read,
        "rating": rating,
        "review_text_incomplete": "",
        "date_added": added,
        "date_updated": added,
        "read_at": read_at,
        "started_at": "",
    }


def book(number: str, title: str, **more: str) -> dict:
    return {
        "isbn": "",
        "popular_shelves": [{"count": "15419", "name": "to-read"}],
        "authors": [{"author_id": "18540", "role": ""}],
        "description": "",
        "publisher": "Harcourt",
        "book_id": number,
        "work_id": "372536",
        "title": title,
        "title_without_series": title,
        **more,
    }


def write(folder: Path, rows: list, books: list, genre: str = "poetry") -> Data:
    for kind, lines in (("interactions", rows), ("books", books)):
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in lines)
        (folder / f"goodreads_{kind}_{genre}.json.gz").write_bytes(gzip.compress(text.encode()))
    return Data(source="goodreads", path=str(folder), min_interactions=0)


BOOKS = [
    book("402128", "Old Possum's Book of Practical Cats", description="Cats."),
    book("1", "Odes"),
    book("2", "Éclogues"),
]


def test_read_books_with_their_times(tmp_path):
    rows = [
        shelf("u", "1", added=LATER),
        shelf("u", "402128"),
        shelf("u", "2", read=False, rating=0),
        shelf("v", "1"),
        shelf("v", "2"),
        shelf("v", "402128", rating=0),
    ]
    settings = write(tmp_path, rows, BOOKS)
    found = sources.load(settings)
    assert {*goodreads.FIELDS} == {*found.items.columns} - {"source_id"}
    assert found.events.rows() == [
        ("u", "1", MILLISECONDS + 86_400_000),
        ("u", "402128", MILLISECONDS),
        ("v", "1", MILLISECONDS),
        ("v", "2", MILLISECONDS),
        ("v", "402128", MILLISECONDS),
    ]
    assert found.items.select("source_id", "title", "domain").rows()[0] == (
        "402128",
        "Old Possum's Book of Practical Cats",
        "goodreads_poetry",
    )
    assert found.items["description"].to_list() == ["Cats.", None, None]
    assert found.items["work_id"].to_list() == ["372536"] * 3
    assert found.dropped == [("chosen: read", 1, "goodreads_events is 'read' and the book is not marked as read")]
    assert found.facts["published"] == {"books": 36_514, "interactions": 2_734_350}
    corpus = cleaning.build_corpus(found, settings)
    assert [s["rows_dropped"] for s in corpus.facts["cleaning"]][:1] == [1]
    assert corpus.n_users == 1  # u has two events


@pytest.mark.parametrize(
    ("choice", "left"), [("read", ["a", "c"]), ("rated", ["a", "b"]), ("shelved", ["a", "b", "c", "d"])]
)
def test_which_rows_count_is_a_choice_and_no_fault(tmp_path, choice, left):
    rows = [shelf("u", "a"), shelf("u", "b", read=False), shelf("u", "c", rating=0), shelf("u", "d", read=False, rating=0)]
    settings = write(tmp_path, rows, [book(b, b.upper()) for b in "abcd"])
    found = sources.load(Data(**settings.as_dict() | {"goodreads_events": choice, "strict": True}))
    assert found.events["item"].to_list() == left
    assert sum(n for _, n, _ in found.dropped) == 4 - len(left)


def test_read_at_where_it_can_be_and_date_added_else(tmp_path):
    times = [
        "Sat Apr 20 08:15:15 -0700 2013",
        "",
        "Mon Apr 22 08:15:15 -0700 0013",
        "Sun Jan 01 00:00:00 -0800 2560",
        "soon",
    ]
    settings = write(tmp_path, [shelf("u", "1", read_at=t) for t in times], BOOKS)
    found = sources.load(Data(**settings.as_dict() | {"goodreads_time": "read_at"}))
    assert found.events["time"].to_list() == [MILLISECONDS + 86_400_000, *[MILLISECONDS] * 4]
    assert found.facts["time"] == "read_at, for 4 of 5 rows date_added instead"


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    rows = [
        shelf("u", "1"),
        "not json",
        json.dumps(shelf("u", "1") | {"is_read": "yes"}),
        json.dumps(shelf("u", "1") | {"user_id": ["u"]}),
        json.dumps({k: v for k, v in shelf("u", "1").items() if k != "user_id"}),
        shelf("u", "1", added="2013-04-19"),
        shelf("u", "1", added=""),
        shelf("u", "1", added="Thu Apr 19 08:15:15 -0700 2013"),  # that day was a Friday
        shelf("u", "1", added="Thu Jan 01 00:00:00 +0000 1970"),
        shelf("u", "1", added="Tue Jan 01 00:00:00 +0000 2560"),
        shelf("u\n", "1"),
        shelf("u", "missing"),
    ]
    books = [BOOKS[1], "{", book("3", "x"), {"book_id": "9"}, book("1", "again"), book("\t", "tab")]
    settings = write(tmp_path, rows, books)
    found = sources.load(settings)
    assert found.events["item"].to_list() == ["1", "missing"]
    assert [(step, n) for step, n, _ in found.dropped] == [
        ("missing field", 1),
        ("not JSON", 1),
        ("wrong type", 1),
        ("wrong type", 1),
        ("bad times", 3),
        ("odd ids", 1),
        ("bad times", 2),
    ]
    assert found.dropped[1][2] == "of goodreads_interactions_poetry.json.gz; first line 2: not json"
    assert found.items["title"].to_list() == ["Odes"]
    assert found.facts["books"] == {"in_the_file": 5, "with_interactions": 1}
    assert found.facts["item_rows_dropped"] == (
        "1 rows of goodreads_books_poetry.json.gz: {'not JSON': 1}; 1 rows with no id or an id seen before"
    )
    with pytest.raises(ValueError, match=r"data_strict is on.*1 interactions \(missing field"):
        sources.load(Data(**settings.as_dict() | {"strict": True}))
    with pytest.raises(ValueError, match=r"'unknown items'|'short users'"):
        cleaning.build_corpus(found, settings)


def test_the_csv_of_the_whole(tmp_path):
    (tmp_path / "goodreads_interactions.csv").write_text(
        "user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n0,947,1,5,1\n0,946,0,0,0\n7,945,1,x,0\n7,1,1,1,1\n0,945,1,0,0\n"
    )
    (tmp_path / "book_id_map.csv").write_text("book_id_csv,book_id\n948,10\n947,402128\n946,12\n945,2\n")
    text = "".join(json.dumps(b) + "\n" for b in [book("10", "Ten"), *BOOKS])
    (tmp_path / "goodreads_books.json").write_text(text)
    settings = Data(source="goodreads", path=str(tmp_path), min_interactions=0)
    found = sources.load(settings)
    assert found.events.rows() == [("0", "10"), ("0", "402128"), ("0", "2")]
    assert [(step, n) for step, n, _ in found.dropped] == [("bad lines", 1), ("chosen: read", 1), ("bad lines", 1)]
    assert "not call chronological" in found.facts["time"]
    assert cleaning.build_corpus(found, settings).times is None
    released = cleaning.build_corpus(found, replace(settings, split="released"))  # leave-one-out, so no times are needed
    assert released.split_rules == {"goodreads": "leave_one_out"}
    with pytest.raises(ValueError, match=r"has no times, so goodreads_time 'read_at' cannot be had"):
        sources.load(Data(**settings.as_dict() | {"goodreads_time": "read_at"}))
    (tmp_path / "book_id_map.csv").unlink()
    with pytest.raises(ValueError, match=r"book_id_map\.csv is missing"):
        sources.load(settings)
    (tmp_path / "goodreads_interactions.csv").write_text("user_id,book_id\n0,1\n")
    with pytest.raises(
        ValueError, match=r"must begin with the columns \['user_id', 'book_id', 'is_read'.*found \['user_id', 'book"
    ):
        sources.load(settings)


def test_json_wins_over_csv_and_several_genres_need_a_choice(tmp_path):
    settings = write(tmp_path, [shelf("u", "1")], BOOKS, "poetry")
    write(tmp_path, [shelf("u", "2")], BOOKS, "children")
    with pytest.raises(ValueError, match=r"has those of \['children', 'poetry'\]: set data_category to one"):
        sources.load(settings)
    chosen = Data(**settings.as_dict() | {"category": "children"})
    assert sources.load(chosen).events["item"].to_list() == ["2"]
    with pytest.raises(ValueError, match=r"has no interactions of 'romance'"):
        sources.load(Data(**settings.as_dict() | {"category": "romance"}))
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole, [shelf("u", "1")], BOOKS, "dedup")
    (whole / "goodreads_books_dedup.json.gz").rename(whole / "goodreads_books.json.gz")
    (whole / "goodreads_interactions.csv").write_text("user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n")
    found = sources.load(Data(source="goodreads", path=str(whole)))
    assert found.has_times
    assert found.domains_in == ["goodreads"]


def test_missing_and_cut_off_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds \[\]"):
        sources.load(Data(source="goodreads", path=str(tmp_path)))
    settings = write(tmp_path, [shelf("u", str(i)) for i in range(3000)], BOOKS)
    file = tmp_path / "goodreads_interactions_poetry.json.gz"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"interactions_poetry\.json\.gz ends in the middle of its gzip stream"):
        sources.load(settings)
    (tmp_path / "goodreads_books_poetry.json.gz").unlink()
    with pytest.raises(ValueError, match=r"goodreads_books_poetry\.json\.gz is not in"):
        sources.load(settings)


def test_the_published_addresses_are_fetched(tmp_path, monkeypatch):
    asked = []

    def fetch(url: str, folder: str) -> Path:
        asked.append(url)
        write(Path(folder), [shelf("u", "1")], BOOKS)
        return Path(folder) / url.rsplit("/", 1)[-1]

    monkeypatch.setattr(downloads, "fetch", fetch)
    found = sources.load(Data(source="goodreads", path=str(tmp_path), download=True, category="poetry"))
    assert len(found.events) == 1
    base = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/byGenre/"
    assert asked == [base + f"goodreads_{kind}_poetry.json.gz" for kind in ("interactions", "books")]
    for wrong in ({"category": "cats"}, {"category": "poetry", "path": ""}):
        with pytest.raises(ValueError, match="set data_category to one of"):
            sources.load(Data(**{"source": "goodreads", "path": str(tmp_path), "download": True} | wrong))


def test_the_strict_time_format_agrees_with_the_standard_library():
    import datetime

    frame = pl.DataFrame({"t": [ADDED, LATER, "Wed Dec 31 23:59:59 +0530 2014"]})
    expected = [int(datetime.datetime.strptime(t, goodreads.TIME).timestamp() * 1000) for t in frame["t"]]
    assert frame.select(goodreads._milliseconds("t"))["t"].to_list() == expected
