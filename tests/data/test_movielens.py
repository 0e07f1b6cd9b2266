"""MovieLens: small files in each published layout, told apart by their names."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llm2rec_kit.data import sources
from llm2rec_kit.data.sources import downloads, movielens
from llm2rec_kit.settings import Data

FLAGS = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"  # Animation, Children's, Comedy
FILES = {
    "100k": {
        "u.data": "196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t1\t881250950\n".encode("latin-1"),
        "u.item": (
            f"242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|{FLAGS}\n"
            f"302|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/x|{FLAGS[:-1]}1\n"
        ).encode("latin-1"),
    },
    "1m": {
        "ratings.dat": b"196::242::3::881250949\n186::302::3::891717742\n196::302::1::881250950\n",
        "movies.dat": (
            "242::Kolya (1996)::Animation|Children's|Comedy\n302::Misérables, Les (1995)::Animation|Children's|Comedy|Western\n"
        ).encode("latin-1"),
    },
    "10m": {
        "ratings.dat": b"196::242::3.5::881250949\n186::302::3::891717742\n196::302::1::881250950\n",
        "movies.dat": (
            "242::Kolya (1996)::Animation|Children's|Comedy\n302::Misérables, Les (1995)::Animation|Children's|Comedy|Western\n"
        ).encode(),
    },
    "32m": {
        "ratings.csv": b"userId,movieId,rating,timestamp\n196,242,3.5,881250949\n186,302,3.0,891717742\n196,302,1.0,881250950\n",
        "movies.csv": (
            "movieId,title,genres\n242,Kolya (1996),Animation|Children's|Comedy\n"
            '302,"Misérables, Les (1995)",Animation|Children\'s|Comedy|Western\n'
        ).encode(),
    },
}


def write(folder: Path, files: dict[str, bytes]) -> Data:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text)
    return Data(source="movielens", path=str(folder), min_interactions=0)


@pytest.mark.parametrize("name", FILES)
def test_each_layout_gives_the_same(tmp_path, name):
    found = sources.load(write(tmp_path / name, FILES[name]))
    assert {*movielens.FIELDS} == {*found.items.columns} - {"source_id"}
    assert found.events.rows() == [
        ("196", "242", 881250949000),
        ("186", "302", 891717742000),
        ("196", "302", 881250950000),
    ]
    assert found.items.select("source_id", "title", "category", "domain").rows() == [
        ("242", "Kolya (1996)", "Animation, Children's, Comedy", "movielens"),
        ("302", "Misérables, Les (1995)", "Animation, Children's, Comedy, Western", "movielens"),
    ]
    assert found.facts.get("encoding") == {"100k": "latin-1", "1m": "latin-1", "10m": "utf-8"}.get(name)
    assert found.dropped == []
    below = sources.load(Data(source="movielens", path=str(tmp_path), domain="films"))  # the folder above, as a zip unpacks
    assert below.events.equals(found.events)
    assert below.domains_in == ["films"]


def test_a_published_set_is_recognised_by_its_number_of_ratings(tmp_path):
    rows = b"".join(b"%d\t%d\t3\t881250949\n" % (i % 943 + 1, i % 1682 + 1) for i in range(100_000))
    found = sources.load(write(tmp_path, FILES["100k"] | {"u.data": rows}))
    assert found.facts["published"] == {
        "set": "100k",
        "users": 943,
        "movies": 1682,
        "ratings": 100_000,
        "users_found": 943,
    }


def test_rows_of_another_form_are_counted(tmp_path):
    files = {
        "ratings.dat": b"1::2::3::4\nx::2::3::4\n1::2::3\n\n1::2::3::-4\n1::2::y::4\n1::3::5::978300760\n",
        "movies.dat": b"2::A::B::C\n3::Film: The Sequel::(no genres listed)\nbad line\n::no id::x\n4::no genres\n2::again::x\n",
    }
    found = sources.load(write(tmp_path, files))
    assert found.events.rows() == [("1", "2", 4000), ("1", "3", 978300760000)]
    assert [(step, n) for step, n, _ in found.dropped] == [("bad lines", 4), ("bad times", 1)]
    assert found.items["title"].to_list() == ["A::B", "Film: The Sequel"]
    assert found.facts["item_rows_dropped"] == (
        "3 rows of movies.dat not of the form id, title, genres; 1 rows with no id or an id seen before"
    )


def test_titles_in_quotes_and_short_rows_of_movies_csv(tmp_path):
    head, ratings = "movieId,title,genres\n", {"ratings.csv": FILES["32m"]["ratings.csv"]}
    for text in ('1,"The ""Best"", 1999",x\n', '1,"The \\"Best\\", 1999",x\n'):
        found = sources.load(write(tmp_path, ratings | {"movies.csv": (head + text).encode()}))
        assert found.items["title"].to_list() == ['The "Best", 1999']
    found = sources.load(write(tmp_path, ratings | {"movies.csv": (head + "1,A,x\n2,B\n").encode()}))
    assert found.items["title"].to_list() == ["A"]
    assert found.facts["item_rows_dropped"] == "1 rows of movies.csv not of the form id, title, genres"
    with pytest.raises(ValueError, match=r"movies\.csv, line 3: the quotes of the row"):
        sources.load(write(tmp_path, ratings | {"movies.csv": (head + '1,A,x\n2,"B" C,x\n').encode()}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds \[\]"),
        ({"u.data": b"1\t2\t3\t4\n"}, r"expects a folder with u\.data and u\.item.*holds \['u\.data'\]"),
        (FILES["100k"] | FILES["32m"], r"holds several"),
        (FILES["100k"] | {"u.data": b""}, r"u\.data is empty"),
        (FILES["100k"] | {"u.data": b"1,2,3,4\n"}, r"must have 4 columns divided by '\\t'; it begins with \['1,2,3,4'\]"),
        (FILES["1m"] | {"ratings.dat": b"1\t2\t3\t4\n"}, r"must hold user::movie::rating::time; it begins with b'1\\t2"),
        (
            FILES["1m"] | {"ratings.dat": b"1::2::3::4\n1::2::3::4::5\n"},
            r"ratings\.dat .*, line 2, has more cells than the 4 columns",
        ),
        (FILES["100k"] | {"u.data": b"a\tb\tc\td\n"}, r"no row of 4 numbers divided by '\\t'; it begins with \['a', 'b'"),
        (FILES["1m"] | {"ratings.dat": b""}, r"is empty"),
        (FILES["1m"] | {"movies.dat": b"\n"}, r"no line of the form id, title, genres"),
        (
            FILES["32m"] | {"ratings.csv": b"user,movie\n1,2\n"},
            r"must begin with the columns \['userId'.*found \['user', 'movie'\]",
        ),
        (FILES["32m"] | {"movies.csv": b"movieId,name\n1,2\n"}, r"must have the columns.*found \['movieId', 'name'\]"),
        (
            FILES["32m"] | {"movies.csv": b"movieId,title,genres\n1,2,3,4,5\n"},
            r"movies\.csv, line 2, has more cells than the 3 columns",
        ),
        (FILES["100k"] | {"u.item": b"1|x|y\n"}, r"no line of the form"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        sources.load(write(tmp_path, files))


def test_a_set_is_fetched_checked_and_unpacked_once(tmp_path, monkeypatch):
    asked = []

    def fetch(url: str, folder: Path, *, checksum: str) -> Path:
        asked.append((url, checksum))
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / "ml-1m.zip", "w") as made:
            for name, text in FILES["1m"].items():
                made.writestr(f"ml-1m/{name}", text)
            made.writestr("ml-1m/README", "text")
        return folder / "ml-1m.zip"

    monkeypatch.setattr(downloads, "fetch", fetch)
    settings = Data(source="movielens", path=str(tmp_path / "new"), download=True, category="1m")
    assert len(sources.load(settings).events) == 3
    assert len(sources.load(settings).events) == 3
    assert asked == [("https://files.grouplens.org/datasets/movielens/ml-1m.zip", "md5:c4d9eecfca2ab87c1945afe126590906")]
    for wrong in ({"category": "2m"}, {"category": "1m", "path": ""}):
        with pytest.raises(ValueError, match="set data_category to one of"):
            sources.load(Data(**{"source": "movielens", "path": str(tmp_path), "download": True} | wrong))


def test_the_nineteen_genre_flags_are_the_documented_ones():
    assert len(movielens.GENRES) == 19
    assert (movielens.GENRES[0], movielens.GENRES[-1]) == ("unknown", "Western")
