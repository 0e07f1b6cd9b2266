"""The report of a run: results.json (numbers only, the same for the same settings), report.md and report.html.

Reads the run's artefacts and nothing else.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from llm2rec_kit.runs import Run, write_json

TRAINED = ("SASRec", "GRU4Rec")
FIGURES = (
    "figures/results",
    "figures/by_kind",
    "figures/by_community",
    "figures/by_popularity",
    "figures/clusters",
    "figures/travel",
    "figures/co_purchases",
)


def collect(run: Run) -> dict[str, Any]:
    """All numbers of a run: data, what each stage recorded, results by domain, comparisons. Raises where 04 has not run."""
    corpus = run.record("corpus")
    records = [run.record(name) for name in run.names("evaluation")]
    rows, left_out = _current(run)
    if not rows:
        raise ValueError(f"Run {run.name!r} has no evaluation yet. Run notebooks/04_downstream_eval.ipynb.")
    domains = [d for row in corpus["statistics"] if (d := row["domain"]) in {r["domain"] for r in rows}]
    return {
        "run": run.name,
        "source": corpus["source"],
        "synthetic": corpus["source"] == "synthetic",
        "split": corpus["split"],
        "train_domains": corpus["train_domains"],
        "statistics": corpus["statistics"],
        "cleaning": corpus["cleaning"],
        "stages": {name: run.record(name) for name in ("backbone", "csft", "mntp", "contrastive", "maps") if run.has(name)},
        "embeddings": {name.split("/")[1]: run.record(name) for name in run.names("embeddings")},
        # No path: it differs from machine to machine, and the files' hashes tell the data apart.
        "settings": {
            name: {k: v for k, v in run.manifest(name)["settings"].items() if k != "path"}
            for name in ("corpus", "backbone", "csft", "mntp", "contrastive", "maps")
            if run.has(name)
        },
        "results": {d: _rows([r for r in rows if r["domain"] == d]) for d in domains},
        "comparisons": {r["domain"]: r["rows"] for r in records if "rows" in r},
        "left_out": left_out,
    }


def _current(run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of the evaluations that belong together, and the names of the others.

    A seed of an earlier run stays in the folder. It counts only where the inputs it was made from are what the run holds now and
    its settings are those of the cell's (domain, recommender, embedding) latest: a mean must not mix two experiments.
    """
    made = {name: m for name in run.names("evaluation") if "metrics" in (m := run.manifest(name))["record"]}
    digests = {i: run.digest(i) for i in {i for m in made.values() for i in m["inputs"]} if run.has(i)}
    cell = {name: tuple(m["record"][k] for k in ("domain", "recommender", "embedding")) for name, m in made.items()}
    kept = [n for n, m in made.items() if all(digests.get(i, d) == d for i, d in m["inputs"].items())]
    latest = {cell[n]: made[n]["settings"] for n in sorted(kept, key=lambda n: (made[n]["finished"], n))}
    kept = [n for n in kept if made[n]["settings"] == latest[cell[n]]]
    return [made[n]["record"] for n in kept], sorted(set(made) - set(kept))


def _rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a (recommender, embedding): seeds, mean and population std of each metric; trained recommenders first."""
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for r in records:
        groups.setdefault((r["recommender"], r["embedding"]), []).append(r["metrics"])
    rows = [
        {
            "recommender": k[0],
            "embedding": k[1],
            "seeds": len(g),
            "mean": {m: float(np.mean([x[m] for x in g])) for m in g[0]},
            "std": {m: float(np.std([x[m] for x in g])) for m in g[0]},
        }
        for k, g in groups.items()
    ]
    order = {name: k for k, name in enumerate(("raw", "csft", "mntp", "contrastive", "id"))}
    return sorted(
        rows,
        key=lambda r: (
            r["recommender"] not in TRAINED,
            r["recommender"] == "oracle",
            r["recommender"],
            order.get(r["embedding"], 9),
        ),
    )


def terminal_table(results: dict[str, Any]) -> str:
    """The results as aligned text, at most 110 columns."""
    lines = []
    for domain, rows in results["results"].items():
        names = list(rows[0]["mean"])[:4]
        lines.append(f"{domain} ({domain_note(results, domain)}), full ranking, mean +- std over seeds")
        lines.append(f"  {'recommender':12} {'embedding':12} {'seeds':>5}  " + "".join(f"{n:>18}" for n in names))
        for r in rows:
            cells = [f"{r['mean'][n]:.4f}" + (f" +- {r['std'][n]:.4f}" if r["seeds"] > 1 else " " * 10) for n in names]
            lines.append(
                f"  {r['recommender']:12} {r['embedding']:12} {r['seeds']:>5}  " + "".join(f"{c:>18}" for c in cells)
            )
        lines.append("")
    if results["left_out"]:
        lines += [left_out_note(results), ""]
    return "\n".join(lines)


def left_out_note(results: dict[str, Any]) -> str:
    """What a reader is told of evaluations that do not count."""
    return (
        f"Left out: {len(results['left_out'])} older evaluations in the run's folder, made from other embeddings or "
        "with other settings."
    )


def domain_note(results: dict[str, Any], domain: str) -> str:
    """ "synthetic, out-of-domain" and the like."""
    seen = "seen by CSFT" if domain in results["train_domains"] else "out-of-domain: CSFT never saw it"
    return ("synthetic data, " if results["synthetic"] else "") + seen


def write(run: Run) -> dict[str, Any]:
    """Write results.json, report.md and report.html into the run's folder; returns the results."""
    results = collect(run)
    write_json(run.path / "results.json", results)
    about = run.about()
    environment = Environment(
        loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    figures = [(Path(name).name, run.path / f"{name}.png") for name in FIGURES if (run.path / f"{name}.png").is_file()]
    known = {"results": results, "about": about, "note": domain_note, "best": best, "left_out": left_out_note}
    markdown = environment.get_template("report.md.j2").render(
        **known, figures=[(n, p.relative_to(run.path)) for n, p in figures]
    )
    (run.path / "report.md").write_text(markdown)
    embedded = [(n, "data:image/png;base64," + base64.b64encode(p.read_bytes()).decode()) for n, p in figures]
    page = Environment(loader=PackageLoader(__package__), undefined=StrictUndefined, autoescape=True)
    (run.path / "report.html").write_text(page.get_template("report.html.j2").render(**known, figures=embedded))
    return results


def best(rows: list[dict[str, Any]], metric: str) -> float:
    """The largest mean among the trained recommenders."""
    return max((r["mean"][metric] for r in rows if r["recommender"] in TRAINED), default=0.0)
