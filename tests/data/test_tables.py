"""Tables: two files or two frames of anyone's own data."""

from __future__ import annotations

import datetime
import decimal
import os
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from llm2rec_kit.data import sources
from llm2rec_kit.data.sources import tables
from llm2rec_kit.data.times import as_milliseconds
from llm2rec_kit.settings import Data, SettingsError

EVENTS = pl.DataFrame(
    {"user": ["007", "007", "b"], "item": ["01", "02", "01"], "timestamp": [1_600_000_000, 1_600_000_001, 5]}
)


class NA:
    """As pandas.NA: comparing it gives NA again, which is neither true nor false."""

    def __ne__(self, other):
        return self

    __hash__ = None

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


class Column(list):
    def tolist(self):
        return list(self)


class Frame(dict):
    columns = property(lambda self: list(self))


def pandas_like(**columns: list) -> Frame:
    return Frame({name: Column(cells) for name, cells in columns.items()})


ITEMS = pl.DataFrame({"item": ["01", "02"], "title": ["Tea, black", "Café"], "brand": ["X", "Y"]})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_of_two_files(tmp_path, kind):
    for name, frame in (("interactions", EVENTS), ("items", ITEMS)):
        getattr(frame, f"write_{kind}")(tmp_path / f"{name}.{kind}")
    found = sources.load(Data(source="table", path=str(tmp_path), domain="shop"))
    assert found.events["user"].to_list() == ["007", "007", "b"]
    assert found.events["time"].to_list() == [1_600_000_000_000, 1_600_000_001_000, 5_000]
    assert found.items.columns == ["source_id", "title", "domain", "brand"]
    assert found.items["title"].to_list() == ["Tea, black", "Café"]
    assert found.domains_in == ["shop"]


def test_one_file_that_holds_the_titles_itself(tmp_path):
    EVENTS.join(ITEMS, on="item", how="left", maintain_order="left").write_csv(tmp_path / "bought.csv")
    found = sources.load(Data(source="table", path=str(tmp_path / "bought.csv")))
    assert found.items.select("source_id", "title").rows() == [("01", "Tea, black"), ("02", "Café")]
    assert found.domains_in == ["bought"]


def test_a_domain_column_wins_and_no_timestamp_keeps_row_order(tmp_path):
    EVENTS.drop("timestamp").write_csv(tmp_path / "interactions.csv")
    ITEMS.with_columns(domain=pl.Series(["tea", "coffee"])).write_csv(tmp_path / "items.csv")
    found = sources.load(Data(source="table", path=str(tmp_path), domain="shop"))
    assert found.domains_in == ["tea", "coffee"]
    assert not found.has_times


def test_frames_with_names_of_their_own():
    found = tables.from_frames(
        EVENTS.rename({"user": "who", "item": "what", "timestamp": "when"}),
        ITEMS.rename({"item": "what", "title": "text"}),
        user="who",
        item="what",
        time="when",
        title="text",
    )
    assert found.events.columns == ["user", "item", "time"]
    assert found.items["title"].to_list() == ["Tea, black", "Café"]


def test_a_frame_that_behaves_like_pandas():
    found = tables.from_frames(
        pandas_like(user=[1, 1], item=[5, 6]), pandas_like(item=[5, 6], title=["Tea", float("nan")]), time=None
    )
    assert found.events.rows() == [("1", "5"), ("1", "6")]
    assert found.items["title"].to_list() == ["Tea", None]


def test_whatever_pandas_calls_missing_is_missing():
    nothing = [None, float("nan"), NA(), np.float64("nan"), np.datetime64("NaT"), decimal.Decimal("NaN")]
    items = [f"i{k}" for k in range(len(nothing))]
    found = tables.from_frames(
        pandas_like(user=["u", *nothing], item=["i0", *items], timestamp=[7, *nothing]),
        pandas_like(item=items, title=nothing, brand=["X", *nothing[1:]]),
    )
    assert found.events.rows() == [("u", "i0", 7000)]
    assert found.dropped == [("empty ids", len(nothing), "no user or no item")]
    assert found.items["title"].null_count() == len(nothing)
    assert found.items["brand"].to_list() == ["X"] + [None] * 5


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ([["a"], ["b"]], "Object, cells such as a list"),
        (["a", ["b"]], "Object, cells such as a list"),
        ([np.array(["a", "b"]), "c"], "Object, cells such as a ndarray"),
        ([{"a": 1}, {"a": 2}], "Object, cells such as a dict"),
        ([datetime.datetime(2020, 1, 1), None], "Datetime"),
        ([datetime.timedelta(1), None], "Duration"),
        ([datetime.datetime(2020, 1, 1), 5], "Object, cells such as a datetime"),
    ],
)
def test_cells_that_are_no_text_are_named_with_their_column(title, kind):
    events, items = pandas_like(user=["u", "u"], item=["1", "2"]), pandas_like(item=["1", "2"], title=title)
    with pytest.raises(ValueError, match=rf"the column 'title' of the items frame must hold text; found the type {kind}"):
        tables.from_frames(events, items, time=None)
    further = tables.from_frames(events, pandas_like(item=["1", "2"], title=["A", "B"], more=title), time=None)
    assert "more" not in further.items.columns
    with pytest.raises(ValueError, match=r"several columns of one name: \['user'\]"):
        tables.from_frames(type("Twice", (), {"columns": ["user", "item", "user"]})(), items)


