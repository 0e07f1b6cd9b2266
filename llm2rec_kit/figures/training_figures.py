"""Static figures of the notebooks and the report. Each function returns a matplotlib Figure and touches no global state.

Colours are Okabe and Ito's, safe for colour-blind readers; a colour is never the only carrier of a message.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import StrMethodFormatter

from llm2rec_kit.corpus import SPLITS, Corpus
from llm2rec_kit.storage import write_whole

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
OTHER = "#BBBBBB"
NAMED = ("raw", "csft", "mntp", "contrastive", "id")  # embeddings whose look no other takes beside them
DASHES = ("-", "--", ":", "-.")  # of eight embeddings each
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "llm2rec",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": False,
    "text.parse_math": False,
}
PANEL = 3.4  # inches of a panel's width


def number_embeddings(embeddings: Iterable[str]) -> dict[str, int]:
    """Number the looks of embeddings for the figures of notebook 04 and of the report, which stand on one page.

    Those of NAMED have one number each, whatever stands beside them. Others come after these by name, in any order of the
    list, and from the ninth look on colours come again.

    >>> number_embeddings(["id", "minilm", "raw"])
    {'id': 4, 'minilm': 5, 'raw': 0}
    """
    names = list(dict.fromkeys(embeddings))
    others = sorted(set(names) - set(NAMED))
    free = [k for k, name in enumerate(NAMED) if name not in names]
    numbers = [*range(len(NAMED), len(PALETTE)), *free, *range(len(PALETTE), len(PALETTE) + len(others))]
    found = {name: k for k, name in enumerate(NAMED)} | dict(zip(others, numbers, strict=False))
    return {name: found[name] for name in names}


def choose_strokes(embeddings: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Choose colour and dashes of each embedding's line, by its number: no pair comes twice among 32."""
    return {
        name: {"color": PALETTE[k % len(PALETTE)], "linestyle": DASHES[k // len(PALETTE) % len(DASHES)]}
        for name, k in number_embeddings(embeddings).items()
    }


class PlainFigure(Figure):
    """A Figure that shows every text as it stands: titles and categories come out of data, and `$` is a price there.

    matplotlib decides when a text is made whether `$...$` in it is a formula, and makes tick labels as late as in drawing.
    """

    def draw(self, renderer: Any) -> None:
        """Draw as matplotlib does, after telling all texts that they hold no formula."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        with mpl.rc_context({"text.parse_math": False}):
            super().draw(renderer)


class _BetweenPowers(StrMethodFormatter):
    """Numbers at ticks between the powers of ten, where fewer than two of those are in view: an axis needs two numbers."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Write a text for each tick, most of them empty where more would lie over one another."""
        assert self.axis is not None  # the one that this was given to
        low, high = np.log10(np.sort(self.axis.get_view_interval()))
        if np.floor(high) - np.ceil(low) >= 1:
            return [""] * len(values)
        shown = "123456789" if high - low < 0.5 else "23468" if high - low < 1 else "25"
        return [self(value) if f"{value:e}"[0] in shown else "" for value in values]


def label_log_axis(axis: Axis) -> None:
    """Write numbers instead of powers of ten on a log axis, two at least: matplotlib writes those as formulas."""
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(_BetweenPowers("{x:,g}"))


def save(
    figure: Figure,
    path: Path,
    *,
    style: dict[RcKeyType, Any] = STYLE,
    png_dpi: int = 150,
    svg_dpi: float | Literal["figure"] = "figure",
) -> Figure:
    """Write `<path>.png` and `<path>.svg`, same figure, same bytes; returns the figure, for a cell to show."""
    how = {".png": (png_dpi, {"Software": None}), ".svg": (svg_dpi, {"Date": None, "Creator": None})}
    with mpl.rc_context(style):
        for suffix, (dpi, metadata) in how.items():
            with write_whole(path.with_suffix(suffix)) as part:
                figure.savefig(part, dpi=dpi, metadata=metadata)
    return figure


def _figure(
    columns: int, rows: int = 1, *, height: float = 3.0, width: float = PANEL, **kwargs: Any
) -> tuple[Figure, np.ndarray]:
    with mpl.rc_context(STYLE):
        figure = PlainFigure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, axes


def _reach(value: Any, low: Any, high: Any) -> np.ndarray:
    """Whiskers for matplotlib, (2, n), of numbers or columns; none is negative: an interval of resampled means may lie beside
    the mean, by a rounding where one user has all samples, by more where few have."""
    below, above = np.atleast_1d(value) - np.atleast_1d(low), np.atleast_1d(high) - np.atleast_1d(value)
    whiskers: np.ndarray = np.maximum(0.0, np.stack([below, above]))
    return whiskers


def _caption(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=8, x=0.01, ha="left", color="#444444")


def _legend(figure: Figure, **style: Any) -> None:
    """Put one legend beside the panels, which names what any of them shows: inside, many names would lie over the lines."""
    found = {label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if found:
        figure.set_figwidth(figure.get_figwidth() + 0.4 + 0.06 * max(map(len, found)))  # so that panels keep their width
        figure.legend(found.values(), found.keys(), loc="outside right upper", fontsize=8, frameon=False, **style)


def _draw_steps(ax: Axes, history: list[dict[str, float]], name: str, colour: str, **style: Any) -> None:
    """Draw a number of `history` along the steps, a validation's with dots; nothing where no row has it."""
    if points := [(row["step"], row[name]) for row in history if name in row]:
        mark = "o" if name.startswith("validation") else ""
        ax.plot(*zip(*points, strict=True), color=colour, marker=mark, markersize=3, linewidth=1.2, **style)


def draw_loss_curves(history: list[dict[str, float]], *, title: str) -> Figure:
    """Draw training and validation loss along the steps; further validation numbers get a panel each."""
    extra = sorted({k for row in history for k in row if k.startswith("validation_") and k != "validation_loss"})
    figure, axes = _figure(1 + len(extra), width=4.2)
    _draw_steps(axes[0, 0], history, "loss", PALETTE[0], label="training")
    _draw_steps(axes[0, 0], history, "validation_loss", PALETTE[5], label="validation")
    axes[0, 0].set(title=title, xlabel="optimiser step", ylabel="loss (nats)")
    axes[0, 0].legend()
    for ax, name in zip(axes[0, 1:], extra, strict=True):
        _draw_steps(ax, history, name, PALETTE[2])
        ax.set(title=name.removeprefix("validation_"), xlabel="optimiser step")
    return figure


def draw_attention_mask(allowed: np.ndarray, branch: np.ndarray) -> Figure:
    """Draw which token sees which in one shared-prefix row: `allowed` bool (L, L), `branch` (L,) 0 for history."""
    figure, axes = _figure(1, width=4.6, height=4.4)
    shade = np.where(allowed, np.where(branch[:, None] > 0, 2, 1), 0)
    axes[0, 0].imshow(shade, cmap=mpl.colors.ListedColormap(["#F2F2F2", PALETTE[4], PALETTE[0]]), interpolation="nearest")
    axes[0, 0].set(title="one row: history, then a block a target", xlabel="token that is seen", ylabel="token that looks")
    _caption(figure, "light blue: history sees history; dark blue: a target sees its own history and itself")
    return figure


def draw_similarities(tables: dict[str, np.ndarray], together: np.ndarray, at_random: np.ndarray, *, mask: str) -> Figure:
    """Draw cosines of pairs consumed one after the other against random pairs, a panel for each stage's table (N + 1, dim),
    which was read under `mask`."""
    from llm2rec_kit.maps.projection import compute_cosines

    figure, axes = _figure(len(tables), height=2.6, sharey=False)
    for ax, (stage, table) in zip(axes[0], tables.items(), strict=True):
        found = {"random pairs": compute_cosines(table, at_random), "consumed together": compute_cosines(table, together)}
        bins = np.linspace(min(v.min() for v in found.values()), 1, 50)
        for (label, values), paint in zip(found.items(), (OTHER, PALETTE[0]), strict=True):
            ax.hist(values, bins=bins, density=True, color=paint, alpha=0.7, label=label)
        gap = found["consumed together"].mean() - found["random pairs"].mean()
        spread = np.concatenate(list(found.values())).std()
        ax.set(title=f"{stage}: {gap / max(spread, 1e-9):+.2f} sd apart", xlabel="cosine similarity", yticks=[])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=7, loc="outside upper right", ncols=2)
    _caption(
        figure,
        f"Mask: {mask}. {len(together):,} pairs of each kind. Apart: difference of means in standard deviations of all cosines.",
    )
    return figure


def draw_cleaning(steps: list[dict[str, Any]], kept: int | None = None) -> Figure:
    """Draw what each cleaning step removed, a bar a step with its number; last, if given, how many interactions are left."""
    rows = [(s["step"], s["rows_dropped"], PALETTE[0]) for s in steps]
    rows += [] if kept is None else [("left", kept, PALETTE[2])]
    figure, axes = _figure(1, width=7, height=0.35 * max(3, len(rows)) + 1.1)
    ax = axes[0, 0]
    names, counts, paints = zip(*rows[::-1], strict=True)
    bars = ax.barh(range(len(rows)), counts, color=paints, tick_label=names)
    whole = sum(counts) if kept is not None else 0
    ax.bar_label(bars, [f"{n:,}" + (f"  ({n / whole:.1%})" if whole else "") for n in counts], padding=3, fontsize=8)
    ax.set(title="interactions dropped by each cleaning step", xlabel="interactions")
    ax.set_xlim(0, 1.25 * max(1, *counts))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))
    if whole:
        _caption(figure, f"of {whole:,} interactions read")
    return figure


