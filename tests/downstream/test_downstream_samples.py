"""Rows hold every sample with its own history; batches hold every sample once, and exactly so many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm2rec_kit.downstream import samples


def held(histories, labels):
    """(history, target) of every sample in rows, sorted."""
    return sorted(
        (tuple(h[: p + 1].tolist()), y[p].item())
        for h, y in zip(histories, labels, strict=True)
        for p in range(len(h))
        if y[p]
    )


def wanted(corpus):
    return sorted((tuple(corpus.history(t).tolist()), int(corpus.sequence[t])) for t in corpus.samples("train"))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_rows_hold_every_sample_with_its_own_history(seed, max_history, shared):
    corpus = make_corpus(users=6, seed=seed, max_history=max_history)
    rows = samples.make_rows(corpus, corpus.samples("train"), shared=shared)
    assert held(rows.histories, rows.labels) == wanted(corpus)
    assert rows.samples.sum() == len(corpus.samples("train"))
    after = (rows.histories > 0) & ((rows.labels > 0).flip(1).cumsum(1).flip(1) == 0)
    assert not after.any()  # nothing of what comes after the last place that predicts


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_batches_hold_every_sample_once_and_exactly_so_many(seed, batch_size, shared):
    corpus = make_corpus(users=6, seed=seed)
    rows = samples.make_rows(corpus, corpus.samples("train"), shared=shared)
    parts = [rows.take(b) for b in samples.draw_batches(rows.samples, batch_size, np.random.default_rng(seed))]
    sizes = [int((labels > 0).sum()) for _, labels in parts]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= batch_size
    assert sorted(x for histories, labels in parts for x in held(histories, labels)) == wanted(corpus)
    assert all(len(histories) % 16 == 0 for histories, _ in parts)


def test_batches_are_in_another_order_each_time():
    counts = np.random.default_rng(0).integers(1, 9, 100)
    one, two = (samples.draw_batches(counts, 32, np.random.default_rng(k))[0].rows.tolist() for k in (1, 2))
    assert one != two
    assert one == samples.draw_batches(counts, 32, np.random.default_rng(1))[0].rows.tolist()


def test_taking_a_batch_leaves_the_rows_as_they_were():
    rows = samples.Rows(torch.tensor([[1, 2, 3]], dtype=torch.int32), torch.tensor([[2, 3, 4]], dtype=torch.int32))
    histories, labels = rows.take(samples.Batch(np.array([0]), skip=1, stop=2))
    assert labels[0].tolist() == [0, 3, 0]
    assert histories[0].tolist() == [1, 2, 3]
    assert rows.labels.tolist() == [[2, 3, 4]]
    assert rows.samples.tolist() == pytest.approx([3])