def test_rows_without_ids_are_counted_and_repeated_items_noted():
    events = pl.DataFrame({"user": ["a", None, "a"], "item": ["1", "1", None]})
    items = pl.DataFrame({"item": ["1", "1"], "title": ["first", "second"]})
    found = tables.from_frames(events, items, time=None)
    assert found.dropped == [("empty ids", 2, "no user or no item")]
    assert found.items["title"].to_list() == ["first"]
    assert found.facts["item_rows_dropped"].startswith("1 rows")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1_600_000_000], [0, 1_600_000_000_000]),
        ([1_600_000_000_123, None], [1_600_000_000_123, None]),
        ([1_600_000_000.25], [1_600_000_000_250]),
        (["1600000000", "1600000001"], [1_600_000_000_000, 1_600_000_001_000]),
        (["2020-09-13", "2020-09-14"], [1_599_955_200_000, 1_600_041_600_000]),
        (["2020-09-13T12:26:40", None], [1_600_000_000_000, None]),
        ([datetime.datetime(2020, 9, 13, 12, 26, 40)], [1_600_000_000_000]),
        ([datetime.date(2020, 9, 13)], [1_599_955_200_000]),
    ],
)
def test_times_become_milliseconds(values, expected):
    assert as_milliseconds(pl.Series(values), "t").to_list() == expected


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data_path is empty"):
        sources.load(Data(source="table"))
    with pytest.raises(ValueError, match=r"no interactions\.csv or interactions\.parquet in .*, which holds \[\]"):
        sources.load(Data(source="table", path=str(tmp_path)))
    EVENTS.rename({"item": "sku"}).write_csv(tmp_path / "interactions.csv")
    with pytest.raises(ValueError, match=r"\['item'\] missing, found \['user', 'sku', 'timestamp'\]"):
        sources.load(Data(source="table", path=str(tmp_path)))
    with pytest.raises(ValueError, match=r"nowhere is missing"):
        sources.load(Data(source="table", path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"seconds or milliseconds since 1970, or dates .* found for example \['soon'\]"):
        as_milliseconds(pl.Series(["soon"]), "the column t")
    with pytest.raises(ValueError, match=r"expected; found int"):
        tables.from_frames(3, ITEMS)


def test_columns_of_other_names_are_named_by_settings(tmp_path):
    EVENTS.rename({"user": "who", "item": "sku", "timestamp": "when"}).write_csv(tmp_path / "interactions.csv")
    items = ITEMS.rename({"item": "sku", "title": "name"}).with_columns(shop=pl.Series(["tea", None]))
    items.write_parquet(tmp_path / "items.parquet")
    columns = ["user=who", "item=sku", "time=when", "title=name", "domain=shop"]
    found = sources.load(Data(source="table", path=str(tmp_path), columns=columns, domain="rest"))
    assert found.events.rows() == [("007", "01", 1_600_000_000_000), ("007", "02", 1_600_000_001_000), ("b", "01", 5_000)]
    assert found.items.rows() == [("01", "Tea, black", "tea", "X"), ("02", "Café", "rest", "Y")]
    assert found.domains_in == ["tea", "rest"]


def test_columns_that_cannot_be_are_named(tmp_path):
    EVENTS.write_csv(tmp_path / "interactions.csv")
    ITEMS.write_csv(tmp_path / "items.csv")
    for pair in ("user", "user=", "price=x", "=x"):
        with pytest.raises(SettingsError, match=rf"takes role=name with a role of \['user', .*found '{pair}'"):
            sources.load(Data(source="table", path=str(tmp_path), columns=[pair]))
    with pytest.raises(ValueError, match=r"names time=when, and no such column is in .*found \['user', 'item', 'timestamp'"):
        sources.load(Data(source="table", path=str(tmp_path), columns=["time=when"]))
    with pytest.raises(ValueError, match=r"must have the columns \['who', 'item'\]: \['who'\] missing"):
        sources.load(Data(source="table", path=str(tmp_path), columns=["user=who"]))


def test_one_frame_with_its_titles():
    found = tables.from_frames(EVENTS.with_columns(title=pl.Series(["Tea", "Café", "other"])))
    assert found.items.select("source_id", "title").rows() == [("01", "Tea"), ("02", "Café")]


def test_pandas_whole_numbers_with_gaps_are_the_same_ids():
    """pandas makes floats of a column of whole numbers that has a gap: 5.0 here and 5 there are one id."""
    events = pl.DataFrame({"user": [1, 1, 2], "item": [5.0, float("nan"), 6.0]})
    found = tables.from_frames(events, pl.DataFrame({"item": [5, 6], "title": ["Tea", "Café"]}), time=None)
    assert found.events.rows() == [("1", "5"), ("2", "6")]
    assert found.dropped == [("empty ids", 1, "no user or no item")]
    with pytest.raises(
        ValueError, match=r"'item' of the events frame holds ids and has numbers that are not whole, such as 5\.5"
    ):
        tables.from_frames(pl.DataFrame({"user": [1], "item": [5.5]}), ITEMS, time=None)
    with pytest.raises(
        ValueError, match=r"'item' of the events frame must hold ids, text or whole numbers; found the type List"
    ):
        tables.from_frames(pl.DataFrame({"user": [1], "item": [[5]]}), ITEMS, time=None)


def test_real_pandas_frames():
    pd = pytest.importorskip("pandas")
    events = pd.DataFrame(
        {"user": ["a", "a", None], "item": [5, 6, 6], "timestamp": pd.to_datetime(["2021-01-01", None, "2021-01-02"])}
    )
    items = pd.DataFrame({"item": [5, 6], "title": ["x\ud800", "ספר"], "price": [1.0, 2.0]})
    found = tables.from_frames(events, items)
    assert found.events.rows() == [("a", "5", 1_609_459_200_000), ("a", "6", None)]
    assert found.items.select("title").to_series().to_list() == ["x\ufffd", "ספר"]
    assert found.items.columns == ["source_id", "title", "domain"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"interactions.csv": b""}, r"interactions\.csv is empty"),
        ({"interactions.csv": b"user,item\na,b,c,d\n"}, r"interactions\.csv, line 2, has more cells than the 2 columns"),
        ({"interactions.csv": b"user,item\n\xff,b\n"}, r"interactions\.csv, line 2, is no UTF-8 text"),
        ({"interactions.parquet": b"PAR1 no"}, r"interactions\.parquet cannot be read as parquet"),
        ({"interactions.csv": b"user,item\na,b\n", "items.csv": b"item,title\n"}, None),
    ],
)
def test_damaged_files_are_named(tmp_path, files, message):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    if message is None:
        assert sources.load(Data(source="table", path=str(tmp_path))).items.is_empty()
        return
    with pytest.raises(ValueError, match=message):
        sources.load(Data(source="table", path=str(tmp_path)))


