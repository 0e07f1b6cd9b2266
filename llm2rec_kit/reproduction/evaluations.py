"""Which of the evaluations in a run's folder count, and what notebook 04 was asked when it last ran.

An evaluation is named after its domain, recommender, embedding and seed. What an earlier call of the notebook made under names
that a later one does not have stays in the folder, with the settings of its time.
"""

from __future__ import annotations

from typing import Any

from llm2rec_kit.reproduction.differences import TRAINED
from llm2rec_kit.runs import Run


def current(run: Run) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Manifests of the evaluations that belong together, by name, and the names of the others.

    A seed of an earlier run stays in the folder. It counts only where the inputs it was made from are what the run holds now and
    its settings are those of the cell's (domain, recommender, embedding) latest: a mean must not mix two experiments.
    """
    made = {name: m for name in run.names("evaluation") if "metrics" in (m := run.manifest(name))["record"]}
    digests = {i: run.digest(i) for i in {i for m in made.values() for i in m["inputs"]} if run.has(i)}
    cell = {name: tuple(m["record"][k] for k in ("domain", "recommender", "embedding")) for name, m in made.items()}
    kept = [n for n, m in made.items() if all(digests.get(i, d) == d for i, d in m["inputs"].items())]
    latest = {cell[n]: made[n]["settings"] for n in sorted(kept, key=lambda n: (made[n]["finished"], n))}
    kept = [n for n in kept if made[n]["settings"] == latest[cell[n]]]
    return {n: made[n] for n in kept}, sorted(set(made) - set(kept))


def settings_of(run: Run) -> dict[str, Any] | None:
    """The settings of notebook 04 when it last ran: of its trainings, and `tested` where it tested; None without a training.

    Its tests name the evaluations that they were made from, so they tell which trainings were the notebook's, also where it
    made none of them anew; of these the latest counts.
    """
    trained = {n: m for n, m in current(run)[0].items() if m["record"]["recommender"] in TRAINED}
    if not trained:
        return None
    tests = [m for n in run.names("evaluation") if "tested" in (m := run.manifest(n))["settings"]]
    last = max(tests, key=lambda m: m["finished"], default={"inputs": {}, "settings": {}})
    listed = [n for n in trained if n in last["inputs"]] or list(trained)
    newest = max(listed, key=lambda n: (trained[n]["finished"], n))
    return trained[newest]["settings"] | {k: v for k, v in last["settings"].items() if k == "tested"}
