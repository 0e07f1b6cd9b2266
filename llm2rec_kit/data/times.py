"""Times: a column of a file as milliseconds since 1970, or a refusal that names what is in it.

Nothing is guessed for a column from a few of its values. A number tells by its own size whether it counts seconds,
milliseconds, microseconds or nanoseconds: of any two units, the years 1973 to 2100 in one are no years before 5000 in the
other. A date is taken where it can be read in one way only: 03/04/2021 cannot, unless `data_dates` says how. What a column
mixes (numbers and dates, two orders, some with a time zone) is refused: some of it would be wrong without a word.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import polars as pl

from llm2rec_kit.corpus import Corpus

FIRST_YEAR, LAST_YEAR = 1970, 2100
LATEST = 4_102_444_800_000  # milliseconds: the year 2100, later times are slips of the pen
# A number below counts seconds, milliseconds, microseconds; nanoseconds above.
LIMITS = ((1e11, 1000), (1e14, 1), (1e17, 1e-3))
ABSENT = ("", "null", "nan", "nat", "none", "na", "n/a", "<na>", "\\n", "-")  # texts for no value, in any case
EXPECTED = "must hold seconds or milliseconds since 1970, or dates such as 2021-03-04 or 2021-03-04T05:06:07"
STAMPS = {4: "0101000000", 6: "01000000", 8: "000000", 10: "0000", 12: "00", 14: ""}  # digits: what completes YYYYMMDDHHMMSS
DATES = {8, 14}  # digits of a stamp that no count of seconds or milliseconds between 1971 and 2500 has
DATE = (
    r"^(?P<a>\d{1,4})[-/.](?P<b>\d{1,2})[-/.](?P<c>\d{1,4})"
    r"(?:[Tt ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d{1,9})?))?)?"
    r"\s*(?P<half>[AaPp][Mm])?\s*(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
)
ODD = ("before 1990", "in the future")  # where no event of today's sources lies: a wrong unit, or a wrong date
ORDERS = {"day_first": ("b", "a"), "month_first": ("a", "b")}  # the parts that are month and day where the year comes last


def as_milliseconds(times: pl.Series, what: str, dates: str = "iso") -> pl.Series:
    """Convert times to Int64 milliseconds since 1970; missing ones (null, NaN, and as text NULL, NaT, None, ...) to null.

    Takes dates and datetimes (with a time zone: the moment), numbers (each by its size: seconds to nanoseconds; YYYYMMDD and
    YYYYMMDDHHMMSS where all are such dates of 1970 to 2100) and text that holds numbers or ISO dates, year first. Dates in
    text whose year comes last are taken as `dates` says, "day_first" or "month_first"; with "iso" only where some value,
    such as 25/12/2021, can be read in one order alone, and all can in that. Raises ValueError, naming `what`, with counts
    and examples of the values at fault: other types, infinities, years or months as numbers, and mixtures.
    """
    if isinstance(times.dtype, pl.Categorical | pl.Enum):
        times = times.cast(pl.String)
    if times.dtype in (pl.Date, pl.Datetime):
        return times.dt.epoch("ms")
    if times.dtype == pl.String:
        return _of_texts(times, what, dates)
    if times.dtype.is_numeric() or times.dtype == pl.Null:
        return _of_numbers(times.cast(pl.Float64), what)
    raise ValueError(f"{what} {EXPECTED}; found the type {times.dtype}.")


def convert_by_size(numbers: pl.Expr) -> pl.Expr:
    """Convert numbers since 1970, each by the unit that its size tells, to milliseconds (Int64); odd ones stay so."""
    milliseconds, size = numbers.clip(-9e18, 9e18) * 1e-6, numbers.abs()
    for limit, factor in reversed(LIMITS):
        milliseconds = pl.when(size < limit).then(numbers * factor).otherwise(milliseconds)
    return milliseconds.round().cast(pl.Int64)


def describe_span(corpus: Corpus, now: float | None = None) -> pl.DataFrame:
    """Tell when the events of each domain lie, and how many of them where none should: before 1990, and after `now` (s).

    One row a domain (domain, events, earliest, latest, and a column for each of the two; UTC); null without times.
    """
    limits = datetime(1990, 1, 1), datetime.fromtimestamp(time.time() if now is None else now, UTC).replace(tzinfo=None)
    when = pl.col("time").cast(pl.Datetime("ms"))
    odd = dict(zip(ODD, (when < limits[0], when > limits[1]), strict=True))
    owners = corpus.users["domain"].gather(np.repeat(np.arange(corpus.n_users), np.diff(corpus.offsets)))
    frame = pl.DataFrame({"domain": owners, "time": corpus.times}, schema_overrides={"time": pl.Int64})
    counts = {name: pl.when(when.count() > 0).then(found.sum()) for name, found in odd.items()}
    by_domain = frame.group_by("domain", maintain_order=True)
    return by_domain.agg(events=pl.len(), earliest=when.min(), latest=when.max(), **counts)


def _of_numbers(numbers: pl.Series, what: str) -> pl.Series:
    numbers = numbers.fill_nan(None)
    if endless := int(numbers.is_infinite().sum()):
        raise ValueError(f"{what} {EXPECTED}; {endless} of its {len(numbers)} values are infinite.")
    _refuse_year_last(numbers, what)
    for digits in STAMPS:
        if (found := _stamps(numbers, digits, what)) is not None:
            return found
    return pl.select(convert_by_size(pl.lit(numbers))).to_series()


def _refuse_year_last(numbers: pl.Series, what: str) -> None:
    """Raise ValueError where all numbers are dates such as 25122021, whose year comes last; as seconds they lie in 1970."""
    found = numbers.filter(numbers != 0).unique(maintain_order=True)
    if len(found) < 2 or not (found.is_between(1_01_1970, 31_12_2100) & (found == found.floor())).all():
        return
    first, second, year = (found // 1e6), (found // 1e4) % 100, found % 1e4
    days = first.is_between(1, 31) & second.is_between(1, 31) & ((first <= 12) | (second <= 12))
    if (days & year.is_between(FIRST_YEAR, LAST_YEAR)).all():
        raise ValueError(
            f"{what} {EXPECTED}; all its values look like dates as numbers with the year last, for example {_shown(found)}. Write "
            "the year first, as 20211225."
        )


def _stamps(numbers: pl.Series, digits: int, what: str) -> pl.Series | None:
    """Times of numbers such as 20210311, a date of so many digits; None where they are none. Zeros, no times, stay so."""
    scale = 10.0 ** (digits - 4)
    near = numbers.is_between(FIRST_YEAR * scale, (LAST_YEAR + 1) * scale, closed="left") & (numbers == numbers.floor())
    if not near.any():
        return None
    text = numbers.filter(near).cast(pl.Int64).cast(pl.String)
    when = (text + STAMPS[digits]).str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="ms").dt.epoch("ms")
    count, good = int((numbers != 0).sum()), len(when) - when.null_count()
    if digits not in DATES:
        # A lone second of the year 2033 has the digits of an hour, YYYYMMDDHH; two are no chance any more.
        if good == count and (digits != 10 or when.n_unique() > 1):
            kind = {4: "years", 6: "months (YYYYMM)"}.get(digits, "dates without a full time")
            raise ValueError(
                f"{what} {EXPECTED}; all its {count} values look like {kind}, for example {_shown(text)}: too coarse, or not "
                "to be told from seconds. Write them as dates."
            )
        return None
    if near.sum() * 2 < numbers.is_between(scale * 1000, scale * 10_000, closed="left").sum():
        return None  # most numbers of so many digits have no year in front: they count something
    if good < count:
        others = numbers.filter((numbers != 0) & ~near)
        others = others if len(others) else text.filter(when.is_null())
        raise ValueError(
            f"{what} {EXPECTED}; {good} of its {count} values are dates as numbers, such as {_shown(text.filter(when.is_not_null()), 1)}, "
            f"and {count - good} are not, for example {_shown(others)}. Write all in one way."
        )
    return numbers.scatter(near.arg_true(), when.cast(pl.Float64)).cast(pl.Int64)


def _of_texts(times: pl.Series, what: str, dates: str) -> pl.Series:
    texts = times.str.strip_chars()
    texts = texts.set(texts.str.to_lowercase().is_in(ABSENT), None)
    numbers = texts.cast(pl.Float64, strict=False)
    counted = len(texts) - numbers.null_count()
    if counted == len(texts) - texts.null_count():
        return _of_numbers(numbers, what)
    if counted:
        worded = texts.filter(numbers.is_null() & texts.is_not_null())
        raise ValueError(
            f"{what} {EXPECTED}; it has {counted} numbers, for example {_shown(texts.filter(numbers.is_not_null()))}, and "
            f"{len(worded)} other values, for example {_shown(worded)}. Write all in one way."
        )
    return _of_dates(texts, what, dates)


def _of_dates(texts: pl.Series, what: str, dates: str) -> pl.Series:
    parts = texts.str.extract_groups(DATE).struct.unnest()
    wide = parts.select(first=pl.col("a").str.len_chars(), last=pl.col("c").str.len_chars())
    year_last = (wide["last"] == 4) & (wide["first"] <= 2)
    year_first = (wide["first"] == 4) & (wide["last"] <= 2)
    unread = texts.is_not_null() & ~(year_first | year_last).fill_null(False)
    _refuse(texts, unread, what, "are neither")
    if year_first.any() and year_last.any():
        fewer = year_first if year_first.sum() < year_last.sum() else year_last
        _refuse(texts, fewer, what, "have the year at the other end than the rest")
    zoned = parts["zone"].is_not_null()
    if zoned.any() and zoned.sum() < len(texts) - texts.null_count():
        _refuse(texts, ~zoned & texts.is_not_null(), what, "have no time zone while others have one")
    month, day = ("b", "c") if year_first.any() else ORDERS[_order(parts, texts, what, dates)]
    when = _moments(parts, "a" if year_first.any() else "c", month, day)
    order = "year first" if year_first.any() else "month first" if month == "a" else "day first"
    _refuse(texts, when.is_null() & texts.is_not_null(), what, f"are no dates, read {order}")
    return when


def _order(parts: pl.DataFrame, texts: pl.Series, what: str, dates: str) -> str:
    """The order of dates with the year last: as `dates` says, else as those prove that can be read in one order alone."""
    if dates != "iso":
        return dates
    above = {order: parts[day].cast(pl.Int64) > 12 for order, (_, day) in ORDERS.items()}
    proof = {order: texts.filter(days) for order, days in above.items()}
    proven = [order for order in ORDERS if len(proof[order])]
    if len(proven) == 1:
        return proven[0]
    if proven:
        found = " and ".join(
            f"{len(proof[o])} with the {o.split('_')[0]} first, such as {_shown(proof[o], 1)}" for o in proven
        )
        raise ValueError(f"{what} {EXPECTED}; it mixes dates, {found}. Write all in one way, year first.")
    raise ValueError(
        f"{what} {EXPECTED}; all its dates can be read in two ways, for example {_shown(texts.drop_nulls())}. Set data_dates to "
        "day_first or month_first, or write them year first."
    )


def _moments(parts: pl.DataFrame, year: str, month: str, day: str) -> pl.Series:
    """Int64 milliseconds of the dates in `parts`, null where there is no such date or time."""
    half, zone, hour = pl.col("half").str.to_lowercase(), pl.col("zone"), pl.col("hour").cast(pl.Int64)
    by_clock = pl.when(hour.is_between(1, 12)).then(hour % 12 + 12 * (half == "pm"))
    hour = pl.when(half.is_not_null()).then(by_clock).otherwise(hour.fill_null(0))
    figures = [pl.col(year), *(pl.col(name).str.zfill(2) for name in (month, day)), hour.cast(pl.String).str.zfill(2)]
    second = pl.col("second").str.replace(",", ".", literal=True).fill_null("00")
    text = pl.format("{}-{}-{} {}:{}:{}", *figures, pl.col("minute").fill_null("00"), second)
    away = zone.str.slice(1, 2).cast(pl.Int64, strict=False) * 60
    away += zone.str.extract(r"\d{2}:?(\d{2})$").cast(pl.Int64).fill_null(0)
    away = pl.when(zone.str.starts_with("-")).then(-away).otherwise(away).fill_null(0)
    moment = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="ms").dt.epoch("ms")
    return parts.select(moment - away * 60_000).to_series()


def _refuse(texts: pl.Series, bad: pl.Series, what: str, why: str) -> None:
    if found := int(bad.sum()):
        raise ValueError(
            f"{what} {EXPECTED}; {found} of its {len(texts) - texts.null_count()} values {why}, found for example "
            f"{_shown(texts.filter(bad))}."
        )


def _shown(values: pl.Series, most: int = 3) -> list[str]:
    """The first few distinct values, shortened, for an error."""
    plain = values.unique(maintain_order=True).head(most)
    return [str(int(v) if isinstance(v, float) and v.is_integer() else v)[:40] for v in plain]