def write(folder, events: pl.DataFrame | str, items: pl.DataFrame | str | None = None, **more) -> Data:
    """A folder of these two tables: frames as Parquet, text as CSV."""
    for name, table in (("interactions", events), ("items", items)):
        if isinstance(table, str):
            (folder / f"{name}.csv").write_text(table)
        elif table is not None:
            table.write_parquet(folder / f"{name}.parquet")
    return Data(source="table", path=str(folder), **more)


# -- one file does not override another, and no row or column goes without a word ---------------------------------------


def test_items_of_several_titles_are_counted_and_told_where_there_is_no_items_file(tmp_path, capsys):
    rows = (
        "user,item,title,domain\nu,1,Five Stars,x\nv,1,Meh,y\nu,2,,x\nv,2,Tea,x\nu,3,Milk,x\nv,3,Milk,\n,,Oil,x\nu,,Jam,x\n"
    )
    found = sources.load(write(tmp_path, rows, domain="x"))
    assert found.items["title"].to_list() == ["Five Stars", "Tea", "Milk"]
    assert found.facts["several_titles"] == "1 of 3 items have several titles; the first counts"
    assert found.facts["several_domains"] == "1 of 3 items have several domains; the first counts"
    out = capsys.readouterr().out
    assert "table: 1 of 3 items have several titles; the first counts\ntable: 1 of 3 items have several domains" in out
    (tmp_path / "items.csv").write_text("item,title\n1,Tea\n2,Milk\n3,Oil\n")
    assert "several_titles" not in sources.load(Data(source="table", path=str(tmp_path))).facts


