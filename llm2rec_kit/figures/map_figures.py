"""Static maps: every stage in one frame, named clusters, what travelled, what is bought together, one item's surroundings.

Made for one column of a page (`COLUMN` inches, text of 6 to 8 points) and drawn at `DPI`, so that a notebook shows them
twice that size. Colours are safe for colour-blind readers; past eight groups the marker's shape tells groups of one colour
apart, past 24 the smaller ones are of one dark grey. Each function returns a matplotlib Figure and touches no global
state.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle

from llm2rec_kit.figures import labels, training_figures
from llm2rec_kit.figures.training_figures import OTHER, PALETTE, STYLE, PlainFigure
from llm2rec_kit.maps import groups
from llm2rec_kit.maps.atlas import GROUPINGS, Atlas

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

COLUMN = 3.33  # inches, a column of a two-column page
DPI = 220
MARKERS = ("o", "^", "s")
TOLD_APART = len(MARKERS) * len(PALETTE)  # groups that have a look of their own
FURTHER, FURTHER_GREY = -2, "#6E6E74"  # code and colour of the groups past these
MARK = PALETTE[5]
FURTHEST, NAMED = 15, 4  # items that the map of what travelled shows, and names
SHAPED = 2.5  # times a dot's area that a marker has where shapes tell groups apart
BOUGHT = 300  # pairs that the map of what is bought together joins
SKEWED = 20  # times its median that the largest number of a column must exceed to be shaded by logarithms
RING, STAR = 26, 18  # areas, in square points, of a neighbour's ring and of the star under it
TRAILS, TRAIL = (PALETTE[0], PALETTE[5], PALETTE[2], PALETTE[3]), "#9DBBD2"  # of items that are named, of the others
TEXT: dict[RcKeyType, Any] = {
    **STYLE,
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 6.5,
    "legend.fontsize": 6,
    "axes.linewidth": 0.5,
    "savefig.dpi": DPI,
}


def save(figure: Figure, path: Path) -> Figure:
    """Write `<path>.png` at `DPI` and `<path>.svg`; same figure, same bytes. Returns the figure, for a cell to show."""
    return training_figures.save(figure, path, style=TEXT, png_dpi=DPI, svg_dpi=DPI)


def draw_stage_maps(atlas: Atlas, *, colour: str) -> Figure:
    """Draw a panel for each stage in the aligned frame, its items coloured by a column of `atlas.items`.

    A number is shaded on a log scale; a grouping (cluster, community) is named from titles; other text has its 24 most
    frequent values told apart by eight colours and three shapes.
    """
    with mpl.rc_context(TEXT):
        figure, axes = _panels(atlas, atlas.stages, 2)
        for ax, stage in zip(axes, atlas.stages, strict=True):
            drawn = draw_scatter(ax, atlas.aligned[stage], atlas, colour)
            ax.set_title(f"{stage}, {_row(atlas, stage)['kept_aligned']:.0%} kept")
        foot = _legend(figure, drawn) if isinstance(drawn, list) else _shades(figure, axes, drawn, colour)
        told = f", named from titles; clusters of {atlas.quality['clusters_of']}" if colour == "cluster" else ""
        told = ", made from purchases alone; names from titles" if colour == "community" else told
        _caption(figure, f"Colour: {colour}{told}. {_trust(atlas)}", foot=foot)
    return figure


def draw_labelled_map(atlas: Atlas, stage: str) -> Figure:
    """Draw one stage at full column width, its clusters named from titles at their middles, no label over another."""
    with mpl.rc_context(TEXT):
        figure, (ax,) = _panels(atlas, [stage], 1)
        plane = atlas.aligned[stage]
        draw_scatter(ax, plane, atlas, "cluster")
        codes, names = atlas.items["cluster"].to_numpy(), atlas.words["cluster"]
        anchors = [_middle(plane[codes == g]) for g in names]
        colours = [choose_colour(k if k < TOLD_APART else FURTHER) for k in range(len(names))]
        row = _row(atlas, stage)
        ax.set_title(f"{stage}: clusters, named from titles")
        _caption(
            figure,
            f"{len(plane):,} items. Trustworthiness {row['trustworthiness_aligned']:.2f}; {row['kept_aligned']:.0%} of true "
            "neighbours kept.",
        )
        labels.place(figure, ax, list(names.values()), anchors, colours, plane)
    return figure


def draw_travel_map(atlas: Atlas, first: str, last: str) -> Figure:
    """Draw the items that went furthest between two stages: a trail through the stages between, an arrow at its end; the
    first are named, each trail and its label in one colour. ValueError where `last` is not a later stage than `first`."""
    begin, end = atlas.stages.index(first), atlas.stages.index(last)
    if begin >= end:
        raise ValueError(f"Items travel from a stage to a later one of {atlas.stages}; found {first!r} to {last!r}.")
    stages, of_all = atlas.stages[begin : end + 1], atlas.quality["overlap"][begin][end]
    furthest = atlas.travelled(first, last, FURTHEST)
    rows = atlas.rows(furthest["item"].to_numpy())
    kept = furthest.select(pl.mean("kept")).item()
    trails = np.stack([atlas.aligned[stage][rows] for stage in stages], axis=1)
    colours = [TRAILS[k % len(TRAILS)] if k < NAMED else TRAIL for k in range(len(rows))]
    with mpl.rc_context(TEXT):
        figure, (ax,) = _panels(atlas, [last], 1)
        size = _size(len(atlas.items)) * 2.2
        _dots(ax, atlas.aligned[first], s=size, color="#E9E9EC", linewidths=0, rasterized=True)
        _dots(ax, atlas.aligned[last], s=size, color="#C2C2C8", linewidths=0, rasterized=True)
        for k in reversed(range(len(rows))):
            _trail(ax, trails[k], colours[k], named=k < NAMED)
        ax.set_title(f"the {len(rows)} items that travelled furthest, {first} to {last}")
        _caption(
            figure,
            f"Light grey: {first}; grey: {last}; a trail goes from its dot through {', '.join(stages)}. Of the ten nearest in the "
            f"space, these items keep {kept:.0%} on the way; all items keep {of_all:.0%}.",
        )
        titles = [_short(t, 46) for t in furthest["title"][:NAMED]]
        labels.place(figure, ax, titles, list(trails[:NAMED, -1]), colours[:NAMED], atlas.aligned[last], trails=list(trails))
    return figure


def _trail(ax: Axes, trail: np.ndarray, colour: str, *, named: bool) -> None:
    """A line through `trail` (stages, 2) from a dot to an arrow's head; those that are named lie over the others."""
    over, width = (4, 0.9) if named else (3, 0.5)
    ax.plot(*trail[:-1].T, color=colour, linewidth=width, zorder=over)
    _dots(ax, trail[:1], s=7 if named else 4, color=colour, linewidths=0, zorder=over)
    ax.annotate(
        "", xy=trail[-1], xytext=trail[-2], zorder=over,
        arrowprops={"arrowstyle": "-|>,head_width=.12,head_length=.25", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip


def draw_co_purchase_map(atlas: Atlas, stages: Sequence[str]) -> Figure:
    """Draw lines between the items most often bought one after the other, and over each panel how long they are against
    random pairs, of one domain each."""
    pairs = find_often_together(atlas, BOUGHT)
    at_random = np.random.default_rng(0).integers(0, len(atlas.items), (20_000, 2))
    domains = atlas.items["domain"].rank("dense").to_numpy()[at_random]
    # A user is of one domain: pairs of two are never bought together, and tell of domains alone.
    at_random = at_random[domains[:, 0] == domains[:, 1]]
    which = "random pairs of one domain" if atlas.items["domain"].n_unique() > 1 else "random pairs"
    with mpl.rc_context(TEXT):
        figure, axes = _panels(atlas, stages, 2)
        for ax, stage in zip(axes, stages, strict=True):
            plane = atlas.aligned[stage]
            _dots(ax, plane, s=_size(len(plane)), color="#B4B4BA", linewidths=0, rasterized=True)
            ax.add_collection(LineCollection(plane[pairs], colors=PALETTE[0], linewidths=0.45, alpha=0.45))
            ax.set_title(f"{stage}: {_length(plane, pairs) / max(_length(plane, at_random), 1e-12):.2f} of random")
        _caption(
            figure,
            f"Lines join the {len(pairs)} pairs of items most often bought one after the other (training histories). Over each "
            f"panel: their median length on the page, as a share of that of {which}.",
        )
    return figure


def draw_overlaps(atlas: Atlas) -> Figure:
    """Draw the share of an item's ten nearest that two stages have in common, a row and a column a stage."""
    values = np.asarray(atlas.quality["overlap"])
    with mpl.rc_context(TEXT):
        figure = _figure(0.75 * COLUMN)
        ax = figure.subplots()
        ax.imshow(values, cmap="cividis", vmin=0, vmax=1)
        for i, j in np.ndindex(*values.shape):
            ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color="white" if values[i, j] < 0.6 else "black")
        ticks = range(len(values))
        ax.set_xticks(ticks, atlas.stages, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(ticks, atlas.stages)
        ax.tick_params(length=0)
        ax.set_title(f"neighbours in common, of the {atlas.quality['neighbours']} nearest")
        _caption(figure, f"Cosine, {atlas.quality['anchors']:,} items against all {atlas.quality['items']:,}.")
    return figure


def draw_neighbourhood(atlas: Atlas, item: int, *, k: int = 8) -> Figure:
    """Draw one item and its k nearest in the space, ringed at every stage: the explorer as a static figure."""
    near = atlas.nearest(item, k)
    title = atlas.corpus.items["title"][item - 1]
    with mpl.rc_context(TEXT):
        figure, axes = _panels(atlas, atlas.stages, 2)
        for ax, stage in zip(axes, atlas.stages, strict=True):
            plane = atlas.aligned[stage]
            _dots(ax, plane, s=_size(len(plane)), color="#B4B4BA", linewidths=0, rasterized=True)
            rows = atlas.rows(near.filter(stage=stage)["item"].to_numpy())
            _dots(ax, plane[rows[rows >= 0]], s=RING, facecolors="none", edgecolors=PALETTE[0], linewidths=0.5, zorder=4)
            own = atlas.rows(np.array([item]))
            star = plane[own[own >= 0]]
            _dots(ax, star, s=STAR, marker="*", color=MARK, linewidths=0, zorder=3)
            ax.set_title(stage)
        _caption(
            figure,
            f"Star: “{textwrap.shorten(title, 60, placeholder=' …')}”; rings: its {k} nearest at that stage, by cosine.",
        )
    return figure


def draw_scatter(ax: Axes, plane: np.ndarray, atlas: Atlas, colour: str) -> Any:
    """Draw items coloured by a column; returns a list of handles, one a group, or one mappable for a number."""
    values = atlas.items[colour]
    style: dict[str, Any] = {"s": _size(len(plane)), "linewidths": 0, "rasterized": True}
    if values.dtype.is_numeric() and colour not in GROUPINGS:
        shade = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
        unknown = np.isnan(shade)
        if unknown.any():
            _dots(ax, plane[unknown], color=OTHER, **style)
        order = np.argsort(shade, kind="stable")[: (~unknown).sum()]
        low, high = find_range(values)
        norm = mpl.colors.Normalize(low, high)
        if is_log_scaled(values):
            shade, norm = np.maximum(shade, 1), mpl.colors.LogNorm(max(1, low), max(2, high))
        return _dots(ax, plane[order], c=shade[order], norm=norm, cmap="viridis_r", **style)
    codes, names = encode_groups(atlas, colour)
    if len(names) > len(PALETTE):
        style |= {"s": SHAPED * style["s"], "linewidths": 0.1 * (SHAPED * style["s"]) ** 0.5, "edgecolors": "white"}
    shown = np.random.default_rng(0).permutation(len(plane))  # so that no group lies over all others
    over = np.where(codes < 0, codes == FURTHER, 2)
    shown = shown[np.argsort(over[shown], kind="stable")]  # but all over further ones, and these over what has none
    colours = np.array([choose_colour(k) for k in codes])
    drawn = _dots(ax, plane[shown], facecolors=colours[shown], **style)
    paths = [look.get_path().transformed(look.get_transform()) for look in map(MarkerStyle, MARKERS)]
    # In one collection: shape by shape, the last would lie over all others.
    drawn.set_paths([paths[max(k, 0) // len(PALETTE)] for k in codes[shown]])
    groups_shown = [(name, k) for k, name in enumerate(names)]
    rest = {FURTHER: "further groups", groups.NONE: "none" if colour in GROUPINGS else "other"}
    groups_shown += [(name, k) for k, name in rest.items() if (codes == k).any()]
    dot: dict[str, Any] = {"linestyle": "", "markersize": 3.5}
    return [
        Line2D([], [], marker=MARKERS[max(k, 0) // len(PALETTE)], color=choose_colour(k), label=name, **dot)
        for name, k in groups_shown
    ]


def _dots(ax: Axes, points: np.ndarray, **style: Any) -> PathCollection:
    return ax.scatter(points[:, 0], points[:, 1], **style)


def is_log_scaled(values: pl.Series) -> bool:
    """Tell whether a column of numbers is shaded by their logarithm.

    Popularity is, and what else is never negative and mostly far below its largest value. Years and ratings are not.
    """
    low, high = find_range(values)
    return values.name == "popularity" or (low >= 0 and high > SKEWED * max(1.0, _number(values.median())))


def find_range(values: pl.Series) -> tuple[float, float]:
    """Find the least and the largest number of a column; 0 and 0 where it has none."""
    return _number(values.min()), _number(values.max())


def _number(found: Any) -> float:
    """What polars found in a column of numbers, as one; 0 where there was none."""
    return float(found or 0)


def encode_groups(atlas: Atlas, colour: str) -> tuple[np.ndarray, list[str]]:
    """Encode a text column or grouping as codes, int64 (n,), and names of the first `TOLD_APART`, the most frequent.

    Names of a text column stand domain by domain, so that those of one domain, which lie together, differ by colour first.
    Of a grouping `FURTHER` is any other group and `groups.NONE` none; of a text column -1 is any rarer value and none.
    """
    values = atlas.items[colour]
    if colour in GROUPINGS:
        found = {g: min(k, TOLD_APART) for k, g in enumerate(atlas.words[colour])}
        codes = np.array([found.get(g, groups.NONE) for g in values.to_list()])
        return np.where(codes == TOLD_APART, FURTHER, codes), list(atlas.words[colour].values())[:TOLD_APART]
    texts = pl.DataFrame({"value": values.cast(pl.String), "domain": atlas.items["domain"]}).drop_nulls("value")
    counts = texts.group_by("value").agg(pl.len(), pl.col("domain").mode().min())
    frequent = counts.sort(["len", "value"], descending=[True, False]).head(TOLD_APART)
    largest = frequent.sort("domain", "value")["value"].to_list()
    place = {name: k for k, name in enumerate(largest)}
    return np.array([place.get(v, -1) for v in values.cast(pl.String).to_list()]), largest


def choose_colour(k: int) -> str:
    """Choose the colour of group k; grey for what is in none, a darker one for `FURTHER` groups."""
    if k < 0:
        return FURTHER_GREY if k == FURTHER else OTHER
    return PALETTE[k % len(PALETTE)]


def find_often_together(atlas: Atlas, most: int) -> np.ndarray:
    """Find the pairs of mapped items that most often follow each other in training, either way round: int64 (<= most, 2),
    row numbers of `atlas.items`."""
    counts = groups.count_co_purchases(atlas.corpus)
    both = (counts + counts.T).tocoo()
    once = both.row < both.col
    order = np.argsort(-both.data[once], kind="stable")
    pairs = np.stack([both.row[once], both.col[once]], axis=1)[order] + 1
    rows = atlas.rows(pairs)
    return rows[(rows >= 0).all(1)][:most]


def _figure(height: float) -> Figure:
    figure = PlainFigure(figsize=(COLUMN, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # so that texts can be measured
    return figure


def _panels(atlas: Atlas, stages: Sequence[str], columns: int) -> tuple[Figure, list[Axes]]:
    """A figure one column wide with an axes a stage, all over the same part of the aligned frame."""
    columns = min(columns, len(stages))
    lines = -(-len(stages) // columns)
    every = np.concatenate(list(atlas.aligned.values()))
    low, high = every.min(0), every.max(0)
    middle, half = (low + high) / 2, 0.53 * np.maximum(high - low, 1e-6)
    across, up = zip(middle - half, middle + half, strict=True)
    shape = float(np.clip(half[1] / half[0], 0.6, 1.1))
    figure = _figure(COLUMN / columns * lines * shape + 0.3)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes:
        ax.set(xlim=across, ylim=up, xticks=[], yticks=[])
    for k, ax in enumerate(axes[: len(stages)]):
        ax.set_xlabel("UMAP 1" if k >= len(stages) - columns else "")
        ax.set_ylabel("UMAP 2" if k % columns == 0 else "")
    for ax in axes[len(stages) :]:
        ax.set_axis_off()
    return figure, list(axes[: len(stages)])


def _legend(figure: Figure, handles: list[Any]) -> float:
    """The groups' names in two or three columns at the figure's foot; returns the inches that they take."""
    columns = 2 if max(len(h.get_label()) for h in handles) > 20 else 3
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=columns, handletextpad=0.1,
        columnspacing=0.8, labelspacing=0.3, borderpad=0, borderaxespad=0.2,
    )  # fmt: skip
    return 0.115 * -(-len(handles) // columns) + 0.06


def _shades(figure: Figure, axes: list[Axes], drawn: Any, name: str) -> float:
    """A colour bar under the panels; returns the inches that it takes of the foot, none, since the layout makes room."""
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.03)
    low, high = drawn.norm.vmin, drawn.norm.vmax
    log = isinstance(drawn.norm, mpl.colors.LogNorm)
    ticks = [low, float(np.sqrt(low * high)) if log else (low + high) / 2, high]
    bar.set_ticks(ticks, labels=[f"{v:,.0f}" if log else f"{v:.0f}" if high - low >= 10 else f"{v:.4g}" for v in ticks])
    bar.minorticks_off()
    bar.set_label(f"{name}, log scale" if log else name, fontsize=6.5)
    bar.ax.tick_params(labelsize=6, width=0.5, length=2)
    return 0.0


def _caption(figure: Figure, text: str, *, foot: float = 0.0) -> None:
    """Write `text` under everything and make the figure taller by it and by the `foot` (inches) that a legend needs."""
    lines = textwrap.wrap(text, 82)
    written = 0.11 * len(lines) + 0.04
    height = figure.get_figheight() + written + foot
    figure.set_figheight(height)
    figure.set_layout_engine("constrained", rect=(0, (written + foot) / height, 1, 1 - (written + foot) / height))
    figure.text(0.01, 0.02 / height, "\n".join(lines), fontsize=5.5, color="#444444", linespacing=1.25, va="bottom")
    for legend in figure.legends:
        # With the transform, or a notebook, which crops figures tightly, sets the legend over the caption.
        legend.set_bbox_to_anchor((0.5, written / height), transform=figure.transFigure)


def _trust(atlas: Atlas) -> str:
    q = atlas.quality
    placed = f" ({q['placed']:,} placed among {q['fitted']:,})" if q["placed"] else ""
    return (
        f"{q['items']:,} items{placed}, one aligned frame. Kept: share of an item's {q['neighbours']} nearest in the space that "
        f"are among its {q['neighbours']} nearest on the page."
    )


def _short(title: str, most: int) -> str:
    """At most `most` characters of a title, in whole words, with no dash or comma before the dots."""
    return re.sub(r"[\W_]+ …$", " …", textwrap.shorten(title, most, placeholder=" …"))


def _row(atlas: Atlas, stage: str) -> dict[str, Any]:
    return next(row for row in atlas.quality["stages"] if row["stage"] == stage)


def _size(n: int) -> float:
    return float(np.clip(2500 / max(n, 1), 0.25, 6))


def _middle(points: np.ndarray) -> np.ndarray:
    """The item nearest to the median: a label on a group in several parts stands on one of them."""
    middle: np.ndarray = points[np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()]
    return middle


def _length(plane: np.ndarray, pairs: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(plane[pairs[:, 0]] - plane[pairs[:, 1]], axis=1)))
