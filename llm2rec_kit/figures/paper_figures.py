"""Static figures of notebook 06: the paper's Figures 4 and 5 with ours beside them, and which way the differences point."""

from __future__ import annotations

import itertools
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from llm2rec_kit.figures.training_figures import OTHER, PALETTE, _caption, _figure, _legend, _reach, label_log_axis

METRIC = "recall@10"  # of Figures 4 and 5
MARKERS = ("o", "s", "^", "D")
WAYS = {  # agreement: colour, marker
    "same way": (PALETTE[0], "o"),
    "the other way": (PALETTE[5], "X"),
    "no detectable difference": (OTHER, "o"),
    "the paper is of two minds": (PALETTE[3], "D"),
}


def draw_backbones(ours: pl.DataFrame, printed: pl.DataFrame) -> Figure:
    """Draw Figure 4: a panel a domain of ours, then one a data set of the paper's; a line of backbones for each model.

    `ours` has domain, backbone, model, recall@10, low and high; `printed` is `paper.read_backbones()`.
    """
    panels = [(f"ours: {d}", ours.filter(domain=d)) for d in ours["domain"].unique(maintain_order=True)]
    panels += [(f"paper: {d}", printed.filter(dataset=d)) for d in printed["dataset"].unique(maintain_order=True)]
    models = list(dict.fromkeys(m for _, part in panels for m in part["model"]))
    look = {m: {"color": PALETTE[k], "marker": MARKERS[k % 4]} for k, m in enumerate(models)}
    figure, axes = _figure(len(panels), height=3.2, width=3.1)
    for ax, (title, part) in zip(axes[0], panels, strict=True):
        names = part["backbone"].unique(maintain_order=True).to_list()
        for k, (model, style) in enumerate(look.items()):
            rows = part.filter(model=model)
            if not len(rows):
                continue
            at = [names.index(b) + 0.08 * (k - len(look) / 2) for b in rows["backbone"]]
            reach = _reach(rows[METRIC], rows["low"], rows["high"]) if "low" in rows.columns else None
            ax.errorbar(at, rows[METRIC], yerr=reach, capsize=3, linewidth=1, label=model, **style)
        ax.set(title=title, xticks=range(len(names)), xlim=(-0.5, len(names) - 0.5))
        ax.set_xticklabels(names, rotation=20, ha="right")
        ax.grid(axis="y", color="#EEEEEE")
    axes[0, 0].set_ylabel(METRIC)
    _legend(figure)
    _caption(
        figure,
        "every panel has its own scale. Ours: whiskers are 95% bootstrap intervals over users; the paper prints none.",
    )
    return figure


def draw_encoding_times(ours: pl.DataFrame, printed: pl.DataFrame) -> Figure:
    """Draw Figure 5: seconds to encode the catalogue against what the embeddings are worth, ours and then the paper's; both
    have model, seconds and recall@10."""
    figure, axes = _figure(2, height=3.2, width=4.2)
    for ax, (title, part) in zip(axes[0], (("ours", ours), ("paper: 9,517 titles, one A40", printed)), strict=True):
        for k, row in enumerate(part.sort(METRIC).iter_rows(named=True)):
            at, (side, off) = (row["seconds"], row[METRIC]), ("left", 6) if k % 2 == 0 else ("right", -6)
            ax.plot(*at, "o", color=PALETTE[k % len(PALETTE)])
            ax.annotate(row["model"], at, xytext=(off, 0), textcoords="offset points", fontsize=8, ha=side, va="center")
        least, most = part.select(least=pl.min("seconds"), most=pl.max("seconds")).row(0)
        wide = most > 10 * least  # on a log scale of less, tick labels lie over one another
        ax.set(title=title, ylabel=METRIC, xlabel=f"seconds for the catalogue{', log scale' if wide else ''}")
        ax.margins(x=0.5, y=0.15)
        if wide:
            ax.set_xscale("log")
            label_log_axis(ax.xaxis)
        else:
            ax.set_xlim(0, 1.8 * most)  # from nought, or differences of a percent would look like some
        ax.grid(color="#EEEEEE")
    _caption(
        figure,
        "to the upper left is better. Times are of this machine and this moment, and of the paper's: compare within a panel only.",
    )
    return figure


