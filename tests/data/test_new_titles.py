"""Texts of new titles: prepared as those of the corpus; in a mix as those of the part that a domain is of."""

from __future__ import annotations

import shutil
from dataclasses import replace

import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import pipeline
from llm2rec_kit.data import item_text, new_titles
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Data


def test_the_text_of_a_new_title_is_prepared_as_the_corpus_was():
    assert new_titles.as_in_corpus(["A &amp; B  C", "x"], {"title_rules": "gentle"}) == ["A & B C", "x"]
    assert new_titles.as_in_corpus(["A &amp; B  C"], Data(title_rules="released").as_dict()) == ["A & B  C"]
    made = {"title_rules": "released", "text": "{title} - {brand}", "text_words": 2}
    assert new_titles.as_in_corpus(["one two three"], made) == ["one two"]
    long = " ".join(["word"] * 30)
    assert new_titles.as_in_corpus([long], {"title_rules": "released"}) == [long]  # the rules would refuse it


def make_part(outputs, name: str, text: str) -> Run:
    """A run of one domain, called as it is, whose texts are made by the template `text` over title and brand."""
    run, corpus = Run(name, outputs), make_corpus(max_history=10)
    items = corpus.items.with_columns(domain=pl.lit(name), brand=pl.lit("Acme"))
    users = corpus.users.with_columns(domain=pl.lit(name))
    corpus = replace(corpus, items=item_text.render_texts(items, text, 0), users=users)
    settings = Data(source="table", text=text).as_dict()
    run.make("corpus", lambda f: (corpus.save(f), {"source": "table"})[1], settings=settings, quiet=True)
    return run


@pytest.fixture
def mixed(tmp_path) -> Run:
    for name, text in (("tea", "{title}"), ("oil", "Item: {title} {brand}")):
        make_part(tmp_path, name, text)
    run = Run("mixed", tmp_path)
    pipeline.make_corpus(Data(source="mix", mix=["tea", "oil"], text="{title} of the mix"), tmp_path).make(run, quiet=True)
    return run


def read(run, domain: str) -> str:
    return new_titles.as_in_corpus(["Iron  Vale"], new_titles.find_settings(run, domain))[0]


def test_a_mix_reads_a_title_as_the_part_of_its_domain_does(mixed, tmp_path):
    assert read(mixed, "tea") == "Iron Vale"
    assert read(mixed, "oil") == "Item: Iron Vale"
    assert read(mixed, "") == "Iron Vale"  # the parts differ
    outer = Run("outer", tmp_path)
    make_part(tmp_path, "sea", "Item: {title} {brand}")
    pipeline.make_corpus(Data(source="mix", mix=["sea", "mixed"]), tmp_path).make(outer, quiet=True)
    assert [read(outer, domain) for domain in ("sea", "tea", "oil")] == ["Item: Iron Vale", "Iron Vale", "Item: Iron Vale"]


def test_a_part_that_is_gone_or_another_is_missed_only_where_its_texts_are_more_than_titles(mixed, tmp_path):
    make_part(tmp_path, "oil", "{title} by {brand}")
    with pytest.raises(ArtefactError, match=r"The texts of 'oil' hold more than titles.*one of tea, oil"):
        read(mixed, "oil")
    shutil.rmtree(tmp_path / "tea")
    assert read(mixed, "tea") == "Iron Vale"