def draw_distributions(lengths: np.ndarray, popularity: np.ndarray) -> Figure:
    """Draw how long sequences are, and how unequal items' popularity is."""
    figure, axes = _figure(2, width=4)
    axes[0, 0].hist(np.minimum(lengths, 50), bins=np.arange(0.5, 51.5), color=PALETTE[0])
    axes[0, 0].set(
        title=f"sequence length, median {np.median(lengths):.0f}",
        xlabel="interactions of a user (50 and more in the last)",
        ylabel="users",
    )
    ranked = np.sort(popularity)[::-1]
    axes[0, 1].loglog(np.arange(1, len(ranked) + 1), np.maximum(ranked, 0.5), color=PALETTE[0])
    label_log_axis(axes[0, 1].xaxis)
    label_log_axis(axes[0, 1].yaxis)
    top = ranked[: max(1, len(ranked) // 10)].sum() / max(1, ranked.sum())
    axes[0, 1].set(title=f"popularity: a tenth of the items has {top:.0%}", xlabel="rank of the item", ylabel="interactions")
    return figure


def draw_split_timeline(corpus: Corpus) -> Figure:
    """Draw the samples of each split along time; where the source has no times, a panel that says so."""
    figure, axes = _figure(1, width=7, height=2.4)
    ax = axes[0, 0]
    if corpus.times is None:
        ax.text(0.5, 0.5, "the source has no timestamps: only the order within each user is known", ha="center", va="center")
        ax.set_axis_off()
        return figure
    when = corpus.times[corpus.targets].astype("datetime64[ms]")
    bins = np.linspace(when.min().astype(float), when.max().astype(float), 60).astype("int64").astype("datetime64[ms]")
    parts, colours = [when[corpus.splits == code] for code in SPLITS.values()], [PALETTE[0], PALETTE[1], PALETTE[5]]
    ax.hist(parts, bins=bins, stacked=True, color=colours, label=list(SPLITS))
    ax.set(
        title=f"samples by time of their target, split {corpus.facts.get('split', '')}",
        xlabel="time of the target",
        ylabel="samples",
    )
    ax.margins(x=0.01)
    figure.legend(ncols=3, fontsize=8, frameon=False, loc="outside upper right")
    return figure


def draw_attention_weights(weights: dict[str, np.ndarray], tokens: list[str]) -> Figure:
    """Draw how much each token of one title looks at each other, a panel for each of `weights`: (L, L), a row sums to
    one."""
    figure, axes = _figure(len(weights), width=3.6, height=3.6)
    # The first row of a causal model is 1 by force.
    top = max(w[1:].max() for w in weights.values()) if len(tokens) > 1 else 1.0
    extend = "max" if max(w.max() for w in weights.values()) > top else "neither"
    for ax, (name, weight) in zip(axes[0], weights.items(), strict=True):
        drawn = ax.imshow(weight, cmap="Blues", vmin=0, vmax=top, interpolation="nearest")
        places = np.arange(len(tokens))
        ax.set_xticks(places, tokens, rotation=90, fontsize=7)
        ax.set_yticks(places, tokens, fontsize=7)
        ahead = np.triu(weight, 1).sum(1)[:-1].mean() if len(tokens) > 1 else 0.0
        ax.set(title=f"{name}: {ahead:.0%} looks ahead", xlabel="token that is seen")
    axes[0, 0].set_ylabel("token that looks")
    figure.colorbar(drawn, ax=axes, label="attention weight", shrink=0.7, extend=extend)
    _caption(figure, "Last layer, mean over heads. Ahead: weight on later tokens, mean over all tokens but the last.")
    return figure


def draw_contrast_curves(history: list[dict[str, float]], *, title: str) -> Figure:
    """Draw loss, gradient norm, alignment, uniformity and effective rank along the steps, and the path of alignment and
    uniformity."""
    figure, axes = _figure(3, 2, height=2.6, width=3.8)
    panels = {
        "loss": ("loss (nats)", PALETTE[0]),
        "grad_norm": ("gradient norm before clipping", PALETTE[5]),
        "validation_alignment": ("alignment, 0 is perfect", PALETTE[2]),
        "validation_uniformity": ("uniformity, 0 is collapsed", PALETTE[2]),
        "validation_effective_rank": ("effective rank, 1 is collapsed", PALETTE[2]),
    }
    ends = {"validation_uniformity": {"top": 0}, "validation_effective_rank": {"bottom": 0}}
    for ax, (name, (label, paint)) in zip(axes.flat, panels.items(), strict=False):
        _draw_steps(ax, history, name, paint)
        ax.set(title=label, xlabel="optimiser step")
        if name in ends:  # else a few per cent would look like a fall to the floor
            ax.set_ylim(**ends[name])
    rows = [row for row in history if "validation_alignment" in row]
    path = [(row["validation_alignment"], row["validation_uniformity"]) for row in rows]
    ax = axes[1, 2]
    ax.plot(*zip(*path, strict=True), color=PALETTE[2], marker="o", markersize=3, linewidth=1)
    for k in {0, len(path) - 1}:
        ax.annotate(f"step {rows[k]['step']}", path[k], textcoords="offset points", xytext=(4, 4), fontsize=7)
    ax.set(title="the way: down and left is better", xlabel="alignment", ylabel="uniformity")
    figure.suptitle(title, fontsize=11)
    return figure


def draw_spectra(tables: dict[str, np.ndarray], domains: pl.Series) -> Figure:
    """Draw how many directions each space uses: the share of its variance in its k largest, and its effective rank.

    Tables are (N + 1, dim), `domains` (N,) the domain of each item, about whose mean its row is taken: what tells domains
    apart would else be the first direction.
    """
    from llm2rec_kit.geometry import effective_rank

    figure, axes = _figure(1, width=5.4, height=3.2)
    ax = axes[0, 0]
    names = domains.unique(maintain_order=True).to_list()
    for (stage, table), paint, dash in zip(tables.items(), cycle(PALETTE), cycle(("-", "--", "-.", ":")), strict=False):
        rows = np.array(table[1:], dtype=np.float64)
        for own in ((domains == name).to_numpy() for name in names):
            rows[own] -= rows[own].mean(0)
        held = np.cumsum(np.linalg.svd(rows, compute_uv=False) ** 2)
        label = f"{stage}, effective rank {effective_rank(rows):.0f}"
        style = {"color": paint, "linestyle": dash, "linewidth": 1.4, "label": label}
        ax.semilogx(np.arange(1, len(held) + 1), held / held[-1], **style)
    label_log_axis(ax.xaxis)
    ax.set(
        title="directions that a space uses", xlabel="k largest directions", ylabel="share of the variance", ylim=(0, 1.02)
    )
    ax.legend(fontsize=7, loc="lower right")
    about = f", each about its domain's mean ({', '.join(names)})" if len(names) > 1 else f" of {names[0]}"
    said = textwrap.fill(f"{len(domains):,} items{about}.", 84)
    _caption(figure, f"A curve that is up at once uses few directions.\n{said}")
    return figure


def draw_closeness(found: pl.DataFrame, *, mask: str) -> Figure:
    """Draw how near items are that the same users consumed, a line a stage; `found` is `cooccurrence.measure_closeness` of
    tables that were read under `mask`."""
    figure, axes = _figure(1, width=5.4, height=3.4)
    ax = axes[0, 0]
    levels = found["level"].unique(maintain_order=True).to_list()
    stages = found["stage"].unique(maintain_order=True).to_list()
    for k, stage in enumerate(stages):
        part = found.filter(stage=stage)
        at = np.array([levels.index(level) for level in part["level"]]) + 0.08 * (k - (len(stages) - 1) / 2)
        colour = OTHER if k == 0 and len(stages) > 1 else PALETTE[(k - 1) % len(PALETTE)]
        style = {"color": colour, "marker": "os^D"[k % 4], "markersize": 4, "linewidth": 1.2, "capsize": 3}
        ax.errorbar(at, part["above"], yerr=1.96 * part["error"], label=stage, **style)
    ax.axhline(0, color="#444444", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(levels)), levels)
    ax.set(
        title="items that the same users consumed are nearer",
        xlabel="users who consumed both",
        ylabel="cosine, sd above pairs never together",
    )
    ax.legend()
    pairs = found.filter(stage=stages[0])["pairs"].to_list()
    _caption(
        figure,
        f"Mask: {mask}. Means of {min(pairs):,} to {max(pairs):,} pairs, with 95% intervals;\n"
        "pairs never together are as popular.",
    )
    return figure
