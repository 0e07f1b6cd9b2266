"""A first explorer: choose a stage and a colouring, search a title, see its neighbours at every stage side by side.

The logic is in plain functions; the widgets only call them. The static twin of what is shown stands under it in notebook 05.
"""

from __future__ import annotations

import html
import io

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from llm2rec_kit.maps import figures
from llm2rec_kit.maps.projection import unit

HIGHLIGHT = figures.PALETTE[5]


def search(items: pl.DataFrame, text: str, most: int = 20) -> pl.DataFrame:
    """Items whose title holds every word of `text`, in any case: (item, title), at most `most`."""
    held = pl.lit(True)
    for word in text.lower().split():
        held = held & pl.col("title").str.to_lowercase().str.contains(word, literal=True)
    return items.filter(held).select("item", "title").head(most)


def neighbours_of(item: int, items: pl.DataFrame, tables: dict[str, np.ndarray], k: int) -> pl.DataFrame:
    """The k nearest items of `item` at each stage: stage, rank, item, title, cosine. Tables are (N + 1, dim)."""
    rows = []
    titles = items["title"].to_list()
    for stage, table in tables.items():
        rows_of = unit(table[1:])
        cosine = rows_of @ rows_of[item - 1]
        cosine[item - 1] = -np.inf
        for rank, row in enumerate(np.argsort(-cosine, kind="stable")[:k], 1):
            rows.append(
                {"stage": stage, "rank": rank, "item": int(row) + 1, "title": titles[row], "cosine": float(cosine[row])}
            )
    return pl.DataFrame(rows)


class Explorer(widgets.VBox):
    """The controls, the map and the neighbours; `selection` is what is shown, as a DataFrame."""

    def __init__(self, maps: pl.DataFrame, items: pl.DataFrame, tables: dict[str, np.ndarray], colours: list[str]) -> None:
        """See `explorer`."""
        self.maps, self.items, self.tables = maps, items, tables
        self.stage = widgets.Dropdown(options=maps["stage"].unique(maintain_order=True).to_list(), description="Stage")
        self.colour = widgets.Dropdown(options=colours, description="Colour by")
        self.text = widgets.Text(description="Search", placeholder="words of a title", continuous_update=False)
        self.found = widgets.Select(description="Items", rows=6, layout=widgets.Layout(width="auto"))
        self.count = widgets.IntSlider(value=8, min=1, max=30, description="Neighbours")
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="640px"))
        self.list = widgets.HTML()
        for control in (self.stage, self.colour, self.found, self.count):
            control.observe(self._show, names="value")
        self.text.observe(self._search, names="value")
        controls = widgets.VBox([widgets.HBox([self.stage, self.colour, self.count]), self.text, self.found])
        super().__init__([controls, self.picture, self.list])
        self._search()

    @property
    def selection(self) -> pl.DataFrame:
        """Neighbours of the chosen item at each stage; empty without a choice."""
        if self.found.value is None:
            return pl.DataFrame(schema={"stage": str, "rank": int, "item": int, "title": str, "cosine": float})
        return neighbours_of(self.found.value, self.items, self.tables, self.count.value)

    def _search(self, _: object = None) -> None:
        hits = search(self.items, self.text.value)
        self.found.options = list(zip(hits["title"].to_list(), hits["item"].to_list(), strict=True))
        self._show()

    def _show(self, _: object = None) -> None:
        near = self.selection
        self.list.value = neighbour_html(near)
        self.picture.value = draw(self.maps, self.items, self.stage.value, self.colour.value, self.found.value, near)


def explorer(
    maps: pl.DataFrame, items: pl.DataFrame, tables: dict[str, np.ndarray], *, popularity: np.ndarray | None = None
) -> Explorer:
    """An explorer over maps.parquet (`maps`), the corpus's items and the stages' tables (N + 1, dim).

    `popularity` (N + 1,) adds a colouring.
    """
    if popularity is not None:
        items = items.with_columns(popularity=pl.Series(popularity[1:]))
    colours = [c for c in ("category", "domain", "popularity") if c in items.columns]
    return Explorer(maps, items, tables, colours)


def neighbour_html(near: pl.DataFrame) -> str:
    """The neighbours as a table, a column a stage."""
    if near.is_empty():
        return "<i>No title holds all of these words.</i>"
    stages = near["stage"].unique(maintain_order=True).to_list()
    columns = [near.filter(stage=s) for s in stages]
    head = "".join(f"<th style='text-align:left;padding:2px 12px 2px 0'>{html.escape(s)}</th>" for s in stages)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='padding:2px 12px 2px 0'>{html.escape(c['title'][k])} <small>{c['cosine'][k]:.2f}</small></td>"
            for c in columns
        )
        + "</tr>"
        for k in range(len(columns[0]))
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def draw(maps: pl.DataFrame, items: pl.DataFrame, stage: str, colour: str, item: int | None, near: pl.DataFrame) -> bytes:
    """PNG of one stage in the aligned frame; the chosen item and its neighbours at that stage ringed."""
    part = maps.filter(pl.col("stage") == stage).join(
        items.select(pl.col("item").cast(maps["item"].dtype), colour), on="item", maintain_order="left"
    )
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(6, 4.6), layout="constrained")
        ax = figure.subplots()
        drawn = figures.scatter(ax, part, colour, items[colour])
        rings = part.filter(pl.col("item").is_in(near.filter(stage=stage)["item"].to_list()))
        ax.scatter(rings["aligned_x"], rings["aligned_y"], s=60, facecolors="none", edgecolors=HIGHLIGHT, label="neighbours")
        own = part.filter(pl.col("item") == (item or 0))
        ax.scatter(
            own["aligned_x"],
            own["aligned_y"],
            s=160,
            marker="*",
            color=HIGHLIGHT,
            edgecolors="black",
            label="chosen",
            zorder=3,
        )
        ax.set(title=f"{stage}, coloured by {colour}", xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        if not isinstance(drawn, list):
            figure.colorbar(drawn, ax=ax, label=f"{colour}, log scale")
        figure.legend(loc="outside lower center", ncols=4, fontsize=7)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=100)
    return png.getvalue()
