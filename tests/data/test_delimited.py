"""Delimited files: whatever way quotes are written in, a file is read back exactly or refused by line."""

from __future__ import annotations

import csv
import io

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm2rec_kit.data.sources import delimited

CELL = st.text("\",\n\\ ;a7'é", max_size=7)
ROWS = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6)


def doubled(rows: list[list[str]], quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    """As Python's csv module writes it, and pandas by it."""
    out = io.StringIO(newline="")
    csv.writer(out, quoting=quoting, lineterminator=end).writerows(rows)
    return out.getvalue()


def spark(rows: list[list[str]], twice: bool = True) -> str:
    """As Spark writes it: quotes only where needed, `\\"` for a quote and, inside quotes, two backslashes for one (`twice`)."""

    def cell(text: str) -> str:
        if text and not set(text) & set(',"\n'):
            return text
        text = text.replace("\\", "\\\\") if twice else text
        return '"' + text.replace('"', '\\"') + '"'

    return "".join(",".join(map(cell, row)) + "\n" for row in rows)


def read(folder, text: str | bytes, **how) -> pl.DataFrame:
    file = folder / "x.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    table, few, _ = delimited.read_texts(file, **how)
    assert not few
    return table


def found(table: pl.DataFrame) -> list[tuple[str, ...]]:
    return table.with_columns(pl.all().fill_null("")).rows()


WRITERS = {
    "csv": doubled,
    "csv, CRLF": lambda rows: doubled(rows, end="\r\n"),
    "csv, all in quotes": lambda rows: doubled(rows, quoting=csv.QUOTE_ALL),
    "Spark": spark,
    "backslash before quotes alone": lambda rows: spark(rows, twice=False),
}


@pytest.mark.parametrize("writer", WRITERS)
@given(rows=ROWS)
@example(rows=[("a\\b,", '"')])
@example(rows=[('a",', '",'), ("\\", ",\\")])
@example(rows=[("\\\\,", "a"), ("7", '"')])
@settings(max_examples=150, deadline=None)
def test_any_cells_come_back_exactly_or_the_file_is_refused(tmp_path_factory, writer, rows):
    table = [["id", "title", "note"], *([str(k), *row] for k, row in enumerate(rows))]
    try:
        back = read(tmp_path_factory.mktemp("x"), WRITERS[writer](table))
    except ValueError as error:
        assert "x.csv, line" in str(error)  # noqa: PT017
        text = "".join("".join(row) for row in rows)
        assert "\\" in text or "\n" in text or ("csv" not in writer and '"' in text)  # else nothing is in doubt
        return
    assert found(back) == [tuple(row) for row in table[1:]]


@pytest.mark.parametrize("writer", WRITERS)
def test_quotes_separators_and_line_ends_are_read_as_each_writer_means_them(tmp_path, writer):
    rows = [["id", "title"], ["1", 'He said "hi", ok'], ["2", '24" screen'], ["3", "two\nlines, and more"], ["4", " x "]]
    assert found(read(tmp_path, WRITERS[writer](rows))) == [tuple(row) for row in rows[1:]]


def test_a_backslash_that_has_one_reading_is_read(tmp_path):
    lone = 'id,title\n1,"C:\\new, \\"x\\""\n'  # no writer that doubles backslashes wrote this one
    assert found(read(tmp_path, lone)) == [("1", 'C:\\new, "x"')]
    plain = 'id,title\n1,\\\\server\n2,"x ""y"""\n'  # quotes are doubled, so backslashes are just that
    assert found(read(tmp_path, plain)) == [("1", "\\\\server"), ("2", 'x "y"')]


REFUSED = {
    "two readings of a backslash": (
        'id,title\n0,a\n1,"a\\\\b, c"\n',
        r"x\.csv, line 3: a backslash here can be read in two ways",
    ),
    "two backslashes without quotes": (
        'id,title\n1,"a \\"b\\""\n2,c\\\\d\n',
        r"x\.csv, line 3: a backslash here can be read in two ways",
    ),
    "two backslashes at the end of a cell": ('id,title\n1,"a \\"b\\""\n2,"c, \\\\"\n', r"x\.csv, line 3: a backslash here"),
    "a backslash before a quote without quotes": ('id,title\n1,24\\" screen\n', r"x\.csv, line 2: the quotes of the row"),
    "text after the closing quote": ('id,title\n1,a\n2,"b" c\n', r"x\.csv, line 3: the quotes of the row"),
    "a quote left open": ('id,title\n1,"a\n2,b\n3,c\n', r"x\.csv, line 2: the quotes of the row"),
    "a quote closed in another row": (
        'id,title\n1,"a\n2,b\n3,c"\n4,"d, e"\n',
        r"x\.csv, line 2: .*closed 2 lines further on",
    ),
    "both ways of quoting": ('id,title\n1,"a ""b"""\n2,"a \\"b\\""\n', r"x\.csv, line 3: the quotes of the row"),
    "too few cells beside quotes": ('id,title,note\n1,"a","b"\n2,c\n', r"x\.csv, line 3, has 2 cells .* names 3 columns"),
    "too many cells": (
        "id,title\n1,a\n2,b,c\n3,d\n4,e,f\n",
        r"x\.csv, line 3, has more cells than the 2 .*\(2 such lines\)",
    ),
    "semicolons": ("id;title\n1;a\n", r"columns divided by ',' are expected; its first line is 'id;title', divided by ';'"),
    "tabs": ("id\ttitle\n1\ta\n", r"first line is 'id\\ttitle', divided by '\\t'"),
    "one column": ("title\na\n", r"columns divided by ',' are expected; its first line is 'title'\."),
    "a column twice": ("id,title,id\n1,a,2\n", r"its header names a column twice: \['id'\]"),
    "an open quote in the header": ('id,"title\n1,a\n', r"line 1: the quotes of the header do not close"),
    "a NUL": ("id,title\n1,a\n2,b\0\n", r"x\.csv, line 3, holds a NUL byte"),
    "UTF-16": ("id,title\n1,a\n".encode("utf-16"), r"x\.csv is UTF-16 text .*save it as UTF-8"),
    "UTF-16 without a mark": ("id,title\n1,a\n".encode("utf-16-le"), r"x\.csv, line 1, holds a NUL byte"),
    "Latin-1": (
        "id,title\n1,a\n2,Café\n".encode("latin-1"),
        r"line 3, is no UTF-8 text: it has the byte 0xe9 after '2,Caf'",
    ),
    "Latin-1 in quotes": ('id,title\n1,"a, Café"\n'.encode("latin-1"), r"line 2, is no UTF-8 text: it has the byte 0xe9"),
    "gzip": (b"\x1f\x8b\x08\x00", r"x\.csv is packed with gzip"),
    "carriage returns alone": ("id,title\r1,a\r", r"lines end with a carriage return alone"),
    "nothing": ("", r"x\.csv is empty"),
    "blank lines alone": ("\n\r\n\n", r"x\.csv is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_a_row_is_refused_by_line_in_one_paragraph(tmp_path, name):
    text, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


READ = {
    "CRLF and blank lines": ("\r\nid,title\r\n1,a\r\n\r\n2,b\r\n\r\n", [("1", "a"), ("2", "b")]),
    "the same in quotes": ('id,title\r\n1,"a"\r\n\r\n2,b\r\n\r\n', [("1", "a"), ("2", "b")]),
    "a byte order mark": ("\ufeffid,title\n1,a", [("1", "a")]),
    "a header alone": ("id,title", []),
    "a header in quotes alone": ('"id","title"\n', []),
    "quotes in the middle of a cell": ('id,title\n1,24" screen\n2,a "b" c\n', [("1", '24" screen'), ("2", 'a "b" c')]),
    "line ends that are meant": ('id,title\n1,"a\n\nb"\n2,"c\nd, e"\n', [("1", "a\n\nb"), ("2", "c\nd, e")]),
    "a last column without values": ("id,title\n1,\n2,\n", [("1", ""), ("2", "")]),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_sound_is_read(tmp_path, name):
    text, rows = READ[name]
    table = read(tmp_path, text)
    assert table.columns == ["id", "title"]
    assert found(table) == rows


def test_columns_without_a_name_do_no_harm(tmp_path):
    assert read(tmp_path, ",id,title,\n0,1,a,\n").columns == ["column 1", "id", "title", "column 4"]


def test_rows_with_too_few_cells_are_counted_wherever_they_stand(tmp_path, monkeypatch):
    file = tmp_path / "x.csv"
    lines = [f"{k},t{k}," if k % 7 else str(k) for k in range(1, 101)]
    file.write_text("\n".join(["id,title,note", *lines[:50], "", *lines[50:]]))
    for block in (delimited.BLOCK, 64):
        monkeypatch.setattr(delimited, "BLOCK", block)
        table, few, why = delimited.read_texts(file)
        assert table["id"].to_list() == [str(k) for k in range(1, 101) if k % 7]
        assert (few, why) == (14, "x.csv: fewer cells than the 3 columns, first in line 8")


def test_a_layout_without_quoting_is_read_with_it_only_where_the_whole_file_is_so_written(tmp_path):
    def titles(text):
        return [title for _, title in found(read(tmp_path, text, separator="\t", quoted=None))]

    assert titles('id\ttitle\n1\t"a ""b"""\n2\t"c\td"\n3\te\n') == ['a "b"', "c\td", "e"]
    assert titles('id\ttitle\n1\t"a"\n2\t24"\n') == ['"a"', '24"']
    assert titles('id\ttitle\n1\t"a ""b"""\n2\t"c"\n') == ['"a ""b"""', '"c"']
    assert titles('id\ttitle\n1\t"a\n2\tb\n3\tc"\n') == ['"a', "b", 'c"']
    assert titles('id\ttitle\n1\t"a" b\n') == ['"a" b']
