"""Tables: two files or two frames of anyone's own data."""

from __future__ import annotations

import datetime

import polars as pl
import pytest

from llm2rec_kit.data import sources
from llm2rec_kit.data.sources import as_milliseconds, tables
from llm2rec_kit.settings import Data, SettingsError

EVENTS = pl.DataFrame(
    {"user": ["007", "007", "b"], "item": ["01", "02", "01"], "timestamp": [1_600_000_000, 1_600_000_001, 5]}
)
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
    class Column(list):
        def tolist(self):
            return list(self)

    class Frame(dict):
        columns = property(lambda self: list(self))

    found = tables.from_frames(
        Frame(user=Column([1, 1]), item=Column([5, 6])),
        Frame(item=Column([5, 6]), title=Column(["Tea", float("nan")])),
        time=None,
    )
    assert found.events.rows() == [("1", "5"), ("1", "6")]
    assert found.items["title"].to_list() == ["Tea", None]


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
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
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
    with pytest.raises(ValueError, match=r"'item' holds ids and has numbers that are not whole"):
        tables.from_frames(pl.DataFrame({"user": [1], "item": [5.5]}), ITEMS, time=None)
    with pytest.raises(ValueError, match=r"'item' must hold ids, text or whole numbers; found the type List"):
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
        ({"interactions.csv": b""}, r"interactions\.csv cannot be read as csv: empty"),
        ({"interactions.csv": b"user,item\na,b,c,d\n"}, r"interactions\.csv cannot be read as csv: found more fields"),
        ({"interactions.csv": b"user,item\n\xff,b\n"}, r"interactions\.csv cannot be read as csv"),
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
