"""What a run kept of an evaluation, read back: its record and its ranks, of which the record's metrics must be.

The ranks are what was measured and every number is made of them again here, by the formulas that made it. So a number in a
table, a report or a test is that of the ranks beside it, whatever a manifest says.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llm2rec_kit import evaluations
from llm2rec_kit.downstream import metrics
from llm2rec_kit.runs import ArtefactError, Run

EQUAL = 1e-9  # relative: what another machine's logarithm may differ by, and far below the digits that are shown


def record(run: Run, name: str) -> dict[str, Any]:
    """The record of evaluation `name`, its metrics those of the ranks beside it; raises as `read`."""
    return read(run, name)[0]


def read(run: Run, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """Record and ranks (int32 (n,)) of evaluation `name`.

    Raises ArtefactError where it is missing or damaged, is the copy of another, or its metrics are not those of its ranks.
    """
    kept = evaluations.manifest(run, name)["record"]
    file = run.file(name, f"{name.split('/')[-1]}.npy")
    if file is None:
        raise ArtefactError(_differs(run, name, "no ranks", "metrics of it could be of any"))
    ranks = np.load(file)
    found = {m: float(metrics.per_sample(ranks, m).mean()) for m in kept["metrics"]}
    for m, value in found.items():
        if not math.isclose(value, kept["metrics"][m], rel_tol=EQUAL, abs_tol=EQUAL):
            raise ArtefactError(_differs(run, name, f"{m} {kept['metrics'][m]!r:.40}", f"ranks beside it give {value!r}"))
    return {**kept, "metrics": found}, ranks


def _differs(run: Run, name: str, recorded: str, found: str) -> str:
    return (
        f"{run.path_of(name)}.json was changed after it was written: it records {recorded}, and the {found}. Delete it and run "
        f"notebooks/04_downstream_eval.ipynb again (run {run.name!r})."
    )
