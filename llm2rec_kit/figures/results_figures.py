"""Static figures of notebook 04: results with their intervals, slices, curves, adapters, top lists.

Each function returns a matplotlib Figure, as in `training_figures`. An embedding has one colour and one marker throughout,
which the report shares (`training_figures.number_embeddings`), so that a figure can be read without colour; past eight, where
colours come again, lines are dashed and markers are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from llm2rec_kit.figures.training_figures import (
    PALETTE,
    _caption,
    _figure,
    _legend,
    _reach,
    choose_strokes,
    number_embeddings,
)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = {"popularity": ":", "oracle": "--"}
FEWEST = 20  # samples of a label of a slice that is drawn
LONGEST = 60  # letters of a listed title


def _look(embeddings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each embedding, by its number: no pair comes twice among 64."""
    return {
        name: {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[(k + k // len(PALETTE)) % len(MARKERS)]}
        for name, k in number_embeddings(embeddings).items()
    }


def draw_results(table: pl.DataFrame, metric: str, *, recommenders: Sequence[str], tested: str) -> Figure:
    """Draw `metric` of each trained row with its interval over users; a row of panels a domain, a panel a recommender.

    `table` is `significance.tabulate` with intervals, and `place` where `significance.add_places` gave it by the metric
    `tested`. Lines are rankings without training: popularity and, on synthetic data, the oracle.
    """
    domains = table["domain"].unique(maintain_order=True).to_list()
    trained = table.filter(pl.col("recommender").is_in(list(recommenders)))
    look = _look(trained["embedding"].unique(maintain_order=True).to_list())
    figure, axes = _figure(
        len(recommenders), len(domains), height=0.3 * len(look) + 1.5, width=4.4, sharex="row", sharey=True
    )
    places = {name: -k for k, name in enumerate(look)}
    for line, domain in zip(axes, domains, strict=True):
        here = table.filter(domain=domain)
        for ax, name in zip(line, recommenders, strict=True):
            for row in here.filter(recommender=name).iter_rows(named=True):
                mean, y = row[f"{metric} mean"], places[row["embedding"]]
                reach = _reach(mean, row[f"{metric} low"], row[f"{metric} high"])
                ax.errorbar(mean, y, xerr=reach, capsize=3, linewidth=1.2, **look[row["embedding"]])
                if mark := row.get("place"):
                    ax.annotate(mark, (mean, y), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7)
            for reference, dash in LINES.items():
                if len(found := here.filter(recommender=reference)):
                    ax.axvline(found[f"{metric} mean"][0], color="#444444", linestyle=dash, linewidth=1, label=reference)
            ax.set(title=f"{name}, {domain}", xlabel=metric, yticks=list(places.values()), yticklabels=list(places))
            ax.margins(y=0.15)
            ax.grid(axis="x", color="#EEEEEE")
    _legend(figure)
    _caption(
        figure,
        "dots: mean over seeds; whiskers: 95% bootstrap interval over users. "
        f"Marks: by paired tests (Holm) of {tested}, among the rows of a panel.",
    )
    return figure


def draw_curves(records: list[dict[str, Any]], *, metric: str) -> Figure:
    """Draw training loss (above) and validation metric (below) of every training along the epochs, a column a
    recommender."""
    columns = list(dict.fromkeys((r["domain"], r["recommender"]) for r in records))
    strokes = choose_strokes(r["embedding"] for r in records)
    figure, axes = _figure(len(columns), 2, height=2.3)
    for at, (domain, recommender) in enumerate(columns):
        for r in (r for r in records if (r["domain"], r["recommender"]) == (domain, recommender)):
            first = r["seed"] == min(x["seed"] for x in records)
            style = {**strokes[r["embedding"]], "linewidth": 1, "label": r["embedding"] if first else None}
            axes[0, at].plot(np.arange(1, len(r["losses"]) + 1), r["losses"], **style)
            axes[1, at].plot(*zip(*r["curve"], strict=True), **style)
            axes[1, at].plot(r["best_epoch"], max(v for _, v in r["curve"]), "o", markersize=3, color=style["color"])
        axes[0, at].set(title=f"{recommender}, {domain}")
        axes[1, at].set(xlabel="epoch")
    axes[0, 0].set_ylabel("training loss (nats)")
    axes[1, 0].set_ylabel(f"validation {metric}")
    _legend(figure)
    _caption(figure, "a line a seed; the dot is the epoch whose weights were kept")
    return figure


def draw_slices(table: pl.DataFrame, names: Sequence[str], *, metric: str, title: str) -> Figure:
    """Draw small multiples: a row of panels a recommender and domain, a panel for each slice of `names`, a dot an embedding.

    `table` is `slices.tabulate`, of one domain or several; the number of samples stands under each label, and labels with
    fewer than FEWEST are left out: their intervals would be all that is seen.
    """
    left = table.filter(pl.col("samples") >= FEWEST)
    lines = list(table.select("domain", "recommender").unique(maintain_order=True).iter_rows())
    embeddings = table["embedding"].unique(maintain_order=True).to_list()
    wide = [max(1, left.filter(slice=name)["label"].n_unique()) for name in names]
    width = (0.9 * sum(wide) + 1.2) / len(names)
    figure, axes = _figure(
        len(names), len(lines), height=2.2, width=max(width, 7.5 / len(names)), sharey="row", width_ratios=wide
    )
    for line, (domain, recommender) in zip(axes, lines, strict=True):
        for ax, name in zip(line, names, strict=True):
            _slice(ax, left.filter(domain=domain, slice=name, recommender=recommender), embeddings)
        line[0].set_ylabel(f"{recommender}, {domain}\n{metric}")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(f"by {name}")
    figure.suptitle(title, fontsize=11)
    _legend(figure)
    _caption(figure, f"under each label: its test samples, {FEWEST} at least. Whiskers: 95% bootstrap interval over users.")
    return figure


def _slice(ax: Any, here: pl.DataFrame, embeddings: list[str]) -> None:
    labels = here.unique("label", maintain_order=True)
    look = _look(embeddings)
    shift = np.linspace(-0.3, 0.3, len(embeddings)) if len(embeddings) > 1 else [0.0]
    for off, embedding in zip(shift, embeddings, strict=True):
        rows = here.filter(embedding=embedding)
        reach = _reach(rows["mean"], rows["low"], rows["high"])
        style = {"linestyle": "none", "markersize": 4, "linewidth": 1, **look[embedding]}
        ax.errorbar(np.arange(len(rows)) + off, rows["mean"], yerr=reach, label=embedding, **style)
    ticks = [f"{label}\n{n:,}" for label, n in zip(labels["label"], labels["samples"], strict=True)]
    ax.set_xticks(np.arange(len(ticks)), ticks, fontsize=7)
    ax.set_xlim(-0.6, max(len(ticks), 1) - 0.4)
    ax.grid(axis="y", color="#EEEEEE")


def draw_gains(frames: dict[str, pl.DataFrame], *, before: str, after: str, metric: str) -> Figure:
    """Draw where `after` wins and loses against `before`: the paired difference in every slice.

    A panel for each recommender and domain. `frames` is {panel title: slices.tabulate_gains}; a filled dot is a difference that the
    corrected test allows. Labels with fewer than FEWEST samples are left out, as in `draw_slices`.
    """
    frames = {title: frame.filter(pl.col("samples") >= FEWEST) for title, frame in frames.items()}
    names = pl.concat([f.select("place", "slice", "label") for f in frames.values()]).unique().sort("place")
    at = {place: -k for k, place in enumerate(names["place"])}
    figure, axes = _figure(len(frames), height=0.24 * len(at) + 1.2, width=4, sharey=True)
    for ax, (title, rows) in zip(axes[0], frames.items(), strict=True):
        for row in rows.iter_rows(named=True):
            paint = PALETTE[0] if row["difference"] > 0 else PALETTE[5]
            face = paint if row["verdict"] in ("better", "worse") else "white"
            reach = _reach(row["difference"], row["low"], row["high"])
            style = {"color": paint, "markerfacecolor": face, "markersize": 5, "linewidth": 1}
            ax.errorbar(row["difference"], at[row["place"]], xerr=reach, fmt="o", **style)
            where = {"transform": ax.get_yaxis_transform(), "ha": "left", "va": "center", "fontsize": 7, "color": "#666666"}
            ax.text(1.01, at[row["place"]], f"{row['samples']:,}", **where)
        ax.axvline(0, color="#444444", linewidth=0.8)
        ax.set(title=title, xlabel=f"{metric}, {after} minus {before}")
    ticks = [f"{name}: {label}" for _, name, label in names.iter_rows()]
    axes[0, 0].set_yticks(list(at.values()), ticks, fontsize=8)
    _caption(
        figure,
        "whiskers: 95% interval of the paired difference; filled: detectable after correction (Holm); right: samples, "
        f"{FEWEST} at least",
    )
    return figure


def draw_adapters(parts: dict[str, dict[str, np.ndarray]], *, embeddings: Sequence[str]) -> Figure:
    """Draw what the adapters learned, a line an embedding: the embeddings' spectrum, the adapter's, the angle between them.

    `parts` is {embedding: {"space", "adapter", "angles"}}: shares of variance before, of squared singular values, degrees.
    `embeddings` are all that the other figures show, so that those with such an adapter look here as they do there.
    """
    strokes = choose_strokes(embeddings)
    figure, axes = _figure(3, width=3.8)
    panels = (
        ("space", "variance of the embeddings", "principal axis", "cumulated share"),
        ("adapter", "squared singular values of the adapter", "singular value", "cumulated share"),
        ("angles", "what it reads against the first axes", "principal angle, sorted", "degrees"),
    )
    for ax, (key, title, across, up) in zip(axes[0], panels, strict=True):
        for name, found in parts.items():
            values = found[key] if key == "angles" else np.cumsum(found[key])
            ax.plot(np.arange(1, len(values) + 1), values, linewidth=1.3, label=name, **strokes[name])
        ax.set(title=title, xlabel=across, ylabel=up, ylim=(0, 92 if key == "angles" else 1.02))
    _legend(figure)
    _caption(figure, "0 degrees: the adapter reads the axes in which items differ most, as PCA would; 90: it reads others.")
    return figure


def draw_top_lists(tops: dict[str, pl.DataFrame], truth: int, *, history: Sequence[str], went_on: str) -> Figure:
    """Draw each model's list (`Trained.top`) with its scores as bars, the truth in colour: the recommender panel as a static
    figure. `history` are titles, `went_on` is the title of the item `truth`, which the lists may lack."""
    most = max(len(top) for top in tops.values())
    figure, axes = _figure(len(tops), height=0.24 * most + 1.03 + 0.13 * len(history), width=4.4)
    for ax, (name, top) in zip(axes[0], tops.items(), strict=True):
        scores = top["score"].to_numpy()
        width = 0.08 + (scores - scores.min()) / max(np.ptp(scores), 1e-9)
        paint = [PALETTE[1] if item == truth else "#DCE9F2" for item in top["item"]]
        ax.barh(-top["rank"].to_numpy(), width, color=paint, height=0.85)
        for rank, title, score in zip(top["rank"], top["title"], scores, strict=True):
            ax.text(0.01, -rank, f"{rank:>2}  {_short(title, LONGEST)}", va="center", fontsize=7)
            ax.text(1.09, -rank, f"{score:.2f}", va="center", ha="right", fontsize=7, color="#444444")
        ax.set(title=name, xticks=[], yticks=[], xlim=(0, 1.1))
        for side in ax.spines.values():
            side.set_visible(False)
    lines = "\n".join(f"{k}. {_short(title, 110)}" for k, title in enumerate(history, 1))
    found = any(truth in top["item"].to_list() for top in tops.values())
    went_on = f"went on to: {_short(went_on, 110)} ({'orange' if found else 'in none of the lists'})"
    _caption(figure, f"history, oldest first:\n{lines}\n{went_on}\nbars: scores, from the list's lowest")
    return figure


def _short(title: str, longest: int) -> str:
    return title if len(title) <= longest else title[: longest - 1] + "…"