def test_ids_that_are_a_word_for_no_value_are_told_and_strict_stops_at_them(tmp_path, capsys):
    rows = "user,item\nnan,1\nNULL,2\nNancy,1\nu,\\N\nu,2\n"
    data = write(tmp_path, rows, "item,title\n1,Tea\n2,Milk\n")
    found = sources.load(data)
    assert len(found.events) == 5
    said = "2 events have as user 'nan' or the like; 1 events have as item '\\\\N' or the like, which may be a word for no value"
    assert found.facts["absent_ids"] == said
    assert capsys.readouterr().out == f"table: {said}\n"
    with pytest.raises(
        ValueError, match=r"data_strict is on, and in the source 'table' 2 events have as user 'nan' or the like; 1"
    ):
        sources.load(replace(data, strict=True))


REVIEWS = "user,item,timestamp,title,domain,brand\nu,1,5,Five Stars,x,?\nu,2,6,Meh,y,?\n"
CATALOGUE = "item,title,brand\n1,Tea,X\n2,Milk,Y\n"


def test_titles_and_domains_are_those_of_the_items_file(tmp_path, capsys):
    found = sources.load(write(tmp_path, REVIEWS, CATALOGUE, domain="shop"))
    assert found.items.rows() == [("1", "Tea", "shop", "X"), ("2", "Milk", "shop", "Y")]
    said = "the columns ['title', 'domain'] of interactions.csv: titles and domains are those of items.csv"
    assert found.facts["not_read"] == said
    assert found.facts["columns_left_out"] == "title, domain, brand of interactions.csv"
    assert capsys.readouterr().out.startswith(f"table: not read {said}\ntable: columns left out: title, domain, brand of")
    named = sources.load(write(tmp_path, REVIEWS, CATALOGUE, columns=["title=title"]))
    assert named.items["title"].to_list() == ["Tea", "Milk"]
    one = sources.load(Data(source="table", path=str(tmp_path / "interactions.csv")))
    assert one.items["title"].to_list() == ["Tea", "Milk"]
    (tmp_path / "items.csv").unlink()
    alone = sources.load(Data(source="table", path=str(tmp_path)))
    assert alone.items.rows() == [("1", "Five Stars", "x", "?"), ("2", "Meh", "y", "?")]
    assert "not_read" not in alone.facts


def test_titles_of_the_interactions_count_where_the_settings_say_so(tmp_path, capsys):
    reviews = REVIEWS.replace("title", "headline")
    found = sources.load(write(tmp_path, reviews, CATALOGUE, columns=["title=headline"]))
    assert found.items["title"].to_list() == ["Five Stars", "Meh"]
    assert found.facts["not_read"] == "items.csv: data_columns takes the titles of interactions.csv"
    assert capsys.readouterr().out.startswith("table: not read items.csv")
    with pytest.raises(ValueError, match=r"domain=domain, and no such column is in .*items\.csv; found \['item', 'title'"):
        sources.load(write(tmp_path, REVIEWS, CATALOGUE, columns=["domain=domain"]))
    with pytest.raises(ValueError, match=r"time=brand, and no such column is in .*interactions\.csv"):
        sources.load(write(tmp_path, "user,item\nu,1\n", CATALOGUE, columns=["time=brand"]))


@pytest.mark.parametrize("name", ["time", "date", "Datetime", " Timestamp"])
def test_a_column_that_is_plainly_the_time_is_taken_and_told(tmp_path, capsys, name):
    found = sources.load(write(tmp_path, f"user,item,{name}\nu,1,2021-03-05\nu,2,2021-03-04\n", CATALOGUE))
    assert found.events["time"].to_list() == [1_614_902_400_000, 1_614_816_000_000]
    said = f"the column {name!r} of interactions.csv, since it has no 'timestamp'"
    assert found.facts["time"].startswith(said)
    assert said in capsys.readouterr().out


