"""The explorer, driven by setting the values of its widgets; figures have names on their axes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.maps import explorer, figures

CORPUS = make_corpus(users=20)
RNG = np.random.default_rng(0)
TABLES = {s: RNG.normal(size=(CORPUS.n_items + 1, 5)).astype(np.float32) for s in ("raw", "csft")}
MAPS = pl.concat(
    [
        pl.DataFrame(
            {
                "item": CORPUS.items["item"],
                "stage": s,
                **{c: RNG.normal(size=CORPUS.n_items).astype(np.float32) for c in ("x", "y", "aligned_x", "aligned_y")},
            }
        )
        for s in TABLES
    ]
)
QUALITY = {"items": 16, "of": 16, "neighbours": 10, "stages": [{"stage": s, "kept_aligned": 0.5} for s in TABLES]}


@pytest.fixture
def view():
    return explorer.explorer(MAPS, CORPUS.items, TABLES, popularity=np.arange(CORPUS.n_items + 1))


def test_search_wants_every_word_in_any_case():
    found = explorer.search(CORPUS.items, "IRON chess")
    assert found["title"].to_list() == [t for t in CORPUS.titles if "Iron" in t and "Chess" in t]
    assert explorer.search(CORPUS.items, "no such title").is_empty()


def test_neighbours_are_the_nearest_by_cosine():
    near = explorer.neighbours_of(3, CORPUS.items, TABLES, 4)
    for stage, table in TABLES.items():
        cosine = table @ table[3] / np.linalg.norm(table, axis=1) / np.linalg.norm(table[3])
        best = [i for i in np.argsort(-cosine) if i not in (0, 3)][:4]
        assert near.filter(stage=stage)["item"].to_list() == best
        np.testing.assert_allclose(near.filter(stage=stage)["cosine"], cosine[best], atol=1e-5)


def test_choosing_an_item_changes_selection_picture_and_list(view):
    view.text.value = "moss"
    title, item = view.found.options[1]
    before = bytes(view.picture.value)
    view.found.value = item
    view.count.value = 3
    assert view.selection.filter(stage="csft").height == 3
    assert bytes(view.picture.value) != before
    assert bytes(view.picture.value).startswith(b"\x89PNG")
    assert title in CORPUS.titles


def test_stage_and_colour_redraw(view):
    pictures = {bytes(view.picture.value)}
    view.stage.value = "csft"
    pictures.add(bytes(view.picture.value))
    view.colour.value = "popularity"
    pictures.add(bytes(view.picture.value))
    assert len(pictures) == 3


def test_titles_cannot_smuggle_markup():
    near = explorer.neighbours_of(1, CORPUS.items.with_columns(title=pl.lit("<b>&x")), TABLES, 2)
    assert "<b>" not in explorer.neighbour_html(near)
    assert "&lt;b&gt;&amp;x" in explorer.neighbour_html(near)


def test_nothing_found_is_said(view):
    view.text.value = "no such title"
    assert view.selection.is_empty()
    assert "No title" in view.list.value


def test_every_control_has_a_description(view):
    assert all(c.description for c in (view.stage, view.colour, view.text, view.found, view.count))


@pytest.mark.parametrize("colour", ["domain", "popularity"])
def test_stage_maps_name_their_axes_and_their_loss(colour):
    items = CORPUS.items.with_columns(popularity=pl.int_range(CORPUS.n_items))
    figure = figures.stage_maps(MAPS, items, QUALITY, colour=colour)
    panels = figure.axes[:2]
    assert [ax.get_title() for ax in panels] == ["raw: 50% of neighbours kept", "csft: 50% of neighbours kept"]
    assert {ax.get_xlabel() for ax in panels} == {"UMAP 1"}
    assert panels[0].get_ylabel() == "UMAP 2"
    assert "16 of 16 items" in figure.get_supxlabel()


def test_figures_are_saved_to_the_same_bytes(tmp_path):
    history = [
        {"step": 1, "loss": 2.0, "learning_rate": 1e-3},
        {"step": 2, "loss": 1.5, "validation_loss": 1.7, "validation_accuracy": 0.3},
    ]
    for name in "ab":
        figures.save(figures.loss_curves(history, title="t"), tmp_path / name)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_the_other_figures_draw():
    from llm2rec_kit.maps import projection

    pairs = projection.random_pairs(CORPUS.n_items, 50, seed=0)
    table = pl.DataFrame(
        [
            {"domain": "d", "recommender": r, "embedding": e, "seeds": n, "recall@10 mean": 0.1, "recall@10 std": 0.01}
            for r, e, n in (("SASRec", "raw", 3), ("SASRec", "id", 3), ("popularity", "none", 1), ("oracle", "none", 1))
        ]
    )
    bars = figures.results_bars(table, "recall@10", title="t")
    assert len(bars.axes[0].patches) == 2
    assert {line.get_label() for line in bars.axes[0].lines} >= {"popularity", "oracle"}
    assert "no timestamps" in figures.split_timeline(CORPUS).axes[0].texts[0].get_text()
    assert len(figures.similarity_histogram(TABLES, pairs, pairs).axes) == 2
    assert figures.cleaning_bars([{"step": "5-core", "rows_dropped": 7}]).axes[0].texts[0].get_text() == "7"
    assert len(figures.distributions(np.diff(CORPUS.offsets), np.arange(1, 17)).axes) == 2
    curve = {"domain": "d", "recommender": "SASRec", "embedding": "raw", "seed": 1, "curve": [(1, 0.1), (2, 0.2)]}
    assert figures.validation_curves([curve], metric="recall@20").axes[0].get_ylabel() == "validation recall@20"
    assert figures.attention_picture(np.eye(4, dtype=bool), np.array([0, 0, 1, 1])).axes[0].get_xlabel()
