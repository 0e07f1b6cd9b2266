"""Static figures of notebook 07: the arms of a question with their intervals, and beside them what the tests say."""

from __future__ import annotations

from typing import Any

import polars as pl
from matplotlib.figure import Figure

from llm2rec_kit.figures.results_figures import MARKERS, _look
from llm2rec_kit.figures.training_figures import PALETTE, _caption, _figure, _legend, _reach

TOLD = {"better": PALETTE[0], "worse": PALETTE[5]}
UNTOLD = "#777777"


def draw_answer(arms: pl.DataFrame, tests: pl.DataFrame, *, title: str, metric: str, counted: str) -> Figure:
    """Draw one question: left each arm's mean, right the paired differences; a row of panels a recommender.

    `arms` and `tests` are those of `answers.Answer`; `counted` says n and seeds in the caption.
    """
    recommenders = arms["recommender"].unique(maintain_order=True).to_list()
    most = max(rows.filter(recommender=r).height for rows in (arms, tests) for r in recommenders)
    figure, axes = _figure(2, len(recommenders), height=0.34 * most + 1.2, width=4.6, sharex="col")
    for (left, right), name in zip(axes, recommenders, strict=True):
        _arms(left, arms.filter(recommender=name))
        _differences(right, tests.filter(recommender=name))
        left.set(title=name)
        right.set(title="after minus before")
        for ax in (left, right):
            ax.locator_params(axis="x", nbins=4)  # small differences have long numbers: more would lie over one another
    axes[-1, 0].set_xlabel(metric)
    axes[-1, 1].set_xlabel(f"difference in {metric}")
    figure.suptitle(title, fontsize=11)
    _caption(
        figure,
        f"{counted}. Dots: mean over seeds; whiskers: 95% bootstrap interval over users; on the right, of the paired difference.\n"
        "Filled: a difference that the paired tests shown here allow (Holm); open: no detectable difference.",
    )
    return figure


def draw_learning_curves(arms: pl.DataFrame, *, title: str, metric: str, counted: str) -> Figure:
    """Draw `metric` against the users that a recommender learned from, a line an item table, a panel a recommender.

    `arms` has recommender, embedding, users, mean, low and high, a row an arm.
    """
    recommenders = arms["recommender"].unique(maintain_order=True).to_list()
    look = _look(arms["embedding"].unique(maintain_order=True).to_list())
    width = max(3.8, 9 / len(recommenders))  # inches: title, legend and caption need so much in all
    figure, axes = _figure(len(recommenders), 1, height=2.8, width=width, sharey=True)
    ticks = arms["users"].unique().sort().to_list()
    for ax, name in zip(axes[0], recommenders, strict=True):
        for embedding, style in look.items():
            rows = arms.filter(recommender=name, embedding=embedding).sort("users")
            reach = _reach(rows["mean"], rows["low"], rows["high"])
            style = {**style, "markersize": 4, "linewidth": 1.2, "capsize": 2}
            ax.errorbar(rows["users"], rows["mean"], yerr=reach, label=embedding, **style)
        ax.set(title=name, xlabel="users learned from", xscale="log")
        ax.set_xticks(ticks, [f"{count:,}" for count in ticks])
        ax.minorticks_off()
        ax.grid(color="#EEEEEE")
    axes[0, 0].set_ylabel(metric)
    figure.suptitle(title, fontsize=11)
    _legend(figure)
    _caption(
        figure,
        f"{counted}. Dots: mean over seeds; whiskers: 95% bootstrap interval over the users tested, who are the same.",
    )
    return figure


def _arms(ax: Any, rows: pl.DataFrame) -> None:
    for k, row in enumerate(rows.iter_rows(named=True)):
        style = {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)], "markersize": 5, "linewidth": 1.2}
        ax.errorbar(row["mean"], -k, xerr=_reach(row["mean"], row["low"], row["high"]), capsize=3, **style)
    ax.set_yticks([-k for k in range(len(rows))], rows["arm"].to_list(), fontsize=8)
    ax.set_ylim(0.6 - len(rows), 0.6)
    ax.grid(axis="x", color="#EEEEEE")


def _differences(ax: Any, rows: pl.DataFrame) -> None:
    for k, row in enumerate(rows.iter_rows(named=True)):
        paint = TOLD.get(row["verdict"], UNTOLD)
        face = paint if row["verdict"] in TOLD else "white"
        style = {"color": paint, "markerfacecolor": face, "markersize": 5, "linewidth": 1.2}
        ax.errorbar(
            row["difference"], -k, xerr=_reach(row["difference"], row["low"], row["high"]), fmt="o", capsize=3, **style
        )
    ax.axvline(0, color="#444444", linewidth=0.8)
    names = [f"{row['before']} → {row['after']}" for row in rows.iter_rows(named=True)]
    ax.set_yticks([-k for k in range(len(rows))], names, fontsize=8)
    ax.set_ylim(0.6 - len(rows), 0.6)
    ax.grid(axis="x", color="#EEEEEE")
