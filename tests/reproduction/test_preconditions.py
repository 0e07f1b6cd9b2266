"""Preconditions: what would stop a later notebook is said before the first of them runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.data import times
from llm2rec_kit.maps import projection
from llm2rec_kit.reproduction import notebooks, preconditions
from llm2rec_kit.runs import Run

EVALUATION = {"evaluation_cutoffs": [10], "evaluation_metric": "recall@10"}


def only_item(corpus: Corpus, item: int = 1) -> Corpus:
    """The same histories of one item."""
    return replace(corpus, items=corpus.items.head(1), sequence=np.full_like(corpus.sequence, item))


def of_users(corpus: Corpus, users: int) -> Corpus:
    """The first users and their samples."""
    end = corpus.offsets[users]
    kept = corpus.targets < end
    return replace(
        corpus,
        users=corpus.users.head(users),
        offsets=corpus.offsets[: users + 1],
        sequence=corpus.sequence[:end],
        targets=corpus.targets[kept],
        splits=corpus.splits[kept],
    )


def resplit(corpus: Corpus, split: int, into: int) -> Corpus:
    return replace(corpus, splits=np.where(corpus.splits == split, into, corpus.splits).astype(np.uint8))


def titled(corpus: Corpus, titles: list[str]) -> Corpus:
    return replace(corpus, items=corpus.items.with_columns(title=pl.Series(titles)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            only_item,
            r"domain 'toy' has 1 item, .*no training sample .* leads from one item to another.*fewer than two different",
        ),
        (lambda c: of_users(c, 1), r"test samples of the domain 'toy' are of one user"),
        (lambda c: resplit(c, VALID, TRAIN), r"domain 'toy' has no valid sample"),
        (lambda c: resplit(c, TEST, TRAIN), r"domain 'toy' has no test sample"),
        (lambda c: titled(c, [f"Iron{' ' * (i + 1)}VALE" for i in range(16)]), r"fewer than two different titles"),
        (lambda c: titled(c, ["  ", "", *c.titles[2:]]), r"2 of 16 items have an empty text"),
    ],
)
def test_a_corpus_that_no_notebook_could_use_is_refused_in_one_paragraph(corpus, change, message):
    assert preconditions.check(corpus) == []
    with pytest.raises(
        ValueError, match=rf"^The notebooks after 01 cannot go on with this corpus: .*{message}.*Keep more data"
    ) as e:
        preconditions.check(change(corpus).check())
    assert "\n" not in str(e.value)


def test_each_domain_that_is_evaluated_is_looked_at():
    from llm2rec_kit.corpus import mix

    other = only_item(make_corpus())
    other = replace(
        other, items=other.items.with_columns(domain=pl.lit("one")), users=other.users.with_columns(domain=pl.lit("one"))
    )
    both = mix([make_corpus(), other])
    with pytest.raises(ValueError, match=r"this corpus: the domain 'one' has 1 item, and to rank takes two at least\. Keep"):
        preconditions.check(replace(both, facts={"train_domains": ["toy"]}))


def test_what_the_notebooks_that_are_to_run_ask_for_is_held_against_the_corpus(corpus):
    assert preconditions.check(corpus, EVALUATION | {"maps_stages": ["raw"], "contrastive_batch_size": 16}) == []
    with pytest.raises(
        ValueError, match=r"in the domain 'toy': A cutoff k lies between 1 and the catalogue's 16 items; found 20"
    ):
        preconditions.check(corpus, EVALUATION | {"evaluation_cutoffs": [10, 20]})
    untrained = resplit(corpus, TRAIN, VALID)
    assert preconditions.check(untrained) == ["the domain 'toy' has no train sample: nothing can be trained on it"]
    with pytest.raises(ValueError, match=r"the domain 'toy' has no train sample"):
        preconditions.check(untrained, {"csft_steps": 1})
    assert preconditions.check(corpus, {"contrastive_batch_size": 17}) == [
        "contrastive_batch_size is 17, and there are 16 titles: a step takes them all"
    ]


def test_a_map_takes_as_many_items_as_the_preconditions_say(corpus):
    few = projection.FEWEST - 1
    small = replace(
        corpus, items=corpus.items.head(few), sequence=(np.arange(len(corpus.sequence)) % few + 1).astype(np.int32)
    )
    preconditions.check(small, {"csft_steps": 1})
    with pytest.raises(ValueError, match=rf"a map takes {few + 1} items at least, and there are {few}"):
        preconditions.check(small, {"maps_stages": ["raw"]})
    with pytest.raises(ValueError, match=rf"{few + 1} items at least; found {few}"):
        projection.lay_out({"raw": np.eye(few, dtype=np.float32)}, settings=None)


def test_years_that_cannot_be_are_counted_and_remarked(corpus):
    day, now = 86_400_000, 1_700_000_000
    when = np.arange(len(corpus.sequence)) * 1000 + (now * 1000 - 30 * day)
    assert times.span(corpus).is_empty()
    sound = replace(corpus, times=when)
    assert times.span(sound, now).select(times.ODD).row(0) == (0, 0)
    assert preconditions.check(sound) == []
    last = int(corpus.offsets[1])
    odd = when.copy()
    odd[:2] = when[:2] // 1000  # seconds taken for milliseconds: January 1970
    odd[last - 1] = (now + 86_400 * 40_000) * 1000
    found = times.span(replace(corpus, times=odd), now).row(0, named=True)
    assert (found["domain"], found["events"], found["before 1990"], found["in the future"]) == ("toy", len(odd), 2, 1)
    assert (found["earliest"].year, found["latest"].year) == (1970, 2133)
    first, second = preconditions.check(replace(corpus, times=odd))
    assert first.startswith(f"toy: 2 of {len(odd)} events lie before 1990 (from 1970-01-20 to 2133-")
    assert second.startswith(f"toy: 1 of {len(odd)} events lie in the future")


def test_a_series_that_begins_after_notebook_01_is_refused_before_its_first_notebook(tmp_path, monkeypatch):
    run = Run("small", tmp_path)
    corpus = only_item(make_corpus(max_history=10))
    run.make("corpus", lambda folder: corpus.save(folder), settings={})
    monkeypatch.setattr(notebooks, "run_one", lambda *_, **__: pytest.fail("a notebook was started"))
    with pytest.raises(ValueError, match=r"the domain 'toy' has 1 item"):
        notebooks.reproduce("smoke", run="small", outputs=str(tmp_path), start="02")
    assert run.about()["asked"] == {}
    notebooks.prepared("smoke", run="other", outputs=str(tmp_path), start="02")
    assert not (tmp_path / "other").exists()


def test_after_notebook_01_its_corpus_is_looked_at_before_the_next(tmp_path, monkeypatch):
    ran = []

    def run_one(book, values, run, **_):
        ran.append(book.name[:2])
        corpus = make_corpus(items=12, max_history=10)
        run.make("corpus", lambda folder: corpus.save(folder), settings={})

    monkeypatch.setattr(notebooks, "run_one", run_one)
    with pytest.raises(ValueError, match=r"A cutoff k lies between 1 and the catalogue's 12 items; found 20"):
        notebooks.reproduce("smoke", run="small", outputs=str(tmp_path), only=["01", "02", "04"])
    assert ran == ["01"]
