"""Cleaning: each step against hand-computed values, the k-core and the splits against slow plain versions."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit.corpus import TEST, TRAIN, VALID
from llm2rec_kit.data import cleaning, leakage
from llm2rec_kit.data.events import first_events, k_core
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.data.splits import global_time, leave_one_out, split, split_times
from llm2rec_kit.settings import Data


def shop(events: list[tuple], titles: dict[str, str | None], domains: dict[str, str] | None = None, **more) -> Interactions:
    names = ["user", "item", "time"][: len(events[0]) if events else 2]
    items = pl.DataFrame(
        {
            "source_id": list(titles),
            "title": pl.Series(list(titles.values()), dtype=pl.String),
            "domain": [(domains or {}).get(i, "shop") for i in titles],
        },
        schema_overrides={"source_id": pl.String, "domain": pl.String},
    )
    frame = pl.DataFrame(events, schema=names, orient="row", schema_overrides={"user": pl.String, "item": pl.String})
    return Interactions(items=items, events=frame, domains_in=items["domain"].unique(maintain_order=True).to_list(), **more)


def plain(**kw) -> Data:
    return Data(source="table", min_interactions=kw.pop("min_interactions", 0), **kw)


LETTERS = {c: f"Item {c}" for c in "abcdef"}


def sequences(corpus) -> dict[str, str]:
    ids = corpus.items["source_id"].to_list()
    return {
        u: "".join(ids[i - 1] for i in corpus.sequence[corpus.offsets[n] : corpus.offsets[n + 1]])
        for n, u in enumerate(corpus.users["source_id"])
    }


def dropped(corpus) -> dict[str, int]:
    return {s["step"]: s["rows_dropped"] for s in corpus.facts["cleaning"]}


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
    corpus = cleaning.build(shop([("u", i) for i in "abcdefff"], titles), plain(title_rules="released"))
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
    corpus = cleaning.build(shop(events, {**LETTERS, "blank": " "}, dropped=[("loader", 3, "broken lines")]), plain())
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
    timed = cleaning.build(shop([("u", "a", 1), ("u", "a", 2), ("u", "b", 3), ("u", "b", 3)], LETTERS), plain())
    assert sequences(timed) == {"u": "aab"}
    untimed = cleaning.build(shop([("u", i) for i in "aabb"], LETTERS), plain())
    assert sequences(untimed) == {"u": "aabb"}
    assert untimed.times is None


def test_of_reviews_only_the_earliest_of_a_pair_counts():
    events = [("u", "a", 5), ("u", "b", 4), ("u", "a", 3), ("u", "a", 3), ("u", "c", 9), ("v", "a", 1)]
    corpus = cleaning.build(shop(events, LETTERS), plain(repeats="first"))
    assert sequences(corpus) == {"u": "abc"}
    assert dropped(corpus)["later reviews"] == 2


pairs = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))


@given(st.lists(pairs, max_size=40), st.booleans())
@settings(max_examples=100, deadline=None)
def test_first_events_against_a_plain_search(events, same_time):
    users, items, times = (np.array([e[j] for e in events], dtype=np.int64) for j in range(3))
    kept = first_events(users, items, times, same_time=same_time).tolist()
    for k, (u, i, t) in enumerate(events):
        rivals = [(t2, j) for j, (u2, i2, t2) in enumerate(events) if (u2, i2) == (u, i) and (not same_time or t2 == t)]
        assert kept[k] == (min(rivals) == (t, k))


def month(text: str) -> int:
    return int(np.datetime64(text, "ms").astype(np.int64))


def test_a_window_keeps_from_the_first_month_to_before_the_last():
    inside = [month("2014-09"), month("2015-01"), month("2023-10") - 1]
    events = [("u", i, t) for i, t in zip("abcde", [month("2014-09") - 1, *inside, month("2023-10")], strict=True)]
    corpus = cleaning.build(shop(events, LETTERS), plain(start="2014-09", end="2023-10"))
    assert sequences(corpus) == {"u": "bcd"}
    step = next(s for s in corpus.facts["cleaning"] if s["step"] == "time window")
    assert (step["rows_dropped"], step["why"]) == (2, "outside 2014-09 to 2023-10")
    assert sequences(cleaning.build(shop(events, LETTERS), plain(end="2015-02"))) == {"u": "abc"}
    assert sequences(cleaning.build(shop(events, LETTERS), plain(start="2015-01"))) == {"u": "cde"}


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
    corpus = cleaning.build(shop(events, LETTERS), plain(start="2014-01", min_items=least, min_interactions=1))
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
        cleaning.build(named, plain(start="released"))
    assert sequences(cleaning.build(named, plain(start="released", end="2024-01"))) == {"u": "bcd"}
    with pytest.raises(
        ValueError, match=r"'released' is known for one of \['arts', 'baby'.*the data's domains are \['shop'\]"
    ):
        cleaning.build(games, plain(start="released"))


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
        cleaning.build(shop([("u", i, 5) for i in "abc"], LETTERS), plain(**more))


def test_a_window_needs_times():
    with pytest.raises(ValueError, match="need timestamps, and this source has none"):
        cleaning.build(shop([("u", i) for i in "abc"], LETTERS), plain(start="2014-01"))


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
        one = cleaning.build(source, chosen)
    except ValueError as error:
        with pytest.raises(ValueError, match="Nothing is left"):
            cleaning.build(coded, chosen)
        if "Nothing is left" not in str(error):
            raise
        return
    two = cleaning.build(coded, chosen)
    assert sequences(one) == sequences(two)
    assert one.facts == two.facts
    by_time = cleaning.build(shop(sorted(events, key=lambda e: e[2]), LETTERS), chosen)
    assert sequences(by_time) == sequences(one)


def test_ids_that_are_missing_are_a_step_of_their_own():
    source = shop([("u", i) for i in "abc"], LETTERS)
    events = pl.concat([source.events, pl.DataFrame({"user": [None, "v"], "item": ["a", None]})])
    corpus = cleaning.build(Interactions(items=source.items, events=events, domains_in=["shop"]), plain())
    assert dropped(corpus)["empty ids"] == 2


def test_equal_times_stay_in_the_sources_order_and_users_in_theirs():
    events = [("v", "c", 5), ("u", "b", 7), ("v", "a", 5), ("u", "a", 7), ("v", "b", 1), ("u", "f", 7)]
    corpus = cleaning.build(shop(events, LETTERS), plain())
    assert list(sequences(corpus).items()) == [("v", "bca"), ("u", "baf")]
    assert corpus.times.tolist() == [1, 5, 5, 7, 7, 7]


def test_a_user_of_two_domains_is_two_users():
    domains = {"d": "tea", "e": "tea", "f": "tea"}
    events = [("u", i) for i in "adbecf"] + [("v", i) for i in "abc"]
    corpus = cleaning.build(shop(events, LETTERS, domains), plain(train_domains=["tea"]))
    assert sequences(corpus) == {"u@shop": "abc", "u@tea": "def", "v": "abc"}
    assert corpus.users["domain"].to_list() == ["shop", "tea", "shop"]
    assert corpus.train_domains == ["tea"]
    assert sequences(corpus.select(["tea"])[0]) == {"u@tea": "def"}


def test_the_user_subset_is_drawn_by_seed_and_before_the_k_core():
    events = [(f"u{u}", i) for u in range(50) for i in "abc"]
    draw = lambda seed: cleaning.build(shop(events, LETTERS), plain(users=7, seed=seed))  # noqa: E731
    one = draw(1)
    assert one.n_users == 7
    assert one.facts["cleaning"][0]["step"] == "user subset"
    assert sequences(one) == sequences(draw(1)) != sequences(draw(2))
    shuffled = cleaning.build(shop(events[::-1], LETTERS), plain(users=7, seed=1))
    assert sequences(shuffled).keys() == sequences(one).keys()


def test_cold_items_stay_only_without_a_k_core():
    events = [("u", i) for i in "abc"]
    assert cleaning.build(shop(events, LETTERS), plain()).n_items == 6
    assert cleaning.build(shop(events, LETTERS), plain(min_interactions=1)).n_items == 3


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
    kept = np.flatnonzero(k_core(users, items, k_user, k_item)).tolist()
    assert kept == slow_k_core(pairs, k_user, k_item)


def test_with_k_below_three_both_minima_hold():
    events = [("u", i) for i in "abc"] + [("v", i) for i in "abcd"] + [("w", i) for i in "de"]
    corpus = cleaning.build(shop(events, LETTERS), plain(min_interactions=2))
    assert sequences(corpus) == {"u": "abc", "v": "abc"}


@given(st.lists(st.integers(0, 8), min_size=1, max_size=10))
@settings(max_examples=60, deadline=None)
def test_leave_one_out_cuts_each_user(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    targets, splits = leave_one_out(offsets)
    expected = []
    for start, length in zip(offsets, lengths, strict=False):
        expected += [(start + p, TEST if p == length - 1 else VALID if p == length - 2 else TRAIN) for p in range(1, length)]
    assert list(zip(targets.tolist(), splits.tolist(), strict=True)) == expected


def cut_80_10_10(samples: list[tuple[int, int]]) -> dict[int, int] | None:
    """{target: split} of (time, target), or None where a part would be empty: sorted by time, what is equal as it stands."""
    order = [target for _, target in sorted(samples, key=lambda s: s[0])]
    n = len(order)
    sizes = [n * 8 // 10, n * 9 // 10 - n * 8 // 10, n - n * 9 // 10]
    cut = [TRAIN] * sizes[0] + [VALID] * sizes[1] + [TEST] * sizes[2]
    return None if 0 in sizes else dict(zip(order, cut, strict=True))


@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.lists(st.integers(0, 5), min_size=1, max_size=6)), min_size=12, max_size=40
    ),
    st.fixed_dictionaries({d: st.sampled_from(["leave_one_out", "global_time"]) for d in "xyz"}),
)
@settings(max_examples=100, deadline=None)
def test_each_domain_is_split_by_itself_and_by_its_rule(users, rules):
    expected, by_time, place = {}, {"x": [], "y": [], "z": []}, 0
    for domain, times in users:
        for position, time in enumerate(sorted(times)):
            if position and rules[domain] == "global_time":
                by_time[domain].append((time, place))
            elif position:
                left = len(times) - position
                expected[place] = TEST if left == 1 else VALID if left == 2 else TRAIN
            place += 1
    cuts = [cut_80_10_10(by_time[d]) for d in dict.fromkeys(d for d, _ in users) if rules[d] == "global_time"]
    offsets = np.concatenate([[0], np.cumsum([len(times) for _, times in users])])
    flat = np.array([t for _, times in users for t in sorted(times)])
    domains = pl.Series([d for d, _ in users])
    if None in cuts:
        with pytest.raises(ValueError, match="needs samples in each of its parts"):
            split(offsets, flat, domains, rules)
        return
    for cut in cuts:
        expected |= cut
    targets, splits = split(offsets, flat, domains, rules)
    assert targets.tolist() == sorted(expected)
    assert dict(zip(targets.tolist(), splits.tolist(), strict=True)) == expected


@pytest.mark.parametrize("grain", [1, 2, 7, 400])
def test_samples_of_equal_time_are_cut_in_the_corpuss_order_at_any_size(grain):
    """Small arrays are sorted stably by chance, whatever sort is asked for; these are not. The oracle is Python's own sort."""
    when = np.random.default_rng(0).integers(0, grain, 5000)
    order = sorted(range(len(when)), key=lambda k: when[k])
    expected = np.empty(len(when), dtype=np.uint8)
    expected[order] = [TRAIN] * 4000 + [VALID] * 500 + [TEST] * 500
    assert (global_time(when) == expected).all()