def test_a_column_that_may_be_the_time_is_named(tmp_path, capsys):
    events = "user,item,created_at,watch\nu,1,5,8\nu,2,4,9\n"
    found = sources.load(write(tmp_path, events, CATALOGUE))
    assert not found.has_times
    assert 'data_columns=["time=created_at"]' in found.facts["time"]
    assert 'data_columns=["time=created_at"]' in capsys.readouterr().out
    assert sources.load(write(tmp_path, events, CATALOGUE, columns=["time=created_at"])).events["time"].to_list() == [
        5000,
        4000,
    ]
    with pytest.raises(ValueError, match=r"no column 'timestamp', and several that may be the time, \['time', 'date'\]"):
        sources.load(write(tmp_path, "user,item,time,date\nu,1,10:00,2021-03-05\n", CATALOGUE))
    for header in ("user,item,timestamp,date", "user,item,price"):
        row = "u,1,5,x\n" if "date" in header else "u,1,5\n"
        assert "time" not in sources.load(write(tmp_path, f"{header}\n{row}", CATALOGUE)).facts
        assert capsys.readouterr().out.endswith(f"table: columns left out: {header.split(',')[-1]} of interactions.csv\n")


def test_rows_with_too_few_cells_are_counted_and_strict_stops_at_them(tmp_path, capsys):
    short = "user,item,timestamp\nu,1,5\nu,2\nu,2,6\nu\n"
    data = write(tmp_path, short, "item,title,brand\n1,Tea,\n2,Milk\n")
    found = sources.load(data)
    assert found.events.rows() == [("u", "1", 5000), ("u", "2", 6000)]
    assert found.dropped == [("bad lines", 2, "interactions.csv: fewer cells than the 3 columns, first in line 3")]
    assert found.items["title"].to_list() == ["Tea"]
    assert found.facts["item_rows_dropped"] == "1 rows items.csv: fewer cells than the 3 columns, first in line 3"
    assert "left out 2 interactions (bad lines); 1 rows items.csv" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"data_strict is on.*2 interactions \(bad lines"):
        sources.load(write(tmp_path, short, strict=True))


def test_all_rows_of_a_file_that_spark_wrote_are_read(tmp_path):
    """20 of 20: a reader that takes quotes as doubled sees 16 here, some of them over several lines."""
    note = ['"say \\"hi"' if k in (6, 9) else "ok" for k in range(20)]
    events = "".join(f"u{k // 4},{k % 4},{1_600_000_000 + k},{note[k]}\n" for k in range(20))
    items = "item,title\n" + "".join(f'{k},"The \\"{k}\\""\n' for k in range(4))
    found = sources.load(write(tmp_path, "user,item,timestamp,note\n" + events, items, strict=True))
    assert found.events["user"].to_list() == [f"u{k // 4}" for k in range(20)]
    assert found.items["title"].to_list() == [f'The "{k}"' for k in range(4)]


def test_a_folder_in_a_files_place_is_told(tmp_path):
    (tmp_path / "interactions.csv").mkdir()
    with pytest.raises(ValueError, match=r"interactions\.csv is a folder, as Spark writes one"):
        sources.load(Data(source="table", path=str(tmp_path)))


# -- types of columns ---------------------------------------------------------------------------------------------------


PAIR = pl.DataFrame({"user": ["u", "u"], "item": ["1", "2"]})