def draw_lengths(found: pl.DataFrame, metric: str) -> Figure:
    """Draw `metric` against the length of the vectors that a recommender reads.

    A row of panels for each domain, a panel for each recommender. `found` is `initialisations.collect_results`. Colours tell
    the starts, markers the tables; a line joins one table's lengths.
    """
    domains, recommenders, tables, starts = (
        found[c].unique(maintain_order=True).to_list() for c in ("domain", "recommender", "embedding", "start")
    )
    figure, axes = _figure(len(recommenders), len(domains), height=3.0, width=4.2 if len(recommenders) > 1 else 7.5)
    for (d, domain), (r, recommender) in itertools.product(enumerate(domains), enumerate(recommenders)):
        ax = axes[d, r]
        for (s, start), (t, table) in itertools.product(enumerate(starts), enumerate(tables)):
            rows = found.filter(domain=domain, recommender=recommender, start=start, embedding=table)
            _lengths(ax, rows, metric, PALETTE[s], MARKERS[t % len(MARKERS)])
        ax.set(title=f"{domain}, {recommender}", ylabel=metric, xscale="log")
        label_log_axis(ax.xaxis)
        ax.grid(color="#EEEEEE")
    for ax in axes[-1]:
        ax.set_xlabel("mean length of the vectors, log scale")
    look = [axes[0, 0].plot([], [], color=PALETTE[s], label=f"{start} start")[0] for s, start in enumerate(starts)]
    look += [
        axes[0, 0].plot([], [], MARKERS[t % len(MARKERS)], color=OTHER, label=table)[0] for t, table in enumerate(tables)
    ]
    figure.legend(handles=look, loc="outside upper center", ncols=min(6, len(look)), fontsize=8)
    _caption(
        figure,
        "joined: the same vectors at other lengths; filled alone: as they come; open: whitened. Whiskers: 95% bootstrap interval over "
        "users.",
    )
    return figure


def _lengths(ax: Any, rows: pl.DataFrame, metric: str, colour: str, marker: str) -> None:
    style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1, "capsize": 2}
    joined = rows.filter(pl.col("form").str.starts_with("length")).sort("length")
    for part, line, face in (
        (joined, "-", colour),
        (rows.filter(form="as it comes"), "", colour),
        (rows.filter(form="whitened"), "", "white"),
    ):
        mean = part[f"{metric} mean"]
        reach = _reach(mean, part[f"{metric} low"], part[f"{metric} high"])
        ax.errorbar(part["length"], mean, yerr=reach, linestyle=line, markerfacecolor=face, **style)


def draw_directions(found: pl.DataFrame) -> Figure:
    """Draw our difference of every printed comparison (`directions.put_beside_paper`), marked by how it agrees.

    A panel for each domain. `found` has table, domain (with its kind) and n (test users) besides.
    """
    domains = found["domain"].unique(maintain_order=True).to_list()
    rows = [(r, f"{r['table']}, {r['recommender']}: {r['before']} to {r['after']}") for r in found.iter_rows(named=True)]
    labels = list(dict.fromkeys(label for _, label in rows))
    width = 4.6 + 2.6 / len(domains)  # the labels stand once, beside the first panel
    figure, axes = _figure(len(domains), height=0.22 * len(labels) + 1.5, width=width, sharey=True)
    for ax, domain in zip(axes[0], domains, strict=True):
        for row, label in rows:
            if row["domain"] == domain:
                _difference(ax, row, -labels.index(label))
        ax.axvline(0, color="#444444", linewidth=0.8)
        n = found.filter(domain=domain)["n"][0]
        ax.set(title=f"{domain}, n = {n:,} users", xlabel="our difference in the metric, after minus before")
        ax.set_yticks([-k for k in range(len(labels))])
        ax.set_yticklabels(labels, fontsize=8)
        ax.grid(axis="x", color="#EEEEEE")
    seen = [way for way in WAYS if way in set(found["agreement"])]
    handles = [axes[0, 0].plot([], [], WAYS[w][1], color=WAYS[w][0], label=w)[0] for w in seen]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(seen), fontsize=8)
    _caption(
        figure,
        "whiskers: 95% bootstrap interval of the paired difference over users; marks by paired tests, corrected (Holm)\n"
        "within one display and domain; Figure 4's are single tests.",
    )
    return figure


def _difference(ax: Any, row: dict[str, Any], y: int) -> None:
    colour, marker = WAYS[row["agreement"]]
    reach = _reach(row["difference"], row["low"], row["high"])
    ax.errorbar(row["difference"], y, xerr=reach, fmt=marker, color=colour, capsize=2, linewidth=1, markersize=5)