ERAS = {"x": "old", "y": "old", "z": "old", "a": "new", "b": "new", "c": "new"}


def two_eras(**more) -> Interactions:
    """Domain `old`, of whose users nobody is left when the first of domain `new` comes; ten users each, three events each."""
    events = [(f"{letters}{u}", i, start + 10 * u + t) for letters, start in (("xyz", 0), ("abc", 10_000)) for u in range(10)
              for t, i in enumerate(letters, 1)]  # fmt: skip
    return shop(events, dict.fromkeys(ERAS, "Item"), ERAS, **more)


def counts(corpus, domain: str) -> list[int]:
    return np.bincount(corpus.select([domain])[0].splits, minlength=3).tolist()


def test_a_domain_of_an_earlier_era_has_its_own_test():
    """One cut for all would put all 20 samples of `old`, of 40, into training, and test none of its users."""
    corpus = cleaning.build(two_eras(), plain(split="global_time"))
    assert counts(corpus, "old") == counts(corpus, "new") == [16, 2, 2]
    old = corpus.select(["old"])[0]
    assert old.times[old.samples("valid")].tolist() == [82, 83]  # the two targets of the ninth of ten users
    assert old.times[old.samples("test")].tolist() == [92, 93]


def test_a_domain_too_small_to_be_cut_is_named():
    few = two_eras()
    some = few.events.filter(pl.col("item").is_in(["a", "b", "c"]) | pl.col("user").is_in(["xyz0", "xyz1"]))
    settings_ = plain(split="global_time")
    with pytest.raises(ValueError, match=r"of each domain; 'old' has 4 in all\. Leave the domain out"):
        cleaning.build(Interactions(items=few.items, events=some, domains_in=["new"]), settings_)


