"""The report of a run, from its artefacts alone: results.json (same settings, same bytes), report.md and report.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from llm2rec_kit import storage
from llm2rec_kit.figures import report_figures
from llm2rec_kit.reproduction.report import brief, expected, markdown
from llm2rec_kit.reproduction.studies import records
from llm2rec_kit.results import evaluations, kept, significance
from llm2rec_kit.results.evaluations import is_trained
from llm2rec_kit.runs import Run, meter, write_json
from llm2rec_kit.settings import QUESTIONS

STAGES = ("backbone", "csft", "mntp", "contrastive", "maps")
OWN = {  # figures that the report draws itself, and what stands under them
    "tests": "What each step changes, with 95% intervals over users, each by itself; colours by p corrected for all tests of "
    "the domain: green better, red worse, grey no detectable difference.",
    "losses": "Losses of the training stages along the optimiser's steps.",
    "validation": "What early stopping watched: a line an embedding, the mean of its seeds up to where the first seed stopped; "
    "the seeds themselves faint.",
}
CAPTIONS = {
    "results": "Results by embedding",
    "results_by_kind": "Results by kind of target",
    "results_by_popularity": "Results by popularity of the target",
    "by_kind": "Maps of the embeddings, coloured by kind of item",
    "by_community": "The same maps, coloured by what is consumed together",
    "by_popularity": "The same maps, coloured by popularity",
    "clusters": "Clusters, named by the words of their titles",
    "travel": "Items that moved furthest between stages",
    "co_purchases": "Pairs of items often consumed together",
    "overlap": "Nearest neighbours that two stages have in common",
}


def collect(run: Run, held: evaluations.Evaluations | None = None) -> dict[str, Any]:
    """Collect all numbers of a run: data, what each stage recorded, results by domain, comparisons. Raises ValueError where
    04 has not run, ArtefactError for what is damaged, or an evaluation that is not what the ranks give."""
    corpus, held = _record(run, "corpus"), held or evaluations.find_evaluations(run)
    if not held.made:
        old = f": {len(held.left_out)} in {run.path / 'evaluation'} are not of what it holds now" if held.left_out else ""
        what = "the notebooks up to 04_downstream_eval.ipynb again" if old else "notebooks/04_downstream_eval.ipynb"
        raise ValueError(f"Run {run.name!r} has no evaluation yet{old}. Run {what}.")
    for name in dict.fromkeys(i for made in held.made.values() for i in made["inputs"]):
        run.require(name)
    rows = [kept.read_record(run, name) for name in held.made]
    domains = [d for row in corpus["statistics"] if (d := row["domain"]) in {r["domain"] for r in rows}]
    return {
        "run": run.name,
        "source": corpus["source"],
        "synthetic": corpus["source"] == "synthetic",
        "split": corpus["split"],
        "train_domains": corpus["train_domains"],
        "statistics": corpus["statistics"],
        "cleaning": corpus["cleaning"],
        "stages": {name: _record(run, name) for name in STAGES if run.has(name)},
        "embeddings": {name.split("/")[1]: _record(run, name) for name in run.names("embeddings")},
        "settings": _settings(run, held),
        "seeds": sorted({r["seed"] for r in rows if is_trained(r["recommender"])}),
        "results": {d: _rows([r for r in rows if r["domain"] == d]) for d in domains},
        "comparisons": {m["record"]["domain"]: significance.read_recorded(run, name) for name, m in held.tests.items()},
        "left_out": held.left_out,
        "missing": held.missing,
        "beyond": records.read_current(run),
    }


def _record(run: Run, name: str) -> dict[str, Any]:
    """The record of an artefact whose files are its manifest's; those that were deleted to make room are not missed."""
    run.require(name, gone=True)
    return run.record(name)


def _settings(run: Run, held: evaluations.Evaluations) -> dict[str, dict[str, Any]]:
    """The settings of the stages, the encoding and the trainings. No path: the files' hashes tell the data apart."""
    found = {name: run.manifest(name)["settings"] for name in ("corpus", *STAGES) if run.has(name)}
    for name in sorted(run.names("embeddings"), key=lambda name: name != "embeddings/raw")[:1]:
        found["encoding"] = run.manifest(name)["settings"]
    if held.settings is not None:
        found["evaluation"] = {k: v for k, v in held.settings.items() if k != "tested"}  # that stands with the comparisons
    return {name: {k: v for k, v in settings.items() if k != "path"} for name, settings in found.items()}


