"""What came of a grid: how far each cell is, and the results of all cells in one table."""

from __future__ import annotations

from typing import Any

import polars as pl

from llm2rec_kit import storage
from llm2rec_kit.reproduction.grid.graph import Grid
from llm2rec_kit.results import evaluations, kept
from llm2rec_kit.results.evaluations import is_trained
from llm2rec_kit.runs import Run

MARKS = {"waiting": ".", "running": ">", "done": "x", "failed": "F", "not run": "-"}
COLUMNS = {"seeds": "seeds axis"}  # of an axis's labels where not its name: `summarise` counts in "seeds"
LEGEND = "x done, > running, . waiting, F failed, - not run because what it begins with failed"


def describe(grid: Grid) -> str:
    """Say how many cells there are, and how many notebooks run where each cell alone would need them all."""
    alone = sum(len(c.nodes) for c in grid.cells)
    head = f"Grid {grid.name}, profile {grid.profile}: {len(grid.cells)} cells, {len(grid.nodes)} notebooks to run instead of {alone}."
    lines = [f"  {_label(c.labels):40} {' -> '.join(c.nodes)}" for c in grid.cells]
    return "\n".join([head, *lines])


def draw_progress(grid: Grid, states: dict[str, str]) -> list[str]:
    """Draw a line for each cell, a mark for each of its notebooks."""
    numbers = [name[:2] for name in max((c.nodes for c in grid.cells), key=len)]
    lines = [f"{'cell':42} {'  '.join(numbers)}"]
    lines += [f"{_label(c.labels):42} {'   '.join(MARKS[states[n]] for n in c.nodes)}" for c in grid.cells]
    return [*lines, LEGEND]


def name_cells(grid: Grid, node: str) -> str:
    """Name the cell that a node is for, and say how many more there are."""
    labels = [_label(c.labels) for c in grid.cells if node in c.nodes]
    return labels[0] + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")


def collect(grid: Grid, states: dict[str, str]) -> pl.DataFrame:
    """Collect a row a cell, domain, recommender, embedding and seed: the axes' labels and the metrics. Empty before any.

    `grid.plain_axes` have no labels: embedding and seed stand for them. The seed of a baseline that learned from a share of
    the users is the one that drew them.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in grid.cells:
        for node in cell.nodes:
            if states[node] != "done" or not grid.nodes[node].book.startswith("04"):
                continue
            run = Run(node, grid.runs)
            labels = {COLUMNS.get(axis, axis): told for axis, told in cell.labels.items() if axis not in grid.plain_axes}
            for name, made in evaluations.find_evaluations(run).made.items():
                record = kept.read_record(run, name)
                what = {k: record[k] for k in (*evaluations.OF, "seed")}
                what["seed"] = made["settings"].get("drawn_by", what["seed"])
                # Cells that differ on a plain axis alone have the same baselines where these learn alike: once is enough.
                rows[tuple({**labels, **what}.items())] = {**labels, **what, **record["metrics"]}
    return pl.DataFrame(list(rows.values()), infer_schema_length=None)


def summarise(rows: pl.DataFrame) -> pl.DataFrame:
    """Compute mean and population std over seeds: a row a choice of axes, domain, recommender and embedding."""
    metrics = rows.columns[rows.columns.index("seed") + 1 :]
    by = rows.columns[: rows.columns.index("seed")]
    return rows.group_by(by, maintain_order=True).agg(
        pl.len().alias("seeds"),
        *(pl.col(m).mean() for m in metrics),
        *(pl.col(m).std(ddof=0).fill_null(0.0).alias(f"{m} std") for m in metrics),
    )


def write(grid: Grid, states: dict[str, str]) -> pl.DataFrame | None:
    """Write grid.md and results.parquet into the grid's folder; returns the summary, None before any result."""
    rows = collect(grid, states)
    summary = summarise(rows) if len(rows) else None
    lines = [f"# Grid {grid.name}", "", f"Profile {grid.profile}; mean and standard deviation over seeds.", ""]
    if summary is not None:
        with storage.write_whole(grid.folder / "results.parquet") as part:
            rows.write_parquet(part)
        lines += _markdown(summary)
    lines += ["", "```", *draw_progress(grid, states), "```", ""]
    storage.write_text(grid.folder / "grid.md", "\n".join(lines))
    return summary


def render_text(summary: pl.DataFrame) -> str:
    """Render the summary for a terminal: trained recommenders, the first two metrics."""
    shown = summary.filter(pl.col("recommender").is_in([*filter(is_trained, summary["recommender"].unique())]))
    names = shown.columns[: shown.columns.index("seeds") + 1]
    head = [*names, *shown.columns[len(names) : len(names) + 2]]
    body = [[str(r[n]) for n in names] + [_cell(r, m) for m in head[-2:]] for r in shown.iter_rows(named=True)]
    widths = [max(len(row[k]) for row in [head, *body]) for k in range(len(head))]
    lines = ["  ".join(f"{value:{w}}" for value, w in zip(row, widths, strict=True)) for row in [head, *body]]
    return "\n".join(line.rstrip() for line in lines)


def _markdown(summary: pl.DataFrame) -> list[str]:
    names = summary.columns[: summary.columns.index("seeds") + 1]
    metrics = [m for m in summary.columns[len(names) :] if not m.endswith(" std")]
    lines = ["| " + " | ".join([*names, *metrics]) + " |", "|" + "---|" * len(names) + "---:|" * len(metrics)]
    for r in summary.iter_rows(named=True):
        lines.append("| " + " | ".join([*(str(r[n]) for n in names), *(_cell(r, m) for m in metrics)]) + " |")
    return lines


def _cell(row: dict[str, Any], metric: str) -> str:
    """The mean and its spread; empty where the cell has no such metric, as where cells differ in evaluation_cutoffs."""
    if row[metric] is None:
        return ""
    return f"{row[metric]:.4f}" + (f" ± {row[f'{metric} std']:.4f}" if row["seeds"] > 1 else "")


def _label(labels: dict[str, str]) -> str:
    return ", ".join(labels.values()) or "the profile as it is"
