"""Title files: one title a row whatever is in it, and for every file that would lose or shift a row one paragraph that says where."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2rec_kit.encoding import title_files

ODD = st.text(st.sampled_from("a \"\\,;\t\x0b\x0c\x1c\x1d\x85\u2028\u2029\ufeff'#é"), max_size=8).map(
    lambda text: text + "b"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("titles")


@given(
    titles=st.lists(ODD, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), mark=st.booleans()
)
def test_a_line_ends_at_a_line_feed_alone(folder, titles, end, last, mark):
    text = end.join(titles) + end * last
    file = folder / "t.txt"
    file.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    assert title_files.read(file) == [t.removeprefix("\ufeff") if k == 0 and not mark else t for k, t in enumerate(titles)]


@given(titles=st.lists(ODD, min_size=1, max_size=5), columns=st.booleans())
def test_a_csv_gives_what_python_wrote(folder, titles, columns):
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerows(
        [["id", "title"], *([k, t] for k, t in enumerate(titles))] if columns else [["title"], *([t] for t in titles)]
    )
    file = folder / "t.csv"
    file.write_text(text.getvalue(), newline="")
    if "\\" in text.getvalue():  # a backslash before a quote can be read in two ways, which the file does not always settle
        with contextlib.suppress(ValueError):
            assert title_files.read(file) == titles
    else:
        assert title_files.read(file) == titles


@given(titles=st.lists(ODD.filter(lambda t: "\t" not in t), min_size=1, max_size=5), kind=st.sampled_from(["tsv", "item"]))
def test_a_tab_separated_file_gives_its_lines(folder, titles, kind):
    file = folder / f"t.{kind}"
    name = "title:token_seq" if kind == "item" else "title"
    file.write_bytes(f"id\t{name}\n".encode() + "".join(f"{k}\t{t}\n" for k, t in enumerate(titles)).encode())
    quoted = [t for t in titles if t.startswith('"')]
    if not any(t.count('"') > 1 for t in quoted):  # else the file may be one that is written with quotes
        assert title_files.read(file) == titles


BAD = {
    "too long.csv": (b"id,title\n1,A\n2,B,C\n", "line 3"),
    "too short.tsv": (b"id\ttitle\n1\tA\n2\n3\tC\n", "line 3"),
    "latin-1.csv": (b"id,title\n1,Caf\xe9\n", "line 2, is no UTF-8 text"),
    "latin-1.txt": (b"Tea\nCaf\xe9\n", "line 2, is no UTF-8 text"),
    "utf-16.txt": ("Tea\nCafé\n".encode("utf-16"), "UTF-16"),
    "utf-16.csv": ("title\nCafé\n".encode("utf-16"), "UTF-16"),
    "zero.txt": (b"Tea\nCa\0fe\n", "line 2, holds a NUL byte"),
    "old.txt": (b"Tea\rCake\r", "carriage return"),
    "nothing.csv": (b"", "is empty"),
    "nothing.txt": (b"", "is empty"),
    "header.csv": (b"title\n", "holds no title"),
    "stray.csv": (b'id,title\n1,"Tea\n2,Cake\n', "line 2"),
    "swallowed.csv": (b'id,title\n1,"Tea\n2,Cake"\n3,Pie\n', "line 2"),
    "blank.csv": (b"title\nTea\n\nPie\n", "line 3, is empty"),
    "blank.txt": (b"Tea\n\nPie\n\n", "2 of 4 titles are missing or empty (rows 2, 4)"),
    "null.csv": (b"id,title\n1,Tea\n2,\n3, \n", "2 of 3 titles are missing or empty (rows 2, 3)"),
    "near.csv": (b"id,Titel\n1,Tea\n", "no column 'title'; it has 'id', 'Titel'. Name one with --column, perhaps 'Titel'"),
    "none.parquet": (b"PAR1 and more", "cannot be read as parquet"),
    "titles.doc": (b"Tea", "none of .txt"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_would_lose_or_shift_a_row_is_refused_in_a_paragraph(tmp_path, name):
    data, says = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r".+") as refused:
        title_files.read(tmp_path / name)
    assert type(refused.value) is ValueError
    assert says in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (pl.Series([["a"], ["b"]]), r"holds List\(String\)"),
        (pl.Series([b"a", b"b"]), "holds Binary"),
        (pl.Series([1, 2]), "holds Int64"),
        (pl.Series([None, None]), r"2 of 2 titles are missing or empty \(rows 1, 2\)"),
        (pl.Series(["a", None]), r"1 of 2 titles are missing or empty \(row 2\)"),
    ],
)
def test_a_parquet_column_of_other_values_is_refused(tmp_path, values, says):
    pl.DataFrame({"title": values}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=says):
        title_files.read(tmp_path / "t.parquet")


def test_a_column_of_categories_is_read_as_its_texts(tmp_path):
    pl.DataFrame({"name": pl.Series(["b", "a", "b"], dtype=pl.Categorical)}).write_parquet(tmp_path / "t.parquet")
    assert title_files.read(tmp_path / "t.parquet", "name") == ["b", "a", "b"]


def test_a_title_may_have_lines(tmp_path):
    (tmp_path / "t.csv").write_text('id,title\n1,"Tea\n\nfor two"\n2,Pie\n')
    assert title_files.read(tmp_path / "t.csv") == ["Tea\n\nfor two", "Pie"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing"])
def test_only_a_file_is_read(tmp_path, kind):
    path = Path(tmp_path / "t.txt")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ValueError, match="There is no file"):
        title_files.read(path)
