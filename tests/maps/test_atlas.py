"""The atlas: what is written is read back, repeats, and carries its numbers; the adapted space by hand."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import numpy as np
import polars as pl
import pytest
import small_atlas
from conftest import make_corpus
from safetensors.numpy import save_file
from small_atlas import SETTINGS

from llm2rec_kit import geometry
from llm2rec_kit.maps import atlas as atlases
from llm2rec_kit.maps import projection, quality
from llm2rec_kit.results.evaluations import note_series
from llm2rec_kit.runs import ArtefactError, Run, write_json


@pytest.fixture
def atlas():
    return small_atlas.atlas()


@pytest.fixture
def made():
    return small_atlas.made()


def test_the_same_input_gives_the_same_bytes(made, tmp_path):
    folder, corpus, tables, record = made
    assert atlases.write(tmp_path, corpus, tables, SETTINGS) == record
    for file in ("maps.parquet", "groups.parquet"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_an_atlas_holds_what_was_written(made, atlas):
    folder, corpus, tables, record = made
    maps = pl.read_parquet(folder / "maps.parquet")
    assert atlas.stages == list(tables) == ["raw", "csft", "contrastive"]
    assert atlas.items["item"].to_list() == list(range(1, 41))
    assert atlas.items["popularity"].to_list() == np.bincount(corpus.sequence, minlength=41)[1:].tolist()
    for stage in atlas.stages:
        part = maps.filter(stage=stage)
        assert (atlas.aligned[stage] == part.select("aligned_x", "aligned_y").to_numpy()).all()
    assert set(atlas.items["cluster"]) == {0, 1, 2} == set(atlas.words["cluster"])
    assert not maps["placed"].any()
    assert [row["stage"] for row in record["stages"]] == atlas.stages
    assert all(0 <= row[k] <= 1 for row in record["stages"] for k in ("kept", "kept_aligned", "trustworthiness", "isotropy"))


def test_past_the_limit_items_are_placed_and_counted(made, tmp_path):
    _, corpus, tables, _ = made
    record = atlases.write(tmp_path, corpus, tables, dataclasses.replace(SETTINGS, max_items=25))
    maps = pl.read_parquet(tmp_path / "maps.parquet")
    assert (record["items"], record["fitted"], record["placed"]) == (40, 25, 15)
    assert maps.group_by("stage").agg(pl.col("placed").sum())["placed"].to_list() == [15] * 3
    assert np.isfinite(maps.select("x", "y", "aligned_x", "aligned_y").to_numpy()).all()


def test_nearest_by_cosine_with_the_rank_before(atlas):
    near = atlas.nearest(3, 4)
    orders = {}
    for stage, table in atlas.tables.items():
        cosine = table[1:] @ table[3] / np.linalg.norm(table[1:], axis=1) / np.linalg.norm(table[3])
        orders[stage] = [i + 1 for i in np.argsort(-cosine) if i != 2]
        assert near.filter(stage=stage)["item"].to_list() == orders[stage][:4]
        assert near.filter(stage=stage)["title"].to_list() == [atlas.corpus.titles[i - 1] for i in orders[stage][:4]]
    assert near.filter(stage="raw")["before"].null_count() == 4
    csft = near.filter(stage="csft")
    assert csft["before"].to_list() == [orders["raw"].index(i) + 1 for i in csft["item"]]
    with pytest.raises(ValueError, match="from 1 to 40; found 0"):
        atlas.nearest(0, 4)


def test_nearest_over_lengths_measured_once_is_as_over_unit_rows(atlas):
    """Of random tables, of items of one embedding and of an item without any; a click after the first measures nothing."""
    rng = np.random.default_rng(3)
    tables = {s: (rng.normal(size=(41, 24)) * rng.uniform(0.1, 9, (41, 1))).astype(np.float32) for s in atlas.stages}
    for table in tables.values():
        table[20:26], table[30] = table[20], 0
    other = dataclasses.replace(atlas, tables=tables)
    for item in (3, 21, 30):
        near = other.nearest(item, 39)
        for stage, table in tables.items():
            unit = projection.scale_to_unit(table[1:])
            cosine = unit @ unit[item - 1]
            cosine[item - 1] = -np.inf
            order = np.argsort(-cosine, kind="stable")[:39]
            found = near.filter(stage=stage)
            assert found["item"].to_list() == (order + 1).tolist()
            np.testing.assert_allclose(found["cosine"], cosine[order], atol=1e-6)
    assert other.lengths is other.lengths


def test_titles_of_the_nearest_stand_in_a_column_a_stage(atlas):
    near, found = atlas.nearest(3, 4), atlas.nearest_titles(3, 4)
    assert found.columns == atlas.stages
    assert all(found[stage].to_list() == near.filter(stage=stage)["title"].to_list() for stage in atlas.stages)


def test_travelled_is_ordered_by_distance_and_checks_the_space(atlas):
    found = atlas.travelled("raw", "contrastive", 40)
    steps = np.linalg.norm(atlas.aligned["contrastive"] - atlas.aligned["raw"], axis=1)
    assert found["item"].to_list() == (np.argsort(-steps, kind="stable") + 1).tolist()
    assert found["kept"].is_between(0, 1).all()
    near = [projection.find_neighbours(atlas.tables[s][1:], 10) for s in ("raw", "contrastive")]
    assert found.sort("item")["kept"].to_numpy() == pytest.approx(projection.measure_shared_by_row(*near))


def test_items_of_one_embedding_keep_ten_neighbours_of_ten_at_most(atlas):
    """Fourteen share a place, so that the eleven nearest of most of them are eleven others."""
    tables = {stage: table.copy() for stage, table in atlas.tables.items()}
    for table in tables.values():
        table[1:15] = table[1]
    found = dataclasses.replace(atlas, tables=tables).travelled("raw", "csft", 40).sort("item")
    assert found["kept"].is_between(0, 1).all()
    assert found["kept"].max() == 1


def evaluated(run, domain, embedding, seed, weights=True, **settings):
    """Make an evaluation of SASRec as notebook 04 leaves it; returns the adapter (3, 4) that it kept, drawn by its seed."""
    rng, name = np.random.default_rng(seed), f"SASRec-{embedding}-seed{seed}"
    kept = {
        "1.adapter.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "1.adapter.bias": rng.normal(size=3).astype(np.float32),
    }

    def build(folder):
        np.save(folder / f"{name}.npy", np.ones(2))
        if weights:
            save_file(kept, folder / f"{name}.safetensors")
        return {"domain": domain, "recommender": "SASRec", "embedding": embedding, "seed": seed, "metrics": {"mrr": 1.0}}

    how = {"settings": {"normalise": "none"} | settings, "inputs": ["corpus", f"embeddings/{embedding}"]}
    run.make(f"evaluation/{domain}/{name}", build, quiet=True, **how)
    return kept


def embedded(run, name, seed):
    """Make a table (21, 4) drawn by a seed; returns it."""
    table = np.random.default_rng(seed).normal(size=(21, 4)).astype(np.float32)
    run.make(f"embeddings/{name}", lambda f: np.save(f / f"{name}.npy", table), settings={"seed": seed}, quiet=True)
    return table


def behind(adapter, rows):
    """Rows behind one adapter, by hand."""
    return rows @ adapter["1.adapter.weight"].T + adapter["1.adapter.bias"]


def make_run(tmp_path, domains, weights=True):
    """A run with a corpus of one or two domains, a table, and SASRec evaluations that kept their weights."""
    corpus = make_corpus(users=30, items=20)
    named = [domains[0] if i <= 12 else domains[-1] for i in range(1, 21)]
    corpus = dataclasses.replace(corpus, items=corpus.items.with_columns(domain=pl.Series(named)))
    run = Run("r", tmp_path)
    run.make("corpus", corpus.save, settings={}, quiet=True)
    table = embedded(run, "raw", 0)
    kept = {(d, seed): evaluated(run, d, "raw", seed, weights) for d in domains for seed in (2025, 2024)}
    names = [f"evaluation/{d}/SASRec-raw-seed{seed}" for seed in (2024, 2025) for d in domains]
    note_series(run, {"normalise": "none"}, [2024, 2025], names)
    return run, corpus, table, kept


def test_the_adapted_space_is_each_domains_own_adapter(tmp_path):
    run, corpus, table, kept = make_run(tmp_path, ["toy", "other"])
    tables, sources = atlases.read_tables(run, ["raw", "adapted"], corpus)
    assert sources == ["embeddings/raw", "evaluation/toy/SASRec-raw-seed2024", "evaluation/other/SASRec-raw-seed2024"]
    expected = np.zeros((21, 6), np.float32)
    for rows, block, domain in ((slice(1, 13), slice(0, 3), "toy"), (slice(13, 21), slice(3, 6), "other")):
        expected[rows, block] = behind(kept[domain, 2024], table[rows])
    np.testing.assert_allclose(tables["adapted"], expected, rtol=1e-6)
    assert projection.compute_cosines(tables["adapted"], np.array([[1, 20]]))[0] == 0


def test_directions_of_the_adapted_space_are_counted_in_each_domain(tmp_path, monkeypatch):
    """Two adapters of width 3 side by side are no space of 6 directions: no recommender reads more than its own."""
    planes = {stage: np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32) for stage in ("raw", "adapted")}
    monkeypatch.setattr(projection, "lay_out", lambda *_, **__: projection.Layouts(planes, planes))
    for domains in (["toy"], ["toy", "other"]):
        run, corpus, table, kept = make_run(tmp_path / str(len(domains)), domains)
        tables, _ = atlases.read_tables(run, ["raw", "adapted"], corpus)
        raw, adapted = atlases.write(run.path, corpus, tables, SETTINGS)["stages"]
        held = corpus.items["domain"].to_numpy()
        blocks = [behind(kept[d, 2024], table[1:][held == d]) for d in domains]
        assert adapted["effective_rank"] == pytest.approx(np.mean([geometry.effective_rank(b) for b in blocks]))
        assert adapted["isotropy"] == pytest.approx(np.mean([quality.isotropy(b) for b in blocks]))
        assert adapted["effective_rank"] <= 3
        assert raw["effective_rank"] == geometry.effective_rank(table[1:])


def test_without_weights_the_adapted_space_is_left_out_and_said(tmp_path, capsys):
    run, corpus, _, _ = make_run(tmp_path, ["toy"], weights=False)
    tables, sources = atlases.read_tables(run, ["raw", "adapted"], corpus)
    assert list(tables) == ["raw"]
    assert sources == ["embeddings/raw"]
    assert "left out, notebook 04 kept no linear SASRec adapter over raw" in capsys.readouterr().out


def test_an_adapter_learned_over_an_older_table_is_not_shown(tmp_path, capsys):
    run, corpus, _, _ = make_run(tmp_path, ["toy"])
    table = embedded(run, "raw", 1)  # notebook 03 again, 04 not yet
    assert list(atlases.read_tables(run, ["raw", "adapted"], corpus)[0]) == ["raw"]
    assert "no linear SASRec adapter over raw as it is now" in capsys.readouterr().out
    own = evaluated(run, "toy", "raw", 2026)  # the seeds of 2024 and 2025 are left from the older table
    note_series(run, {"normalise": "none"}, [2026], ["evaluation/toy/SASRec-raw-seed2026"])
    tables, sources = atlases.read_tables(run, ["raw", "adapted"], corpus)
    assert sources == ["embeddings/raw", "evaluation/toy/SASRec-raw-seed2026"]
    np.testing.assert_allclose(tables["adapted"][1:], behind(own, table[1:]), rtol=1e-6)


def test_the_adapter_of_a_variant_is_shown_over_its_own_table(tmp_path):
    """A table's name may hold the dashes that part the name of an evaluation."""
    run, corpus, _, _ = make_run(tmp_path, ["toy"])
    variant = "contrastive-last-causal"
    table, own = embedded(run, variant, 1), evaluated(run, "toy", variant, 2024)
    note_series(run, {"normalise": "none"}, [2024], [f"evaluation/toy/SASRec-{variant}-seed2024"])
    tables, sources = atlases.read_tables(run, ["raw", variant, "adapted"], corpus)
    assert sources[-1] == f"evaluation/toy/SASRec-{variant}-seed2024"
    np.testing.assert_allclose(tables["adapted"][1:], behind(own, table[1:]), rtol=1e-6)


