"""Frames: columns of anyone's data frames as the text that ids and titles are, or a refusal that names the column."""

from __future__ import annotations

from typing import Any

import polars as pl

from llm2rec_kit.data.sources import mend_surrogates

EXACT = 2**53  # whole numbers up to here have a float of their own


def as_polars(frame: Any) -> pl.DataFrame:
    """Convert a pandas frame to polars, NaN, NaT and NA to null, without pandas or pyarrow; mixed columns become Object."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if not hasattr(frame, "columns"):
        raise ValueError(f"a polars or pandas DataFrame is expected; found {type(frame).__name__}.")
    names = [str(c) for c in frame.columns]
    if twice := sorted({c for c in names if names.count(c) > 1}):
        raise ValueError(f"the DataFrame has several columns of one name: {twice[:5]}.")
    return pl.DataFrame([_series(str(c), [_plain(v) for v in frame[c].tolist()]) for c in frame.columns])


def as_ids(frame: pl.DataFrame, column: str, what: str) -> pl.Series:
    """Convert a column of ids to text: whole floats, as pandas makes of numbers with gaps, without a point, bytes as UTF-8.

    `what` names the frame. Raises ValueError for numbers that are not whole or too large to be exact, and for other types.
    """
    found, where = frame[column], f"the column {column!r} of {what}"
    if found.dtype.is_float() or isinstance(found.dtype, pl.Decimal):
        found = found.fill_nan(None) if found.dtype.is_float() else found
        numbers = found.cast(pl.Float64)
        if len(odd := found.filter(~((numbers == numbers.floor()) & numbers.is_finite()))):
            raise ValueError(f"{where} holds ids and has numbers that are not whole, such as {odd[0]}.")
        if found.dtype.is_float() and len(large := found.filter(numbers.abs() > EXACT)):
            raise ValueError(
                f"{where} holds ids as floats, and {int(large[0])} is too large for one: digits were lost. Write ids as text."
            )
        return _whole(found)
    return as_text(frame, column, what, "ids, text or whole numbers")


def as_text(frame: pl.DataFrame, column: str, what: str, expected: str = "text") -> pl.Series:
    """Convert a column to text: categories by name, bytes as UTF-8, numbers as written, whole ones without a point.

    Raises ValueError naming the column, what was `expected` and the type found: a list, a struct, a time or an object.
    """
    found, where = frame[column], f"the column {column!r} of {what}"
    if found.dtype == pl.Binary:
        try:
            return found.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise ValueError(f"{where} must hold {expected}; found bytes that are no UTF-8 text.") from None
    if found.dtype.is_float() or isinstance(found.dtype, pl.Decimal):
        return _whole(found.fill_nan(None) if found.dtype.is_float() else found)
    if not (is_text(found) or found.dtype.is_integer() or found.dtype in (pl.Boolean, pl.Null)):
        such = f", cells such as a {type(next(v for v in found if not isinstance(v, str | None))).__name__}" * (
            found.dtype == pl.Object
        )
        raise ValueError(f"{where} must hold {expected}; found the type {found.dtype}{such}.")
    return found.cast(pl.String)


def as_number(column: pl.Series) -> pl.Series:
    """Convert a column of numbers to Int64 where each fits one, else to Float64; NaN is missing."""
    if column.dtype.is_integer():
        try:
            return column.cast(pl.Int64)
        except pl.exceptions.PolarsError:
            return column.cast(pl.Float64)
    return column.cast(pl.Float64).fill_nan(None)


def is_text(column: pl.Series) -> bool:
    """Tell whether a column is text as it is: strings, or categories, which Parquet calls a dictionary."""
    return column.dtype == pl.String or isinstance(column.dtype, pl.Categorical | pl.Enum)


def _whole(numbers: pl.Series) -> pl.Series:
    """Numbers as text, 5.0 as 5."""
    text = numbers.cast(pl.String)
    if numbers.dtype.is_float():
        whole = (numbers == numbers.floor()) & (numbers.abs() <= EXACT)
        return text.zip_with(~whole.fill_null(False), numbers.set(~whole, None).cast(pl.Int64).cast(pl.String))
    return text.str.replace(r"\.0+$", "")


def _series(name: str, cells: list[Any]) -> pl.Series:
    if not any(hasattr(v, "__len__") and not isinstance(v, str | bytes) for v in cells):
        try:
            found = pl.Series(name, cells, strict=False)
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
            return pl.Series(name, cells, dtype=pl.Object)
        if found.null_count() == sum(v is None for v in cells):
            return found
    return pl.Series(name, cells, dtype=pl.Object)


def _plain(value: Any) -> Any:
    """A cell of a pandas frame: a missing one as None, text that is no Unicode mended."""
    if isinstance(value, str):
        return mend_surrogates(value)
    try:
        return None if value is None or value != value else value
    except TypeError:  # pandas.NA: whether it differs from itself is NA again, which is neither true nor false
        return None
    except ValueError:  # an array has no one truth value
        return value
