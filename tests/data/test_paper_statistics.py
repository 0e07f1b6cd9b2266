"""The paper's numbers as data: they add up as the paper's do, and stand beside the corpus of the same category."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.corpus import mix
from llm2rec_kit.paper_statistics import compare_with_paper, find_paper_name, read_paper


def named(domain: str, source: str = "amazon"):
    c = make_corpus()
    name = pl.lit(domain).alias("domain")
    return replace(c, items=c.items.with_columns(name), users=c.users.with_columns(name), facts={"source": source})


def test_the_numbers_add_up_as_in_the_paper():
    sets = read_paper()["datasets"]
    assert sum(sets[s]["items"] for s in read_paper()["mix"]) == read_paper()["total"]["paper"]["items"] == 108_753
    assert (
        sum(sets[s]["samples"] for s in read_paper()["mix"]) == read_paper()["total"]["paper"]["samples"] + 1000
    )  # a slip of the paper's
    for about in sets.values():
        assert about["samples"] == about.get("train", about["samples"]) + about.get("valid", 0) + about.get("test", 0)
    assert set(read_paper()["windows"]) == set(sets) - {"goodreads"}
    released = read_paper()["total"]["released"]
    assert released["samples"] == released["train"] + released["valid"] + released["test"]


@pytest.mark.parametrize(
    ("domain", "short"),
    [
        ("games", "games"),
        ("Video_Games", "games"),
        ("Arts_Crafts_and_Sewing", "arts"),
        ("Arts, Crafts & Sewing", "arts"),
        ("Goodreads", "goodreads"),
        ("board games", None),
        ("toy", None),
    ],
)
def test_a_domain_is_known_by_either_name(domain, short):
    assert find_paper_name(domain) == short


def test_the_papers_row_stands_under_the_corpuss():
    corpus = named("baby")
    rows = compare_with_paper(corpus).rows(named=True)
    assert [(r["data"], r["of"]) for r in rows] == [("baby", "this corpus"), ("baby", "paper")]
    assert rows[0]["items"] == corpus.n_items
    assert rows[0]["samples"] == len(corpus.targets) == rows[0]["train"] + rows[0]["valid"] + rows[0]["test"]
    assert rows[1] == {
        "data": "baby",
        "of": "paper",
        "items": 6837,
        "samples": 97899,
        "train": 78319,
        "valid": 9790,
        "test": 9790,
        "train share": 0.8,
    }
    assert compare_with_paper(named("toy"))["of"].to_list() == ["this corpus"]
    assert compare_with_paper(named("games", "synthetic"))["of"].to_list() == ["this corpus"]


def test_a_mix_of_the_six_has_the_papers_total():
    rows = compare_with_paper(mix([named(d) for d in read_paper()["mix"]])).rows(named=True)
    assert len(rows) == 6 * 2 + 1 + 2
    assert [(r["of"], r["samples"]) for r in rows[-2:]] == [("paper", 1_035_212), ("released", 1_200_951)]
    assert next(r for r in rows if r["data"] == "tools" and r["of"] == "paper")["train"] is None
    assert len(compare_with_paper(mix([named("games"), named("arts")]))) == 2 * 2 + 1
    assert len(compare_with_paper(mix([named("games", "synthetic"), named("arts")]))) == 1 + 2 + 1
