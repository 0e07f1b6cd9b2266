"""JSON lines: against a slow plain reader on fuzzed files, and every way in which a file can be broken."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit.data import json_lines
from llm2rec_kit.data.json_lines import ID, INTEGER, TEXT, TEXTS, Report

FIELDS = {"who": ID, "what": ID, "when": INTEGER, "title": TEXT, "notes": TEXTS}
GOOD = {"who": "u", "what": "B1", "when": 5, "title": "Tea", "notes": ["a"], "other": {"x": [1, {"y": None}]}}


def read(path: Path) -> tuple[list[tuple], Counter, Report]:
    report = Report(path)
    frames = list(json_lines.read(path, FIELDS, report))
    return [row for frame in frames for row in frame.rows()], report.bad, report


def slow(data: bytes) -> tuple[list[tuple], Counter]:
    """The rules as the docstring of `read` says them, a line at a time."""
    rows, bad = [], Counter()
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.strip():
            try:
                found = json.loads(line.decode("utf-8"), object_pairs_hook=lambda pairs: dict(pairs[::-1]))
                assert isinstance(found, dict)
            except (ValueError, AssertionError):
                bad["not JSON"] += 1
                continue
            row = slow_row(found)
            if isinstance(row, str):
                bad[row] += 1
            else:
                rows.append(row)
    return rows, bad


def whole(found: dict) -> dict:
    """The fields without NaN and Infinity, as Python writes missing numbers: they are no values."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}


def slow_row(found: dict) -> tuple | str:
    found = whole(found)
    for name in ("who", "what", "when"):
        if found.get(name) is None:
            return "missing field"
        value = found[name]
        if name == "when":
            number = isinstance(value, int) or (isinstance(value, float) and value == math.floor(value))
            text = isinstance(value, str) and value.removeprefix("-").isascii() and value.removeprefix("-").isdigit()
            if isinstance(value, bool) or not (number or text) or not -(2**63) <= int(value) < 2**63:
                return "wrong type"
        elif isinstance(value, list | dict) or plain(value) != written(value):
            return "wrong type"
    title, notes = found.get("title"), found.get("notes")
    notes = notes if isinstance(notes, list) or notes is None else [notes]
    return (
        written(found["who"]),
        written(found["what"]),
        int(found["when"]),
        plain(title),
        None if notes is None else [plain(n) for n in notes],
    )


def torn(text: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in text)


def written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(int(value)) if isinstance(value, float) else str(value)


def plain(text: str | None) -> str | None:
    if text is None:
        return None
    if isinstance(text, list | dict) or (isinstance(text, float) and not math.isfinite(text)):
        return None
    return "".join("�" if torn(c) or c == "\0" else c for c in written(text))