@pytest.mark.parametrize(
    "ids",
    [
        pl.Series([b"1", b"2"]),
        pl.Series(["1", "2"], dtype=pl.Categorical),
        pl.Series(["1", "2"], dtype=pl.Enum(["1", "2"])),
        pl.Series([1, 2], dtype=pl.UInt64),
        pl.Series([1.0, 2.0]),
        pl.Series([decimal.Decimal("1.00"), decimal.Decimal("2.00")]),
        pl.Series([decimal.Decimal(1), decimal.Decimal(2)]),
    ],
    ids=lambda ids: str(ids.dtype)[:12],
)
def test_ids_of_any_type_that_can_be_one_are_the_same_ids(tmp_path, ids):
    found = sources.load(write(tmp_path, PAIR.with_columns(item=ids), PAIR.select("item", title=pl.lit("T"))))
    assert found.events["item"].to_list() == ["1", "2"] == found.items["source_id"].to_list()
    swapped = sources.load(write(tmp_path, PAIR, pl.DataFrame({"item": ids, "title": ["A", "B"]})))
    assert swapped.items["source_id"].to_list() == ["1", "2"]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "user",
            pl.Series([b"\xff", b"a"]),
            r"'user' of interactions\.parquet must hold ids.*; found bytes that are no UTF-8",
        ),
        (
            "user",
            pl.Series([["a"], ["b"]]),
            r"'user' of interactions\.parquet must hold ids.*; found the type List\(String\)",
        ),
        ("user", pl.Series([{"a": 1}, {"a": 2}]), r"'user' of interactions\.parquet must hold ids.*; found the type Struct"),
        (
            "item",
            pl.Series([datetime.timedelta(1)] * 2),
            r"'item' of interactions\.parquet must hold ids.*the type Duration",
        ),
        (
            "item",
            pl.Series([1.0, 2.0**60]),
            r"'item' of interactions\.parquet holds ids as floats, and 1152921504606846976 is too",
        ),
        ("item", pl.Series([1.0, float("inf")]), r"'item' of interactions\.parquet holds ids and .*not whole, such as inf"),
        ("item", pl.Series([decimal.Decimal("1.5")] * 2), r"'item' of interactions\.parquet .*not whole, such as 1\.5"),
        (
            "timestamp",
            pl.Series([float("inf"), 1.0]),
            r"'timestamp' of interactions\.parquet must hold .*1 of its 2 .*infinite",
        ),
        ("timestamp", pl.Series([datetime.timedelta(1)] * 2), r"'timestamp' of interactions\.parquet must hold .*Duration"),
        ("timestamp", pl.Series([[1], [2]]), r"'timestamp' of interactions\.parquet must hold .*the type List"),
        ("timestamp", pl.Series([{"a": 1}] * 2), r"'timestamp' of interactions\.parquet must hold .*the type Struct"),
        ("timestamp", pl.Series([b"\xff", b"1"]), r"'timestamp' of interactions\.parquet must hold .*no UTF-8"),
        ("title", pl.Series([["a"], ["b"]]), r"'title' of items\.parquet must hold text; found the type List\(String\)"),
        ("title", pl.Series([b"\xff", b"a"]), r"'title' of items\.parquet must hold text; found bytes that are no UTF-8"),
        (
            "title",
            pl.Series([datetime.date(2020, 1, 1)] * 2),
            r"'title' of items\.parquet must hold text; found the type Date",
        ),
        ("domain", pl.Series([["a"], ["b"]]), r"'domain' of items\.parquet must hold text; found the type List"),
    ],
)
def test_columns_that_cannot_be_read_are_named_with_file_and_type(tmp_path, column, values, message):
    tables_ = {"interactions": PAIR, "items": PAIR.select("item", title=pl.Series(["A", "B"]))}
    where = "items" if column in ("title", "domain") else "interactions"
    tables_[where] = tables_[where].with_columns(values.alias(column))
    with pytest.raises(ValueError, match=message) as caught:
        sources.load(write(tmp_path, *tables_.values()))
    assert "\n" not in str(caught.value)


def test_titles_and_further_columns_that_can_be_text_are(tmp_path):
    items = pl.DataFrame(
        {
            "item": [1, 2],
            "title": pl.Series([1984, 2001]),
            "brand": pl.Series(["X", None], dtype=pl.Categorical),
            "size": pl.Series(["S", "M"], dtype=pl.Enum(["S", "M"])),
            "tags": [["a"], ["b"]],
            "domain": ["", None],
            "price": [1.5, 2.0],
        }
    )
    found = sources.load(write(tmp_path, PAIR.with_columns(timestamp=pl.Series([b"5", b"6"])), items, domain="shop"))
    assert found.items.rows() == [("1", "1984", "shop", "X", "S", 1.5), ("2", "2001", "shop", None, "M", 2.0)]
    assert found.facts["columns_left_out"] == "tags (List(String)) of items.parquet"
    assert found.events["time"].to_list() == [5000, 6000]
    floats = tables.from_frames(PAIR, items.with_columns(title=pl.Series([7.0, 7.5])), time=None)
    assert floats.items["title"].to_list() == ["7", "7.5"]


def test_an_items_first_title_counts_wherever_it_stands(tmp_path):
    items = "item,title,brand\n1,,first\n2,B,\n1, ,second\n1,A,third\n1,other,fourth\n3,,\n3,,again\n"
    found = sources.load(write(tmp_path, "user,item\nu,1\n", items))
    assert found.items.drop("domain").rows() == [("1", "A", "third"), ("2", "B", None), ("3", None, None)]
    assert found.facts["item_rows_dropped"] == "4 rows with no id or an id seen before"
    alone = tables.from_frames(
        pl.DataFrame({"user": ["u"] * 4, "item": [7, 8, 7, None], "title": [None, "B", "A", "C"]}), time=None
    )
    assert alone.items.select("source_id", "title").rows() == [("7", "A"), ("8", "B")]


