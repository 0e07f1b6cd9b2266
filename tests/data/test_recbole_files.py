"""RecBole files: both forms of `.inter`, prefixes and windows, index files, and what is said when something is missing."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.settings import Data

ITEMS = "item_id:token\ttitle:token_seq\n" + "".join(f'{i}\tThing {i} "big" &amp; red\n' for i in range(1, 8))


def write(folder: Path, **files: str) -> Data:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return Data(source="recbole", path=str(folder), min_interactions=0)


def listed(found: sources.Interactions) -> dict[str, list[str]]:
    return {u: e["item"].to_list() for (u,), e in found.events.group_by("user", maintain_order=True)}


HEAD = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


def test_history_and_next_item_are_the_users_sequence(tmp_path):
    settings = write(tmp_path, toys__item=ITEMS, toys__test__inter=HEAD + "b\t3 1 2\t4\na\t5 6\t7\n")
    found = sources.load(settings)
    assert listed(found) == {"b": ["3", "1", "2", "4"], "a": ["5", "6", "7"]}
    assert found.domains_in == ["toys"]
    assert found.items["domain"].unique().to_list() == ["toys"]
    assert found.items["title"][0] == 'Thing 1 "big" &amp; red'
    assert not found.has_times
    corpus = cleaning.build_corpus(found, settings)
    assert corpus.titles[0] == 'Thing 1 "big" & red'
    assert corpus.history(3).tolist() == [3, 1, 2]


def test_the_longest_row_of_a_user_is_kept_whatever_the_file(tmp_path):
    settings = write(
        tmp_path,
        toys__item=ITEMS,
        toys__train__inter=HEAD + "a\t1 2\t3\na\t1\t2\nb\t1 2 3 4\t5\n",
        toys__valid__inter=HEAD + "a\t1 2 3\t4\n",
        toys__test__inter=HEAD + "a\t1 2 3 4\t5\n",
    )
    found = sources.load(settings)
    assert listed(found) == {"a": ["1", "2", "3", "4", "5"], "b": ["1", "2", "3", "4", "5"]}
    assert found.facts["rows_not_part"] == 0


def test_windows_that_continue_each_other_are_joined_and_the_test_files_comes_last(tmp_path):
    settings = write(
        tmp_path,
        toys__item=ITEMS,
        toys__train__inter=HEAD + "a\t1 2 3\t4\n",
        toys__valid__inter=HEAD + "a\t2 3 4\t5\n",
        toys__test__inter=HEAD + "a\t3 4 5\t6\n",
    )
    found = sources.load(settings)
    assert listed(found) == {"a": ["1", "2", "3", "4", "5", "6"]}
    assert found.facts["rows_not_part"] == 0


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_windows_of_one_file_are_joined_in_whatever_order_they_stand(tmp_path, order):
    windows = ["a\t1 2\t3\n", "a\t2 3\t4\n", "a\t3 4\t5\n"]
    text = HEAD + "".join(windows[k] for k in order) + "a\t1\t2\nb\t6\t7\n"
    found = sources.load(write(tmp_path, toys__item=ITEMS, toys__inter=text))
    assert listed(found) == {"a": ["1", "2", "3", "4", "5"], "b": ["6", "7"]}
    assert found.dropped == []


def test_nothing_is_newer_than_the_test_files_row(tmp_path):
    """The train row is as wide and begins as the test row ends, and there was a gap: it is no continuation."""
    train, test = HEAD + "a\t3 4\t5\n", HEAD + "a\t2 3\t4\n"
    found = sources.load(write(tmp_path, toys__item=ITEMS, toys__train__inter=train, toys__test__inter=test))
    assert listed(found) == {"a": ["2", "3", "4"]}
    assert found.facts["rows_not_part"] == 1


def test_of_windows_with_a_gap_the_test_files_is_kept_and_the_others_are_counted_and_told(tmp_path, capsys):
    settings = write(
        tmp_path,
        toys__item=ITEMS,
        toys__train__inter=HEAD + "a\t1 2 3\t4\na\t1\t2\nb\t1 1 1\t1\n",
        toys__test__inter=HEAD + "a\t3 4 5\t6\nb\t1 1 1\t1\nb\t1\t1\n",
    )
    found = sources.load(settings)
    assert listed(found) == {"a": ["3", "4", "5", "6"], "b": ["1", "1", "1", "1"]}
    assert found.facts["rows_not_part"] == 2
    assert [(step, n) for step, n, _ in found.dropped] == [("rows apart", 2)]
    assert capsys.readouterr().out == "recbole: left out 2 interactions (rows apart)\n"
    with pytest.raises(ValueError, match=r"data_strict is on.* 2 interactions \(rows apart: no part of what"):
        sources.load(replace(settings, strict=True))


def test_an_item_id_that_only_starts_alike_is_no_prefix(tmp_path):
    settings = write(
        tmp_path, toys__item=ITEMS, toys__train__inter=HEAD + "a\t1\t2\n", toys__test__inter=HEAD + "a\t1 21\t3\n"
    )
    assert sources.load(settings).facts["rows_not_part"] == 1


def test_an_item_consumed_twice_stays_twice(tmp_path):
    settings = write(tmp_path, toys__item=ITEMS, toys__inter=HEAD + "a\t1 1 2\t1\n")
    assert cleaning.build_corpus(sources.load(settings), settings).sequence.tolist() == [1, 1, 2, 1]


def test_plain_rows_with_seconds(tmp_path):
    rows = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "a\t2\t5.0\t1600000002\na\t1\t5\t1600000001.5\na\t3\t1\t1600000003\n"
    )
    settings = write(tmp_path, toys__item=ITEMS, toys__inter=rows)
    found = sources.load(settings)
    assert found.events["time"].to_list() == [1600000002000, 1600000001500, 1600000003000]
    assert cleaning.build_corpus(found, settings).sequence.tolist() == [1, 2, 3]


PLAIN = "user_id:token\titem_id:token\n"
TIMED = "user_id:token\titem_id:token\ttimestamp:float\n"
SPLIT = {"toys__train__inter": "a\t1\na\t2\n", "toys__valid__inter": "a\t3\n", "toys__test__inter": "a\t4\n"}


def test_the_whole_beside_its_parts_is_not_read_twice_where_no_times_tell_it(tmp_path, capsys):
    parts = {name: PLAIN + rows for name, rows in SPLIT.items()}
    whole = {"toys__inter": PLAIN + "a\t1\na\t2\na\t3\na\t4\n"}
    settings = write(tmp_path, toys__item=ITEMS, **parts, **whole)
    found = sources.load(settings)
    assert listed(found) == {"a": ["1", "2", "3", "4"]}
    assert found.facts["files"] == ["toys.test.inter", "toys.valid.inter", "toys.train.inter"]
    told = "toys.inter: toys.test.inter, toys.valid.inter, toys.train.inter beside it are"
    assert (found.facts["not_read"], capsys.readouterr().out) == (told, f"recbole: not read {told}\n")
    (tmp_path / "toys.train.inter").unlink()
    with pytest.raises(ValueError, match=r"toys\.inter stands beside toys\.test\.inter, toys\.valid\.inter, without"):
        sources.load(settings)


def test_with_times_the_whole_and_its_parts_are_one(tmp_path):
    parts = {name: re.sub(r"(\d)\n", r"\1\t160000000\1\n", rows) for name, rows in SPLIT.items()}
    files = {name: TIMED + rows for name, rows in parts.items()} | {"toys__inter": TIMED + "".join(parts.values())}
    settings = write(tmp_path, toys__item=ITEMS, **files)
    assert cleaning.build_corpus(sources.load(settings), settings).sequence.tolist() == [1, 2, 3, 4]


def test_a_part_without_times_among_parts_that_have_them_is_named(tmp_path):
    files = {name: TIMED + re.sub(r"\n", "\t1600000001\n", rows) for name, rows in SPLIT.items()}
    settings = write(tmp_path, toys__item=ITEMS, **files | {"toys__valid__inter": PLAIN + "a\t3\n"})
    with pytest.raises(
        ValueError, match=r"\['toys\.valid\.inter'\] have no column timestamp, and \['toys\.train\.inter', 'toys\.t"
    ):
        sources.load(settings)


def test_dates_that_can_be_read_in_two_ways_are_read_as_the_settings_say(tmp_path):
    settings = write(tmp_path, toys__item=ITEMS, toys__inter=TIMED + "a\t1\t03/04/2021\na\t2\t02/05/2021\n")
    with pytest.raises(ValueError, match=r"Set data_dates to day_first or month_first"):
        sources.load(settings)
    days = [sources.load(replace(settings, dates=order)).events["time"].to_list() for order in ("day_first", "month_first")]
    assert [first < second for first, second in days] == [True, False]


def test_unisrec_index_files_give_the_sources_own_ids(tmp_path):
    settings = write(
        tmp_path,
        S__text="item_id:token\ttext:token_seq\nB01\tGlue. Office. Acme.\nB02\tTape. Office. Acme.\n",
        S__item2index="B02\t0\nB01\t1\n",
        S__user2index="Zoe\t0\n",
        S__test__inter=HEAD + "0\t0 1\t0\n",
    )
    found = sources.load(settings)
    assert listed(found) == {"Zoe": ["B02", "B01", "B02"]}
    assert found.items["title"].to_list() == ["Glue. Office. Acme.", "Tape. Office. Acme."]


def test_the_domain_can_be_named(tmp_path):
    write(tmp_path, toys__item=ITEMS, toys__inter=HEAD + "a\t1 2\t3\n")
    found = sources.load(Data(source="recbole", path=str(tmp_path), domain="Toys and Games"))
    assert found.domains_in == ["Toys and Games"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no \.inter file; it holds \[\]"),
        ({"toys__inter": HEAD + "a\t1\t2\n"}, r"neither toys\.item nor toys\.text is in .* which holds \['toys\.inter'\]"),
        ({"a__inter": HEAD, "b__inter": HEAD}, r"several data sets \['a', 'b'\]"),
        (
            {"toys__item": "id\tname\n1\tx\n", "toys__inter": HEAD},
            r"columns \['item_id', 'title'\] are missing; found \['id'",
        ),
        (
            {"toys__item": ITEMS, "toys__inter": "user\titem\n1\t1\n"},
            r"\['user_id', 'item_id'\] are missing; found \['user'",
        ),
        (
            {"toys__item": ITEMS, "toys__train__inter": HEAD, "toys__test__inter": "user_id\titem_id\n"},
            r"some of .* have not",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        sources.load(write(tmp_path, **files))


def test_a_missing_folder_says_what_was_expected_there(tmp_path):
    with pytest.raises(ValueError, match=r"expects a folder of RecBole atomic files.*nowhere does not exist"):
        sources.load(Data(source="recbole", path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"data_path is empty"):
        sources.load(Data(source="recbole"))


REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(not (REAL / "games_2018").is_dir(), reason="the real data folder ../shared/data is not here")
def test_real_games_have_the_numbers_of_their_readme():
    data = Data(source="recbole", path=str(REAL / "games_2018"), strict=True)
    found = sources.load(data)
    assert (found.events["user"].n_unique(), len(found.items), len(found.events)) == (50_546, 16_859, 440_264)
    assert found.facts["rows_not_part"] == 0
    corpus = cleaning.build_corpus(found, data)
    assert len(corpus.samples("valid")) == len(corpus.samples("test")) == corpus.n_users
    assert not corpus.items["title"].str.contains("&amp;").any()


@pytest.mark.skipif(not (REAL / "scientific_2018").is_dir(), reason="the real data folder ../shared/data is not here")
def test_real_scientific_is_what_a_plain_reading_of_its_files_gives():
    """Each position of a user is a row's target (train's the last first), so the targets alone give the sequence. With the
    windows joined there are 59,427 interactions; the longest rows alone hold 59,384.
    """
    folder = REAL / "scientific_2018"
    found = sources.load(Data(source="recbole", path=str(folder), strict=True))
    assert (found.events["user"].n_unique(), len(found.items), len(found.events)) == (8_442, 4_385, 59_427)
    assert found.facts["rows_not_part"] == 0
    items, users = (
        {index: name for name, index in (line.split() for line in (folder / f"Scientific.{kind}2index").open())}
        for kind in ("item", "user")
    )
    expected: dict[str, list[str]] = {}
    for part in ("test", "valid", "train"):
        for line in list((folder / f"Scientific.{part}.inter").open())[1:]:
            user, history, target = line.rstrip("\n").split("\t")
            expected.setdefault(users[user], []).append(items[target])
            first = items[history.split()[0]]
        expected[users[user]] += [first] if part == "train" else []
    got = listed(found)
    assert {u: s[1:] for u, s in got.items()} == {u: s[::-1][-len(got[u]) + 1 :] for u, s in expected.items()}
    assert sum(map(len, got.values())) - sum(map(len, expected.values())) == 8_442 - 1
    text = dict(line.rstrip("\n").split("\t") for line in list((folder / "Scientific.text").open())[1:])
    assert dict(found.items.select("source_id", "title").iter_rows()) == text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"toys__item": ITEMS, "toys__inter": "user_id:token\titem_id:token\titem_id\na\t1\t1\n"}, r"names a column twice"),
        ({"toys__item": ITEMS, "toys__inter": ""}, r"toys\.inter is empty"),
        (
            {"toys__item": ITEMS, "toys__inter": HEAD + "a\t1\t2\t3\n"},
            r"toys\.inter, line 2, has more cells than the 3 columns",
        ),
        (
            {"toys__item": ITEMS, "toys__inter": "user_id\titem_id\ttimestamp\na\t1\tsoon\n"},
            r"the column timestamp of toys\.inter must hold seconds or milliseconds.*'soon'",
        ),
        (
            {"toys__item": ITEMS, "toys__inter": HEAD + "0\t1\t2\n", "toys__item2index": "a\t1\nb\t1\n"},
            r"toys\.item2index must hold an id, a tab and an index of its own",
        ),
        (
            {"toys__item": ITEMS, "toys__inter": HEAD, "toys__user2index": "a\n"},
            r"toys\.user2index cannot be read as 2 columns",
        ),
        ({"toys__item": "item_id,title\n1,x\n", "toys__inter": HEAD}, r"divided by '\\t' are expected.*, divided by ','"),
    ],
)
def test_damaged_files_are_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        sources.load(write(tmp_path, **files))


def test_rows_that_no_stage_can_use_are_counted(tmp_path):
    rows = "user_id\titem_id\ttimestamp\na\t1\t5\n\t1\t5\na\t\t5\na\t2\t0\na\t3\t-1\nb\t4\t\n"
    found = sources.load(write(tmp_path, toys__item=ITEMS + "1\tagain\n\tnameless\n", toys__inter=rows))
    assert found.events.rows() == [("a", "1", 5000), ("b", "4", None)]
    assert [(step, n) for step, n, _ in found.dropped] == [("empty ids", 2), ("bad times", 2)]
    assert found.facts["item_rows_dropped"] == "2 rows with no id or an id seen before"


@given(st.lists(st.text('"\t\n \\a7', max_size=6), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_titles_that_a_csv_writer_quoted_and_titles_that_just_begin_with_a_quote_come_back(tmp_path_factory, titles):
    """pandas quotes a cell with a quote in it; RecBole's own conversion writes text as it is, which has no tabs or line ends."""
    folder = tmp_path_factory.mktemp("x")
    (folder / "x.inter").write_text(HEAD)
    header, rows = ["item_id:token", "title:token_seq"], [[str(k), title] for k, title in enumerate(titles)]
    with (folder / "x.item").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    expected = [re.sub(sources.CONTROL, " ", title) for title in titles]

    def read() -> list[str]:
        return sources.load(Data(source="recbole", path=str(folder))).items["title"].fill_null("").to_list()

    if not any("\n" in title and all(line.count("\t") == 1 for line in title.split("\n")[1:]) for title in titles):
        assert read() == expected  # else some title looks like rows of its own
    plain = [re.sub(r'""+|[\t\n]', " ", title) for title in titles]  # a doubled quote in a quoted title is a writer's
    (folder / "x.item").write_text(
        "\n".join("\t".join(row) for row in [header, *zip(map(str, range(9)), plain, strict=False)])
    )
    assert read() == plain


