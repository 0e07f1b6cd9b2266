"""What holds for every source: rows that no stage can use are counted, and strict stops at them."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit import pipeline
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.data.sources import LONGEST_TITLE, Interactions, keep_sound_rows, tables
from llm2rec_kit.reproduction.studies import study
from llm2rec_kit.runs import Run, info
from llm2rec_kit.settings import Data, SettingsError
from llm2rec_kit.settings.own_parts import SOURCES

HEBREW = "\u202bספר עברי\u202c (2nd) قصة"


def shop(events: list[tuple], titles: dict[str | None, str | None]) -> Interactions:
    items = pl.DataFrame({"source_id": list(titles), "title": list(titles.values()), "domain": "shop"})
    items = items.with_columns(pl.col("source_id", "title").cast(pl.String))
    frame = pl.DataFrame(events, schema={"user": pl.String, "item": pl.String, "time": pl.Int64}, orient="row")
    return Interactions(items=items, events=frame, domains_in=["shop"], dropped=[("bad lines", 2, "not JSON")])


def test_what_no_stage_can_use_is_counted():
    found = keep_sound_rows(
        shop(
            [
                ("u", "a", 1),
                ("u", "a", 0),
                ("u", "a", -5),
                ("u", "a", 99_999_999_999_999),
                ("u", "a", None),
                (None, "a", 1),
                ("", "a", 1),
                ("u", None, 1),
                ("u\n", "a", 1),
                ("u", "a\tb", 1),
                ("u", "a\u2028", 1),
            ],
            {
                "a": "Tea\tfor\ntwo",
                "b": HEBREW,
                "c": "x" * 1_000_000,
                "d": "x" * LONGEST_TITLE,
                "": "e",
                None: "f",
                "g\n": "g",
                "h": None,
            },
        )
    )
    assert found.events.rows() == [("u", "a", 1), ("u", "a", None)]
    assert found.dropped == [
        ("bad lines", 2, "not JSON"),
        ("empty ids", 3, "no user or no item"),
        ("odd ids", 3, "a newline, tab or other control character in an id"),
        ("bad times", 3, "at or before 1970, or after 2100"),
    ]
    assert found.items["source_id"].to_list() == ["a", "b", "d", "h"]
    assert found.items["title"].to_list()[:2] == ["Tea for two", HEBREW]
    assert found.facts["item_rows_dropped"] == (
        "2 rows with no id or an id seen before; 1 rows with control characters in the id; "
        "1 rows with a title of more than 10,000 characters"
    )
    assert found.facts["titles_with_control_characters"].startswith("1,")
    again = keep_sound_rows(found)
    assert (again.events.rows(), again.dropped, again.facts) == (found.events.rows(), found.dropped, found.facts)


def test_of_categorical_ids_each_is_judged_once_and_all_its_rows_go():
    plain = shop([("u", "a", 1), ("v\n", "a", 1), ("u", None, 1), ("", "a", 1), ("v\n", "b", 2), ("w", "a", 3)], {"a": "A"})
    kind = pl.Categorical(pl.Categories.random())
    coded = replace(plain, events=plain.events.with_columns(pl.col("user", "item").cast(kind)))
    found = keep_sound_rows(coded)
    assert found.events["user"].dtype == kind
    assert (
        found.events.cast({"user": pl.String, "item": pl.String}).rows()
        == keep_sound_rows(plain).events.rows()
        == [("u", "a", 1), ("w", "a", 3)]
    )
    assert found.dropped == keep_sound_rows(plain).dropped


def test_dropped_rows_are_told_and_in_the_cleaning_table_and_strict_stops_at_them(tmp_path, capsys):
    pl.DataFrame(
        {"user": ["u"] * 4 + [None], "item": [*"abcaa"], "timestamp": [10**9, 10**9 + 1, 10**9 + 2, 0, 5]}
    ).write_csv(tmp_path / "interactions.csv")
    pl.DataFrame({"item": list("abcc"), "title": list("ABCD")}).write_csv(tmp_path / "items.csv")
    data = Data(source="table", path=str(tmp_path), min_interactions=0)
    corpus = cleaning.build_corpus(sources.load(data), data)
    steps = [(s["step"], s["rows_before"], s["rows_dropped"]) for s in corpus.facts["cleaning"]]
    assert steps[:2] == [("empty ids", 5, 1), ("bad times", 4, 1)]
    assert capsys.readouterr().out == (
        "table: left out 1 interactions (empty ids); 1 interactions (bad times); 1 rows with no id or an id seen before\n"
    )
    with pytest.raises(
        ValueError, match=r"data_strict is on.*1 interactions \(empty ids.*1 interactions \(bad times.*1 rows"
    ):
        sources.load(Data(source="table", path=str(tmp_path), strict=True))
    pl.DataFrame({"user": ["u"] * 3, "item": list("abc")}).write_csv(tmp_path / "interactions.csv")
    pl.DataFrame({"item": list("abc"), "title": list("ABC")}).write_csv(tmp_path / "items.csv")
    assert len(sources.load(Data(source="table", path=str(tmp_path), strict=True)).events) == 3


def test_steps_from_0_lose_no_event_and_a_zero_among_moments_is_no_time(capsys):
    found = keep_sound_rows(shop([("u", "a", 0), ("u", "b", 1000), ("v", "a", 0), ("v", "b", None)], {"a": "A", "b": "B"}))
    assert found.events["time"].to_list() == [1, 1001, 1, None]
    assert capsys.readouterr().out == f"source: {found.facts['time_steps']}\n"
    assert keep_sound_rows(found).events.equals(found.events)
    moments = keep_sound_rows(shop([("u", "a", 0), ("u", "b", 1_600_000_000_000)], {"a": "A", "b": "B"}))
    assert moments.dropped[1:] == [("bad times", 1, "at or before 1970, or after 2100")]
    assert keep_sound_rows(shop([("u", "a", 0)], {"a": "A"})).events.is_empty()


def test_columns_of_another_type_are_named_in_one_paragraph():
    items = pl.DataFrame({"source_id": [1, 2], "title": ["A", "B"], "domain": "shop"})
    events = pl.DataFrame({"user": ["u", "u"], "item": [1, 2], "time": ["1", "2"]})
    with pytest.raises(ValueError, match=r"^Of the Interactions of a source source_id of its items is Int64, .* Cast") as e:
        Interactions(items=items, events=events, domains_in=["shop"])
    assert "item of its events is Int64, expected is String or Categorical; time of its events is String" in str(e.value)


def test_domains_become_folder_names_which_is_told_and_training_domains_go_with_them(tmp_path, capsys):
    rows = [(u, f"{d}{k}") for d in "hk" for u in "uvw" for k in range(4)]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_csv(tmp_path / "interactions.csv")
    items = [(f"{d}{k}", f"T {d}{k}", name) for d, name in (("h", "Home/Kitchen"), ("k", "../up")) for k in range(4)]
    pl.DataFrame(items, schema=["item", "title", "domain"], orient="row").write_csv(tmp_path / "items.csv")
    data = Data(source="table", path=str(tmp_path), min_interactions=0, train_domains=["../up"])
    found = sources.load(data)
    assert capsys.readouterr().out == (
        "table: domains renamed, so that folders can be: 'Home/Kitchen' is 'Home_Kitchen', '../up' is 'up'\n"
    )
    assert found.domains_in == ["Home_Kitchen", "up"]
    corpus = cleaning.build_corpus(found, data)
    assert (corpus.domains, corpus.train_domains) == (["Home_Kitchen", "up"], ["up"])
    assert corpus.facts["domains_renamed"] == {"Home/Kitchen": "Home_Kitchen", "../up": "up"}
    assert sorted(corpus.users["source_id"])[:2] == ["u@Home_Kitchen", "u@up"]


def test_the_items_file_beside_a_table_of_one_file_counts(tmp_path):
    for name, text in {"bought.csv": "user,item\nu,a\n", "items.csv": "item,title\na,Tea\n", "notes.txt": "x"}.items():
        (tmp_path / name).write_text(text)
    data = Data(source="table", path=str(tmp_path / "bought.csv"))
    before = sources.hash_files(data)
    assert list(before) == ["bought.csv", "items.csv"]
    assert sources.read_raw_lines(data, lines=1)["text"].to_list() == ["user,item", "item,title"]
    (tmp_path / "items.csv").write_text("item,title\na,Milk\n")
    assert sources.hash_files(data) == before | {"items.csv": sources.hash_files(data)["items.csv"]} != before
    assert list(sources.hash_files(replace(data, columns=["interactions.title=item"]))) == ["bought.csv"]
    (tmp_path / "bought.csv").rename(tmp_path / "interactions.csv")
    folder = sources.hash_files(replace(data, path=str(tmp_path)))
    assert list(folder) == [f"{tmp_path.name}/{name}" for name in ("interactions.csv", "items.csv")]
    assert list(sources.hash_files(replace(data, path=str(tmp_path / "items.csv")))) == ["items.csv"]


def test_files_behind_a_link_to_a_folder_count_and_a_link_back_is_no_loop(tmp_path):
    (tmp_path / "kept" / "deep").mkdir(parents=True)
    (tmp_path / "kept" / "ratings.dat").write_text("1")
    (tmp_path / "kept" / "deep" / "more.dat").write_text("2")
    root = tmp_path / "data"
    root.mkdir()
    (root / ".hidden").write_text("3")
    (root / ".git").mkdir()
    (root / ".git" / "index").write_text("4")
    (root / "ml-1m").symlink_to(tmp_path / "kept")
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "kept" / "deep" / "round").symlink_to(tmp_path / "kept")
    (tmp_path / "kept" / "itself").symlink_to("itself")
    found = [path.relative_to(root).as_posix() for path in sources.list_files(root)]
    assert found == ["ml-1m/deep/more.dat", "ml-1m/ratings.dat"]


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


INTER = "user_id:token\titem_id:token\n" + "".join(f"{u}\t{i}\n" for u in "uv" for i in (1, 2, 3))
ROWS = "user_id,history_item_title,item_title,history_item_id,item_id\nu,['A'],B,[0],1\n"
READ = {  # by source its files, each of which counts
    "table": {"interactions.csv": "user,item\nu,a\nu,b\n", "items.csv": "item,title\na,A\nb,B\n"},
    "recbole": {"x.train.inter": INTER, "x.test.inter": INTER, "x.item": "item_id\ttitle\n1\tA\n", "x.user2index": "a\tu\nb\tv\n"},
    "movielens": {
        "ml-1m/ratings.dat": "1::1::5::978300760\n",
        "ml-1m/movies.dat": "1::A (1999)::Drama\n",
    },
    "goodreads": {
        "goodreads_interactions.csv": "user_id,book_id,is_read,rating,is_reviewed\n1,2,1,5,0\n",
        "book_id_map.csv": "book_id_csv,book_id\n2,7\n",
        "goodreads_books.json": '{"book_id": "7", "title": "A"}\n',
    },
    "llm2rec": {"train/x.csv": ROWS, "test/x.csv": ROWS, "info/x.txt": "A\t0\nB\t1\n"},
    "amazon": {
        "Toys.jsonl": '{"user_id": "u", "parent_asin": "a", "timestamp": 1600000000000}\n',
        "meta_Toys.jsonl": '{"parent_asin": "a", "title": "A"}\n',
    },
}  # fmt: skip


@pytest.mark.parametrize("source", READ)
def test_the_files_that_count_are_those_that_are_read(tmp_path, source):
    write_files(tmp_path, READ[source] | dict.fromkeys(("vectors.npy", "outputs/mine/run.json", "x.ipynb", "README"), "?"))
    data = Data(source=source, path=str(tmp_path))
    found = sources.hash_files(data)
    assert {*found} == {f"{tmp_path.name}/{name}" for name in READ[source]}
    assert {*sources.read_raw_lines(data)["file"]} == {Path(name).name for name in READ[source]}
    for name in READ[source]:  # the source would not be read without it, or be another
        text = (tmp_path / name).read_text()
        (tmp_path / name).unlink()
        assert sources.hash_files(data) != found
        (tmp_path / name).write_text(text)
    sources.load(data)


def test_an_own_source_counts_all_but_runs_of_the_kit(tmp_path):
    own_note = json.dumps({key: {} for key in info.PARTS})
    write_files(tmp_path, {"a.txt": "1", "deep/run.json": "{}", "outputs/mine/run.json": own_note, "outputs/page.html": "x"})
    found = [path.relative_to(tmp_path).as_posix() for path in sources.list_files(tmp_path)]
    assert found == ["a.txt", "deep/run.json"]


def test_a_corpus_whose_earlier_draft_recorded_further_files_is_reused_while_they_lie_there(tmp_path, capsys):
    pairs = [(f"u{u}", f"i{(u + k) % 6}") for u in range(12) for k in range(5)]
    table = {"interactions.csv": "user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs)}
    table["items.csv"] = "item,title\n" + "".join(f"i{k},Thing {k}\n" for k in range(6))
    write_files(tmp_path / "shop", table | {"vectors.npy": "?", "outputs/mine/old.json": "{}"})
    data, run = Data(source="table", path=str(tmp_path / "shop")), Run("mine", tmp_path / "shop" / "outputs")
    recipe = pipeline.make_corpus(data)
    earlier = {"shop/vectors.npy": "as it was", "shop/outputs/mine/old.json": "as it was"}
    run.make("corpus", recipe.build, settings=recipe.settings | {"files": recipe.settings["files"] | earlier}, quiet=True)
    study.check_source(run, data, ["text"])
    capsys.readouterr()
    recipe.make(run)
    assert "corpus: reused" in capsys.readouterr().out
    assert pipeline.make_corpus(replace(data, min_interactions=4)).make(run)  # of other settings it records what it reads
    assert {*run.manifest("corpus")["settings"]["files"]} == {"shop/interactions.csv", "shop/items.csv"}
    run.make("corpus", recipe.build, settings=recipe.settings | {"files": recipe.settings["files"] | earlier}, quiet=True)
    (tmp_path / "shop" / "vectors.npy").unlink()  # it may have been read
    with pytest.raises(SettingsError, match=r"made from \(shop/outputs/mine/old\.json, shop/vectors\.npy\)"):
        study.check_source(run, data, ["text"])
    capsys.readouterr()
    recipe.make(run)
    assert "corpus: redoing, changed: settings.files" in capsys.readouterr().out


def test_a_file_that_cannot_be_read_is_a_row_of_the_raw_lines(tmp_path):
    write_files(tmp_path, READ["amazon"])
    (tmp_path / "meta_Toys.jsonl").write_bytes(gzip.compress(b"{}\n" * 999)[:-9])
    file, line, text = sources.read_raw_lines(Data(source="amazon", path=str(tmp_path)), lines=9_999).row(-1)
    assert (file, line) == ("meta_Toys.jsonl", None)
    assert "ends in the middle of its gzip stream" in text


def test_every_source_that_can_be_chosen_has_a_loader():
    assert set(sources.MODULES) == set(SOURCES) - {"mix"}
    for name, module in sources.MODULES.items():
        assert callable(__import__(f"llm2rec_kit.data.sources.{module}", fromlist=["load"]).load)
        if name != "synthetic":
            with pytest.raises(ValueError, match=r"data_path"):
                sources.load(Data(source=name))


TEXT = st.text(st.characters(codec="utf-8"), max_size=5) | st.none()


@given(
    st.lists(st.tuples(TEXT, TEXT, st.integers(-(2**62), 2**62) | st.none()), max_size=12),
    st.lists(st.tuples(TEXT, TEXT), max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_any_frames_give_a_sound_corpus_or_one_clear_error(events, items):
    frame = pl.DataFrame(events, schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}, orient="row")
    table = pl.DataFrame(items, schema={"item": pl.String, "title": pl.String}, orient="row")
    data = Data(source="table", min_interactions=0)
    try:
        found = tables.from_frames(frame, table)
        assert len(found.events) + sum(n for _, n, _ in found.dropped) == len(events)
        corpus = cleaning.build_corpus(found, data)
    except ValueError as error:
        if not re.search("Nothing is left|both are needed|its [0-9]+ values (look like|are dates)", str(error)):
            raise
        return
    corpus.check()
    left = sum(s["rows_dropped"] for s in corpus.facts["cleaning"])
    assert len(corpus.sequence) + left == len(events)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_as_files_are_read_or_refused_in_one_clear_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    for names, source in (
        (("interactions.csv", "items.csv"), "table"),
        (("x.inter", "x.item"), "recbole"),
        (("u.data", "u.item"), "movielens"),
        (("ratings.dat", "movies.dat"), "movielens"),
        (("goodreads_interactions.json.gz", "goodreads_books.json.gz"), "goodreads"),
        (("train_data.txt", "item_titles.json"), "llm2rec"),
    ):
        for file in folder.iterdir():
            file.unlink()
        for name in names:
            (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=r"\w{3}"):
            sources.load(Data(source=source, path=str(folder)))


SHELF = {"user_id": "u", "book_id": "1", "is_read": True, "rating": 4, "date_added": "Fri Apr 19 08:15:15 -0700 2013"}
GOODREADS = "".join(json.dumps(SHELF | {"book_id": b}) + "\n" for b in "12312").encode()
SOUND = {  # a small sound set of each layout, to be damaged
    "table": {
        "interactions.csv": b"user,item,timestamp\nu,a,1\nu,b,2\nu,c,3\nv,a,4\n",
        "items.csv": b'item,title\na,"A, ""a"""\nb,B\nc,"C\\"\n',
    },
    "recbole": {
        "x.inter": b"user_id:token\titem_id_list:token_seq\titem_id:token\nu\t1 2 3\t1\nu\t1 2\t3\nv\t1 2\t2\n",
        "x.item": b"item_id:token\ttitle:token_seq\n1\tA\n2\tB\n3\tC\n",
    },
    "movielens": {
        "ratings.dat": b"1::1::3::881250949\n1::2::3::881250950\n1::3::3.5::881250951\n2::1::1::881250949\n",
        "movies.dat": b"1::A (1996)::Comedy\n2::B\xe9 (1995)::Drama|War\n3::C::(no genres listed)\n",
    },
    "goodreads": {
        "goodreads_interactions.json": GOODREADS,
        "goodreads_books.json": b"".join(
            b'{"book_id": "%d", "title": "T%d", "description": ""}\n' % (i, i) for i in (1, 2, 3)
        ),
    },
    "llm2rec": {
        "train_data.txt": b"1 2\n1 2 3\n2 3\n",
        "test_data.txt": b"1 2 3 1\n",
        "item_titles.json": b'{"1": "A", "2": "B", "3": "C"}',
    },
}
DAMAGE = st.tuples(
    st.integers(0, 2),
    st.integers(0, 400),
    st.integers(0, 12),
    st.binary(max_size=8) | st.sampled_from([b"\n", b"\t", b'"', b'\\"', b"::"]),
)


