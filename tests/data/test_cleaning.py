"""Cleaning: each step against hand-computed values, the k-core against a slow plain version."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import LETTERS, dropped, plain, sequences, shop

from llm2rec_kit.corpus import TEST, TRAIN, VALID
from llm2rec_kit.data import cleaning
from llm2rec_kit.data import events as events_of_cleaning
from llm2rec_kit.data.events import count_codes, mark_first_events, mark_k_core
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.settings import Data


def test_released_title_rules():
    kept = {
        "quote": "&quot;Big&quot; &amp; red",
        "spaces": "  Tea ",
        "twenty": " ".join("w" * 20),
        "two": "ab",
        "entity": "Caf&eacute;",
    }
    gone = {
        "none": None,
        "empty": "",
        "span": 'x <span id="y">',
        "one": "a",
        "blank": "   ",
        "long": " ".join("w" * 21),
        "double": "a " + " " * 20 + "b",
    }
    items = pl.DataFrame({"source_id": [*kept, *gone], "title": [*kept.values(), *gone.values()]})
    got = dict(cleaning.clean_titles(items, "released").select("source_id", "title").iter_rows())
    assert got == {"quote": 'Big" & red', "spaces": "Tea", "twenty": kept["twenty"], "two": "ab", "entity": "Caf&eacute;"}


def test_gentle_title_rules():
    items = pl.DataFrame(
        {"source_id": list("abcdef"), "title": ["Pok&eacute;mon  &amp;\t Co ", None, "", "&nbsp;", "x", " ".join("w" * 30)]}
    )
    got = dict(cleaning.clean_titles(items, "gentle").select("source_id", "title").iter_rows())
    assert got == {"a": "Pokémon & Co", "e": "x", "f": " ".join("w" * 30)}


def test_a_title_of_a_million_characters_is_no_title():
    items = pl.DataFrame({"source_id": ["a", "b"], "title": ["x" * 10**6, "y" * 2000]})
    assert cleaning.clean_titles(items, "gentle")["source_id"].to_list() == ["b"]


def test_the_title_rules_say_why():
    titles = LETTERS | {"a": None, "b": "<span id=1>", "c": "x", "d": " ".join("w" * 21), "e": " ".join("w" * 22)}
    corpus = cleaning.build_corpus(shop([("u", i) for i in "abcdefff"], titles), plain(title_rules="released"))
    why = next(s["why"] for s in corpus.facts["cleaning"] if s["step"] == "title rules")
    assert why == (
        "rules 'released' refuse the titles of 5 of 6 items: over 20 words 2, markup 1, none 1, one character or less 1"
    )


def test_steps_say_what_they_dropped():
    events = [("u", i, t) for t, i in enumerate("abcde")] + [
        ("u", "a", 0),
        ("u", "ghost", 9),
        ("u", "blank", 10),
        ("short", "a", 1),
        ("u", "f", None),
    ]
    corpus = cleaning.build_corpus(shop(events, {**LETTERS, "blank": " "}, dropped=[("loader", 3, "broken lines")]), plain())
    assert dropped(corpus) == {
        "loader": 3,
        "unknown items": 1,
        "title rules": 1,
        "no time": 1,
        "repeated rows": 1,
        "short users": 1,
    }
    before = [s["rows_before"] for s in corpus.facts["cleaning"]]
    assert before == [13, 10, 9, 8, 7, 6]
    assert sequences(corpus) == {"u": "abcde"}
    assert json.loads(json.dumps(corpus.facts)) == corpus.facts


def test_repeats_stay_unless_time_too_is_the_same():
    timed = cleaning.build_corpus(shop([("u", "a", 1), ("u", "a", 2), ("u", "b", 3), ("u", "b", 3)], LETTERS), plain())
    assert sequences(timed) == {"u": "aab"}
    untimed = cleaning.build_corpus(shop([("u", i) for i in "aabb"], LETTERS), plain())
    assert sequences(untimed) == {"u": "aabb"}
    assert untimed.times is None


def test_of_reviews_only_the_earliest_of_a_pair_counts():
    events = [("u", "a", 5), ("u", "b", 4), ("u", "a", 3), ("u", "a", 3), ("u", "c", 9), ("v", "a", 1)]
    corpus = cleaning.build_corpus(shop(events, LETTERS), plain(repeats="first"))
    assert sequences(corpus) == {"u": "abc"}
    assert dropped(corpus)["later reviews"] == 2


def test_without_times_the_first_row_of_a_pair_counts():
    source = shop([*(("u", i) for i in "abacb"), *(("v", i) for i in "aaabc")], LETTERS)
    corpus = cleaning.build_corpus(source, plain(repeats="first"))
    assert sequences(corpus) == {"u": "abc", "v": "abc"}
    assert corpus.times is None
    assert dropped(corpus)["later reviews"] == 4
    for repeats in ("keep", "auto"):
        kept = cleaning.build_corpus(source, plain(repeats=repeats))
        assert sequences(kept) == {"u": "abacb", "v": "aaabc"}
        assert "later reviews" not in dropped(kept)


pairs = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))


@given(st.lists(pairs, max_size=40), st.booleans())
@settings(max_examples=100, deadline=None)
def test_first_events_against_a_plain_search(events, same_time):
    users, items, times = (np.array([e[j] for e in events], dtype=np.int64) for j in range(3))
    kept = mark_first_events(users, items, times, same_time=same_time).tolist()
    for k, (u, i, t) in enumerate(events):
        rivals = [(t2, j) for j, (u2, i2, t2) in enumerate(events) if (u2, i2) == (u, i) and (not same_time or t2 == t)]
        assert kept[k] == (min(rivals) == (t, k))


def month(text: str) -> int:
    return int(np.datetime64(text, "ms").astype(np.int64))


def test_a_window_keeps_from_the_first_month_to_before_the_last():
    inside = [month("2014-09"), month("2015-01"), month("2023-10") - 1]
    events = [("u", i, t) for i, t in zip("abcde", [month("2014-09") - 1, *inside, month("2023-10")], strict=True)]
    corpus = cleaning.build_corpus(shop(events, LETTERS), plain(start="2014-09", end="2023-10"))
    assert sequences(corpus) == {"u": "bcd"}
    step = next(s for s in corpus.facts["cleaning"] if s["step"] == "time window")
    assert (step["rows_dropped"], step["why"]) == (2, "outside 2014-09 to 2023-10")
    assert sequences(cleaning.build_corpus(shop(events, LETTERS), plain(end="2015-02"))) == {"u": "abc"}
    assert sequences(cleaning.build_corpus(shop(events, LETTERS), plain(start="2015-01"))) == {"u": "cde"}


@pytest.mark.parametrize(
    ("least", "expected", "moved"),
    [
        (0, "def", ""),
        (3, "def", ""),
        (4, "cdef", "2014-01 leaves 3 items"),
        (6, "abcdef", "1997-01 leaves 5 items"),
        (99, "abcdef", "1997-01"),
    ],
)
def test_the_window_opens_a_year_earlier_until_there_are_items_enough(least, expected, moved):
    years = [1996, 1999, 2013, 2014, 2015, 2016]
    events = [("u", i, month(f"{year}-06")) for i, year in zip("abcdef", years, strict=True)]
    corpus = cleaning.build_corpus(shop(events, LETTERS), plain(start="2014-01", min_items=least, min_interactions=1))
    assert sequences(corpus) == {"u": expected}
    assert moved in next(s["why"] for s in corpus.facts["cleaning"] if s["step"] == "time window")


def test_the_released_window_is_the_categorys():
    games = shop(
        [("u", i, month(t)) for i, t in zip("abcd", ["1996-08", "1996-09", "2023-09", "2023-10"], strict=True)], LETTERS
    )
    named = Interactions(
        items=games.items.with_columns(domain=pl.lit("Video_Games")), events=games.events, domains_in=["Video_Games"]
    )
    with pytest.raises(ValueError, match=r"'short users'"):
        cleaning.build_corpus(named, plain(start="released"))
    assert sequences(cleaning.build_corpus(named, plain(start="released", end="2024-01"))) == {"u": "bcd"}
    with pytest.raises(
        ValueError, match=r"'released' is known for one of \['arts', 'baby'.*the data's domains are \['shop'\]"
    ):
        cleaning.build_corpus(games, plain(start="released"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"start": "2014"}, "data_start is a month such as 2014-09"),
        ({"end": "2014-13"}, "data_end is a month such as 2014-09"),
        ({"start": "2014-02", "end": "2014-02"}, "data_start 2014-02 must be before data_end 2014-02"),
        ({"min_items": 5}, "data_min_items moves data_start back, and data_start is empty"),
        ({"start": "2030-01"}, r"Nothing is left after the cleaning step 'time window' \(outside 2030-01 to the end\)"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        cleaning.build_corpus(shop([("u", i, 5) for i in "abc"], LETTERS), plain(**more))


def test_a_window_needs_times():
    with pytest.raises(ValueError, match="need timestamps, and this source has none"):
        cleaning.build_corpus(shop([("u", i) for i in "abc"], LETTERS), plain(start="2014-01"))


@given(
    st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(-3, 3)), min_size=1, max_size=30),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_categorical_ids_and_row_order_beyond_ties_change_nothing(events, k):
    source = shop(events, LETTERS)
    coded = Interactions(
        items=source.items,
        events=source.events.with_columns(pl.col("user", "item").cast(pl.Categorical)),
        domains_in=["shop"],
    )
    chosen = plain(min_interactions=k, repeats="first")
    try:
        one = cleaning.build_corpus(source, chosen)
    except ValueError as error:
        with pytest.raises(ValueError, match="Nothing is left"):
            cleaning.build_corpus(coded, chosen)
        if "Nothing is left" not in str(error):
            raise
        return
    two = cleaning.build_corpus(coded, chosen)
    assert sequences(one) == sequences(two)
    assert one.facts == two.facts
    by_time = cleaning.build_corpus(shop(sorted(events, key=lambda e: e[2]), LETTERS), chosen)
    assert sequences(by_time) == sequences(one)


def test_ids_that_are_missing_are_a_step_of_their_own():
    source = shop([("u", i) for i in "abc"], LETTERS)
    events = pl.concat([source.events, pl.DataFrame({"user": [None, "v"], "item": ["a", None]})])
    corpus = cleaning.build_corpus(Interactions(items=source.items, events=events, domains_in=["shop"]), plain())
    assert dropped(corpus)["empty ids"] == 2


def test_equal_times_stay_in_the_sources_order_and_users_in_theirs():
    events = [("v", "c", 5), ("u", "b", 7), ("v", "a", 5), ("u", "a", 7), ("v", "b", 1), ("u", "f", 7)]
    corpus = cleaning.build_corpus(shop(events, LETTERS), plain())
    assert list(sequences(corpus).items()) == [("v", "bca"), ("u", "baf")]
    assert corpus.times.tolist() == [1, 5, 5, 7, 7, 7]


def test_a_user_of_two_domains_is_two_users():
    domains = {"d": "tea", "e": "tea", "f": "tea"}
    events = [("u", i) for i in "adbecf"] + [("v", i) for i in "abc"]
    corpus = cleaning.build_corpus(shop(events, LETTERS, domains), plain(train_domains=["tea"]))
    assert sequences(corpus) == {"u@shop": "abc", "u@tea": "def", "v": "abc"}
    assert corpus.users["domain"].to_list() == ["shop", "tea", "shop"]
    assert corpus.train_domains == ["tea"]
    assert sequences(corpus.select(["tea"])[0]) == {"u@tea": "def"}


def test_the_user_subset_is_drawn_by_seed_and_before_the_k_core():
    events = [(f"u{u}", i) for u in range(50) for i in "abc"]
    draw = lambda seed: cleaning.build_corpus(shop(events, LETTERS), plain(users=7, seed=seed))  # noqa: E731
    one = draw(1)
    assert one.n_users == 7
    assert one.facts["cleaning"][0]["step"] == "user subset"
    assert sequences(one) == sequences(draw(1)) != sequences(draw(2))
    shuffled = cleaning.build_corpus(shop(events[::-1], LETTERS), plain(users=7, seed=1))
    assert sequences(shuffled).keys() == sequences(one).keys()


def test_cold_items_stay_only_without_a_k_core():
    events = [("u", i) for i in "abc"]
    assert cleaning.build_corpus(shop(events, LETTERS), plain()).n_items == 6
    assert cleaning.build_corpus(shop(events, LETTERS), plain(min_interactions=1)).n_items == 3


def slow_k_core(pairs: list[tuple[int, int]], k_user: int, k_item: int) -> list[int]:
    """One event at a time, the first that must go."""
    left = list(range(len(pairs)))
    while True:
        users, items = Counter(pairs[i][0] for i in left), Counter(pairs[i][1] for i in left)
        bad = [i for i in left if users[pairs[i][0]] < k_user or items[pairs[i][1]] < k_item]
        if not bad:
            return left
        left.remove(bad[0])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=50), st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_k_core_is_the_fixed_point(pairs, k_user, k_item):
    users, items = (np.array([p[j] for p in pairs], dtype=np.int64) for j in (0, 1))
    kept = np.flatnonzero(mark_k_core(users, items, k_user, k_item)).tolist()
    assert kept == slow_k_core(pairs, k_user, k_item)


def test_codes_are_counted_in_parts_as_at_once(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 9, 50).astype(np.int32)
    monkeypatch.setattr(events_of_cleaning, "COUNTED", 7)
    assert count_codes(codes).tolist() == np.bincount(codes).tolist()
    assert count_codes(codes[:0]).tolist() == []


def test_with_k_below_three_both_minima_hold():
    events = [("u", i) for i in "abc"] + [("v", i) for i in "abcd"] + [("w", i) for i in "de"]
    corpus = cleaning.build_corpus(shop(events, LETTERS), plain(min_interactions=2))
    assert sequences(corpus) == {"u": "abc", "v": "abc"}


def test_what_cannot_be_is_explained():
    untimed = shop([("u", i) for i in "abc"], LETTERS)
    for rule in ("global_time", "released"):
        with pytest.raises(ValueError, match=rf"{rule} needs timestamps.*\['shop'\].*Use leave_one_out"):
            cleaning.build_corpus(untimed, plain(split=rule))
    with pytest.raises(ValueError, match=r"cleaning step '5-core'.*dropped all 3"):
        cleaning.build_corpus(untimed, plain(min_interactions=5))
    with pytest.raises(ValueError, match=r"0 interactions and 6 items"):
        cleaning.build_corpus(shop([], LETTERS), plain())
    with pytest.raises(ValueError, match=r"'short users'"):
        cleaning.build_corpus(shop([("u", "a"), ("v", "b")], LETTERS), plain())
    with pytest.raises(
        ValueError, match=r"Nothing is left: none of the 3 interactions .*: one is with 'z', the table has 'a'\. Write"
    ):
        cleaning.build_corpus(shop([("u", "z")] * 3, LETTERS), plain())
    with pytest.raises(ValueError, match=r"data_train_domains names \['toys'\]; the source 'table' has \['shop'\]"):
        cleaning.build_corpus(untimed, plain(train_domains=["toys"], min_interactions=5))  # before a step finds fault


def test_a_training_domain_that_the_cleaning_empties_is_named():
    events = [("u", i) for i in "abc"] + [("v", "d")]
    source = shop(events, LETTERS, {"d": "toys"})
    with pytest.raises(ValueError, match=r"\['toys'\] have no items after cleaning; the corpus has \['shop'\]"):
        cleaning.build_corpus(source, plain(train_domains=["toys"], min_interactions=1))


def test_a_training_domain_may_have_the_papers_name():
    corpus = cleaning.build_corpus(shop([("u", i) for i in "abc"], LETTERS, dict.fromkeys("abc", "Video_Games")),
                                   plain(train_domains=["Games"]))  # fmt: skip
    assert corpus.train_domains == ["Video_Games"]


def test_the_fingerprint_follows_the_files_contents(tmp_path):
    from llm2rec_kit.data import sources

    (tmp_path / "items.csv").write_text("item,title\n1,a\n")
    before = sources.hash_files(Data(source="table", path=str(tmp_path)))
    assert list(before) == [f"{tmp_path.name}/items.csv"]
    (tmp_path / "items.csv").write_text("item,title\n1,b\n")
    assert sources.hash_files(Data(source="table", path=str(tmp_path))) != before
    assert sources.hash_files(Data()) == {}


def given(events: list[tuple], titles: dict[str, str | None]) -> Interactions:
    found = shop([e[:2] for e in events], titles)
    marks = pl.Series("split", [e[2] for e in events], dtype=pl.String)
    return Interactions(items=found.items, events=found.events.with_columns(marks), domains_in=["shop"])


def test_samples_that_the_source_brings_are_kept_as_they_are():
    events = [
        ("u", "a", None),
        ("u", "b", "train"),
        ("u", "a", "test"),
        ("v", "c", None),
        ("v", "c", "valid"),
        ("v", "d", None),
    ]
    found = given(events, {**LETTERS, "e": None, "a": "&amp; " * 30})
    corpus = cleaning.build_corpus(found, plain(min_interactions=5, title_rules="released"))
    assert sequences(corpus) == {"u": "aba", "v": "ccd"}
    assert (corpus.targets.tolist(), corpus.splits.tolist()) == ([1, 2, 4], [TRAIN, TEST, VALID])
    assert corpus.titles[0] == "&amp; " * 30
    assert corpus.titles[4] == ""
    assert corpus.facts["split"] == "given"
    anew = cleaning.build_corpus(found, plain(given_splits=False))
    assert (anew.facts["split"], len(anew.targets)) == ("leave_one_out", 4)
    assert anew.titles[0] == ("& " * 30).strip()


def test_samples_of_the_source_that_cannot_be_kept_are_refused():
    events = [("u", "a", None), ("u", "b", "train")]
    with pytest.raises(ValueError, match=r"1 events of the source's own samples have an item that its item table lacks"):
        cleaning.build_corpus(given(events, {"a": "A"}), plain())
    with pytest.raises(ValueError, match=r"train, valid or test; found \['dev'\]"):
        cleaning.build_corpus(given([("u", "a", None), ("u", "b", "dev")], LETTERS), plain())
    with pytest.raises(ValueError, match="a sample has an empty history"):
        cleaning.build_corpus(given([("u", "a", "train")], LETTERS), plain())


def test_settings_that_a_sources_own_samples_do_not_take_are_told(capsys):
    found = given([("u", "a", None), ("u", "b", "train"), ("u", "c", "test")], LETTERS)
    asked = Data(source="table", min_items=9, start="2014-01", split="global_time", users=1, text_words=3)
    cleaning.build_corpus(found, asked)
    said = "table: without effect, since the source's own samples are kept as they are (data_given_splits): "
    assert capsys.readouterr().out == f"{said}data_start, data_min_items, data_split\n"
    cleaning.build_corpus(found, Data(source="table"))
    assert capsys.readouterr().out == ""


def test_own_samples_of_which_some_have_no_time_are_refused_by_name():
    found = given([("u", "a", None), ("u", "b", "train"), ("u", "c", "test")], LETTERS)
    timed = Interactions(
        items=found.items, events=found.events.with_columns(time=pl.Series([1, None, 3])), domains_in=["shop"]
    )
    with pytest.raises(ValueError, match=r"1 of 3 events of the source's own samples have no time while others have"):
        cleaning.build_corpus(timed, plain())


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            [("u", i, t) for t, i in enumerate("abcz", 1)],
            r"1 of 4 interactions would .* \(unknown items: the item is not in",
        ),
        (
            [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("u", "d", None)],
            r"1 of 4 interactions would .* \(no time: the event",
        ),
    ],
)
def test_strict_stops_at_unknown_items_and_at_events_without_a_time(events, message):
    found = shop(events, LETTERS)
    assert len(cleaning.build_corpus(found, plain()).sequence) == 3
    with pytest.raises(ValueError, match=f"^data_strict is on, and {message}"):
        cleaning.build_corpus(found, plain(strict=True))
    assert len(cleaning.build_corpus(shop(events[:3], LETTERS), plain(strict=True)).sequence) == 3
