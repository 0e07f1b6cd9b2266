"""The synthetic store: deterministic, plausible titles, and an oracle that agrees with brute force and with fresh draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.data.sources import synthetic
from llm2rec_kit.data.sources.synthetic import TASTES, Weights
from llm2rec_kit.settings import Data

SMALL = Data(synthetic_users=600, synthetic_items=300, seed=7)


@pytest.fixture(scope="module")
def store():
    return sources.load(SMALL)


@pytest.fixture(scope="module")
def corpus(store):
    return cleaning.build_corpus(store, SMALL)


def by_hand(shelf, history, weights):
    """p(next | history) as the docstring of the module says it, one taste and one item at a time."""
    n = len(shelf.popularity)

    def step(z, before):
        scores = []
        for i in range(n):
            shown = shelf.similarity[before[-1]][i] if before else shelf.popularity[i]
            score = (
                weights.similarity * shown
                + weights.taste * shelf.taste[z][i]
                + weights.popularity * shelf.popularity[i]
                + weights.noise / n
            )
            scores.append(0.0 if i in before else score)
        return [s / sum(scores) for s in scores]

    total, answer = 0.0, np.zeros(n)
    for z in range(TASTES):
        likelihood = 1 / TASTES
        for place, item in enumerate(history):
            likelihood *= step(z, history[:place])[item]
        total += likelihood
        answer += likelihood * np.array(step(z, history))
    return answer / total


@pytest.mark.parametrize("weights", [Weights(), Weights(similarity=0.1, taste=0.2, popularity=0.3, noise=0.4)])
def test_the_oracles_probability_is_bayes_by_hand(weights):
    shelf = synthetic.make_shelf("games", 12, 3)
    histories = [[], [4], [0, 7], [3, 2, 11, 5], [9, 1, 0, 2, 3, 6]]
    padded = np.array([h + [-1] * (6 - len(h)) for h in histories])
    got = synthetic.next_probabilities(shelf, padded, weights)
    for row, history in zip(got, histories, strict=True):
        np.testing.assert_allclose(row, by_hand(shelf, history, weights), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(got.sum(axis=1), 1)


def test_first_two_items_are_drawn_with_the_stated_probabilities():
    shelf, weights = synthetic.make_shelf("crafts", 8, 1), Weights()
    drawn = synthetic.make_history(shelf, 60_000, np.random.default_rng(0), weights).items
    counts = np.zeros((8, 8))
    np.add.at(counts, (drawn[:, 0], drawn[:, 1]), 1)
    first = by_hand(shelf, [], weights)
    expected = np.array([first[i] * by_hand(shelf, [i], weights) for i in range(8)]) * len(drawn)
    off = ~np.eye(8, dtype=bool)
    assert (counts[~off] == 0).all()
    chi2 = ((counts[off] - expected[off]) ** 2 / expected[off]).sum()
    assert chi2 < 55 + 4 * np.sqrt(2 * 55)  # 56 cells, 55 degrees of freedom, four standard deviations


def test_the_hits_that_the_oracle_expects_are_the_hits_it_gets():
    shelf = synthetic.make_shelf("games", 150, 5)
    drawn = synthetic.make_history(shelf, 3000, np.random.default_rng(11)).items
    last = (drawn >= 0).sum(axis=1) - 1
    target = drawn[np.arange(len(drawn)), last]
    before = np.where(np.arange(drawn.shape[1]) < last[:, None], drawn, -1)
    p = synthetic.next_probabilities(shelf, before)
    top = np.argsort(-p, axis=1)[:, :10]
    sure = np.take_along_axis(p, top, axis=1).sum(axis=1)
    hits = (top == target[:, None]).any(axis=1)
    assert abs(hits.mean() - sure.mean()) < 4 * np.sqrt((sure * (1 - sure)).sum()) / len(hits)


def hits_at_10(scores, goals):
    own = scores[np.arange(len(goals)), goals - 1][:, None]
    return ((scores >= own).sum(axis=1) <= 10).mean()


def test_the_oracle_beats_popularity_and_similarity(corpus):
    ranks = synthetic.oracle_ranks(corpus, SMALL)
    targets = corpus.samples("test")
    assert ranks.dtype == np.int32
    assert ranks.shape == targets.shape
    assert ranks.min() >= 1
    for name in corpus.domains:
        part, _ = corpus.select([name])
        own = synthetic.oracle_ranks(part, SMALL)
        here = corpus.users["domain"].to_numpy()[corpus.owners(targets)] == name
        np.testing.assert_array_equal(own, ranks[here])
        goals, lasts = part.sequence[part.samples("test")], part.sequence[part.samples("test") - 1]
        popular = np.bincount(part.sequence[part.samples("train")], minlength=part.n_items + 1)[1:]
        shelf, index = synthetic.make_shelf(name, 200 if name == "games" else 100, SMALL.seed), part.items["source_id"]
        place = np.array([shelf.items["source_id"].to_list().index(s) for s in index])
        alike = shelf.similarity[np.ix_(place, place)][lasts - 1]
        popularity = hits_at_10(np.tile(popular, (len(goals), 1)), goals)
        assert (own <= 10).mean() > 1.2 * max(popularity, hits_at_10(alike, goals))


def test_the_oracle_ranks_by_the_history_in_the_store_not_in_the_corpus(store, corpus):
    """The rank of one sample, by hand from the raw events of its user."""
    part, _ = corpus.select(["games"])
    target = part.samples("test")[5]
    user = part.users["source_id"][int(part.owners(np.array([target]))[0])]
    goal = part.items["source_id"][int(part.sequence[target]) - 1]
    raw = store.events.filter(user=user).sort("time")["item"].to_list()
    shelf = synthetic.make_shelf("games", 200, SMALL.seed)
    ids = shelf.items["source_id"].to_list()
    p = by_hand(shelf, [ids.index(i) for i in raw[: raw.index(goal)]], Weights())
    sold = [p[ids.index(i)] for i in part.items["source_id"]]
    assert synthetic.oracle_ranks(part, SMALL)[5] == sum(q >= p[ids.index(goal)] for q in sold)


@pytest.mark.parametrize(("text", "words"), [("{title}. {category}", 0), ("{category}", 0), ("{title}", 1)])
def test_the_oracle_does_not_read_the_items_text(store, corpus, text, words):
    """Richer or poorer text, even one that many items share, leaves each rank as it is; another store is still told."""
    read = replace(SMALL, text=text, text_words=words)
    other = cleaning.build_corpus(store, read)
    assert other.titles != corpus.titles
    np.testing.assert_array_equal(synthetic.oracle_ranks(other, read), synthetic.oracle_ranks(corpus, SMALL))
    with pytest.raises(ValueError, match=r"not made by these settings: the store has no item"):
        synthetic.oracle_ranks(other, replace(read, seed=8))


def test_the_store_is_its_seed(store):
    again = sources.load(SMALL)
    assert again.items.equals(store.items)
    assert again.events.equals(store.events)
    other = sources.load(Data(synthetic_users=600, synthetic_items=300, seed=8))
    assert not other.events.equals(store.events)


def test_the_default_store_is_what_the_notebooks_say():
    settings = Data()
    found = sources.load(settings)
    assert found.events["user"].n_unique() == 4000
    assert len(found.items) == found.items["title"].n_unique() == 2000
    assert 28_000 < len(found.events) < 32_000
    per_user = found.events.group_by("user").len()["len"]
    assert per_user.min() >= 5
    assert not found.events.select("user", "item").is_duplicated().any()
    steps = cleaning.build_corpus(found, settings).facts["cleaning"]
    assert sum(s["rows_dropped"] for s in steps) < 0.03 * len(found.events)
    assert found.domains_in == ["games"]


def test_domains_share_franchises_but_not_kinds(store):
    games, crafts = (store.items.filter(domain=d) for d in ("games", "crafts"))
    names = lambda items: {" ".join(t.split()[:2]) for t in items["title"]}  # noqa: E731
    assert len(set(synthetic.FRANCHISES)) == 48
    assert names(games) | names(crafts) <= set(synthetic.FRANCHISES)
    assert len(names(games) & names(crafts)) > 40
    assert not set(games["category"]) & set(crafts["category"])


def test_times_rise_within_a_user_and_allow_a_global_split(store):
    gaps = store.events.select(gap=(store.events["time"].diff()), same=store.events["user"] == store.events["user"].shift())
    assert gaps.filter("same")["gap"].min() >= 1000
    part = cleaning.build_corpus(store, Data(synthetic_users=600, synthetic_items=300, seed=7, split="global_time"))
    assert synthetic.oracle_ranks(part, SMALL).shape == (len(part.samples("test")),)
    assert {d: len(part.select([d])[0].samples("test")) > 0 for d in part.domains} == {"games": True, "crafts": True}


def test_what_cannot_be_is_explained(corpus):
    with pytest.raises(ValueError, match=r"8 to 17280 items with distinct titles; found 5"):
        sources.load(Data(synthetic_items=7))
    with pytest.raises(ValueError, match=r"not made by these settings"):
        synthetic.oracle_ranks(corpus, Data(synthetic_users=600, synthetic_items=300, seed=8))
    with pytest.raises(ValueError, match=r"data_domain"):
        sources.load(Data(domain="toys"))


def test_explain_names_every_weight():
    table = synthetic.explain(SMALL)
    assert table["component"].to_list() == ["similarity", "taste", "popularity", "noise"]
    assert table["weight"].sum() == pytest.approx(1)
