"""Preconditions: what would stop a later notebook is said before the first of them runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.corpus import TEST, TRAIN, VALID, Corpus
from llm2rec_kit.data import preconditions, times


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


def test_what_the_cleaning_dropped_is_in_the_error(corpus):
    steps = [("bad lines", 0), ("unknown items", 3), ("5-core", 1200)]
    rows = [{"step": step, "rows_before": 2000, "rows_dropped": dropped, "why": ""} for step, dropped in steps]
    fewer = resplit(replace(corpus, facts=corpus.facts | {"cleaning": rows}), VALID, TRAIN)
    with pytest.raises(
        ValueError, match=r"; interactions that each step of the cleaning dropped: unknown items 3, 5-core 1,200\)"
    ):
        preconditions.check(fewer)


def test_each_domain_that_is_evaluated_is_looked_at():
    from llm2rec_kit.corpus import mix

    other = only_item(make_corpus())
    other = replace(
        other, items=other.items.with_columns(domain=pl.lit("one")), users=other.users.with_columns(domain=pl.lit("one"))
    )
    both = mix([make_corpus(), other])
    with pytest.raises(ValueError, match=r"this corpus: the domain 'one' has 1 item, and to rank takes two at least\. Keep"):
        preconditions.check(replace(both, facts={"train_domains": ["toy"]}))


def test_a_domain_without_a_training_sample_is_remarked_and_refused_where_one_is_to_train(corpus):
    untrained = resplit(corpus, TRAIN, VALID)
    assert preconditions.check(untrained) == ["the domain 'toy' has no train sample: no notebook can train on it"]
    with pytest.raises(ValueError, match=r"the domain 'toy' has no train sample"):
        preconditions.check(untrained, to_train=True)
    assert preconditions.check(corpus, to_train=True) == []


def test_years_that_cannot_be_are_counted_and_remarked(corpus):
    day, now = 86_400_000, 1_700_000_000
    when = np.arange(len(corpus.sequence)) * 1000 + (now * 1000 - 30 * day)
    untimed = times.describe_span(corpus).row(0)
    assert untimed == ("toy", len(when), None, None, None, None)
    assert preconditions.check(corpus) == []
    sound = replace(corpus, times=when)
    assert times.describe_span(sound, now).select(times.ODD).row(0) == (0, 0)
    assert preconditions.check(sound) == []
    last = int(corpus.offsets[1])
    odd = when.copy()
    odd[:2] = when[:2] // 1000  # seconds taken for milliseconds: January 1970
    odd[last - 1] = (now + 86_400 * 40_000) * 1000
    found = times.describe_span(replace(corpus, times=odd), now).row(0, named=True)
    assert (found["domain"], found["events"], found["before 1990"], found["in the future"]) == ("toy", len(odd), 2, 1)
    assert (found["earliest"].year, found["latest"].year) == (1970, 2133)
    first, second = preconditions.check(replace(corpus, times=odd))
    assert first.startswith(f"toy: 2 of {len(odd)} events lie before 1990 (from 1970-01-20 to 2133-")
    assert second.startswith(f"toy: 1 of {len(odd)} events lie in the future")
