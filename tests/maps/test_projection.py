"""Neighbours against scikit-learn, layouts against umap-learn; layouts repeat by seed; bad input is named."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from sklearn.neighbors import NearestNeighbors

from llm2rec_kit import geometry
from llm2rec_kit.maps import aligned, cooccurrence, projection
from llm2rec_kit.settings import Maps

SETTINGS = Maps(neighbours=5)
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(60, 6)).astype(np.float32)
SPACES = {"raw": VECTORS, "csft": VECTORS + 0.2 * RNG.normal(size=VECTORS.shape).astype(np.float32), "other": VECTORS[:, :4]}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dims", [2, 6])
def test_neighbours_are_scikit_learns(metric, dims):
    rows = VECTORS[:, :dims]
    distances, ids = NearestNeighbors(n_neighbors=7, metric=metric).fit(rows).kneighbors()
    found, apart = projection.find_nearest(rows, 7, metric)
    np.testing.assert_allclose(apart, distances, atol=2e-3 if metric == "euclidean" else 1e-6)
    assert np.mean(found == ids) > 0.99  # equal but for ties in float32
    assert (projection.find_neighbours(rows, 7, metric) == found).all()


def test_neighbours_among_others_are_scikit_learns():
    few = RNG.normal(size=(9, 6)).astype(np.float32)
    expected = NearestNeighbors(n_neighbors=4, metric="cosine").fit(VECTORS).kneighbors(few, return_distance=False)
    assert (projection.find_nearest(few, 4, among=VECTORS)[0] == expected).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_item_is_not_its_own_neighbour_even_among_twins(metric):
    rows = np.repeat(VECTORS[:5, :2], 6, axis=0)
    found, apart = projection.find_nearest(rows, 5, metric)
    assert not (found == np.arange(30)[:, None]).any()
    assert (found // 6 == (np.arange(30) // 6)[:, None]).all()
    assert np.abs(apart).max() < 1e-3


def test_what_descent_finds_is_read_without_the_item_itself(monkeypatch):
    import pynndescent

    class Found:  # the real one compiles for half a minute; benchmarks/maps_at_scale.py runs it
        def __init__(self, rows, n_neighbors, **settings):
            exact = NearestNeighbors(n_neighbors=n_neighbors, metric=settings["metric"]).fit(rows)
            distances, ids = exact.kneighbors(rows)
            ids[0] = np.roll(ids[0], -1)  # the item itself last, and
            ids[1, 0] = ids[1, 1]  # not at all
            self.neighbor_graph = ids, distances

    monkeypatch.setattr(pynndescent, "NNDescent", Found)
    monkeypatch.setattr(projection, "EXACT_UP_TO", 10)
    found, _ = projection.find_nearest(VECTORS, 6)
    monkeypatch.undo()
    exact, _ = projection.find_nearest(VECTORS, 6)
    assert (np.delete(found, 1, axis=0) == np.delete(exact, 1, axis=0)).all()
    assert found.shape == (60, 6)
    assert 1 not in found[1]


def test_shared_neighbours_by_hand():
    near = np.array([[1, 2], [0, 2], [3, 1]]), np.array([[2, 1], [0, 3], [0, 2]])
    assert projection.measure_shared_by_row(*near).tolist() == [1, 0.5, 0]
    assert projection.measure_shared(*near) == 0.5
    assert projection.measure_shared(projection.find_neighbours(VECTORS, 5), projection.find_neighbours(3 * VECTORS, 5)) == 1


@pytest.mark.parametrize("min_dist", [Maps().min_dist, 0.6])
def test_the_aligned_layout_is_umap_learns_bit_for_bit(min_dist):
    import numba
    from umap.layouts import optimize_layout_aligned_euclidean
    from umap.umap_ import find_ab_params, make_epochs_per_sample

    models = [projection.fit_umap(v, SETTINGS) for v in SPACES.values()]
    graphs = [m.graph_ for m in models]
    starts = np.stack([m.embedding_ for m in models])
    held = aligned.weigh_ties(graphs)
    relations = np.full(held.shape, -1, dtype=np.int32)  # every stage knows every item of every other
    for m, offset in np.ndindex(3, 2 * aligned.WINDOW + 1):
        if 0 <= m + offset - aligned.WINDOW < 3 and offset != aligned.WINDOW:
            relations[m, offset] = np.arange(len(VECTORS))
    listed = numba.typed.List
    edges = [g.tocoo() for g in graphs]
    random = np.random.RandomState(3).randint(np.iinfo(np.int32).min + 1, np.iinfo(np.int32).max - 1, 3).astype(np.int64)
    expected = optimize_layout_aligned_euclidean(
        *(listed([s.copy() for s in starts]),) * 2,
        listed([e.row.astype(np.int32) for e in edges]),
        listed([e.col.astype(np.int32) for e in edges]),
        5,
        listed([make_epochs_per_sample(e.data, 5) for e in edges]),
        held,
        relations,
        random,
        lambda_=aligned.STRENGTH,
        move_other=True,
        **({} if min_dist == Maps().min_dist else dict(zip("ab", find_ab_params(1.0, min_dist), strict=True))),
        parallel=False,  # changes nothing but the seconds that it compiles
    )
    found = aligned.optimise(starts, graphs, held, epochs=5, seed=3, shape=aligned.fit_curve(min_dist))
    assert (found == np.stack(list(expected))).all()
    assert not (found == starts).all()


def test_ties_are_what_two_stages_neighbourhoods_have_in_common():
    graphs = [projection.fit_umap(v, SETTINGS).graph_ for v in SPACES.values()]
    held = aligned.weigh_ties(graphs)
    for m, offset in ((0, 1), (0, 2), (1, -1), (2, -2)):
        for i in (0, 17, 59):
            a, b = (set(graphs[stage][i].indices) for stage in (m, m + offset))
            assert held[m, aligned.WINDOW + offset, i] == pytest.approx(len(a & b) / len(a | b))
    assert not held[0, : aligned.WINDOW + 1].any()
    assert not held[2, aligned.WINDOW :].any()


def test_layouts_repeat_by_seed_and_align():
    first, again = (projection.lay_out(SPACES, SETTINGS) for _ in range(2))
    other = projection.lay_out(SPACES, Maps(neighbours=5, seed=7))
    for stage in SPACES:
        assert (first.own[stage] == again.own[stage]).all()
        assert (first.aligned[stage] == again.aligned[stage]).all()
        assert np.isfinite(first.aligned[stage]).all()
    assert not (first.own["raw"] == other.own["raw"]).all()
    moved = [np.linalg.norm(m["raw"] - m["csft"], axis=1).mean() / m["raw"].std() for m in (first.own, first.aligned)]
    assert moved[1] < 0.7 * moved[0]


@pytest.mark.parametrize("searched", ["before", "in the process", "here, since a process died"])
def test_spaces_fitted_at_once_are_those_fitted_one_by_one(searched, monkeypatch, capsys):
    monkeypatch.setattr(projection, "count_cores", lambda: 2)
    monkeypatch.setattr(
        projection, "_descends", lambda *_: searched == "in the process"
    )  # of this process alone: exact there
    if "died" in searched:
        monkeypatch.setattr(projection, "_use_one_thread", sys.exit)
    apart = projection.fit_spaces(SPACES, SETTINGS, apart_from=60)
    assert ("could not go on" in capsys.readouterr().out) == ("died" in searched)
    monkeypatch.undo()
    alone = projection.fit_spaces(SPACES, SETTINGS)
    assert list(apart) == list(SPACES)
    for stage, model in alone.items():
        assert (apart[stage].embedding_ == model.embedding_).all()
        assert (apart[stage].graph_ != model.graph_).nnz == 0
        assert (apart[stage].transform(SPACES[stage][:7]) == model.transform(SPACES[stage][:7])).all()


PLACED = """
import numpy as np, torch
from llm2rec_kit.maps import projection
from llm2rec_kit.settings import Maps