def _rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a (recommender, embedding): seeds, mean and population std of each metric; trained recommenders first."""
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for r in records:
        groups.setdefault((r["recommender"], r["embedding"]), []).append(r["metrics"])
    order = {name: k for k, name in enumerate(("raw", "csft", "mntp", "contrastive", "id"))}
    rows = []
    for key in sorted(groups, key=lambda k: (not is_trained(k[0]), k[0] == brief.CEILING, k[0], order.get(k[1], 9))):
        group = groups[key]
        mean, std = ({m: float(over([x[m] for x in group])) for m in group[0]} for over in (np.mean, np.std))
        rows.append({"recommender": key[0], "embedding": key[1], "seeds": len(group), "mean": mean, "std": std})
    return rows


def render_table(results: dict[str, Any]) -> str:
    """Format the results as aligned text, at most 110 columns."""
    lines = [*note_missing(results), ""] if results["missing"] else []
    for domain, rows in results["results"].items():
        names = list(rows[0]["mean"])[:4]
        lines.append(f"{domain} ({describe_domain(results, domain)}), full ranking, mean +- std over seeds")
        lines.append(f"  {'recommender':12} {'embedding':12} {'seeds':>5}  " + "".join(f"{n:>18}" for n in names))
        for r in rows:
            cells = [f"{r['mean'][n]:.4f}" + (f" +- {r['std'][n]:.4f}" if r["seeds"] > 1 else " " * 10) for n in names]
            row = f"  {r['recommender']:12} {r['embedding']:12} {r['seeds']:>5}  "
            lines.append(row + "".join(f"{c:>18}" for c in cells))
        lines.append("")
    if results["left_out"]:
        lines += [note_left_out(results), ""]
    return "\n".join(lines)


def note_missing(results: dict[str, Any]) -> list[str]:
    """Say which evaluations that notebook 04 made are gone, a line each; a reader is told this before all else."""
    again = "Run notebooks/04_downstream_eval.ipynb again. Until then means are of what is left, without their tests."
    return [f"missing: {name}" for name in results["missing"]] + ([again] if results["missing"] else [])


def note_left_out(results: dict[str, Any]) -> str:
    """Say which evaluations do not count."""
    return (
        f"Left out: {len(results['left_out'])} older evaluations in the run's folder, made from other embeddings or "
        "with other settings."
    )


def describe_domain(results: dict[str, Any], domain: str) -> str:
    """Describe a domain's data in words: "synthetic, out-of-domain" and the like."""
    seen = "seen by CSFT" if domain in results["train_domains"] else "out-of-domain: no training saw it"
    return ("synthetic data, " if results["synthetic"] else "") + seen