TEXTS_SEEN = ["u", "", " a b", "[x", "[x]", '["x"]', "{}", "שלום", "a\nb\tc", "😀", "\ud800", "x\udc00y", "\x00", "é" * 50]
NOT_VALUES = [math.nan, math.inf, -math.inf]  # json.dumps writes NaN, Infinity, -Infinity
values = st.sampled_from(
    [
        *TEXTS_SEEN,
        17,
        -3,
        None,
        True,
        [],
        ["b"],
        {"k": 1},
        "12",
        "-7",
        5.0,
        10**30,
        "soon",
        "1_0",
        "٣",
        *NOT_VALUES,
        "nan",
        "None",
    ]
)
lines = st.one_of(
    st.just(json.dumps(GOOD).encode()),
    st.builds(lambda name, value: json.dumps(GOOD | {name: value}).encode(), st.sampled_from(["who", "what"]), values),
    st.builds(lambda value: json.dumps(GOOD | {"when": value}).encode(), values),
    st.builds(lambda name: json.dumps({k: v for k, v in GOOD.items() if k != name}).encode(), st.sampled_from(list(GOOD))),
    st.builds(
        lambda v: json.dumps(GOOD | {"title": v}).encode(),
        st.sampled_from([*TEXTS_SEEN, None, 17, True, [], ["b"], {"k": 1}, *NOT_VALUES, "nan", "NaN"]),
    ),
    st.builds(
        lambda v: json.dumps(GOOD | {"notes": v}).encode(),
        st.sampled_from([*TEXTS_SEEN, None, 3, [], TEXTS_SEEN, [None], [["a"], 1, False], *NOT_VALUES, NOT_VALUES, ["nan"]]),
    ),
    st.builds(lambda cut: json.dumps(GOOD).encode()[:cut], st.integers(0, 80)),
    st.sampled_from(
        [b"", b"  ", b"3", b"null", b"[1]", b'"x"', b"hello", b'{"a": NaN', b"\xff\xfe", b"\x00", b"{}{}", b"\r"]
    ),
    st.just(json.dumps(GOOD).encode() + b"\r"),
    st.sampled_from([gzip.compress(b"{}", mtime=0), zlib.compress(b'{"who": "u", "what": "w", "when": 1}')]),
    st.just(json.dumps(GOOD, ensure_ascii=False).replace("Tea", "\\ud83d\\ude00 \\ud83d x \\ude00").encode()),
    st.just(json.dumps(GOOD | {"price": math.nan}).encode()),
    st.just(json.dumps(GOOD | {"title": 7}).replace("7", "1e999").encode()),
    st.just(b'{"who": "first", "who": "second", "what": "B2", "when": 1, "when": 2}'),
)


@given(st.lists(lines, max_size=30), st.booleans(), st.booleans(), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_every_line_is_a_row_or_counted(tmp_path_factory, found, ends, zipped, few):
    found = [json.dumps(GOOD).encode(), *found]  # first, since a file that begins as gzip does is one
    data = b"\n".join(found) + (b"\n" if ends else b"")
    path = tmp_path_factory.mktemp("lines") / "f"
    path.write_bytes(gzip.compress(data) if zipped else data)
    before = json_lines.FEW
    json_lines.FEW = few
    try:
        rows, bad, report = read(path)
    finally:
        json_lines.FEW = before
    assert (rows, bad) == slow(data)
    assert report.lines == sum(1 for line in data.split(b"\n") if line.strip())


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_bytes_of_any_kind_end_in_rows_counts_or_one_plain_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "f"
    for content in (data, gzip.compress(data), b"\x1f\x8b" + data):
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            _, bad, report = read(path)
            assert report.lines == report.rows + bad.total()


def test_nan_and_infinity_are_missing_values_and_their_names_in_quotes_are_texts(tmp_path):
    rows = [
        GOOD | {"title": math.nan, "notes": [math.inf, "b"]},
        GOOD | {"who": math.nan},
        GOOD | {"what": -math.inf},
        GOOD | {"when": math.nan},
        GOOD | {"who": "nan", "what": "None", "title": "NaN", "notes": "Infinity"},
        GOOD | {"price": math.nan},
    ]
    (tmp_path / "f").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found, bad, _ = read(tmp_path / "f")
    assert found == [
        ("u", "B1", 5, None, [None, "b"]),
        ("nan", "None", 5, "NaN", ["Infinity"]),
        ("u", "B1", 5, "Tea", ["a"]),
    ]
    assert bad == {"missing field": 3}


def many(n: int) -> bytes:
    return b"".join(json.dumps(GOOD | {"who": f"u{k}", "when": k + 1}).encode() + b"\n" for k in range(n))


@pytest.mark.parametrize(("read_size", "block"), [(1 << 20, 1 << 23), (997, 3001)])
def test_blocks_and_members_meet_without_loss(tmp_path, monkeypatch, read_size, block):
    monkeypatch.setattr(json_lines, "READ", read_size)
    monkeypatch.setattr(json_lines, "BLOCK", block)
    data = many(2000)
    expected = [f"u{k}" for k in range(2000)]
    half = data.rfind(b"\n", 0, len(data) // 2) - 40  # the second member begins in the middle of a line
    for content in (
        data,
        data[:-1],
        data.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + data,
        gzip.compress(data),
        gzip.compress(data[:half]) + gzip.compress(data[half:]),
        gzip.compress(data) + b"\0" * 3000,
        gzip.compress(data[:half]) + b"\0" * 700 + gzip.compress(data[half:]),
        gzip.compress(b"\xef\xbb\xbf" + data, compresslevel=0),
    ):
        (tmp_path / "f").write_bytes(content)
        rows, bad, _ = read(tmp_path / "f")
        assert ([r[0] for r in rows], bad) == (expected, Counter())


def test_the_first_of_each_reason_is_told_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "READ", 5000)
    data = many(400).split(b"\n")
    data[149], data[249], data[349] = b"oops", b"oops again", b'{"who": "x"}'
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"\n".join(data)))
    _, bad, report = read(tmp_path / "f.gz")
    assert bad == {"not JSON": 2, "missing field": 1}
    assert report.dropped() == [
        ("missing field", 1, 'of f.gz; first line 350: {"who": "x"}'),
        ("not JSON", 2, "of f.gz; first line 150: oops"),
    ]


