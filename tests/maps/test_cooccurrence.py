"""Co-occurrence against a loop over users, and what the figure says of pairs by it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm2rec_kit.figures import training_figures
from llm2rec_kit.maps import cooccurrence


def by_loop(corpus) -> dict[tuple[int, int], int]:
    """Users who consumed both, over each user's items up to the last training target."""
    found: dict[tuple[int, int], int] = {}
    trained = set(corpus.samples("train").tolist())
    for a, b in itertools.pairwise(corpus.offsets):
        last = max((t for t in range(a, b) if t in trained), default=a - 1)
        for pair in itertools.combinations(sorted(set(corpus.sequence[a : last + 1].tolist())), 2):
            found[pair] = found.get(pair, 0) + 1
    return found


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.integers(1, 20), st.integers(2, 30))
def test_counts_and_pairs_are_what_a_loop_finds(seed, users, items):
    corpus = make_corpus(users=users, items=items, seed=seed)
    wanted = by_loop(corpus)
    counted = cooccurrence.count_pairs(corpus)
    found = {(int(i), int(j)): int(n) for i, j, n in zip(*counted.coords, counted.data, strict=True)}
    assert found == wanted
    drawn = cooccurrence.list_pairs(corpus, most=7, seed=seed)
    assert drawn.group_by("level").len()["len"].max() <= 7 if len(drawn) else True
    assert drawn.select("first", "second").is_unique().all()
    for first, second, n, level in drawn.iter_rows():
        assert wanted.get((first, second), 0) == n
        low, high = next((a, b) for a, b in cooccurrence.LEVELS if a <= n <= (np.inf if b is None else b))
        assert str(low) in level
        assert high is None or str(high) in level


def test_closeness_is_measured_from_pairs_never_together():
    corpus = make_corpus(users=12, items=40, seed=1)
    drawn = cooccurrence.list_pairs(corpus, seed=1)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(41, 5)).astype(np.float32)
    found = cooccurrence.measure_closeness(drawn, {"a": table, "b": table})
    assert found.filter(stage="a").drop("stage").equals(found.filter(stage="b").drop("stage"))
    assert found.filter(level="0")["above"].to_list() == pytest.approx([0, 0], abs=1e-5)
    part = found.filter(stage="a", level="1")
    at = drawn.filter(level="1").select("first", "second").to_numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    cosine = (unit[at[:, 0]] * unit[at[:, 1]]).sum(1)
    assert part["cosine"].item() == pytest.approx(cosine.mean(), abs=1e-6)
    assert part["pairs"].item() == len(at)
    figure = training_figures.draw_closeness(found, mask="causal")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == drawn["level"].unique(maintain_order=True).to_list()


def test_only_the_latest_items_of_a_user_count(monkeypatch):
    corpus = make_corpus(users=5, items=30, longest=9, seed=4)
    monkeypatch.setattr(cooccurrence, "MOST_ITEMS", 2)
    assert cooccurrence.count_pairs(corpus).data.sum() <= 5


def test_where_all_pairs_are_together_they_are_measured_from_each_other():
    corpus = make_corpus(users=60, items=4, seed=1)
    drawn = cooccurrence.list_pairs(corpus, seed=1)
    assert "0" not in drawn["level"].to_list()
    found = cooccurrence.measure_closeness(drawn, {"a": np.random.default_rng(0).normal(size=(5, 3))})
    assert (found["above"] * found["pairs"]).sum() == pytest.approx(0, abs=1e-5)