events_of_one = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=2, max_size=8)
users_of_two = st.lists(st.tuples(st.sampled_from(["abc", "xyz", "abcxyz"]), events_of_one), min_size=8, max_size=14)


@given(users_of_two, st.sampled_from(["leave_one_out", "global_time", "released"]), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_a_domain_among_others_is_what_it_is_alone(users, rule, k):
    domains = {i: "Goodreads" if i in "xyz" else "Games" for i in ERAS}
    events = [(f"u{n}", letters[i % len(letters)], t) for n, (letters, own) in enumerate(users) for i, t in own]
    chosen = plain(split=rule, min_interactions=k)
    alone = {}
    for domain in ("Games", "Goodreads"):
        own = [e for e in events if domains[e[1]] == domain]
        titles = {i: f"Item {i}" for i in domains if domains[i] == domain}
        try:
            alone[domain] = cleaning.build(shop(own, titles, domains), chosen)
        except ValueError:
            return
    together = cleaning.build(shop(events, {i: f"Item {i}" for i in domains}, domains), chosen)
    for domain, corpus in alone.items():
        part = together.select([domain])[0]
        assert {u.split("@")[0]: s for u, s in sequences(part).items()} == sequences(corpus)
        assert (part.targets.tolist(), part.splits.tolist()) == (corpus.targets.tolist(), corpus.splits.tolist())
        assert part.times.tolist() == corpus.times.tolist()
        assert part.split_rules == corpus.split_rules


def test_released_is_by_time_but_goodreads():
    """Twelve readers and twelve players, of three events and of two: two are enough but where two are held out."""
    domains = {**dict.fromkeys("xyz", "goodreads_poetry"), **dict.fromkeys("abc", "Games")}
    events = [(f"{letters}{u}", i, 100 * u + t) for letters in ("xyz", "abc") for u in range(12)
              for t, i in enumerate(letters[: 3 - u % 2])]  # fmt: skip
    source = shop(events, dict.fromkeys(domains, "Item"), domains)
    for k in (0, 2):
        corpus = cleaning.build(source, plain(split="released", min_interactions=k))
        assert (
            corpus.split_rules
            == corpus.facts["split_rules"]
            == {"goodreads_poetry": "leave_one_out", "Games": "global_time"}
        )
        assert corpus.facts["split"] == "released"
        assert counts(corpus, "goodreads_poetry") == [0, 6, 6]
        assert counts(corpus, "Games") == [14, 2, 2]  # 18 samples: 12 of the six long users, 6 of the six short ones
        row = next(s for s in corpus.facts["cleaning"] if s["step"] == "short users")
        assert (row["rows_dropped"], row["why"]) == (12, "fewer than 3 interactions for leave_one_out, in domains so split")
    everyone = cleaning.build(source, plain(split="leave_one_out"))
    assert everyone.n_users == 12
    assert "split_rules" not in everyone.facts
    assert dropped(cleaning.build(source, plain(split="global_time"))).keys() == {
        "unknown items",
        "title rules",
        "repeated rows",
    }


def test_released_with_k_below_three_holds_three_events_for_goodreads_alone():
    """Item q, or p, of one user only, goes with a 2-core and leaves that user two events: enough for a player, not for a reader."""
    domains = {**dict.fromkeys("xyzq", "Goodreads"), **dict.fromkeys("abcp", "Games")}
    events = [
        (f"{letters}{u}", i, 100 * u + t) for letters in ("xyz", "abc") for u in range(6) for t, i in enumerate(letters)
    ]
    events += [("reader", i, t) for t, i in enumerate("xyq")] + [("player", i, t) for t, i in enumerate("abp")]
    source = shop(events, dict.fromkeys(domains, "Item"), domains)
    found = sequences(cleaning.build(source, plain(split="released", min_interactions=2)))
    assert found["player"] == "ab"
    assert "reader" not in found
    assert len(found) == 13


def test_released_needs_times_but_for_goodreads():
    untimed = [(u, i) for u in "uv" for i in "xyz"]
    both = untimed + [(u, i) for u in "uv" for i in "abc"]
    domains = {**dict.fromkeys("xyz", "Goodreads"), **dict.fromkeys("abc", "Games")}
    titles = dict.fromkeys("xyz", "Item")
    with pytest.raises(ValueError, match=r"data_split released needs timestamps \(for the domains \['Games'\]\)"):
        cleaning.build(shop(both, dict.fromkeys(domains, "Item"), domains), plain(split="released"))
    books = cleaning.build(shop(untimed, titles, domains), plain(split="released"))
    held = cleaning.build(shop(untimed, titles, domains), plain())
    assert (books.times, books.splits.tolist()) == (None, held.splits.tolist())
    assert sequences(books) == sequences(held)
    named = Data(source="goodreads", min_interactions=0, split="released")
    assert cleaning.build(shop(untimed, titles), named).split_rules == {"shop": "leave_one_out"}


def test_what_cannot_be_is_explained():
    untimed = shop([("u", i) for i in "abc"], LETTERS)
    for rule in ("global_time", "released"):
        with pytest.raises(ValueError, match=rf"{rule} needs timestamps.*\['shop'\].*Use leave_one_out"):
            cleaning.build(untimed, plain(split=rule))
    with pytest.raises(ValueError, match=r"cleaning step '5-core'.*dropped all 3"):
        cleaning.build(untimed, plain(min_interactions=5))
    with pytest.raises(ValueError, match=r"0 interactions and 6 items"):
        cleaning.build(shop([], LETTERS), plain())
    with pytest.raises(ValueError, match=r"'short users'"):
        cleaning.build(shop([("u", "a"), ("v", "b")], LETTERS), plain())
    with pytest.raises(ValueError, match=r"'unknown items'"):
        cleaning.build(shop([("u", "z")] * 3, LETTERS), plain())
    with pytest.raises(ValueError, match=r"\['toys'\] have no items after cleaning; the corpus has \['shop'\]"):
        cleaning.build(untimed, plain(train_domains=["toys"]))


def findings(corpus) -> dict[tuple[str, str], tuple[int, int]]:
    return {(r["finding"], r["split"]): (r["count"], r["of"]) for r in leakage.leakage(corpus).to_dicts()}


def test_leakage_counts_by_hand():
    titles = {**LETTERS, "f": "Item a"}
    events = [("u", i, t) for t, i in enumerate("abbc")] + [("v", i, 10 + t // 2) for t, i in enumerate("abdf")]
    assert findings(cleaning.build(shop(events, titles), plain())) == {
        ("users in several splits", "all"): (2, 2),
        ("users without a training sample", "valid"): (0, 2),
        ("users without a training sample", "test"): (0, 2),
        ("target repeats the last item", "train"): (0, 2),
        ("target repeats the last item", "valid"): (1, 2),
        ("target repeats the last item", "test"): (0, 2),
        ("target's text is in its history", "train"): (0, 2),
        ("target's text is in its history", "valid"): (1, 2),
        ("target's text is in its history", "test"): (1, 2),
        ("target never a training target", "valid"): (1, 2),
        ("target never a training target", "test"): (2, 2),
        ("target nowhere in training", "valid"): (1, 2),
        ("target nowhere in training", "test"): (2, 2),
        ("items with a title of another", "all"): (2, 6),
        ("target older than a training target", "valid"): (1, 2),
        ("target older than a training target", "test"): (1, 2),
        ("target tied in time with the item before", "train"): (1, 2),
        ("target tied in time with the item before", "valid"): (0, 2),
        ("target tied in time with the item before", "test"): (1, 2),
    }


def test_the_leakage_of_a_split_by_time():
    events = [("u", i, t) for t, i in enumerate("abcabcab")] + [("v", i, 20 + t) for t, i in enumerate("ad")]
    events += [("w", i, 10 + t) for t, i in enumerate("abcd")]
    found = findings(cleaning.build(shop(events, LETTERS), plain(split="global_time")))  # 11 samples: 8, 1, 2
    assert found["users in several splits", "all"] == (1, 3)  # w: its first sample is the training's last
    assert found["users without a training sample", "test"] == (1, 2)
    assert found["target nowhere in training", "test"] == (2, 2)
    assert found["target older than a training target", "test"] == (0, 2)
    assert ("target tied in time with the item before", "valid") in found


def test_the_future_is_that_of_the_own_domain_and_of_the_others_that_train():
    source = two_eras()
    found = findings(cleaning.build(source, plain(split="global_time")))
    for part in ("valid", "test"):
        assert found["target older than a training target", part] == (0, 4)
        assert found["target older than another domain's", part] == (2, 4)  # those of `old`: `new` trains later
    found = findings(cleaning.build(source, plain(split="global_time", train_domains=["old"])))
    assert found["target older than another domain's", "test"] == (0, 4)  # `new` does not train, `old` trains earlier
    found = findings(cleaning.build(source, plain()))
    assert ("target older than a training target", "test") in found
    events = [("u", i, t) for t, i in enumerate("xyzx")] + [("v", i, 3 + t) for t, i in enumerate("xyzx")]
    events += [("w", i, 100 + t) for t, i in enumerate("abca")]
    three = shop(events, dict.fromkeys(ERAS, "Item"), ERAS)
    held = findings(cleaning.build(three, plain()))
    assert held["target older than a training target", "test"] == (1, 3)  # u's, at 3: v trains on its second, at 4
    assert held["target older than another domain's", "test"] == (2, 3)  # u's and v's: w trains at 101
    held = findings(cleaning.build(three, plain(train_domains=["old"])))
    assert held["target older than another domain's", "test"] == (0, 3)  # v is of u's own domain


def test_when_each_domain_is_cut():
    by_time = cleaning.build(two_eras(), plain(split="global_time"))
    table = split_times(by_time).with_columns(cs.datetime().dt.epoch("ms"))
    columns = ["domain", "rule", "train until", "valid from", "valid until", "test from"]
    assert table.columns == columns
    assert table.rows() == [
        ("old", "global_time", 73, 82, 83, 92),
        ("new", "global_time", 10_073, 10_082, 10_083, 10_092),
    ]
    held = split_times(cleaning.build(two_eras(), plain()))
    assert held["rule"].to_list() == ["leave_one_out"] * 2
    assert held["train until"].null_count() == 2  # three events: one validates, one tests
    assert split_times(cleaning.build(shop([("u", i) for i in "abc"], LETTERS), plain())).is_empty()


def test_without_training_or_times_the_audit_still_answers():
    found = findings(cleaning.build(shop([("u", i) for i in "abc"], LETTERS), plain()))
    assert found["target nowhere in training", "test"] == (1, 1)
    assert found["users without a training sample", "test"] == (1, 1)


def test_the_fingerprint_follows_the_files_contents(tmp_path):
    from llm2rec_kit.data import sources

    (tmp_path / "items.csv").write_text("item,title\n1,a\n")
    before = sources.fingerprint(Data(source="table", path=str(tmp_path)))
    assert list(before) == [f"{tmp_path.name}/items.csv"]
    (tmp_path / "items.csv").write_text("item,title\n1,b\n")
    assert sources.fingerprint(Data(source="table", path=str(tmp_path))) != before
    assert sources.fingerprint(Data()) == {}


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
    corpus = cleaning.build(found, plain(min_interactions=5, title_rules="released"))
    assert sequences(corpus) == {"u": "aba", "v": "ccd"}
    assert (corpus.targets.tolist(), corpus.splits.tolist()) == ([1, 2, 4], [TRAIN, TEST, VALID])
    assert corpus.titles[0] == "&amp; " * 30
    assert corpus.titles[4] == ""
    assert corpus.facts["split"] == "given"
    anew = cleaning.build(found, plain(given_splits=False))
    assert (anew.facts["split"], len(anew.targets)) == ("leave_one_out", 4)
    assert anew.titles[0] == ("& " * 30).strip()


def test_samples_of_the_source_that_cannot_be_kept_are_refused():
    events = [("u", "a", None), ("u", "b", "train")]
    with pytest.raises(ValueError, match=r"1 events of the source's own samples have an item that its item table lacks"):
        cleaning.build(given(events, {"a": "A"}), plain())
    with pytest.raises(ValueError, match=r"train, valid or test; found \['dev'\]"):
        cleaning.build(given([("u", "a", None), ("u", "b", "dev")], LETTERS), plain())
    with pytest.raises(ValueError, match="a sample has an empty history"):
        cleaning.build(given([("u", "a", "train")], LETTERS), plain())
