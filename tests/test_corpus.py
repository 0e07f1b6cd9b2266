"""Corpus: samples and histories by hand, select, save and load, and every breach of the contract named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus, CorpusError, folder_names, mix


@pytest.fixture
def two() -> Corpus:
    """Users p (tea: 1 3 1 4) and q (oil: 2 5 2) and r (tea: 4 3 1)."""
    return Corpus(
        items=pl.DataFrame(
            {
                "item": np.arange(1, 6, dtype=np.int32),
                "source_id": list("vwxyz"),
                "title": ["V", "W", "X", "Y", "Z"],
                "domain": ["tea", "oil", "tea", "tea", "oil"],
            }
        ),
        users=pl.DataFrame(
            {"user": np.arange(3, dtype=np.int32), "source_id": list("pqr"), "domain": ["tea", "oil", "tea"]}
        ),
        offsets=np.array([0, 4, 7, 10]),
        sequence=np.array([1, 3, 1, 4, 2, 5, 2, 4, 3, 1], dtype=np.int32),
        times=np.array([1, 2, 3, 4, 1, 2, 3, 1, 1, 1]),
        targets=np.array([1, 2, 3, 5, 6, 8, 9]),
        splits=np.array([TRAIN, VALID, TEST, VALID, TEST, VALID, TEST], dtype=np.uint8),
        max_history=2,
        facts={"train_domains": ["tea"]},
    ).check()


def test_samples_owners_and_histories(two):
    assert two.samples("test").tolist() == [3, 6, 9]
    assert two.owners(two.targets).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert two.starts(two.targets).tolist() == [0, 0, 1, 4, 4, 7, 7]
    assert [two.history(t).tolist() for t in (1, 3, 9)] == [[1], [3, 1], [4, 3]]
    assert two.domains == ["tea", "oil"]
    assert two.train_domains == ["tea"]
    assert two.titles == ["V", "W", "X", "Y", "Z"]


def test_select_renumbers(two):
    part, ids = two.select(["oil"])
    assert ids.tolist() == [0, 2, 5]
    assert part.items["source_id"].to_list() == ["w", "z"]
    assert part.sequence.tolist() == [1, 2, 1]
    assert (part.offsets.tolist(), part.times.tolist()) == ([0, 3], [1, 2, 3])
    assert (part.targets.tolist(), part.splits.tolist()) == ([1, 2], [VALID, TEST])
    part.check()


def test_select_of_all_is_the_corpus_and_histories_survive(two):
    whole, ids = two.select(["oil", "tea"])
    assert ids.tolist() == list(range(6))
    assert whole.sequence.tolist() == two.sequence.tolist()
    part, ids = two.select(["tea"])
    part.check()
    kept = [t for t in two.targets if two.owners(np.array([t]))[0] != 1]
    assert [ids[part.history(t)].tolist() for t in part.targets] == [two.history(t).tolist() for t in kept]
    with pytest.raises(CorpusError, match=r"No such domain \['wine'\]; the corpus has \['tea', 'oil'\]"):
        two.select(["wine"])


def test_statistics(two):
    rows = two.statistics().rows_by_key("domain", named=True, unique=True)
    assert rows["tea"] == {
        "users": 2,
        "items": 3,
        "interactions": 7,
        "samples": 5,
        "train": 1,
        "valid": 2,
        "test": 2,
        "mean length": 3.5,
    }
    assert rows["total"]["samples"] == 7
    assert two.select(["oil"])[0].statistics()["domain"].to_list() == ["oil"]


@pytest.mark.parametrize("timed", [True, False])
def test_save_and_load(two, tmp_path, timed):
    corpus = two if timed else replace(two, times=None)
    corpus.save(tmp_path / "c")
    again = Corpus.load(tmp_path / "c").check()
    assert again.items.equals(corpus.items)
    assert again.users.equals(corpus.users)
    for name in ("offsets", "sequence", "targets", "splits") + (("times",) if timed else ()):
        ours, theirs = getattr(corpus, name), getattr(again, name)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert (again.times is None) == (not timed)
    assert (again.max_history, again.facts) == (2, {"train_domains": ["tea"]})
    again.save(tmp_path / "d")
    for file in (tmp_path / "c").iterdir():
        assert file.read_bytes() == (tmp_path / "d" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"items": c.items[::-1]}, "1..N in order"),
        (lambda c: {"items": c.items.clear(), "sequence": c.sequence[:0]}, "needs items and users; found 0 items"),
        (lambda c: {"items": c.items.with_columns(title=pl.Series(["V", None, "X", "Y", "Z"]))}, "title has nulls"),
        (lambda c: {"offsets": np.array([0, 5, 4, 10])}, "offsets must rise"),
        (lambda c: {"sequence": c.sequence - 1}, r"item ids 1\.\.5"),
        (lambda c: {"times": c.times[:3]}, "as long as sequence"),
        (lambda c: {"times": c.times[::-1].copy()}, r"must not fall within a user; they do at \[5\]"),
        (lambda c: {"splits": c.splits[:3]}, "as long as targets"),
        (lambda c: {"targets": c.targets + 3}, "must index sequence"),
        (lambda c: {"targets": c.targets - 1}, "empty history"),
        (lambda c: {"users": c.users.with_columns(domain=pl.lit("tea"))}, r"of the user's domain.*3 interactions.*\[4\]"),
    ],
)
def test_a_breach_is_named(two, change, message):
    with pytest.raises(CorpusError, match=message):
        replace(two, **change(two)).check()


def named(domain: str, seed: int, **size) -> Corpus:
    c = make_corpus(seed=seed, **size)
    name = pl.lit(domain).alias("domain")
    return replace(c, items=c.items.with_columns(name), users=c.users.with_columns(name), facts={"train_domains": [domain]})


def same(one: Corpus, two: Corpus) -> None:
    assert one.items.equals(two.items)
    assert one.users.equals(two.users)
    for name in ("offsets", "sequence", "targets", "splits", "times"):
        ours, theirs = getattr(one, name), getattr(two, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    assert one.max_history == two.max_history


parts = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99)), min_size=1, max_size=4)


@given(parts)
@settings(max_examples=40, deadline=None)
def test_mix_then_select_is_the_part_again(sizes):
    corpora = [named(f"d{k}", seed, users=u, items=i) for k, (u, i, seed) in enumerate(sizes)]
    mixed = mix(corpora)
    for k, corpus in enumerate(corpora):
        part, ids = mixed.select([f"d{k}"])
        same(part, corpus)
        assert ids[1:].tolist() == list(range(ids[1], ids[1] + corpus.n_items))
    assert mixed.n_items == sum(c.n_items for c in corpora)
    assert mixed.train_domains == [f"d{k}" for k in range(len(corpora))]


def test_a_mix_keeps_times_domains_and_what_was_dropped(two):
    corpus = replace(two, facts=two.facts | {"cleaning": [{"step": "5-core", "rows_dropped": 3}], "source": "amazon"})
    other = replace(named("sea", 1, max_history=2), facts={"source": "table", "duplicate_titles": 4})
    other = replace(other, times=np.arange(len(other.sequence)), items=other.items.with_columns(brand=pl.lit("B")))
    mixed = mix([corpus, other])
    assert mixed.domains == ["tea", "oil", "sea"]
    assert mixed.train_domains == ["tea", "sea"]
    assert mixed.facts["source"] == "amazon + table"
    assert mixed.facts["cleaning"] == [{"step": "tea+oil: 5-core", "rows_dropped": 3}]
    assert mixed.facts["duplicate_titles"] == 4
    same(mixed.select(["tea", "oil"])[0], replace(corpus, items=corpus.items.with_columns(brand=pl.lit(None, pl.String))))
    same(mixed.select(["sea"])[0], other)


def test_a_mix_says_how_each_domain_was_split():
    def cut(domain, split, **facts):
        return replace(named(domain, 0), facts={"split": split, **facts})

    tea, oil, sea = cut("tea", "leave_one_out"), cut("oil", "leave_one_out"), cut("sea", "global_time")
    books = cut("Goodreads", "released", split_rules={"Goodreads": "leave_one_out"})
    games = cut("Games", "released", split_rules={"Games": "global_time"})
    assert "split_rules" not in mix([tea, oil]).facts
    assert mix([tea, oil]).split_rules == {"tea": "leave_one_out", "oil": "leave_one_out"}
    assert mix([tea, sea]).split_rules == {"tea": "leave_one_out", "sea": "global_time"}
    assert mix([tea, sea]).select(["sea"])[0].split_rules == {"sea": "global_time"}
    assert mix([books, games]).split_rules == {"Goodreads": "leave_one_out", "Games": "global_time"}
    assert mix([books]).split_rules == {"Goodreads": "leave_one_out"}
    assert mix([named("tea", 0)]).split_rules == {"tea": ""}


def test_a_part_without_times_leaves_the_mix_without(two):
    mixed = mix([two, named("sea", 1, max_history=2)])
    assert mixed.times is None
    assert mixed.facts["times_left_out"] == "['sea'] have none"


def test_what_cannot_be_mixed_is_named(two):
    with pytest.raises(CorpusError, match=r"domains \['oil', 'tea'\] are in several parts.*data_domain"):
        mix([two, two])
    with pytest.raises(CorpusError, match=r"same max_history; found \[2, 4\]"):
        mix([two, named("sea", 1)])
    with pytest.raises(CorpusError, match="one corpus at least"):
        mix([])


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("Toys & Games", "Toys & Games"),
        ("Home/Kitchen", "Home_Kitchen"),
        ("../up", "up"),
        ("/etc", "etc"),
        (".hidden", "hidden"),
        ("a\\b", "a_b"),
        ("tab\there", "tab here"),
        ("series.json", "series_json"),
        ("ספרים", "ספרים"),
    ],
)
def test_a_domain_names_a_folder_inside_the_run_or_is_no_domain_of_a_corpus(two, tmp_path, domain, name):
    assert folder_names([domain]) == {domain: name}
    assert folder_names([name]) == {name: name}
    assert (tmp_path / "evaluation" / name).resolve().parent == (tmp_path / "evaluation").resolve()
    items, users = (f.with_columns(pl.col("domain").replace("tea", domain)) for f in (two.items, two.users))
    changed = replace(two, items=items, users=users, facts={})
    if domain == name:
        assert domain in changed.check().domains
        return
    with pytest.raises(CorpusError, match=rf"cannot be the name of a folder, '{name}' could"):
        changed.check()
    changed.save(tmp_path / "corpus")  # as an older version made it
    if "/" in domain or domain.startswith("."):
        with pytest.raises(CorpusError, match=r"has the domain .*make it anew with notebooks/01"):
            Corpus.load(tmp_path / "corpus")


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (
            ["Home/Kitchen", "Home_Kitchen"],
            "'Home/Kitchen' and 'Home_Kitchen' would have one folder of results, 'Home_Kitchen'",
        ),
        (["games", "Tea", "Games"], "'games' and 'Games' would have one folder"),
        (["Café", "Cafe\u0301"], "would have one folder"),
        (["a", "../a"], "'a' and '../a' would have one folder"),
        ([".."], r"'\.\.' cannot be the name of a folder"),
        ([""], "'' cannot be the name of a folder"),
        (["x" * 300], "cannot be the name of a folder"),
    ],
)
def test_domains_of_one_folder_or_of_none_are_named(domains, message):
    with pytest.raises(CorpusError, match=message):
        folder_names(domains)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 1), st.floats(0.001, 1))
def test_a_share_of_the_users_keeps_their_samples_whole_and_every_test_sample(seed, share, other):
    corpus = make_corpus(users=30, seed=seed % 7)
    order = np.random.default_rng(seed).permutation(30)
    for one in (share, other):  # both are a beginning of one order, so the smaller is part of the larger
        drawn = order[: max(1, round(one * 30))]
        part = corpus.draw_users(one, seed).check()
        kept = np.isin(corpus.owners(corpus.targets), drawn) | (corpus.splits == TEST)
        assert (part.targets.tolist(), part.splits.tolist()) == (corpus.targets[kept].tolist(), corpus.splits[kept].tolist())
        assert len(part.samples("test")) == len(corpus.samples("test"))
        assert {*part.owners(part.samples("valid")).tolist()} == {*drawn.tolist()}  # every user has one here
        assert part.count_drawn(one) == len(drawn)
        assert part.sequence is corpus.sequence


def test_another_seed_draws_other_users_and_all_of_them_are_the_corpus():
    corpus = make_corpus(users=30)
    one, two = (corpus.draw_users(0.3, seed).samples("train").tolist() for seed in (1, 2))
    assert one != two
    assert one == corpus.draw_users(0.3, 1).samples("train").tolist()
    assert corpus.draw_users(1.0, 1) is corpus