@given(st.sampled_from(sorted(SOUND)), st.lists(DAMAGE, min_size=1, max_size=4), st.booleans())
@settings(max_examples=150, deadline=None)
def test_damaged_files_give_a_sound_corpus_or_one_clear_error(tmp_path_factory, source, damage, packed):
    folder = tmp_path_factory.mktemp("damaged")
    files = dict(SOUND[source])
    for which, at, length, put in damage:
        name = sorted(files)[which % len(files)]
        at %= len(files[name]) + 1
        files[name] = files[name][:at] + put + files[name][at + length :]
    for name, text in files.items():
        (folder / name).write_bytes(gzip.compress(text) if packed and source == "goodreads" else text)
    data = Data(source=source, path=str(folder), min_interactions=0)
    try:
        found = sources.load(data)
        corpus = cleaning.build_corpus(found, data)
    except ValueError as error:
        assert not isinstance(error, UnicodeError)  # noqa: PT017
        return
    corpus.check()
    left = sum(step["rows_dropped"] for step in corpus.facts["cleaning"])
    assert len(corpus.sequence) + left == len(found.events) + sum(n for _, n, _ in found.dropped)
    assert not corpus.items["source_id"].str.contains(sources.CONTROL).any()


@pytest.mark.parametrize("source", SOUND)
def test_the_sets_that_are_damaged_above_are_sound(tmp_path, source):
    for name, text in SOUND[source].items():
        (tmp_path / name).write_bytes(text)
    data = Data(source=source, path=str(tmp_path), min_interactions=0, strict=True)
    assert cleaning.build_corpus(sources.load(data), data).n_items == 3


