"""The official LLM2Rec layout: written and read back, samples, splits and ids stay; the traps of the released files."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.export import llm2rec_files
from llm2rec_kit.settings import Data

SPLITS = ("train", "valid", "test")


def read(folder: Path, **more) -> Corpus:
    data = Data(source="llm2rec", path=str(folder), **more)
    return cleaning.build_corpus(sources.load(data), data).check()


def samples(corpus: Corpus) -> Counter:
    return Counter(
        (split, tuple(corpus.history(t).tolist()), int(corpus.sequence[t]))
        for split in SPLITS
        for t in corpus.samples(split)
    )


def texts(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    titles = {str(i): f"Thing {i}" for i in range(1, 10)}
    (folder / "item_titles.json").write_text(json.dumps(titles))
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


HEAD = "user_id,history_item_title,item_title,history_item_id,item_id\n"


# -- both ways --------------------------------------------------------------------------------------------------------


def test_written_and_read_back_everything_stays(tmp_path):
    corpus = make_corpus(users=20, items=16, max_history=4)
    counts = llm2rec_files.write(corpus, tmp_path / "toy" / "5-core")
    assert counts == {
        "items": 16,
        "train": len(corpus.samples("train")),
        "valid": 20,
        "test": 20,
        "data": 20,
        "read_as_missing": 0,
    }
    again = read(tmp_path / "toy" / "5-core", max_history=4)
    assert samples(again) == samples(corpus)
    assert again.titles == corpus.titles
    assert sorted(again.users["source_id"]) == sorted(corpus.users["source_id"])  # taken from the CSV files beside
    assert again.domains == ["toy"]
    assert again.facts["split"] == "given"
    ends = zip(again.users["source_id"], again.offsets[:-1], again.offsets[1:], strict=True)
    by_user = {user: again.sequence[a:b].tolist() for user, a, b in ends}
    for n, user in enumerate(corpus.users["source_id"]):
        assert by_user[user] == corpus.sequence[corpus.offsets[n] : corpus.offsets[n + 1]].tolist()


@pytest.mark.parametrize("part", ["csv", "texts"])
def test_each_half_of_the_layout_is_enough(tmp_path, part):
    corpus = make_corpus(users=30, items=9, max_history=3)
    llm2rec_files.write(corpus, tmp_path / "x")
    if part == "csv":
        for file in (tmp_path / "x" / "downstream").iterdir():
            file.unlink()
        again = read(tmp_path / "x", max_history=3)
        assert again.n_users == corpus.n_users
        assert again.items["source_id"].to_list() == [str(i) for i in range(9)]  # 0-based: 0 is an item
    else:
        again = read(tmp_path / "x" / "downstream", max_history=3)
        assert again.items["source_id"].to_list() == [str(i) for i in range(1, 10)]
    assert samples(again) == samples(corpus)
    assert again.titles == corpus.titles


@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(2, 9),
    st.integers(1, 5),
    st.sampled_from(["leave_one_out", "any", "some"]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_corpus_survives_the_round_trip(tmp_path_factory, seed, users, items, max_history, kind, shuffle):
    """Few items, so that many users begin alike and repeat items; splits at random; rows shuffled in the files."""
    rng = np.random.default_rng(seed)
    corpus = make_corpus(users=users, items=items, max_history=max_history, seed=seed)
    if kind != "leave_one_out":
        keep = np.ones(len(corpus.targets), bool) if kind == "any" else rng.random(len(corpus.targets)) < 0.7
        keep[0] = True
        corpus = replace(
            corpus, targets=corpus.targets[keep], splits=rng.integers(0, 3, keep.sum()).astype(np.uint8)
        ).check()
    folder = tmp_path_factory.mktemp("trip")
    llm2rec_files.write(corpus, folder / "x", name="files")
    if shuffle:
        for file in (folder / "x" / "downstream").glob("*_data.txt"):
            lines = file.read_text().splitlines(keepends=True)
            rng.shuffle(lines)
            file.write_text("".join(lines))
    width = max(len(h) for _, h, _ in samples(corpus))
    for again in (read(folder / "x", max_history=width), read(folder / "x" / "downstream", max_history=width)):
        assert samples(again) == samples(corpus)
        assert again.titles == corpus.titles
    (folder / "x" / "downstream").rename(folder / "gone")
    assert samples(read(folder / "x", max_history=width)) == samples(corpus)


def test_the_files_are_as_the_official_code_reads_them(tmp_path):
    """What the official loaders do, written out again: last 11 ids, right padding with 0, literal lists, the largest id."""
    corpus = make_corpus(users=5, items=16, max_history=10, longest=16)
    llm2rec_files.write(corpus, tmp_path / "5-core", name="Toys")
    base = tmp_path / "5-core"
    largest = max(int(w) for line in (base / "downstream" / "data.txt").open() for w in line.split())
    assert largest == 16 == len(json.loads((base / "downstream" / "item_titles.json").read_text()))
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        rows = [list(map(int, line.split()))[-11:] for line in (base / "downstream" / f"{name}_data.txt").open()]
        with (base / split / "Toys.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        targets = corpus.samples(split)
        assert len(rows) == len(table) == len(targets)
        for row, cells, target in zip(rows, table, targets, strict=True):
            assert row == [*corpus.history(target).tolist(), int(corpus.sequence[target])]
            assert cells["history_item_id"] == str([i - 1 for i in row[:-1]])
            assert int(cells["item_id"]) == row[-1] - 1
            assert cells["history_item_title"] == str([corpus.titles[i - 1] for i in row[:-1]])
            assert cells["item_title"] == corpus.titles[row[-1] - 1]
    assert (base / "info" / "item_titles.txt").read_text().splitlines() == corpus.titles
    assert (base / "info" / "Toys.txt").read_text().splitlines()[2] == f"{corpus.titles[2]}\t2"


def test_awkward_titles_survive(tmp_path):
    corpus = make_corpus(users=30, items=8)
    titles = ["a 'b' \"c\"", "back\\slash", "tab\tand\nline", 'He said: "x", ok', "ספר", "NA", "null", "😀"]
    corpus = replace(corpus, items=corpus.items.with_columns(title=np.array(titles)))
    counts = llm2rec_files.write(corpus, tmp_path / "x")
    assert counts["read_as_missing"] == 2
    expected = [t.replace("\t", " ").replace("\n", " ") for t in titles]
    assert read(tmp_path / "x", max_history=4).titles == expected
    (tmp_path / "x" / "downstream").rename(tmp_path / "gone")
    assert read(tmp_path / "x", max_history=4).titles == expected
    (tmp_path / "x" / "info").rename(tmp_path / "gone too")
    assert read(tmp_path / "x", max_history=4).titles == expected


def test_an_item_that_nobody_consumed_is_counted_by_data_txt(tmp_path):
    corpus = make_corpus(users=3, items=50)
    assert corpus.sequence.max() < 50
    assert llm2rec_files.write(corpus, tmp_path / "x")["data"] == 4
    assert (tmp_path / "x" / "downstream" / "data.txt").read_text().splitlines()[-1] == "50"
    again = read(tmp_path / "x", max_history=4)
    assert (again.n_items, samples(again)) == (50, samples(corpus))


def test_only_a_folder_of_its_own_is_written_and_whole(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty and was not written by this function"):
        llm2rec_files.write(make_corpus(), tmp_path / "mine")
    with pytest.raises(ValueError, match="one plain name"):
        llm2rec_files.write(make_corpus(), tmp_path / "x", name="a/b")
    (tmp_path / "x").mkdir()
    llm2rec_files.write(make_corpus(), tmp_path / "x")
    first = (tmp_path / "x" / "downstream" / "test_data.txt").read_text()

    def fails(*words) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(llm2rec_files, "_write_csv", fails)
        with pytest.raises(OSError, match="disk full"):
            llm2rec_files.write(make_corpus(users=4), tmp_path / "x")
    assert (tmp_path / "x" / "downstream" / "test_data.txt").read_text() == first
    assert llm2rec_files.write(make_corpus(users=4), tmp_path / "x")["test"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "x"]


# -- reading ----------------------------------------------------------------------------------------------------------


def test_rows_become_sequences_and_keep_their_splits(tmp_path):
    folder = texts(
        tmp_path / "Toys" / "5-core", train_data="1 2\n3 4\n1 2 5\n", val_data="1 2 5 6\n3 4 7\n", test_data="8 9 1\n"
    )
    found = sources.load(Data(source="llm2rec", path=str(folder)))
    assert found.events.rows() == [
        ("0", "1", None),
        ("0", "2", "train"),
        ("0", "5", "train"),
        ("0", "6", "valid"),
        ("1", "3", None),
        ("1", "4", "train"),
        ("1", "7", "valid"),
        ("2", "8", None),
        ("2", "9", None),
        ("2", "1", "test"),
    ]
    assert found.domains_in == ["Toys"]
    assert found.facts["splits_of_files"] == {"train": 3, "valid": 2, "test": 1}
    assert found.facts["users_from"].startswith("none")


def test_nothing_is_cleaned_and_only_whole_users_go(tmp_path):
    folder = texts(tmp_path / "x", train_data="1 2\n", test_data="1 2 3\n5 6\n")
    (folder / "item_titles.json").write_text(json.dumps({str(i): "&amp; x " * 30 for i in range(1, 8)}))
    corpus = read(folder, min_interactions=5, title_rules="released", split="global_time")
    assert corpus.n_items == 7
    assert corpus.titles[0] == "&amp; x " * 30
    assert corpus.facts["split"] == "given"
    assert [s["step"] for s in corpus.facts["cleaning"]] == ["given samples"]
    assert read(folder, users=1).n_users == 1


def test_the_samples_can_be_made_anew(tmp_path):
    corpus = make_corpus(users=20, items=6, max_history=4)
    llm2rec_files.write(replace(corpus, splits=np.zeros_like(corpus.splits)), tmp_path / "x")
    again = read(tmp_path / "x", given_splits=False, min_interactions=0, max_history=4)
    assert again.facts["split"] == "leave_one_out"
    assert samples(again) == samples(corpus)
    with pytest.raises(ValueError, match="global_time needs timestamps"):
        read(tmp_path / "x", given_splits=False, split="global_time")


def test_longer_histories_than_the_files_rows_are_refused(tmp_path):
    corpus = make_corpus(users=8, items=16, max_history=4)
    llm2rec_files.write(corpus, tmp_path / "x")
    with pytest.raises(
        ValueError, match=r"at most 4 items of history, and data_max_history is 10.*at most 4, or data_given"
    ):
        read(tmp_path / "x", max_history=10)
    assert max(len(h) for _, h, _ in samples(read(tmp_path / "x", max_history=2))) == 2
    texts(tmp_path / "short", train_data="1 2\n1 2 3\n")
    assert read(tmp_path / "short", max_history=10).max_history == 10  # rows not cut: nothing longer there


def test_a_row_of_many_ids_counts_as_its_last(tmp_path):
    folder = texts(tmp_path / "x", train_data=" ".join("123456789123") + "\n")
    corpus = read(folder, max_history=10)
    assert samples(corpus) == Counter({("train", (2, 3, 4, 5, 6, 7, 8, 9, 1, 2), 3): 1})


def test_rows_that_are_no_samples_are_counted(tmp_path):
    text = "1 2\n\n7\n0 1\n1 x\n1 -2\n1 99\n 1   2  3 \n1.0 2\n٣ 4\n"
    folder = texts(tmp_path / "x", train_data=text, data="1 2 3 9\nx\n")
    found = sources.load(Data(source="llm2rec", path=str(folder)))
    assert dict((why, n) for _, n, why in found.dropped) == {
        "train_data.txt: fewer than two ids, so no history": 1,
        "train_data.txt: an id without a title": 2,
        "train_data.txt: not numbers divided by spaces": 4,
    }
    assert found.facts["largest_id_in_data_txt"] == 9
    assert len(found.events) == 3
    with pytest.raises(ValueError, match=r"data_strict is on.*4 interactions \(bad lines: train_data"):
        sources.load(Data(source="llm2rec", path=str(folder), strict=True))


def test_csv_cells_are_read_without_eval(tmp_path):
    rows = [
        """u,"['A', 'B']",C,"[0, 1]",2""",
        """u,"['A', 'B', 'C']",A,"[ 0,1 ,2]",0""",
        """v,"['B']",A,['1'],0""",
        """w,x,A,"__import__('os').system('touch hacked')",0""",
        """w,x,A,"[1, 2",0""",
        """w,x,A,"{1: 2}",0""",
        """w,x,A,"[1.5]",0""",
        """w,x,A,"[-1]",0""",
        """w,x,A,[],0""",
        """w,x,A,[1],one""",
        """w,x,A,[1],7""",
        """,x,A,[1],0""",
        """"w\n",x,A,[1],0""",
        """w,x,A,"%s1%s",0""" % ("[" * 5000, "]" * 5000),  # noqa: UP031
    ]
    (tmp_path / "a.train.csv").write_text(HEAD + "\n".join(rows) + "\n")
    (tmp_path / "a.info.txt").write_text("A\t0\n<code>\tB\t1\nC\t2\n")
    found = sources.load(Data(source="llm2rec", path=str(tmp_path)))
    assert found.events.rows() == [
        ("v", "1", None),
        ("v", "0", "train"),
        ("u", "0", None),
        ("u", "1", None),
        ("u", "2", "train"),
        ("u", "0", "train"),
    ]
    assert found.items["title"].to_list() == ["A", "B", "C"]
    assert found.domains_in == ["a"]
    assert dict((why, n) for _, n, why in found.dropped) == {
        "a.train.csv: history_item_id is no list of numbers, or item_id no number": 7,
        "a.train.csv: fewer than two ids, so no history": 1,
        "a.train.csv: an id without a title": 1,
        "a.train.csv: no user_id, or one with a control character": 2,
    }
    assert not Path("hacked").exists()


def test_empty_titles_are_counted_and_their_rows_with_them(tmp_path):
    folder = texts(tmp_path / "texts", train_data="1 2\n1 2 3\n")
    (folder / "item_titles.json").write_text('{"1": "A", "2": "B", "3": " "}')
    (tmp_path / "a.train.csv").write_text(HEAD + "u,['A'],B,[0],1\nu,\"['A', 'B']\",,\"[0, 1]\",2\n")
    (tmp_path / "a.info.txt").write_text("A\t0\n\t1\nB\t1\n\t2\n")
    for path, name, item in ((folder, "train_data.txt", 3), (tmp_path, "a.train.csv", 2)):
        data = Data(source="llm2rec", path=str(path))
        found = sources.load(data)
        assert found.items["title"].to_list() == ["A", "B"]
        assert found.dropped == [("bad lines", 1, f"{name}: an id without a title")]
        assert found.facts["item_rows_dropped"] == f"1 rows with an empty title, first that of item {item}"
        assert samples(cleaning.build_corpus(found, data)) == Counter({("train", (1,), 2): 1})
        with pytest.raises(ValueError, match=r"data_strict is on.*1 rows with an empty title"):
            sources.load(replace(data, strict=True))


def test_backslashes_in_the_lists_are_pythons_and_short_rows_are_counted(tmp_path):
    titles, ids = ["back\\\\slash", "it's"], [0, 1]
    data = Data(source="llm2rec", path=str(tmp_path), max_history=1)
    with (tmp_path / "a.train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEAD.strip().split(","), ["u", str(titles), "a\\\\,", str(ids), 1]])
    found = sources.load(data)
    assert found.items["title"].to_list() == [titles[0], "a\\\\,"]
    (tmp_path / "a.train.csv").write_text(HEAD + "u,x,A,[1],0\nu,x,B,[0],1\nu,x,A\n")
    found = sources.load(data)
    assert found.dropped == [("bad lines", 1, "a.train.csv: fewer cells than the 5 columns, first in line 4")]
    (tmp_path / "a.train.csv").write_text(HEAD + 'u,x,A,[1],0\nu,x,"B" b,[0],1\n')
    with pytest.raises(ValueError, match=r"a\.train\.csv, line 3: the quotes of the row"):
        sources.load(data)


def test_titles_from_the_rows_where_no_info_file_is(tmp_path):
    (tmp_path / "a.test.csv").write_text(
        HEAD + """u,"['A, ""the"" first', 'B']",C,"[5, 6]",7\nv,"['other', 'C']",B,"[7, 7]",6\nw,"['x']",Z,"[8]",7\n"""
    )
    found = sources.load(Data(source="llm2rec", path=str(tmp_path)))
    assert found.items.select("source_id", "title").rows() == [("5", 'A, "the" first'), ("6", "B"), ("7", "C"), ("8", "x")]
    assert found.facts["titles_unlike_info"].startswith("1 rows")
    assert found.facts["titles_from"] == "the CSV files"


def test_users_whose_rows_do_not_continue_each_other(tmp_path):
    """As where the train file is missing: a second beginning of a user is a sequence of its own."""
    (tmp_path / "a.test.csv").write_text(
        HEAD + "u,\"['t', 't']\",A,\"[0, 1]\",0\nu,\"['t', 't', 't', 't']\",A,\"[1, 0, 0, 1]\",0\n"
    )
    (tmp_path / "a.info.txt").write_text("A\t0\nB\t1\n")
    corpus = read(tmp_path)
    assert corpus.users["source_id"].to_list() == ["u", "u#2"]
    assert samples(corpus) == Counter({("test", (1, 2), 1): 1, ("test", (2, 1, 1, 2), 1): 1})


def test_users_come_from_csv_files_only_where_the_rows_agree(tmp_path):
    corpus = make_corpus(users=10, items=6)
    llm2rec_files.write(corpus, tmp_path / "x", name="a")
    assert read(tmp_path / "x", max_history=4).users["source_id"][0].startswith("u")
    file = tmp_path / "x" / "valid" / "a.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], *lines[:0:-1]]))
    found = sources.load(Data(source="llm2rec", path=str(tmp_path / "x"), max_history=4))
    assert found.facts["users_from"].startswith("none")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expects the official code's files.*holds \[\]"),
        ({"train_data.txt": "1 2\n"}, r"item_titles\.json is missing"),
        ({"train_data.txt": "1 2\n", "item_titles.json": "{"}, r"item_titles\.json is not JSON"),
        ({"train_data.txt": "1 2\n", "item_titles.json": "[]"}, r'must be an object \{"1": title.*found list'),
        ({"train_data.txt": "1 2\n", "item_titles.json": '{"0": "a"}'}, r"ids from 1 a title each; found '0': 'a'"),
        ({"train_data.txt": "1 2\n", "item_titles.json": '{"1": 5}'}, r"found '1': 5"),
        (
            {"train_data.txt": "", "item_titles.json": '{"1": "a"}'},
            r"no row is a sample; left out: none, the files are empty",
        ),
        (
            {"train_data.txt": "x\n", "item_titles.json": '{"1": "a"}'},
            r"no row is a sample; left out: \{'train_data\.txt: not",
        ),
        ({"train_data.txt": b"\xff\n", "item_titles.json": '{"1": "a"}'}, r"train_data\.txt, line 1, is no UTF-8 text"),
        (
            {"a.test.csv": "user_id,item\n"},
            r"must have the columns.*\['history_item_title', .*missing, found \['user_id', 'item'\]",
        ),
        ({"a.test.csv": ""}, r"a\.test\.csv is empty"),
        ({"a.test.csv": HEAD, "b.test.csv": HEAD}, r"several CSV files of test, \['a\.test\.csv', 'b\.test\.csv'\]"),
        ({"a.test.csv": HEAD, "a.info.txt": "title\n"}, r"a\.info\.txt, line 1: expected is a title, a tab and an id"),
        ({"a.test.csv": HEAD, "a.info.txt": "\n"}, r"a\.info\.txt is empty"),
        ({"a.test.csv": HEAD}, r"no row is a sample"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        sources.load(Data(source="llm2rec", path=str(tmp_path)))


REAL = Path(__file__).parents[2].parent / "shared" / "data" / "llm2rec_csv"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data folder ../shared/data is not here")
def test_real_office_products_have_the_numbers_of_their_readme_and_survive_the_round_trip(tmp_path):
    corpus = read(REAL)
    assert (corpus.n_users, corpus.n_items, len(corpus.targets)) == (3_231, 3_459, 9_732)
    assert not len(corpus.samples("train"))  # the train file is not there
    with (REAL / "Office_Products.test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ids = corpus.items["source_id"].cast(int).to_list()
    expected = Counter((tuple(json.loads(r["history_item_id"])), int(r["item_id"])) for r in rows)
    got = Counter((tuple(ids[i - 1] for i in h), ids[t - 1]) for s, h, t in samples(corpus).elements() if s == "test")
    assert got == expected
    llm2rec_files.write(corpus, tmp_path / "x")
    assert samples(read(tmp_path / "x")) == samples(corpus)
