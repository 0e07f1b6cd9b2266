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
    its settings are those of the cell's (domain, recommender, embedding) latest: a mean must not mix two experiments. And all
    have the metrics of the last call, or they would not go into one table.
    """
    made = {name: m for name in run.names("evaluation") if "metrics" in (m := run.manifest(name))["record"]}
    digests = {i: run.digest(i) for i in {i for m in made.values() for i in m["inputs"]} if run.has(i)}
    cell = {name: tuple(m["record"][k] for k in ("domain", "recommender", "embedding")) for name, m in made.items()}
    kept = [n for n, m in made.items() if all(digests.get(i, d) == d for i, d in m["inputs"].items())]
    latest = {cell[n]: made[n]["settings"] for n in sorted(kept, key=lambda n: (made[n]["finished"], n))}
    kept = [n for n in kept if made[n]["settings"] == latest[cell[n]]]
    if kept:
        asked = made[_last(run, {n: made[n] for n in kept})]["record"]["metrics"].keys()
        kept = [n for n in kept if made[n]["record"]["metrics"].keys() == asked]
    return {n: made[n] for n in kept}, sorted(set(made) - set(kept))


def settings_of(run: Run) -> dict[str, Any] | None:
    """The settings of notebook 04 when it last ran: of its trainings, and `tested` where it tested; None without a training."""
    trained = {n: m for n, m in current(run)[0].items() if m["record"]["recommender"] in TRAINED}
    if not trained:
        return None
    tested = {k: v for k, v in _tests(run)["settings"].items() if k == "tested"}
    return trained[_last(run, trained)]["settings"] | tested


def _last(run: Run, made: dict[str, dict[str, Any]]) -> str:
    """The latest of the evaluations `made` that notebook 04's last tests name, or of all where they name none of them.

    So what that notebook asked last is known, also where it took all evaluations from earlier and made only its tests anew.
    """
    named = [n for n in made if n in _tests(run)["inputs"]] or list(made)
    return max(named, key=lambda n: (made[n]["finished"], n))


def _tests(run: Run) -> dict[str, Any]:
    """The manifest of the tests that notebook 04 made last, of whichever domain."""
    tests = [m for n in run.names("evaluation") if "tested" in (m := run.manifest(n))["settings"]]
    return max(tests, key=lambda m: m["finished"], default={"inputs": {}, "settings": {}})