@pytest.mark.parametrize("source", ["amazon", "goodreads", "movielens"])
def test_what_a_source_cannot_have_is_said_before_its_files_are_read(source, tmp_path):
    asked = Data(
        source=source, path=str(tmp_path / "none"), category="games" if source == "amazon" else "", text="{title} {genre}"
    )
    with pytest.raises(
        ValueError, match=rf"names \['genre'\], which the items of '{source}' do not have; they have \['title', 'dom"
    ):
        sources.load(asked)
    odd = replace(asked, text="{title}", start="released", domain="shop", category="")
    with pytest.raises(ValueError, match=r"'released' is known for one of .* the data's domains are \['shop'\]"):
        sources.load(odd)


def test_a_corpus_is_kept_where_what_cannot_change_it_was_asked_otherwise(tmp_path, monkeypatch, capsys):
    make_corpus_files(tmp_path / "shop")
    run = Run("r", tmp_path)

    def make(**changes) -> str:
        data = Data(**{"source": "table", "path": str(tmp_path / "shop"), "min_interactions": 0} | changes)
        pipeline.make_corpus(data).make(run)
        return capsys.readouterr().out

    assert "corpus: making" in make()
    monkeypatch.chdir(tmp_path)
    for same in ({"path": "shop"}, {"download": True}, {"synthetic_users": 99}, {"goodreads_time": "read_at"}):
        assert "corpus: reused" in make(**same)
    assert "redoing, changed: settings.strict" in make(strict=True)  # it may have left rows out before
    assert "redoing, changed: settings.max_history" in make(max_history=3, strict=True)
    assert Data(source="synthetic").aside == ["download", "path", "goodreads_events", "goodreads_time"]


def make_corpus_files(folder: Path) -> None:
    """Files of a table: six users, each with four of six items, in order."""
    folder.mkdir()
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{i},item {i}\n" for i in range(6)))
    rows = [f"{u},{(u + i) % 6},{100_000_000 + i}\n" for u in range(6) for i in range(4)]
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(rows))


def test_facts_are_what_a_file_can_hold(tmp_path):
    frames = {
        "items": pl.DataFrame({"source_id": ["a", "b"], "title": ["A", "B"], "domain": ["shop", "shop"]}),
        "events": pl.DataFrame({"user": list("uuu"), "item": list("aba")}),
        "domains_in": ["shop"],
    }
    with pytest.raises(ValueError, match="The facts of the Interactions of a source cannot be kept as JSON"):
        Interactions(**frames, facts={"when": object()})
    found = Interactions(**frames, facts={"source": "own", "rows": np.int64(3)})
    corpus = cleaning.build_corpus(found, Data(min_interactions=0, repeats="keep"))
    corpus.save(tmp_path)
    assert Corpus.load(tmp_path).facts["rows"] == 3
