"""The figures of a report: curves drawn from the run's artefacts, and what the notebooks kept.

In the report's own curves whatever is no data (text, axes) takes the page's colour, `currentColor`, so one drawing serves a
light and a dark page. What the notebooks kept was drawn for white paper (white boxes behind labels, black among the groups'
colours) and stays on it.
"""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from llm2rec_kit.figures import training_figures
from llm2rec_kit.results import significance
from llm2rec_kit.runs import Run

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

WIDTH = 10.5  # inches
INK = "#1c1d1e"  # stands for the page's colour; nothing else is drawn in it
MARKERS = "osD^v"  # a recommender each
VERDICTS = {"better": "#009E73", "worse": "#D55E00", significance.NOTHING: "#999999"}
TRAININGS = {
    "csft": "CSFT, loss a target token",
    "mntp": "MNTP, loss a hidden token",
    "contrastive": "Contrast, InfoNCE a title",
}
STYLE: dict[RcKeyType, Any] = {
    **training_figures.STYLE,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **{k: INK for k in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")},
}


def draw_tests(comparisons: dict[str, list[dict[str, Any]]]) -> Figure | None:
    """Draw every tested difference between two embeddings under one recommender, with its 95% interval over users.

    A panel for each domain. `comparisons` are the rows of notebook 04's tests by domain; None without any.
    """
    shown = {domain: [r for r in rows if significance.is_within(r)] for domain, rows in comparisons.items()}
    shown = {domain: rows for domain, rows in shown.items() if rows}
    if not shown:
        return None
    every = [r for rows in shown.values() for r in rows]
    pairs, names = (
        list(dict.fromkeys(found))
        for found in zip(*(((r["before"], r["after"]), r["recommender"]) for r in every), strict=True)
    )
    columns = min(len(shown), 3)
    figure, axes = _figure(columns, -(-len(shown) // columns), height=0.3 * len(pairs) + 1.1, sharey=True)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    for ax, (domain, rows) in zip(axes.flat, shown.items(), strict=False):
        for r in rows:
            k = names.index(r["recommender"])
            y = -pairs.index((r["before"], r["after"])) - 0.44 * (k + 0.5) / len(names) + 0.22
            reach = training_figures._reach(r["difference"], r["low"], r["high"])
            look = {"marker": MARKERS[k % len(MARKERS)], "color": VERDICTS.get(r["verdict"], INK)}
            ax.errorbar(r["difference"], y, xerr=reach, markersize=5, capsize=2, linewidth=1.2, **look)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set(title=domain, xlabel=f"difference in {rows[0]['metric']}")
        ax.set(yticks=[-k for k in range(len(pairs))], yticklabels=[f"{a} to {b}" for a, b in pairs])
    marks = [Line2D([], [], marker=MARKERS[k % len(MARKERS)], color=INK, ls="", markersize=5) for k in range(len(names))]
    figure.legend(marks, names, fontsize=8, frameon=False, labelcolor=INK, loc="outside upper right", ncols=len(names))
    return figure


def draw_losses(run: Run) -> Figure | None:
    """Draw training and validation loss along the steps, a panel a training stage that the run has; None without any.

    Contrast's validation loss has other negatives than a batch's (`contrastive.probe`) and would not compare.
    """
    found = {}
    for stage in TRAININGS:
        if run.has(stage) and (path := run.file(stage, "history.json")):
            found[stage] = json.loads(path.read_bytes())
    if not found:
        return None
    figure, axes = _figure(len(found), 1)
    strokes = training_figures.choose_strokes(found)
    for ax, (stage, history) in zip(axes[0], found.items(), strict=True):
        for name, style in (
            ("loss", {"alpha": 0.75}),
            ("validation_loss", {"marker": "o", "markersize": 3, "linestyle": "--"}),
        ):
            if stage == "contrastive" and name == "validation_loss":
                continue
            if points := [(row["step"], row[name]) for row in history if name in row]:
                label = name.replace("_", " ").replace("validation loss", "validation")
                ax.plot(*zip(*points, strict=True), color=strokes[stage]["color"], label=label, **style)
        ax.set(title=TRAININGS[stage], xlabel="step")
        ax.legend(frameon=False, labelcolor=INK)
    return figure


def draw_validation(records: list[dict[str, Any]], asked: list[str], metric: str) -> Figure | None:
    """Draw the validation metric along the epochs: a row for each domain, a column a recommender, a line an embedding.

    A line is the mean of its seeds up to where the first of them stopped, the seeds themselves faint. `records` are those of
    the trainings, `asked` the domains in their order; None where none has a curve.
    """
    records = [r for r in records if r.get("curve")]
    if not records:
        return None
    order = training_figures.NAMED
    records.sort(key=lambda r: order.index(r["embedding"]) if r["embedding"] in order else len(order))
    domains, names = (list(dict.fromkeys(r[k] for r in records)) for k in ("domain", "recommender"))
    domains, names = [d for d in asked if d in domains], sorted(names, key=lambda n: n != "SASRec")
    figure, axes = _figure(len(names), len(domains))
    strokes = training_figures.choose_strokes(r["embedding"] for r in records)
    for at, ax in np.ndenumerate(axes):
        domain, name = domains[at[0]], names[at[1]]
        for embedding, stroke in strokes.items():
            curves = [
                r["curve"] for r in records if (r["domain"], r["recommender"], r["embedding"]) == (domain, name, embedding)
            ]
            for curve in curves:
                ax.plot(*zip(*curve, strict=True), **stroke, alpha=0.25, linewidth=0.8)
            if curves:
                ax.plot(*_mean(curves), **stroke, label=embedding, linewidth=1.6)
        ax.set(title=f"{domain}, {name}", xlabel="epoch", ylabel=metric)
        ax.xaxis.get_major_locator().set_params(integer=True)
    training_figures._legend(figure, labelcolor=INK)
    return figure


def render_svg(figure: Figure) -> str:
    """Render the figure as an SVG element to put into a page: without background, its black and ink the page's own colour."""
    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(rf"#(?:000000|{INK[1:]})\b", "currentColor", text.replace("fill: #ffffff", "fill: none"))
    return text.replace("<svg ", '<svg fill="currentColor" role="img" ', 1)


def read_element(path: Path) -> str:
    """Read a figure that a notebook kept (.png, or the .svg beside it) as an element to put into a page, on white.

    It is an image: whoever gets a run's folder from elsewhere opens a page, and nothing in an image runs or loads anything.
    """
    drawn = path.with_suffix(".svg")
    kind, file = ("svg+xml", drawn) if drawn.is_file() else ("png", path)
    return f'<img class="paper" src="data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}" alt="">'


def render_png(figure: Figure) -> bytes:
    """Render the figure on white, for Markdown."""
    data = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(data, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return data.getvalue()


def _figure(columns: int, rows: int, height: float = 2.8, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure of the report's width and its axes (rows, columns), each `height` inches high."""
    with mpl.rc_context(STYLE):
        figure = training_figures.PlainFigure(figsize=(WIDTH, height * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def _mean(curves: list[list[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    """The mean curve over seeds, at the epochs that every seed reached: early stopping ends them apart."""
    values = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(v) for v in values)))
    return shared, [float(np.mean([v[e] for v in values])) for e in shared]
