"""Times: every accepted form is read back exactly, and what is mixed or has two readings is refused by name and counts."""

from __future__ import annotations

import datetime as dt
import re

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.data.times import as_milliseconds
from llm2rec_kit.settings import Data

START = dt.datetime(1970, 1, 1)
MILLISECOND = dt.timedelta(milliseconds=1)


def since_1970(moment: dt.datetime) -> int:
    return (moment - START) // MILLISECOND


def read(values: list, dates: str = "iso", kind: pl.DataType | None = None) -> list[int | None]:
    return as_milliseconds(pl.Series(values, dtype=kind, strict=False), "the column 'when'", dates).to_list()


def with_zone(moment: dt.datetime) -> str:
    zone = dt.timezone(dt.timedelta(minutes=moment.microsecond % 49 * 30 - 720))
    return moment.replace(tzinfo=dt.UTC).astimezone(zone).isoformat(timespec="milliseconds")


DAY, SECOND, EXACT = "day", "second", "millisecond"
FORMS = {  # name: the finest that it can say, how a moment is written in it, dates, type of the column
    "seconds": (SECOND, lambda m: since_1970(m) // 1000, "iso", pl.Int64),
    "milliseconds": (EXACT, since_1970, "iso", pl.Int64),
    "microseconds": (EXACT, lambda m: since_1970(m) * 1000, "iso", pl.Int64),
    "nanoseconds": (EXACT, lambda m: since_1970(m) * 10**6, "iso", pl.Int64),
    "seconds with a point": (EXACT, lambda m: since_1970(m) / 1000, "iso", pl.Float64),
    "milliseconds as text": (EXACT, lambda m: str(since_1970(m)), "iso", pl.String),
    "seconds as text": (EXACT, lambda m: f"{since_1970(m) // 1000}.{since_1970(m) % 1000:03}", "iso", pl.String),
    "YYYYMMDD": (DAY, lambda m: int(m.strftime("%Y%m%d")), "iso", pl.Int32),
    "YYYYMMDD as float": (DAY, lambda m: float(m.strftime("%Y%m%d")), "iso", pl.Float64),
    "YYYYMMDD as text": (DAY, lambda m: m.strftime("%Y%m%d"), "iso", pl.String),
    "YYYYMMDDHHMMSS": (SECOND, lambda m: m.strftime("%Y%m%d%H%M%S"), "iso", pl.String),
    "date": (DAY, lambda m: m.date(), "iso", pl.Date),
    "datetime": (EXACT, lambda m: m, "iso", pl.Datetime("us")),
    "datetime with a zone": (EXACT, lambda m: m.replace(tzinfo=dt.UTC), "iso", pl.Datetime("ns", "Asia/Tokyo")),
    "ISO date": (DAY, lambda m: m.strftime("%Y-%m-%d"), "iso", pl.String),
    "ISO with slashes": (SECOND, lambda m: m.strftime("%Y/%m/%d %H:%M:%S"), "iso", pl.String),
    "ISO": (EXACT, lambda m: m.isoformat(sep="T", timespec="milliseconds"), "iso", pl.String),
    "ISO with zones": (EXACT, with_zone, "iso", pl.String),
    "day first": (SECOND, lambda m: m.strftime("%d/%m/%Y %H:%M:%S"), "day_first", pl.String),
    "month first": (SECOND, lambda m: f"{m.month}/{m.day}/{m:%Y %I:%M:%S %p}", "month_first", pl.String),
}
CUT = {DAY: {"hour": 0, "minute": 0, "second": 0, "microsecond": 0}, SECOND: {"microsecond": 0}}
moments = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2099, 12, 30)).map(
    lambda m: m.replace(microsecond=m.microsecond // 1000 * 1000)
)


@pytest.mark.parametrize("form", FORMS)
@given(st.lists(st.tuples(moments, st.booleans()), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_moments_in_one_form_are_read_back_exactly(form, found):
    finest, written, dates, kind = FORMS[form]
    found = [(m.replace(**CUT.get(finest, {})), missing) for m, missing in found]
    # Seconds of the year 2033 may have the digits of hours, YYYYMMDDHH, which are refused.
    assume(form != "seconds" or not all(re.match("(19|20)", str(written(m))) for m, _ in found))
    values = [None if missing else written(m) for m, missing in found]
    assert read(values, dates, kind) == [None if missing else since_1970(m) for m, missing in found]


NUMBERS = ["seconds", "milliseconds", "microseconds", "nanoseconds", "YYYYMMDD"]
UNAMBIGUOUS = [form for form, (_, _, dates, _) in FORMS.items() if dates == "iso"]


@given(
    st.sampled_from([NUMBERS, UNAMBIGUOUS]).flatmap(
        lambda forms: st.lists(st.tuples(st.sampled_from(forms), moments), max_size=8)
    )
)
@settings(max_examples=200, deadline=None)
def test_of_a_mixture_each_value_is_right_or_all_is_refused(found):
    found = [(form, m.replace(**CUT.get(FORMS[form][0], {}))) for form, m in found]
    values = [str(FORMS[form][1](m)) for form, m in found]
    refused = ""
    try:
        times = read(values, kind=pl.String)
    except ValueError as error:
        refused = str(error)
    assert "the column 'when' must hold" in refused if refused else times == [since_1970(m) for _, m in found]


@given(st.lists(moments.map(dt.datetime.date), min_size=1, max_size=6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_dates_with_the_year_last_are_read_where_one_order_is_proven_and_refused_elsewhere(days, month_first):
    """The oracle tries both orders with the standard library."""
    written = [d.strftime("%m/%d/%Y" if month_first else "%d/%m/%Y") for d in days]
    readings = []
    for order in ("%d/%m/%Y", "%m/%d/%Y"):
        try:
            readings.append([since_1970(dt.datetime.strptime(w, order)) for w in written])
        except ValueError:
            continue
    if len(readings) == 1:
        assert read(written) == readings[0]
        return
    with pytest.raises(
        ValueError, match=r"all its dates can be read in two ways, .* Set data_dates to day_first or month_first"
    ):
        read(written)
    assert read(written, "day_first") == readings[0]
    assert read(written, "month_first") == readings[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([20210311, 1_600_000_000, 1_600_000_001], r"1 of its 3 values are dates as numbers.*2 are not.*'1600000000'"),
        (["20210311", "20210230", "20210312"], r"2 of its 3 values are dates.*'20210311'.*1 are not.*'20210230'"),
        ([2021, 2020, None], r"all its 2 values look like years, for example \['2021', '2020'\]"),
        ([202101, 202112], r"look like months \(YYYYMM\)"),
        ([2021031112, 2021031113], r"dates without a full time"),
        ([25122021, 1032021, 0], r"dates as numbers with the year last, for example \['25122021', '1032021'\]"),
        (["03042021", "04132021"], r"dates as numbers with the year last"),
        (["2021-03-04", "1600000000", "NULL"], r"it has 1 numbers.*'1600000000'.*1 other values.*'2021-03-04'"),
        (["2021-03-04", "2021-03-05", "soon", "NULL", "x" * 999], r"2 of its 4 values are neither.*\['soon', 'x{40}'\]"),
        (["2021-03-04", "2021-03-05", "05/03/2021"], r"1 of its 3 values have the year at the other end.*05/03/2021"),
        (["2021-03-04T05:06Z", "2021-03-04 05:06"], r"1 of its 2 values have no time zone.*'2021-03-04 05:06'"),
        (["2021-02-30", "2021-02-28"], r"1 of its 2 values are no dates, read year first.*'2021-02-30'"),
        (["12/25/2021", "25/12/2021"], r"mixes dates, 1 with the day first.*'25/12/2021'.*1 with the month first"),
        (["03/04/21"], r"1 of its 1 values are neither"),
        ([1.0, float("inf"), float("-inf")], r"2 of its 3 values are infinite"),
        (["1600000000", "Infinity"], r"1 of its 2 values are infinite"),
        ([dt.timedelta(1)], r"found the type Duration"),
        ([dt.time(1)], r"found the type Time"),
        ([True], r"found the type Boolean"),
        ([b"x"], r"found the type Binary"),
        ([[1]], r"found the type List"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_values_at_fault(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(values)
    assert len(str(caught.value)) < 500


def test_dates_that_contradict_the_setting_are_named():
    with pytest.raises(
        ValueError, match=r"1 of its 2 values are no dates, read month first, found for example \['25/12/2021'\]"
    ):
        read(["25/12/2021", "03/04/2021"], "month_first")


def test_numbers_that_count_something_stay_seconds():
    """Row numbers and the like: some of them have the digits of a date, most do not."""
    numbers = [0, 1, 2021, 202_103, *range(10_000_000, 25_000_000, 10_007), 20_210_311]
    assert read(numbers) == [n * 1000 for n in numbers]
    assert read([25_122_021, 25_132_021, 1]) == [25_122_021_000, 25_132_021_000, 1000]


def test_numbers_out_of_all_bounds_stay_so():
    assert read([1e300, -1e300, -5.0]) == [9 * 10**12, -9 * 10**12, -5000]
    assert read([0, 20210311]) == [0, since_1970(dt.datetime(2021, 3, 11))]


@pytest.mark.parametrize("absent", ["NULL", "", " nan ", "NaT", "None", "<NA>", "\\N", None])
def test_a_row_without_a_time_is_left_out_and_counted_and_a_column_of_them_is_none(tmp_path, absent):
    rows = [(u, i, f"2021-03-{n + 1:02}") for n, (u, i) in enumerate((u, i) for u in "uv" for i in "abc")]
    frame = pl.DataFrame([*rows, ("u", "d", absent)], schema=["user", "item", "timestamp"], orient="row")
    frame.write_csv(tmp_path / "interactions.csv")
    pl.DataFrame({"item": list("abcd"), "title": list("ABCD")}).write_csv(tmp_path / "items.csv")
    data = Data(source="table", path=str(tmp_path), min_interactions=0)
    corpus = cleaning.build_corpus(sources.load(data), data)
    steps = {s["step"]: s["rows_dropped"] for s in corpus.facts["cleaning"]}
    assert (steps["no time"], len(corpus.sequence)) == (1, 6)
    frame.with_columns(timestamp=pl.lit(absent)).write_csv(tmp_path / "interactions.csv")
    assert not sources.load(data).has_times


def test_the_order_of_dates_is_a_setting_and_changes_no_corpus_that_was_made_before_it(tmp_path):
    frame = pl.DataFrame({"user": list("uu"), "item": list("ab"), "timestamp": ["03/04/2021", "04/03/2021"]})
    frame.write_csv(tmp_path / "interactions.csv")
    pl.DataFrame({"item": list("ab"), "title": list("AB")}).write_csv(tmp_path / "items.csv")
    with pytest.raises(ValueError, match=r"the column 'timestamp' of interactions\.csv must hold .*Set data_dates"):
        sources.load(Data(source="table", path=str(tmp_path)))
    for dates, first in (("day_first", dt.datetime(2021, 4, 3)), ("month_first", dt.datetime(2021, 3, 4))):
        data = Data(source="table", path=str(tmp_path), dates=dates)
        assert sources.load(data).events["time"][0] == since_1970(first)
        assert data.recipe == data.as_dict()
    assert Data().recipe == {k: v for k, v in Data().as_dict().items() if k != "dates"}


digits = st.text("0123456789-/.: TZ+apmAPM", max_size=22)


@given(st.lists(st.text(max_size=12) | digits | st.none(), max_size=6), st.sampled_from(["iso", "day_first", "month_first"]))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_in_one_short_paragraph(values, dates):
    found, refused = values, ""
    try:
        found = read(values, dates, pl.String)
    except ValueError as error:
        refused = str(error)
    assert len(found) == len(values)
    assert len(refused) < 700


@given(st.lists(st.floats() | st.integers(-(2**63), 2**63 - 1).map(float) | st.none(), max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_numbers_are_read_or_refused(values):
    try:
        found = read(values, kind=pl.Float64)
    except ValueError:
        return
    assert len(found) == len(values)