if __name__ == "__main__":
    torch.set_num_threads(1)
    projection.fit_spaces.__kwdefaults__["apart_from"], projection.count_cores = 40, lambda: 2
    rows = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    projection.lay_out({"a": rows, "b": rows[::-1].copy()}, Maps(neighbours=5), fitted=np.arange(50))
    print(torch.get_num_threads())
"""


def test_placing_items_leaves_torch_s_threads_as_they_were(tmp_path):
    """In a process whose first parallel function of numba it is."""
    script = tmp_path / "placed.py"
    script.write_text(PLACED)
    where = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=where)
    assert done.stdout.split() == ["1"], done.stderr


def test_min_dist_keeps_items_apart_in_the_common_frame_too():
    models = {stage: projection.fit_umap(v, SETTINGS) for stage, v in SPACES.items()}
    gaps = {}
    for min_dist in (0.0, SETTINGS.min_dist, 0.9):
        planes = projection.align(models, dataclasses.replace(SETTINGS, min_dist=min_dist))
        gaps[min_dist] = np.mean([projection.find_nearest(p, 1, "euclidean")[1].mean() for p in planes.values()])
    assert gaps[0.9] > 1.5 * gaps[SETTINGS.min_dist] > 1.5 * gaps[0.0]


@pytest.mark.parametrize("changed", [{"neighbours": 12}, {"metric": "euclidean"}])
def test_neighbours_and_metric_reach_the_common_frame(changed):
    found = {}
    for name, settings in (("usual", SETTINGS), ("changed", dataclasses.replace(SETTINGS, **changed))):
        models = {stage: projection.fit_umap(v, settings) for stage, v in SPACES.items()}
        for model in models.values():
            model.embedding_ = SPACES["raw"][:, :2]  # the same start, so that what differs comes from their graphs
        found[name] = projection.align(models, settings)
        for stage, model in models.items():
            near, _ = projection.find_nearest(SPACES[stage], settings.neighbours - 1, settings.metric)
            assert (model.graph_.toarray()[np.arange(60)[:, None], near] > 0).mean() > 0.95
    assert not np.allclose(found["usual"]["csft"], found["changed"]["csft"], atol=0.1)


def test_what_is_not_fitted_is_placed_beside_its_twin():
    doubled = {stage: np.concatenate([v, v]) for stage, v in SPACES.items()}
    found = projection.lay_out(doubled, SETTINGS, fitted=np.arange(60))
    alone = projection.lay_out(SPACES, SETTINGS)
    for stage in SPACES:
        for plane, fitted in ((found.own[stage], alone.own[stage]), (found.aligned[stage], alone.aligned[stage])):
            assert (plane[:60] == fitted).all()
            gap = np.linalg.norm(plane[60:] - plane[:60], axis=1)
            assert np.median(gap) < 0.25 * plane.std()


def test_one_stage_is_its_own_frame():
    found = projection.lay_out({"raw": VECTORS}, SETTINGS)
    assert (found.own["raw"] == found.aligned["raw"]).all()


def test_the_items_of_a_map_are_drawn_by_seed():
    assert projection.choose_items(5, 10, 0).tolist() == [1, 2, 3, 4, 5]
    drawn = projection.choose_items(100, 10, 0)
    assert len(set(drawn)) == 10
    assert drawn.tolist() == sorted(projection.choose_items(100, 10, 0))


def test_effective_rank_counts_directions():
    assert geometry.effective_rank(np.vstack([np.eye(4), -np.eye(4)])) == pytest.approx(4)
    assert geometry.effective_rank(np.outer(np.arange(5), np.ones(3))) == pytest.approx(1, abs=1e-3)
    values = np.linalg.svd(VECTORS - VECTORS.mean(0), compute_uv=False)
    share = values / values.sum()
    assert geometry.effective_rank(VECTORS) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_pairs_come_from_training_histories_and_random_ones_differ():
    corpus = make_corpus(users=30)
    allowed = {tuple(corpus.sequence[t - 1 : t + 1]) for t in corpus.samples("train")}
    pairs = projection.list_co_consumed_pairs(corpus, 50, seed=0)
    assert {tuple(p) for p in pairs} <= allowed
    assert (pairs[:, 0] != pairs[:, 1]).all()
    drawn = projection.draw_random_pairs(make_corpus(items=5), 1000, seed=0)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert set(drawn.ravel()) == {1, 2, 3, 4, 5}


def test_random_pairs_and_pairs_never_together_are_of_one_domain():
    corpus = make_corpus(users=30, items=40)
    mixed = dataclasses.replace(corpus, items=corpus.items.with_columns(domain=pl.Series(["a", "b", "b", "c"] * 10)))
    domains = np.array(["", *mixed.items["domain"]])
    drawn = projection.draw_random_pairs(mixed, 1000, seed=0)
    never = cooccurrence.list_pairs(mixed, seed=0).filter(level="0").select("first", "second").to_numpy()
    for pairs in (drawn, never):
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert (domains[pairs[:, 0]] == domains[pairs[:, 1]]).all()
        assert set(domains[pairs[:, 0]]) == {"a", "b", "c"}
    assert set(drawn[:, 1]) == set(range(1, 41))


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"a": VECTORS[:3]}, "four items at least; found 3"),
        ({"a": VECTORS, "b": np.full((60, 2), np.nan)}, "'b' hold NaN or infinity"),
        ({"a": VECTORS, "b": VECTORS[:5]}, "same items"),
        ({}, "no stage"),
    ],
)
def test_bad_input_is_named(tables, says):
    with pytest.raises(ValueError, match=says):
        projection.lay_out(tables, SETTINGS)


def test_titles_of_neighbours_stand_in_a_column_a_table():
    titles = [f"title {k}" for k in range(1, 61)]
    tables = {name: np.concatenate([np.zeros((1, v.shape[1]), np.float32), v]) for name, v in SPACES.items()}
    found = projection.nearest_titles(tables, titles, [7, 3], 4)
    assert found.columns == ["neighbours of", *SPACES]
    assert found["neighbours of"].to_list() == ["title 7", "", "", "", "title 3", "", "", ""]
    for name, vectors in SPACES.items():
        _, ids = NearestNeighbors(n_neighbors=4, metric="cosine").fit(vectors).kneighbors()
        assert found[name].to_list() == [f"title {k + 1}" for item in (7, 3) for k in ids[item - 1]]


def test_a_catalogue_smaller_than_the_neighbours_asked_for_shows_all_others():
    found = projection.nearest_titles({"raw": np.eye(4, 3, dtype=np.float32)}, ["a", "b", "c"], [2], 9)
    assert found.dtypes == [pl.String] * 2
    assert found["neighbours of"].to_list() == ["b", ""]
    assert sorted(found["raw"]) == ["a", "c"]