def test_rows_with_too_few_cells_are_counted(tmp_path):
    inter = "user_id\titem_id\ttimestamp\na\t1\t5\nb\t2\n"
    found = sources.load(write(tmp_path, toys__item=ITEMS + "8\n", toys__inter=inter))
    assert found.events.rows() == [("a", "1", 5000)]
    assert found.dropped == [("bad lines", 1, "toys.inter: fewer cells than the 3 columns, first in line 3")]
    assert found.facts["item_rows_dropped"] == "1 rows toys.item: fewer cells than the 2 columns, first in line 9"


def test_columns_that_the_kit_gives_items_itself_are_left_out_and_told(tmp_path, capsys):
    names = ["item", "plain_title", "popularity", "cluster", "community"]
    head = "\t".join(["item_id:token", "title:token_seq", "brand:token", *(f"{n}:token" for n in names)])
    rows = "".join(f"{i}\tThing {i}\tMoss\t" + "\t".join("x" * len(names)) + "\n" for i in range(1, 8))
    settings = write(tmp_path, toys__item=f"{head}\n{rows}", toys__inter=HEAD + "a\t1 2 3\t4\n")
    found = sources.load(settings)
    assert found.items.columns == ["source_id", "title", "domain", "brand"]
    said = "item, plain_title, popularity, cluster, community (names that the kit gives itself)"
    assert found.facts["columns_left_out"] == said
    assert f"recbole: columns left out: {said}" in capsys.readouterr().out