@pytest.mark.parametrize("cut", [3, 20, 200, 1000, -9, -1])
def test_a_gzip_that_was_cut_off_is_named(tmp_path, cut):
    (tmp_path / "f.gz").write_bytes(gzip.compress(many(500))[:cut])
    with pytest.raises(ValueError, match=r"f\.gz ends in the middle of its gzip stream.*Delete it and fetch it again"):
        read(tmp_path / "f.gz")


@pytest.mark.parametrize(
    "damage", [lambda g: g[:300] + b"\xff" * 40 + g[340:], lambda g: g[:-8] + bytes(4) + g[-4:], lambda g: g + b"and"]
)
def test_a_damaged_gzip_is_named(tmp_path, damage):
    (tmp_path / "f.gz").write_bytes(damage(gzip.compress(many(500))))
    with pytest.raises(ValueError, match=r"f\.gz is damaged: .*Delete it and fetch it again|ends in the middle"):
        read(tmp_path / "f.gz")


def test_what_is_no_file_of_lines_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "LONGEST", 10_000)
    monkeypatch.setattr(json_lines, "READ", 4096)
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    with pytest.raises(ValueError, match="a line is longer than"):
        read(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ValueError, match=r"f is empty\. Expected is one JSON object a line, each a review"):
        read(tmp_path / "f")[2].check("a review")
    (tmp_path / "f").write_bytes(b"a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"none of its 2 lines is a review\. not JSON: 2, the first being 'line 1: a,b'"):
        read(tmp_path / "f")[2].check("a review")


def test_a_gzip_of_nothing_much_stays_small_in_memory(tmp_path):
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"\n" * (64 << 20)))
    assert max(map(len, json_lines.read_blocks(tmp_path / "f.gz"))) <= json_lines.BLOCK
    assert read(tmp_path / "f.gz")[2].lines == 0


def test_a_title_of_a_million_characters_and_deep_nesting(tmp_path):
    deep = b'{"who": "v", "what": "B1", "when": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "f").write_bytes(json.dumps(GOOD | {"title": "é" * 10**6}).encode() + b"\n" + deep)
    rows, bad, _ = read(tmp_path / "f")
    assert (len(rows), len(rows[0][3]), bad) == (1, 10**6, {"not JSON": 1})


def test_the_first_lines_as_they_stand(tmp_path):
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"one\n\xfftwo\nthree\n"))
    assert json_lines.read_first_lines(tmp_path / "f.gz", 2) == ["one", "�two"]
    assert len(json_lines.read_first_lines(tmp_path / "f.gz", 9)) == 3


def test_a_reader_that_stops_early_leaves_no_thread(tmp_path):
    import threading

    (tmp_path / "f").write_bytes(many(20_000))
    before = threading.active_count()
    blocks = json_lines.read_blocks(tmp_path / "f")
    next(blocks)
    blocks.close()
    assert threading.active_count() == before