def write(run: Run, held: evaluations.Evaluations | None = None) -> dict[str, Any]:
    """Write results.json, report.md and report.html into the run's folder; returns the results."""
    held = held or evaluations.find_evaluations(run)
    results = collect(run, held)
    write_json(run.path / "results.json", results, sort=True)
    about, drawn = run.read_info(), draw_figures(run, held)
    known = {
        "results": results,
        "about": about,
        "note": describe_domain,
        "best": is_best,
        "brief": brief.make_brief(results, brief.judge_standings(run, results, held)),
        "left_out": note_left_out,
        "missing": note_missing(results),
        "tallied": records.describe_tally,
        "check": _checked(results, about, run.path.parent),
        "cost": list_cost_rows(about),
        "keys": list_costs(about),
        "drawn": drawn,
        "kept": find_figures(run),
        "under": OWN,
        "asked": QUESTIONS,
    }
    for name, figure in drawn.items():
        storage.write_bytes(run.path / "figures" / f"{name}.png", report_figures.render_png(figure))
    for kind in ("md", "html"):
        storage.write_text(run.path / f"report.{kind}", render(f"report.{kind}.j2", **known))
    return results


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder with these values: text is text, in a page and in Markdown; figures go in whole."""
    page = template.endswith(".html.j2")
    environment = Environment(
        loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=page
    )
    environment.filters |= {
        "drawn": lambda f: Markup(report_figures.render_svg(f)),
        "kept": lambda path: Markup(report_figures.read_element(path)),
    }
    environment.filters["code"] = markdown.as_code
    return environment.get_template(template).render(**(values if page else markdown.escape(values)))


def draw_figures(run: Run, held: evaluations.Evaluations | None = None) -> dict[str, Figure]:
    """Draw the report's own figures, by name: tests, losses, validation."""
    held = held or evaluations.find_evaluations(run)
    made = list(held.made.values())
    metric = next((m["settings"]["metric"] for m in made if "metric" in m["settings"]), "validation metric")
    domains = [s["domain"] for s in run.record("corpus")["statistics"]]
    tests = {m["record"]["domain"]: m["record"]["rows"] for m in held.tests.values()}
    found = {
        "tests": report_figures.draw_tests({d: tests[d] for d in domains if d in tests}),
        "losses": report_figures.draw_losses(run),
        "validation": report_figures.draw_validation([m["record"] for m in made], domains, metric),
    }
    return {name: figure for name, figure in found.items() if figure is not None}


def find_figures(run: Run) -> list[tuple[str, Path]]:
    """Find caption and file of every figure that the notebooks kept, each once however often it is there."""
    own = {f"{name}.png" for name in OWN}
    files = [p for p in sorted(run.path.glob("figures/*.png")) if p.name not in own] + sorted(run.path.glob("maps/*.png"))
    order = list(CAPTIONS)
    files.sort(key=lambda p: order.index(p.stem) if p.stem in order else len(order))
    once = {p.read_bytes(): p for p in reversed(files)}
    return [(CAPTIONS.get(p.stem, p.stem.replace("_", " ")), p) for p in files if p in once.values()]


COSTS = {
    "seconds": "seconds",
    "cpu_seconds": "CPU seconds",
    "peak_memory_mib": "peak memory, MiB",
    "gpu_seconds": "GPU seconds",
    "gpu_peak_memory_mib": "GPU peak, MiB",
    "energy_cpu_joules": "CPU energy, J",
    "energy_gpu_joules": "GPU energy, J",
}


def list_costs(about: dict[str, Any]) -> dict[str, str]:
    """List the costs that some stage of this run recorded, with their names for a table."""
    told = {k for s in about["stages"].values() for k in s}
    return {k: name for k, name in COSTS.items() if k in told}


def list_cost_rows(about: dict[str, Any]) -> list[dict[str, Any]]:
    """List the costs, a row a stage; the evaluations in one, their times added and their peaks the largest."""
    rows: dict[str, dict[str, Any]] = {}
    for name, stage in about["stages"].items():
        label = "evaluation, all trainings" if name.startswith("evaluation/") else name
        rows[label] = meter.add_costs(rows.get(label, {}), {k: stage[k] for k in COSTS if k in stage})
    return [{"stage": label, **row} for label, row in rows.items()]


def _checked(results: dict[str, Any], about: dict[str, Any], outputs: Path) -> dict[str, Any] | None:
    """The comparison with what the run's profile is expected to give, where that is kept."""
    profile = about.get("asked", {}).get("profile", "")
    wanted = expected.load(profile, outputs) if profile else None
    if wanted is None:
        return None
    lines, changed = expected.compare(results, wanted)
    metrics, said = expected.list_metrics(lines[0]) if lines else [], expected.count_verdicts(lines)
    return {"profile": profile, "wanted": wanted, "lines": lines, "changed": changed, "metrics": metrics, "summary": said}


def is_best(rows: list[dict[str, Any]], row: dict[str, Any], metric: str) -> bool:
    """Tell whether `row` has the largest mean of all but the ceiling."""
    ranked = [r for r in rows if r["recommender"] != brief.CEILING]
    return row["recommender"] != brief.CEILING and bool(row["mean"][metric] == max(r["mean"][metric] for r in ranked))
