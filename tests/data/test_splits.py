"""Splits against slow plain versions: each domain by itself and by its rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from conftest import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import ERAS, LETTERS, dropped, plain, sequences, shop, two_eras

from llm2rec_kit.corpus import TEST, TRAIN, VALID
from llm2rec_kit.data import cleaning
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.data.splits import leave_one_out, list_histories, split, split_global_time, split_times
from llm2rec_kit.settings import Data


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
    assert (split_global_time(when) == expected).all()


def counts(corpus, domain: str) -> list[int]:
    return np.bincount(corpus.select([domain])[0].splits, minlength=3).tolist()


def test_a_domain_of_an_earlier_era_has_its_own_test():
    """One cut for all would put all 20 samples of `old`, of 40, into training, and test none of its users."""
    corpus = cleaning.build_corpus(two_eras(), plain(split="global_time"))
    assert counts(corpus, "old") == counts(corpus, "new") == [16, 2, 2]
    old = corpus.select(["old"])[0]
    assert old.times[old.samples("valid")].tolist() == [82, 83]  # the two targets of the ninth of ten users
    assert old.times[old.samples("test")].tolist() == [92, 93]


def test_a_domain_too_small_to_be_cut_is_named():
    few = two_eras()
    some = few.events.filter(pl.col("item").is_in(["a", "b", "c"]) | pl.col("user").is_in(["xyz0", "xyz1"]))
    settings_ = plain(split="global_time")
    with pytest.raises(ValueError, match=r"of each domain; 'old' has 4 in all\. Leave the domain out"):
        cleaning.build_corpus(Interactions(items=few.items, events=some, domains_in=["new"]), settings_)


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
            alone[domain] = cleaning.build_corpus(shop(own, titles, domains), chosen)
        except ValueError:
            return
    together = cleaning.build_corpus(shop(events, {i: f"Item {i}" for i in domains}, domains), chosen)
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
        corpus = cleaning.build_corpus(source, plain(split="released", min_interactions=k))
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
    everyone = cleaning.build_corpus(source, plain(split="leave_one_out"))
    assert everyone.n_users == 12
    assert "split_rules" not in everyone.facts
    assert dropped(cleaning.build_corpus(source, plain(split="global_time"))).keys() == {
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
    found = sequences(cleaning.build_corpus(source, plain(split="released", min_interactions=2)))
    assert found["player"] == "ab"
    assert "reader" not in found
    assert len(found) == 13


def test_released_needs_times_but_for_goodreads():
    untimed = [(u, i) for u in "uv" for i in "xyz"]
    both = untimed + [(u, i) for u in "uv" for i in "abc"]
    domains = {**dict.fromkeys("xyz", "Goodreads"), **dict.fromkeys("abc", "Games")}
    titles = dict.fromkeys("xyz", "Item")
    with pytest.raises(ValueError, match=r"data_split released needs timestamps \(for the domains \['Games'\]\)"):
        cleaning.build_corpus(shop(both, dict.fromkeys(domains, "Item"), domains), plain(split="released"))
    books = cleaning.build_corpus(shop(untimed, titles, domains), plain(split="released"))
    held = cleaning.build_corpus(shop(untimed, titles, domains), plain())
    assert (books.times, books.splits.tolist()) == (None, held.splits.tolist())
    assert sequences(books) == sequences(held)
    named = Data(source="goodreads", min_interactions=0, split="released")
    assert cleaning.build_corpus(shop(untimed, titles), named).split_rules == {"shop": "leave_one_out"}


def test_when_each_domain_is_cut():
    by_time = cleaning.build_corpus(two_eras(), plain(split="global_time"))
    table = split_times(by_time).with_columns(cs.datetime().dt.epoch("ms"))
    columns = ["domain", "rule", "train until", "valid from", "valid until", "test from"]
    assert table.columns == columns
    assert table.rows() == [
        ("old", "global_time", 73, 82, 83, 92),
        ("new", "global_time", 10_073, 10_082, 10_083, 10_092),
    ]
    held = split_times(cleaning.build_corpus(two_eras(), plain()))
    assert held["rule"].to_list() == ["leave_one_out"] * 2
    assert held["train until"].null_count() == 2  # three events: one validates, one tests
    untimed = split_times(cleaning.build_corpus(shop([("u", i) for i in "abc"], LETTERS), plain()))
    assert untimed.columns == columns
    assert untimed.rows() == [("shop", "leave_one_out", None, None, None, None)]


def test_histories_end_with_what_comes_next():
    corpus = make_corpus(users=12, max_history=3)
    found = list_histories(corpus, users=3, last=2)
    tests, texts = corpus.samples("test"), ["", *corpus.titles]
    rows = []
    for k in (0, 5, 11):  # the first, one in the middle and the last of 12
        history = corpus.history(tests[k])[-2:]
        rows += [(f"u{k}", texts[item], "history") for item in history]
        rows += [(f"u{k}", texts[corpus.sequence[tests[k]]], "next")]
    assert found.select("user", "item", "").rows() == rows
    assert found["when"].null_count() == len(rows)
    timed = dataclasses.replace(corpus, times=np.arange(len(corpus.sequence), dtype=np.int64) * 1000)
    assert list_histories(timed, users=1, last=0)["when"].dt.timestamp("ms").to_list() == [int(tests[0]) * 1000]
