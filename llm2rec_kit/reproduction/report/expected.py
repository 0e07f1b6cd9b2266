"""Numbers that a profile is expected to give: kept from a dated run, compared at the end of every later one.

The same machine and versions give the same bytes. Another machine adds in another order, and a training of many steps
carries that on like another draw of its seed. So the tolerance comes from the spread over seeds: the difference between
the means of two independent sets of s seeds has the standard deviation sigma * sqrt(2 / s), and a line is `reproduced`
within `WIDTH` of those. Sigma is pooled over the embeddings of a recommender on a domain, because three seeds alone say
little; numbers without a seed (popularity, oracle) may differ by one test sample's worth. A ranking by a trained
embedding has the seed of that.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from llm2rec_kit import storage
from llm2rec_kit.reproduction.report.spread import choose_metrics, compare_settings, pool_std
from llm2rec_kit.results.evaluations import TRAINED, is_trained
from llm2rec_kit.runs import find_outputs, places
from llm2rec_kit.settings import plain_yaml

ROUNDING = 5.1e-7  # of the six decimals that are kept
WIDTH = 4.0  # standard deviations of the difference of two means: one false alarm in 16,000 lines


def locate(profile: str, outputs: str | Path = "") -> Path:
    """Find where the expected numbers of a profile are kept: of one's own beside it, of the kit's in the checkout or, of an
    installed kit, in expected/ of the folder that runs live in."""
    if profile.endswith((".yaml", ".yml")):
        return Path(profile).parent / "expected" / Path(profile).name
    if places.find_checkout():
        return _of_the_kit(profile)
    return find_outputs(outputs) / "expected" / f"{profile}.yaml"


def load(profile: str, outputs: str | Path = "") -> dict[str, Any] | None:
    """Load the expected numbers of a profile with their provenance, one's own before the kit's; None where none are kept."""
    found = [path for path in (locate(profile, outputs), _of_the_kit(profile)) if path.is_file()]
    return plain_yaml.load_own(found[0].read_text()) if found else None


def _of_the_kit(profile: str) -> Path:
    return places.PROFILES / "expected" / f"{profile}.yaml"


def keep(results: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    """Write a run's results as the expected ones: a line a number, `value, tolerance`, with where they are from.

    Raises ValueError where the run lacks evaluations, mixes those of different settings, or was made from uncommitted code.
    """
    if results["missing"]:
        raise ValueError(
            f"The run is not whole: {results['missing'][0]} is missing. Run notebooks/04_downstream_eval.ipynb."
        )
    if results["left_out"]:
        raise ValueError("The run's folder holds evaluations of other settings; take a fresh run as the expected one.")
    git = about["git"]
    if git and git["dirty"]:
        raise ValueError("The run was made from code with uncommitted changes; commit, and run again.")
    machine, versions = about["machine"], about["versions"]
    head = [
        f"# Expected results of profile {path.stem}, kept by `llm2rec expect {results['run']}`. Each line: mean, tolerance.",
        "# Tolerance: four standard deviations of the difference between two means over seeds; without seeds, one test sample.",
        f"date: {max(s['finished'] for s in about['stages'].values())[:10]}  # of the run",
        f"commit: {git['commit'] if git else 'unknown'}  # of the kit",
        f"machine: {machine['processor']}, {machine['cores']} cores  # no GPU unless named",
        f"python: {versions['python']}  # version",
        f"torch: {versions['torch']}  # version",
        f"seconds: {sum(n['seconds'] for n in about['notebooks'].values()):.0f}  # wall time of the notebooks",
    ]
    settings = yaml.safe_dump({"settings": results["settings"]}, sort_keys=False, allow_unicode=True, width=120)
    text = "\n".join(head) + "\n" + settings + "results:\n"
    metrics = choose_metrics(results)
    for row in list_rows(results):
        text += f"  {row['domain']} {row['recommender']} {row['embedding']}:\n"
        text += "".join(f"    {m}: [{row[m]:.6f}, {row[f'{m} tolerance']:.6f}]\n" for m in metrics)
    storage.write_text(path, text)


def list_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """List one row a (domain, recommender, embedding): the metrics' means, and the tolerances that this run's seeds give."""
    samples = {s["domain"]: s["test"] for s in results["statistics"]}
    metrics = choose_metrics(results)
    found = []
    for domain, group in results["results"].items():
        for r in group:
            row = {"domain": domain, "recommender": r["recommender"], "embedding": r["embedding"]}
            for m in metrics:
                row |= {m: r["mean"][m], f"{m} tolerance": _tolerance(r, group, m, samples[domain])}
            found.append(row)
    return found


def compare(results: dict[str, Any], expected: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Put each expected line beside what was found, with a verdict; and list the settings that differ from the dated run's.

    A line has each metric that is expected as `<metric>`, `<metric> expected` and `<metric> tolerance`. Verdict:
    `reproduced` (all within tolerance), `differs`, or `missing`. Where settings differ, no lines are compared.
    """
    if changed := compare_settings(expected["settings"], results["settings"]):
        return [], changed
    found = {f"{r['domain']} {r['recommender']} {r['embedding']}": r for r in list_rows(results)}
    lines = []
    for name, wanted in expected["results"].items():
        line: dict[str, Any] = {"line": name, "verdict": "missing" if name not in found else "reproduced"}
        for m, (value, tolerance) in wanted.items():
            line |= {m: found.get(name, {}).get(m), f"{m} expected": value, f"{m} tolerance": tolerance}
            if name in found and not abs(found[name][m] - value) <= tolerance + ROUNDING:
                line["verdict"] = "differs"
        lines.append(line)
    return lines, []


