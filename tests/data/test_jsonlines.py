"""JSON lines: the quick way and the careful way give the same rows; every bad line is counted, every bad file named."""

from __future__ import annotations

import gzip
import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit.data.sources import jsonlines
from llm2rec_kit.data.sources.jsonlines import Bad

FIELDS = {"id": "text", "n": "whole", "x": "number", "ok": "flag"}
SCHEMA = {name: jsonlines.TYPES[kind] for name, kind in FIELDS.items()}


def lines(*rows: object) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in rows)


def test_rows_bad_lines_and_blank_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    good = [{"id": "a", "n": 1, "x": 2, "ok": True, "more": [{"id": 3}]}, {"id": "b"}, {"id": "c", "n": None, "x": 0.5}]
    bad_ones = [
        b"{not json",
        [1],
        "text",
        {"n": 1},
        {"id": None},
        {"id": 7},
        {"id": ["a"]},
        {"id": "a", "n": "1"},
        {"id": "a", "n": 1.5},
        {"id": "a", "n": True},
        {"id": "a", "n": 2**70},
        {"id": "a", "ok": 1},
        {"id": "a", "x": "1"},
        b'{"id": "a", "x": NaN}',
        b'{"id": "\xff"}',
        b'{"id": "a"} {"id": "b"}',
        b"[" * 100_000 + b"]" * 100_000,
    ]
    file.write_bytes(lines(good[0], b"", *bad_ones, good[1], b"  ") + json.dumps(good[2]).encode())
    bad = Bad()
    found = jsonlines.read(file, FIELDS, ["id"], bad)
    assert found.rows() == [("a", 1, 2.0, True), ("b", None, None, None), ("c", None, 0.5, None)]
    assert bad.counts == {
        "not JSON": 4,
        "not an object": 2,
        "without id": 2,
        "with a int as id": 1,
        "with a list as id": 1,
        "with a str as n": 1,
        "with a float as n": 1,
        "with a bool as n": 1,
        "with a number too large as n": 1,
        "with a int as ok": 1,
        "with a str as x": 1,
        "not UTF-8": 1,
    }
    assert bad.total == len(bad_ones)
    assert str(bad).startswith("4 not JSON (the first is line 3), 2 not an object (the first is line 4)")


def test_half_characters_are_replaced_and_whole_ones_kept(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": "x\\ud800y"}\n{"id": "\\ud83d\\ude00 \\u05d0"}\n{"id": "a\\u0000"}\n')
    bad = Bad()
    assert jsonlines.read(file, {"id": "text"}, ["id"], bad)["id"].to_list() == ["x\ufffdy", "😀 א", "a\0"]
    assert (bad.total, bad.mended) == (0, 1)


def test_blocks_are_cut_at_line_ends_and_numbered_through(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonlines, "BLOCK", 64)
    rows = [{"id": f"{i}" * (i % 40 + 1), "n": i} for i in range(200)]
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(lines(*rows[:100], b"bad", *rows[100:])))
    bad = Bad()
    found = jsonlines.read(file, FIELDS, ["id"], bad, lambda block: block.filter(pl.col("n") % 2 == 0))
    assert found["n"].to_list() == list(range(0, 200, 2))
    assert str(bad) == "1 not JSON (the first is line 101)"


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**66), 2**66),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["\ud800", "}{", '"', "\\", "\u2028", "a\nb", "{}", "[1]"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["id", "n"]), st.integers(), max_size=2),
)
ROWS = st.one_of(
    st.dictionaries(st.sampled_from(["id", "n", "x", "ok", "other"]), VALUES, max_size=5).map(
        lambda row: json.dumps(row).encode()
    ),
    st.fixed_dictionaries({"id": st.text(max_size=3), "n": st.integers(-9, 9)}).map(lambda row: json.dumps(row).encode()),
    st.sampled_from([b"", b" ", b"{}", b"{", b"null", b'{"id":"a"}{"id":"b"}', b'{"id":"a","id":"b"}', b'{"id":"\xc3"}']),
    st.binary(max_size=6).filter(lambda b: b"\n" not in b),
)


@given(st.lists(ROWS, max_size=6))
@settings(max_examples=300, deadline=None)
def test_the_quick_way_agrees_with_the_careful_one(rows):
    block = b"\n".join(rows)
    quick = jsonlines._fast(block, SCHEMA, ["id"], jsonlines.other_than_text(FIELDS))
    careful = jsonlines._slow(block, SCHEMA, ["id"], bad := Bad(), 1)
    assert careful.schema == SCHEMA
    assert len(careful) + bad.total == sum(bool(r.strip()) for r in block.split(b"\n"))
    if quick is not None:
        assert quick.schema == SCHEMA
        assert (bad.total, quick.rows()) == (0, careful.rows())


def test_sound_blocks_do_take_the_quick_way():
    block = lines({"id": "a", "n": 1, "x": 1.5, "ok": False, "deep": {"list": [1, {"a": 2}]}}, {"id": "é", "n": -3})
    assert jsonlines._fast(block, SCHEMA, ["id"], jsonlines.other_than_text(FIELDS)).rows() == [
        ("a", 1, 1.5, False),
        ("é", -3, None, None),
    ]


WHOLE = gzip.compress(lines(*[{"id": str(i), "text": str(i**9)} for i in range(5000)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"it is empty\. Expected is one JSON object a line"),
        (gzip.compress(b""), "it is empty"),
        (b"\n\n", "it is empty"),
        (b"<html>\n<body>\n", r"it has 2 not JSON \(the first is line 1\)"),
        (WHOLE[:-1000], "is cut off: its gzip data ends early"),
        (WHOLE[:-2], "is cut off: its gzip data ends early"),
        (WHOLE[:500] + b"XXXX" + WHOLE[504:], "is damaged"),
        (WHOLE + b"junk", "is damaged"),
        (b'{"id": "' + b"x" * 3000, r"holds no line.*1 not JSON"),
    ],
)
def test_a_file_that_is_no_good_as_a_whole_is_named(tmp_path, data, message):
    (tmp_path / "f.json.gz").write_bytes(data)
    with pytest.raises(ValueError, match=rf"f\.json\.gz {message}|f\.json\.gz .*{message}"):
        jsonlines.read(tmp_path / "f.json.gz", {"id": "text"}, ["id"], Bad())


def test_a_missing_file_and_one_without_line_ends(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"g\.json does not exist"):
        jsonlines.read(tmp_path / "g.json", {"id": "text"}, ["id"], Bad())
    monkeypatch.setattr(jsonlines, "BLOCK", 100)
    monkeypatch.setattr(jsonlines, "LONGEST_LINE", 1000)
    (tmp_path / "g.json").write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="no file of JSON lines"):
        jsonlines.read(tmp_path / "g.json", {"id": "text"}, ["id"], Bad())
