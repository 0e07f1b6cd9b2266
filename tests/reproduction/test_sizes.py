"""What a plan counts with, where there is no corpus yet; test_plan.py has a run that has one."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.reproduction.plan import sizes
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Data


def of(tmp_path, **parameters):
    return sizes.find_sizes({"run": "none", "outputs": str(tmp_path), **parameters})


def test_the_synthetic_stores_domains_are_those_of_its_corpus(tmp_path):
    """The items exactly where no k-core removes any; the samples by the assumed length of a history."""
    found = of(tmp_path, data_source="synthetic", data_synthetic_users=600, data_synthetic_items=150)
    data = Data(source="synthetic", synthetic_users=600, synthetic_items=150, min_interactions=0)
    made = cleaning.build_corpus(sources.load(data), data)
    rows = made.statistics().filter(made.statistics()["domain"] != "total").to_dicts()
    assert [d.name for d in found.domains] == made.domains
    assert found.train_domains == made.train_domains
    for domain, row in zip(found.domains, rows, strict=True):
        assert domain.items == pytest.approx(row["items"], rel=0.1)
        assert (domain.valid, domain.test) == (row["valid"], row["test"])
        assert domain.train == pytest.approx(row["train"], rel=0.15)
    assert of(tmp_path, data_source="synthetic", data_train_domains=["crafts"]).train_domains == ["crafts"]


def test_the_papers_sets_have_the_printed_numbers(tmp_path):
    found = of(tmp_path, data_source="table", data_train_domains=["Games", "Arts"])
    games = next(d for d in found.domains if d.name == "Games")
    assert (games.items, games.train) == (9517, 122_577)
    assert found.train_domains == ["Games", "Arts"]
    assert found.corpus is None
    assert of(tmp_path, data_source="table", data_train_domains=["mine"]).domains == []


def test_a_damaged_corpus_is_not_counted_from(tmp_path):
    run = Run("none", tmp_path)
    run.make("corpus", lambda f: (f / "items.parquet").write_text("x") and {"statistics": []}, settings={}, quiet=True)
    (run.path / "corpus" / "items.parquet").write_text("y")
    assert of(tmp_path, data_source="synthetic").source.startswith("the synthetic store's settings")


def test_a_mix_is_counted_from_its_parts_before_it_is_made(tmp_path):
    asked = {"data_source": "mix", "data_mix": ["a", "b"], "data_train_domains": ["a"]}
    for name, items in (("a", 16), ("b", 20)):
        assert of(tmp_path, **asked).domains == []  # one is not there yet
        made = make_corpus(items=items, max_history=10)
        own = replace(made, **{k: getattr(made, k).with_columns(domain=pl.lit(name)) for k in ("items", "users")})
        Run(name, tmp_path).make("corpus", lambda f, own=own: own.save(f), settings={}, quiet=True)
    found = of(tmp_path, **asked)
    tests = len(own.samples("test"))
    assert [(d.name, d.items, d.test) for d in found.domains] == [("a", 16, tests), ("b", 20, tests)]
    assert (found.train_domains, found.items, found.source) == (["a"], 36, "the corpora of a and b")
    assert of(tmp_path, **asked | {"data_train_domains": ["c"]}).domains == []
    assert of(tmp_path, **asked | {"data_mix": ["a"]}).domains == found.domains[:1]
