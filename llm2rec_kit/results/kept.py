"""What a run kept of an evaluation, read back: its record and its ranks, of which the record's metrics must be.

The ranks are what was measured and every number is made of them again here, by the formulas that made it. So a number in a
table, a report or a test is that of the ranks beside it, whatever a manifest says.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llm2rec_kit.results import evaluations, metrics
from llm2rec_kit.runs import ArtefactError, Run

EQUAL = 1e-9  # relative: what another machine's logarithm may differ by, and far below the digits that are shown


def read_record(run: Run, name: str) -> dict[str, Any]:
    """Read the record of evaluation `name`, its metrics those of the ranks beside it; raises as `read` does."""
    return read(run, name)[0]


def read(run: Run, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """Read the record and the ranks (as `ranking.Ranking` has them) of evaluation `name`.

    Raises ArtefactError where it is missing or damaged, is the copy of another, or its metrics are not those of its ranks.
    """
    kept = evaluations.read_manifest(run, name)["record"]
    file = run.file(name, f"{name.split('/')[-1]}.npy")
    if file is None:
        raise ArtefactError(_wrong(run, name, "it names no ranks"))
    ranks = np.load(file)
    if kept.get("samples", len(ranks)) != len(ranks):
        raise ArtefactError(_wrong(run, name, f"it tells of {kept['samples']!r:.20} samples and has {len(ranks)} ranks"))
    try:
        found = {m: float(metrics.compute_per_sample(ranks, m).mean()) for m in kept["metrics"]}
        differs = [m for m in found if not math.isclose(found[m], kept["metrics"][m], rel_tol=EQUAL, abs_tol=EQUAL)]
    except (ValueError, TypeError, KeyError) as error:  # no metric, no number, no rank
        raise ArtefactError(_wrong(run, name, f"its metrics are none ({error!s:.200})")) from None
    if differs:
        m = differs[0]
        raise ArtefactError(_wrong(run, name, f"{m} is {kept['metrics'][m]!r:.25}, and its ranks give {found[m]!r}"))
    return {**kept, "metrics": found}, ranks


def _wrong(run: Run, name: str, what: str) -> str:
    return (
        f"{run.path_of(name)}.json was changed after it was written: {what}. Delete it and run "
        f"notebooks/04_downstream_eval.ipynb again (run {run.name!r})."
    )