def test_of_two_files_for_one_table_the_one_that_is_not_read_is_told(tmp_path, capsys):
    EVENTS.write_parquet(tmp_path / "interactions.parquet")
    settings = write(tmp_path, "user,item,timestamp\nz,01,9\n", "item,title\n01,Tea\n02,Milk\n")
    found = sources.load(settings)
    assert len(found.events) == 3
    assert found.facts["not_read"] == "interactions.csv: interactions.parquet beside it is"
    assert "not read interactions.csv" in capsys.readouterr().out
    chosen = sources.load(Data(source="table", path=str(tmp_path / "interactions.csv")))  # named, so nothing is passed over
    assert (len(chosen.events), chosen.facts.get("not_read")) == (1, None)


def test_user_and_item_are_two_columns(tmp_path):
    settings = write(tmp_path, "user,item\na,01\n", "item,title\n01,Tea\n", columns=["user=item"])
    with pytest.raises(SettingsError, match="the column 'item' for the user and the item"):
        sources.load(settings)


@pytest.mark.parametrize("place", ["interactions.csv", ""])
def test_a_pipe_is_not_waited_at(tmp_path, place):
    os.mkfifo(tmp_path / "interactions.csv")
    (tmp_path / "items.csv").write_text("item,title\n01,Tea\n")
    with pytest.raises(ValueError, match=r"interactions\.csv is a named pipe where a file is expected"):
        sources.load(Data(source="table", path=str(tmp_path / place)))


@pytest.mark.parametrize("path", ["~no_such_user_here/x", "x" * 5000])
def test_a_path_that_no_folder_has_is_refused(path):
    for source in ("table", "recbole", "goodreads"):
        with pytest.raises(ValueError, match=r"a home that nobody has|File name too long|does not exist") as caught:
            sources.load(Data(source=source, path=path))
        assert len(str(caught.value)) < 1000


# -- a column of one file, numbers of items, and what is left out -------------------------------------------------------