def test_maps_of_what_the_run_does_not_hold_any_more_are_refused_and_kept_ones_stay_as_made(tmp_path):
    run, corpus, table, kept = make_run(tmp_path, ["toy"])
    tables, sources = atlases.read_tables(run, ["raw", "adapted"], corpus)
    run.make(
        "maps", lambda f: atlases.write(f, corpus, tables, SETTINGS), settings={}, inputs=["corpus", *sources], quiet=True
    )
    # 04 again with another first seed: the maps are those of 2024
    names = [f"evaluation/toy/SASRec-raw-seed{seed}" for seed in (2025, 2024)]
    note_series(run, {"normalise": "none"}, [2025, 2024], names)
    shown = atlases.Atlas.load(run).tables["adapted"]
    np.testing.assert_allclose(shown[1:], behind(kept["toy", 2024], table[1:]), rtol=1e-6)
    embedded(run, "raw", 1)
    with pytest.raises(ArtefactError, match=r"embeddings/raw changed\. Run notebooks/05_embedding_maps\.ipynb"):
        atlases.Atlas.load(run)


def test_maps_over_a_table_of_a_model_that_was_trained_anew_since_are_refused_before_and_after(tmp_path):
    run, corpus, _, _ = make_run(tmp_path, ["toy"])

    def train(value):
        run.make("csft", lambda folder: write_json(folder / "it.json", value) or {}, settings={"steps": value}, quiet=True)

    def read(folder):
        np.save(folder / "csft.npy", np.ones((corpus.n_items + 1, 4), dtype=np.float32))

    train(1)
    run.make("embeddings/csft", read, settings={}, inputs=["corpus", "csft"], quiet=True)
    tables, sources = atlases.read_tables(run, ["raw", "csft"], corpus)
    maps = partial(atlases.write, corpus=corpus, tables=tables, settings=SETTINGS)
    run.make("maps", maps, settings={}, inputs=["corpus", *sources], quiet=True)
    assert atlases.Atlas.load(run).stages == ["raw", "csft"]
    train(2)  # 02 again, and 03 not
    for call in (partial(atlases.read_tables, run, ["raw", "csft"], corpus), partial(atlases.Atlas.load, run)):
        with pytest.raises(ArtefactError, match=r"embeddings/csft of run .* any more\. Run notebooks/03_item_embedding"):
            call()


