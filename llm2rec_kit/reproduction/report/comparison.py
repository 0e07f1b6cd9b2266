"""Runs side by side: which settings differ, what came out, what it cost. Written into the first run's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2rec_kit import storage
from llm2rec_kit.reproduction.report import document
from llm2rec_kit.reproduction.report.spread import choose_metrics, compare_settings, pool_std
from llm2rec_kit.results.evaluations import is_trained
from llm2rec_kit.runs import Run


def write(runs: list[Run]) -> Path:
    """Write comparison-with-<others>.md and .html into the first run's folder; returns the page's path."""
    collected = [document.collect(run) for run in runs]
    names = _names(runs)
    about = [run.read_info() for run in runs]
    known = {
        "names": names,
        "missing": [f"{n}: {line}" for n, c in zip(names, collected, strict=True) for line in document.note_missing(c)],
        "settings": compare_settings(*[{**c["settings"], "evaluation seeds": {"all": c["seeds"]}} for c in collected]),
        "statistics": _beside([{s["domain"]: s for s in c["statistics"]} for c in collected], _counted),
        "results": collect_results(collected),
        "costs": _beside([{r["stage"]: r for r in document.list_cost_rows(a)} for a in about], _cost),
        "provenance": _provenance(about),
        "drawn": [document.draw_figures(run) for run in runs],
        "kept": _beside([dict(document.find_figures(run)) for run in runs]),
        "metrics": choose_metrics(collected[0]),
    }
    target = runs[0].path / f"comparison-with-{'-'.join(n.replace('/', '_') for n in names[1:])}.html"
    for kind in ("md", "html"):
        storage.write_text(target.with_suffix(f".{kind}"), document.render(f"comparison.{kind}.j2", **known))
    return target


def collect_results(collected: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Collect {domain: rows}: recommender, embedding, and a cell a run with mean, std, and the difference to the first run.

    The metrics are the first run's first two. `in_std` is the difference over the seed std (pooled over the embeddings of
    the recommender in both runs); None where no seed tells of a spread.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    metrics = choose_metrics(collected[0])
    for domain in dict.fromkeys(d for c in collected for d in c["results"]):
        groups = [{(r["recommender"], r["embedding"]): r for r in c["results"].get(domain, [])} for c in collected]
        tables[domain] = []
        for key in dict.fromkeys(key for g in groups for key in g):
            cells = [{m: _cell(groups, key, k, m) for m in metrics} for k in range(len(groups))]
            tables[domain].append({"recommender": key[0], "embedding": key[1], "cells": cells})
    return tables


def _cell(groups: list[dict[tuple[str, str], Any]], key: tuple[str, str], k: int, metric: str) -> dict[str, Any] | None:
    """{mean, std, seeds, difference, in_std} of run k; None where it has no such row or metric."""
    row, first = groups[k].get(key), groups[0].get(key)
    if row is None or metric not in row["mean"]:
        return None
    cell = {"mean": row["mean"][metric], "std": row["std"][metric], "seeds": row["seeds"]}
    cell |= {"difference": None, "in_std": None}
    if k and first is not None and metric in first["mean"]:
        cell["difference"] = row["mean"][metric] - first["mean"][metric]
        rows = [r for g in (groups[0], groups[k]) for r in g.values() if metric in r["std"]]
        std = pool_std(rows, key[0], metric) if is_trained(key[0]) else None
        cell["in_std"] = cell["difference"] / std if std else None
    return cell


def _beside(found: Sequence[Mapping[str, Any]], tell: Callable[[Any], Any] = lambda value: value) -> list[dict[str, Any]]:
    """A row a name: {"name", "values": [what is told of it, a run]}; of a run without it None is told."""
    names = dict.fromkeys(name for of_run in found for name in of_run)
    return [{"name": name, "values": [tell(of_run.get(name)) for of_run in found]} for name in names]


def _counted(s: dict[str, Any] | None) -> str:
    return "none" if s is None else f"{s['users']:,} users, {s['items']:,} items, {s['interactions']:,} interactions"


def _cost(row: dict[str, Any] | None) -> str:
    if row is None:
        return "none"
    return f"{row['seconds']:,.1f} s" + (f", {row['peak_memory_mib']:,.0f} MiB" if "peak_memory_mib" in row else "")


def _provenance(about: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Command, commit, machine, and the versions that differ: {"name", "values"}."""

    def commit(a: dict[str, Any]) -> str:
        git = a["git"]
        return git["commit"][:12] + (" with changes" if git["dirty"] else "") if git else "not a git checkout"

    def machine(a: dict[str, Any]) -> str:
        m = a["machine"]
        return f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB" + "".join(f", {g}" for g in m.get("gpus", []))

    rows = [
        {"name": "command", "values": [a.get("asked", {}).get("command", "notebooks run by hand") for a in about]},
        {"name": "commit", "values": [commit(a) for a in about]},
        {"name": "machine", "values": [machine(a) for a in about]},
    ]
    versions = _beside([a["versions"] for a in about], lambda version: version or "none")
    return rows + [row for row in versions if len(set(row["values"])) > 1]


def _names(runs: list[Run]) -> list[str]:
    """The runs' names; with the folder before it where two share one."""
    names = [run.name for run in runs]
    return [f"{run.path.parent.name}/{run.name}" if names.count(run.name) > 1 else run.name for run in runs]