def test_a_role_of_one_file_alone(tmp_path):
    events, items = "user,sku,timestamp\nu,1,5\nu,2,6\n", "product_id,name\n1,Tea\n2,Milk\n"
    named = ["interactions.item=sku", "items.item=product_id", "items.title=name"]
    found = sources.load(write(tmp_path, events, items, columns=named))
    assert found.events["item"].to_list() == ["1", "2"]
    assert found.items.select("source_id", "title").rows() == [("1", "Tea"), ("2", "Milk")]
    both = sources.load(write(tmp_path, events, items.replace("product_id", "sku"), columns=["item=sku", "title=name"]))
    assert both.items.equals(found.items)
    more = sources.load(write(tmp_path, events, items, columns=["item=sku", "items.item=product_id", "title=name"]))
    assert more.items.equals(found.items)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            ["item=sku"],
            r'items\.csv must have .*\[\'sku\'\] missing.* as in \["item=item"\], or of this file alone \["items.item=item"\]',
        ),
        ([], r'interactions\.csv must have .*missing.*data_columns, as in \["item=sku"\], .* \["interactions.item=sku"\]'),
        (
            ["item=sku", "items.item=ean"],
            r"names items.item=ean, and no such column is in .*items\.csv; found \['item', 'title'",
        ),
        (["interactions.item=sku", "interactions.domain=sku"], r"domains are those of .*items\.csv: take items\.domain"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_an_example(tmp_path, columns, says):
    with pytest.raises(ValueError, match=says) as found:
        sources.load(write(tmp_path, "user,sku\nu,1\n", CATALOGUE, columns=columns))
    assert len(str(found.value).splitlines()) == 1


def test_a_role_of_a_file_that_has_none_is_refused():
    for wrong in ("items.user=a", "items.time=a", "users.item=a", "items.=a"):
        with pytest.raises(SettingsError, match=r"role=name .* interactions\.item=sku and items\.item=product_id"):
            Data(columns=[wrong])
    with pytest.raises(SettingsError, match=r"gives the role 'items\.item' to two columns"):
        Data.from_parameters({"data_columns": ["items.item=a", "items.item=b"]})
    assert Data(columns=["items.title=a=b"]).columns == ["items.title=a=b"]


def test_titles_of_the_interactions_by_name(tmp_path):
    found = sources.load(write(tmp_path, REVIEWS, CATALOGUE, columns=["interactions.title=title"]))
    assert found.items["title"].to_list() == ["Five Stars", "Meh"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_of_items_stay_numbers(tmp_path, kind, capsys):
    items = pl.DataFrame(
        {
            "item": ["01", "02", "03"],
            "title": ["7", "8", "9"],
            "price": [1.5, None, 12.0],
            "year": [1990, 2001, None],
            "brand": ["3", "4", "5"],
            "code": ["007", "1", "2"],
            "ean": ["4006381333931000"] * 3,
            "mixed": ["1", "n/a", ""],
        }
    )
    for name, frame in (("interactions", EVENTS), ("items", items)):
        getattr(frame, f"write_{kind}")(tmp_path / f"{name}.{kind}")
    found = sources.load(Data(source="table", path=str(tmp_path))).items
    assert found["price"].to_list() == [1.5, None, 12.0]
    assert (found["price"].dtype, found["year"].dtype) == (pl.Float64, pl.Int64)
    assert [c for c, dtype in found.schema.items() if dtype == pl.String] == [
        *("source_id", "title", "domain", "brand", "code", "ean", "mixed")
    ]
    assert found["code"].to_list() == ["007", "1", "2"]
    assert "left out" not in capsys.readouterr().out


def test_every_column_left_out_is_told(tmp_path, capsys):
    events = EVENTS.with_columns(rating=pl.lit(5), note=pl.lit("x"))
    day = pl.Series([datetime.date(2020, 1, 1)] * 2)
    items = ITEMS.with_columns(
        tags=pl.Series([["a"], ["b"]]), released=day, cluster=pl.lit("c"), used=pl.Series([True, None])
    )
    found = sources.load(write(tmp_path, events, items))
    said = "rating, note of interactions.parquet; tags (List(String)), released (Date), cluster (a name that the kit gives itself) "
    assert found.facts["columns_left_out"] == f"{said}of items.parquet"
    assert f"table: columns left out: {said}of items.parquet" in capsys.readouterr().out
    assert found.items.columns == ["source_id", "title", "domain", "brand", "used"]
    assert found.items["used"].to_list() == ["true", None]


def test_a_corpus_keeps_numbers_and_mixes_with_one_that_has_them_as_text(tmp_path):
    from llm2rec_kit.corpus import Corpus, mix
    from llm2rec_kit.data import cleaning

    events = pl.DataFrame({"user": [f"u{k // 4}" for k in range(24)], "item": [str(k % 4) for k in range(24)]})
    items = pl.DataFrame({"item": ["0", "1", "2", "3"], "title": list("ABCD"), "year": [1990, 1991, None, 1993]})
    corpora = []
    for domain, cast in (("new", pl.Int64), ("old", pl.String)):
        data = Data(source="table", domain=domain, min_interactions=1, text="{title} ({year})")
        found = tables.from_frames(events, items.with_columns(pl.col("year").cast(cast)), time=None, domain=domain)
        corpora.append(cleaning.build_corpus(found, data))
        corpora[-1].save(tmp_path / domain)
    loaded = [Corpus.load(tmp_path / domain) for domain in ("new", "old")]
    assert loaded[0].items["year"].to_list() == [1990, 1991, None, 1993]
    assert loaded[0].titles == loaded[1].titles == ["A (1990)", "B (1991)", "C", "D (1993)"]
    assert mix(loaded).items["year"].to_list() == ["1990", "1991", None, "1993"] * 2


def test_fields_of_the_text_stay_as_they_are_written_and_the_folder_here_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "interactions.csv").write_text("user,item\nu,a\nu,b\n")
    (tmp_path / "shop" / "items.csv").write_text("item,title,price,year\na,Tea,0.50,1999\nb,Mug,3.00,\n")
    monkeypatch.chdir(tmp_path / "shop")
    found = sources.load(Data(source="table", path=".", text="{title}, {price}"))
    assert found.domains_in == ["shop"]
    assert found.items["price"].to_list() == ["0.50", "3.00"]
    assert found.items["year"].to_list() == [1999, None]


def test_what_differs_between_the_events_of_an_item_is_none_of_its_attributes(capsys):
    events = pl.DataFrame(
        {
            "user": ["u", "v", "u", "v"],
            "item": ["1", "1", "2", "2"],
            "title": ["Tea", "Tea", "Milk", "Milk"],
            "rating": [5, 1, 3, 3],
            "review": ["good", None, "bad", "worse"],
            "brand": ["Oak", " ", "Elm", "Elm"],
            "price": [2.5, float("nan"), 1.0, 1.0],
        }
    )
    found = tables.from_frames(events, time=None)
    assert found.items.columns == ["source_id", "title", "domain", "brand", "price"]
    said = "rating (differs between the rows of 1 of 2 items), review (differs between the rows of 1 of 2 items)"
    assert found.facts["columns_left_out"] == f"{said} of the events frame"
    assert f"columns left out: {said}" in capsys.readouterr().out
    items = events.unique("item").select("item", "title", "rating")
    assert tables.from_frames(events, items, time=None).items.columns == ["source_id", "title", "domain", "rating"]