def test_a_run_is_read_whole_and_a_missing_map_names_its_notebook(tmp_path):
    run, corpus, _, _ = make_run(tmp_path, ["toy"])
    with pytest.raises(ArtefactError, match="05_embedding_maps"):
        atlases.Atlas.load(run)
    tables, sources = atlases.read_tables(run, ["raw", "adapted"], corpus)
    run.make(
        "maps", lambda f: atlases.write(f, corpus, tables, SETTINGS), settings={}, inputs=["corpus", *sources], quiet=True
    )
    assert atlases.Atlas.load(run).stages == ["raw", "adapted"]
    assert atlases.Atlas.load(run).quality["clusters_of"] == "raw"
    shutil.rmtree(run.path)


def test_maps_are_made_once_and_again_where_a_table_or_a_setting_changed(tmp_path, capsys):
    run, corpus, _, _ = make_run(tmp_path, ["toy"])
    settings = dataclasses.replace(SETTINGS, stages=["raw", "adapted"])
    assert atlases.project(run, corpus, settings).stages == ["raw", "adapted"]
    inputs = {"corpus", "embeddings/raw", "evaluation/toy/SASRec-raw-seed2024"}
    assert run.manifest("maps")["inputs"].keys() == inputs
    assert run.manifest("maps")["settings"] == settings.as_dict()
    capsys.readouterr()
    first = atlases.project(run, corpus, settings)
    assert "maps: reused" in capsys.readouterr().out
    fewer = atlases.project(run, corpus, dataclasses.replace(settings, clusters=2))
    assert (first.items["cluster"].n_unique(), fewer.items["cluster"].n_unique()) == (3, 2)
