"""RecBole files: both forms of `.inter`, prefixes and windows, index files, and what is said when something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    corpus = cleaning.build(found, settings)
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
    assert found.facts["rows_not_prefix"] == 0


def test_of_equally_long_windows_the_test_files_is_kept(tmp_path):
    settings = write(
        tmp_path,
        toys__item=ITEMS,
        toys__train__inter=HEAD + "a\t1 2 3\t4\n",
        toys__valid__inter=HEAD + "a\t2 3 4\t5\n",
        toys__test__inter=HEAD + "a\t3 4 5\t6\n",
    )
    found = sources.load(settings)
    assert listed(found) == {"a": ["3", "4", "5", "6"]}
    assert found.facts["rows_not_prefix"] == 2


def test_an_item_id_that_only_starts_alike_is_no_prefix(tmp_path):
    settings = write(
        tmp_path, toys__item=ITEMS, toys__train__inter=HEAD + "a\t1\t2\n", toys__test__inter=HEAD + "a\t1 21\t3\n"
    )
    assert sources.load(settings).facts["rows_not_prefix"] == 1


def test_an_item_consumed_twice_stays_twice(tmp_path):
    settings = write(tmp_path, toys__item=ITEMS, toys__inter=HEAD + "a\t1 1 2\t1\n")
    assert cleaning.build(sources.load(settings), settings).sequence.tolist() == [1, 1, 2, 1]


def test_plain_rows_with_seconds(tmp_path):
    rows = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "a\t2\t5.0\t1600000002\na\t1\t5\t1600000001.5\na\t3\t1\t1600000003\n"
    )
    settings = write(tmp_path, toys__item=ITEMS, toys__inter=rows)
    found = sources.load(settings)
    assert found.events["time"].to_list() == [1600000002000, 1600000001500, 1600000003000]
    assert cleaning.build(found, settings).sequence.tolist() == [1, 2, 3]


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
    found = sources.load(Data(source="recbole", path=str(REAL / "games_2018")))
    assert (found.events["user"].n_unique(), len(found.items), len(found.events)) == (50_546, 16_859, 440_264)


@pytest.mark.skipif(not (REAL / "scientific_2018").is_dir(), reason="the real data folder ../shared/data is not here")
def test_real_scientific_has_the_numbers_of_its_readme():
    found = sources.load(Data(source="recbole", path=str(REAL / "scientific_2018")))
    assert (found.events["user"].n_unique(), len(found.items), len(found.events)) == (8_442, 4_385, 59_384)
    assert found.events["item"].is_in(found.items["source_id"].implode()).all()
