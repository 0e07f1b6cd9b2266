"""Figures: what stands on their axes, that no label covers another, that they are one column wide and legible, and repeat."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
import pytest
import small_atlas
from conftest import make_corpus
from matplotlib.figure import Figure
from matplotlib.text import Text

from llm2rec_kit.figures import map_figures, training_figures
from llm2rec_kit.maps import groups

DRAWN = {
    "kind": lambda a: map_figures.draw_stage_maps(a, colour=a.kind),
    "cluster": lambda a: map_figures.draw_stage_maps(a, colour="cluster"),
    "popularity": lambda a: map_figures.draw_stage_maps(a, colour="popularity"),
    "labelled": lambda a: map_figures.draw_labelled_map(a, "contrastive"),
    "travel": lambda a: map_figures.draw_travel_map(a, "raw", "contrastive"),
    "together": lambda a: map_figures.draw_co_purchase_map(a, ["raw", "csft"]),
    "overlap": map_figures.draw_overlaps,
    "around": lambda a: map_figures.draw_neighbourhood(a, 3, k=4),
}


@pytest.fixture
def atlas():
    return small_atlas.atlas()


def texts(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_fits_one_column_with_text_of_five_points_and_more(name, atlas):
    figure = DRAWN[name](atlas)
    assert figure.get_figwidth() == map_figures.COLUMN
    assert min(t.get_fontsize() for t in texts(figure)) >= 5
    figure.draw_without_rendering()
    for t in texts(figure):
        box = t.get_window_extent()
        assert box.x0 >= -2, t.get_text()
        assert box.x1 <= figure.bbox.x1 + 2, t.get_text()


@pytest.mark.parametrize("name", ["kind", "cluster", "popularity"])
def test_stage_maps_name_axes_stages_and_their_loss(name, atlas):
    figure = DRAWN[name](atlas)
    kept = {row["stage"]: row["kept_aligned"] for row in atlas.quality["stages"]}
    assert [ax.get_title() for ax in figure.axes[:3]] == [f"{s}, {kept[s]:.0%} kept" for s in atlas.stages]
    assert figure.axes[0].get_ylabel() == "UMAP 2"
    assert {ax.get_xlabel() for ax in figure.axes[1:3]} == {"UMAP 1"}
    caption = " ".join(figure.texts[0].get_text().split())
    assert "40 items, one aligned frame" in caption
    assert "10 nearest" in caption


def test_all_panels_show_the_same_part_of_the_frame(atlas):
    first, *others = map_figures.draw_stage_maps(atlas, colour="cluster").axes[:3]
    assert all(ax.get_xlim() == first.get_xlim() and ax.get_ylim() == first.get_ylim() for ax in others)


@pytest.mark.parametrize("name", ["labelled", "travel"])
def test_no_label_covers_another_or_leaves_the_axes(name, atlas):
    figure = DRAWN[name](atlas)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    boxes = [Text.get_window_extent(t) for t in ax.texts if t.get_text() and t.get_bbox_patch() is not None]
    assert len(boxes) >= 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    frame = ax.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_named_trails_and_their_labels_share_a_colour(atlas):
    ax = map_figures.draw_travel_map(atlas, "raw", "contrastive").axes[0]
    written = [t for t in ax.texts if t.get_text()]
    edges = [matplotlib.colors.to_hex(t.get_bbox_patch().get_edgecolor()) for t in written]
    ends = {matplotlib.colors.to_hex(t.arrow_patch.get_edgecolor()): tuple(t.xy) for t in ax.texts if not t.get_text()}
    assert len(set(edges)) == 4
    assert [ends[edge] for edge in edges] == [tuple(t.xy) for t in written]
    furthest = atlas.travelled("raw", "contrastive", 4)
    assert [t.get_text().replace("\n", " ") for t in written] == furthest["title"].to_list()


MOVED = next(
    "".join(cell["source"])
    for cell in json.loads((Path(__file__).parents[2] / "notebooks/05_embedding_maps.ipynb").read_text())["cells"]
    if cell["id"] == "c-moved"
)


@pytest.mark.parametrize(("stages", "way"), [(["csft"], None), (["csft", "adapted"], "csft to adapted")])
def test_notebook_05_shows_what_moved_where_there_is_somewhere_to_go(stages, way, atlas, tmp_path, capsys):
    """Over one plain stage there is not, but where `adapted` is mapped beside it."""
    tables, aligned = (dict(zip(stages, held.values(), strict=False)) for held in (atlas.tables, atlas.aligned))
    quality = atlas.quality | {"clusters_of": "csft"}
    few = dataclasses.replace(atlas, tables=tables, aligned=aligned, quality=quality)
    shown = []
    exec(MOVED, {"atlas": few, "map_figures": map_figures, "kept": tmp_path, "display": shown.append})
    if way is None:
        assert shown == []
        assert capsys.readouterr().out == "left out: csft is the only stage, and nothing moves\n"
    else:
        figure, table = shown
        assert figure.axes[0].get_title().endswith(way)
        assert len(table) == 10


@pytest.mark.parametrize("last", ["csft", "raw"])
def test_nothing_travels_to_the_same_stage_or_an_earlier_one(last, atlas):
    with pytest.raises(ValueError, match=f"to a later one of .*; found 'csft' to '{last}'"):
        map_figures.draw_travel_map(atlas, "csft", last)


@pytest.mark.parametrize("name", ["labelled", "travel"])
def test_labels_of_one_text_each_keep_their_place_and_colour(name, atlas):
    """Two clusters, or two items that travelled far, of one name."""
    plain = list_labels(DRAWN[name](atlas))
    corpus = dataclasses.replace(atlas.corpus, items=atlas.corpus.items.with_columns(title=pl.lit("Star Harbor")))
    items = atlas.items.with_columns(title=pl.lit("Star Harbor"))
    words = {c: dict.fromkeys(found, "star harbor") for c, found in atlas.words.items()}
    same = list_labels(DRAWN[name](dataclasses.replace(atlas, corpus=corpus, items=items, words=words)))
    assert len(same) == len(plain) >= 3
    assert same == plain


def list_labels(figure: Figure) -> list[tuple]:
    """Where each label is tied, and its colour."""
    boxes = [t for t in figure.axes[0].texts if t.get_text() and t.get_bbox_patch() is not None]
    return [(tuple(t.xy), t.get_bbox_patch().get_edgecolor()) for t in boxes]


def test_a_title_is_cut_between_words_and_not_at_a_dash():
    assert map_figures._short("Velvet Atlas Strategy Guide - Starter Bundle", 32) == "Velvet Atlas Strategy Guide …"
    assert map_figures._short("Velvet Atlas - Guide", 32) == "Velvet Atlas - Guide"


def test_groups_past_eight_differ_by_shape_and_the_rest_is_grey(atlas):
    names = [f"kind {k % 30:02}" for k in range(40)]
    many = dataclasses.replace(atlas, items=atlas.items.with_columns(category=pl.Series(names)))
    codes, shown = map_figures.encode_groups(many, "category")
    assert len(shown) == 24
    assert (codes == -1).sum() == 6
    handles = map_figures.draw_stage_maps(many, colour="category").legends[0].legend_handles
    assert [h.get_label() for h in handles][-1] == "other"
    looks = {(h.get_color(), h.get_marker()) for h in handles}
    assert len(looks) == 25


def test_kinds_of_one_domain_differ_by_colour_first(atlas):
    """Where names of two domains alternate in the alphabet, each eight of a domain have the eight colours."""
    domains = pl.Series([f"domain {k % 2}" for k in range(40)])
    kinds = pl.Series([f"kind {k % 16:02}" for k in range(39)] + [None])
    two = dataclasses.replace(atlas, items=atlas.items.with_columns(domain=domains, category=kinds))
    codes, names = map_figures.encode_groups(two, "category")
    assert names == [f"kind {k:02}" for k in (*range(0, 16, 2), *range(1, 16, 2))]
    assert [names[code] for code in codes[:39]] == kinds[:39].to_list()
    assert codes[39] == -1
    assert map_figures.encode_groups(two, "domain")[1] == ["domain 0", "domain 1"]


def test_shapes_are_large_enough_to_tell_and_none_lies_over_the_others(atlas):
    kinds = pl.Series([f"kind {k % 20:02}" for k in range(40)])
    many = dataclasses.replace(atlas, items=atlas.items.with_columns(category=kinds))
    drawn = map_figures.draw_stage_maps(many, colour="category").axes[0].collections
    few = map_figures.draw_stage_maps(atlas, colour="cluster").axes[0].collections
    assert [len(found) for found in (drawn, few)] == [1, 1]
    assert drawn[0].get_sizes() == map_figures.SHAPED * few[0].get_sizes()
    corners = [len(path.vertices) for path in drawn[0].get_paths()]
    assert len(set(corners)) == 3
    assert corners != sorted(corners)
    assert corners != sorted(corners, reverse=True)
    planes = {tuple(point): kind for point, kind in zip(many.aligned["raw"].tolist(), kinds, strict=True)}
    shapes = {corners[k]: set() for k in range(40)}
    for point, corner in zip(drawn[0].get_offsets().tolist(), corners, strict=True):
        shapes[corner].add(planes[tuple(point)])
    assert sorted(map(len, shapes.values())) == [4, 8, 8]


def test_the_star_does_not_hide_its_rings(atlas):
    for ax in DRAWN["around"](atlas).axes[:3]:
        _, rings, star = ax.collections
        assert rings.get_zorder() > star.get_zorder()
        assert rings.get_sizes() > star.get_sizes()


def _in_many_groups(atlas):
    """The atlas with 30 groups of an item or two in both groupings, and three items in none."""
    held = pl.Series([*(k % 30 for k in range(37)), *[groups.NONE] * 3], dtype=pl.Int32)
    words = {column: {k: f"group {k}" for k in range(30)} for column in ("cluster", "community")}
    return dataclasses.replace(atlas, items=atlas.items.with_columns(cluster=held, community=held), words=words)


def test_groups_past_24_are_told_from_items_in_none(atlas):
    many = _in_many_groups(atlas)
    codes, names = map_figures.encode_groups(many, "community")
    assert names == [f"group {k}" for k in range(24)]
    assert codes[:24].tolist() == list(range(24))
    assert set(codes[24:30]) == {map_figures.FURTHER}
    assert set(codes[37:]) == {groups.NONE}
    handles = map_figures.draw_stage_maps(many, colour="community").legends[0].legend_handles
    assert [h.get_label() for h in handles][24:] == ["further groups", "none"]
    assert len({(h.get_color(), h.get_marker()) for h in handles}) == 26


def test_labels_of_groups_past_24_are_grey(atlas, monkeypatch):
    given = []
    monkeypatch.setattr(map_figures.labels, "place", lambda *args: given.extend(args[4]))
    map_figures.draw_labelled_map(_in_many_groups(atlas), "raw")
    assert given[:24] == list(training_figures.PALETTE) * 3
    assert set(given[24:]) == {map_figures.FURTHER_GREY}


def test_pairs_often_bought_together_by_hand(atlas):
    counts = groups.count_co_purchases(atlas.corpus).toarray()
    both = counts + counts.T
    pairs = map_figures.find_often_together(atlas, 10)
    assert len(pairs) == 10
    found = [both[a, b] for a, b in pairs]
    assert found == sorted(np.triu(both)[np.triu(both) > 0], reverse=True)[:10]


def test_co_purchases_say_how_long_their_lines_are(atlas):
    near = atlas.aligned["raw"] * 1.0
    pairs = map_figures.find_often_together(atlas, 300)
    assert map_figures._length(near, pairs) == pytest.approx(np.median([np.hypot(*(near[a] - near[b])) for a, b in pairs]))
    titles = [ax.get_title() for ax in DRAWN["together"](atlas).axes]
    assert titles[0].startswith("raw: ")
    assert titles[1].endswith(" of random")


@pytest.mark.parametrize("apart", [1, 100])
def test_random_pairs_are_of_one_domain(apart, atlas):
    """Two domains far from each other, whose users take any of their own items: as long as random pairs, wherever they lie."""
    rng, far = np.random.default_rng(0), np.arange(40) >= 20
    corpus = make_corpus(users=600, items=40)
    items = corpus.items.with_columns(domain=pl.Series(np.where(far, "b", "a")))
    second = np.repeat(np.arange(600) % 2, np.diff(corpus.offsets))
    sequence = (rng.integers(1, 21, len(second)) + 20 * second).astype(np.int32)
    plane = (rng.normal(size=(40, 2)) + apart * far[:, None]).astype(np.float32)
    two = dataclasses.replace(
        atlas,
        corpus=dataclasses.replace(corpus, items=items, sequence=sequence),
        items=atlas.items.with_columns(items["domain"]),
        aligned={"raw": plane},
    )
    figure = map_figures.draw_co_purchase_map(two, ["raw"])
    assert float(figure.axes[0].get_title().split()[1]) == pytest.approx(1, abs=0.15)
    assert "random pairs of one domain." in " ".join(figure.texts[0].get_text().split())


@pytest.mark.parametrize("name", ["cluster", "labelled", "travel"])
def test_figures_are_saved_to_the_same_bytes(name, atlas, tmp_path):
    for k in "ab":
        map_figures.save(DRAWN[name](atlas), tmp_path / k)
    for kind in ("png", "svg"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


ODD = ("$5 $HOT deal$", "Cost $\\frac{$ to $x^$", "{x} 100% _a_^b", "a$b")


@pytest.mark.parametrize("name", DRAWN)
def test_a_title_or_category_is_text_and_never_a_formula(name, atlas, tmp_path):
    count = len(atlas.items)
    names = [f"{ODD[i % 4]} {i}" for i in range(count)]
    corpus = dataclasses.replace(atlas.corpus, items=atlas.corpus.items.with_columns(title=pl.Series(names)))
    odd = atlas.items.with_columns(title=pl.Series(names), **{atlas.kind: pl.Series([ODD[i % 4] for i in range(count)])})
    words = {c: {group: ODD[k % 4] for k, group in enumerate(found)} for c, found in atlas.words.items()}
    figure = DRAWN[name](dataclasses.replace(atlas, items=odd, corpus=corpus, words=words))
    map_figures.save(figure, tmp_path / name)
    assert not any(t.get_parse_math() for t in figure.findobj(Text))


@pytest.mark.parametrize(
    ("column", "label", "ticks"), [("year", "year", ["1981", "2000", "2019"]), ("nothing", "nothing", ["0", "0", "0"])]
)
def test_a_column_of_numbers_has_its_own_scale_and_grey_gaps(atlas, column, label, ticks):
    items = atlas.items.with_columns(
        year=pl.Series([None, *range(1981, 2020)], dtype=pl.Int64), nothing=pl.lit(None, dtype=pl.Float64)
    )
    figure = map_figures.draw_stage_maps(dataclasses.replace(atlas, items=items), colour=column)
    said = [t.get_text() for t in texts(figure)]
    assert label in said
    assert f"{label}, log scale" not in said
    assert [t for t in said if t in ticks][: len(set(ticks))] == list(dict.fromkeys(ticks))