def list_metrics(line: dict[str, Any]) -> list[str]:
    """List the metrics that are expected of a line of `compare`."""
    return [name.removesuffix(" expected") for name in line if name.endswith(" expected")]


def render_text(results: dict[str, Any], profile: str, expected: dict[str, Any]) -> str:
    """Format the comparison for a terminal, a line a row, at most 110 columns."""
    lines, changed = compare(results, expected)
    source = f"the run of {expected['date']} ({expected['machine']})"
    if changed:
        shown = [f"  {c['name']}: {c['values'][0]!r} there, {c['values'][1]!r} here" for c in changed[:8]]
        more = [f"  and {len(changed) - 8} more"] if len(changed) > 8 else []
        return "\n".join([f"Not compared with {source} of profile {profile}: settings differ.", *shown, *more])
    head = f"Against {source} of profile {profile}: found (expected +- tolerance)"
    body = [f"  {x['line']:28}{''.join(f'  {m} {_cell(x, m):26}' for m in list_metrics(x))}  {x['verdict']}" for x in lines]
    return "\n".join([head, *body, count_verdicts(lines)])


def count_verdicts(lines: list[dict[str, Any]]) -> str:
    """Say how many lines have which verdict."""
    verdicts = [x["verdict"] for x in lines]
    same = sum(all(x[m] is not None and abs(x[m] - x[f"{m} expected"]) <= ROUNDING for m in list_metrics(x)) for x in lines)
    counts = [f"{verdicts.count(v)} {v}" for v in ("reproduced", "differs", "missing") if v in verdicts]
    return f"{len(lines)} lines: {', '.join(counts)}; {same} equal to the last digit kept."


def _cell(line: dict[str, Any], metric: str) -> str:
    found = "none" if line[metric] is None else f"{line[metric]:.4f}"
    return f"{found} ({line[f'{metric} expected']:.4f} +- {line[f'{metric} tolerance']:.4f})"


def _tolerance(row: dict[str, Any], group: list[dict[str, Any]], metric: str, samples: int) -> float:
    """WIDTH standard deviations of the difference of two means of this row's seeds; one test sample's worth at least."""
    least = 1 / max(1, samples)
    trained = is_trained(row["recommender"])
    learned = not trained and row["embedding"] not in ("none", "raw")  # no seed of its own, but its embedding's
    if not trained and not learned:
        return least
    names = TRAINED if learned else [row["recommender"]]
    stds = [std for name in names if (std := pool_std(group, name, metric)) is not None]
    if not stds:
        return max(least, 0.25 * float(row["mean"][metric]))  # one seed tells nothing of the spread between seeds
    return max(least, WIDTH * max(stds) * math.sqrt(2 / row["seeds"]))
