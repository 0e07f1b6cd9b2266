"""Which of the evaluations in a run's folder count, what notebook 04 was asked when it last ran,
and what is missing of that.

An evaluation is named after its domain, recommender, embedding and seed. What earlier calls of the notebook made stays in
the folder: of other embeddings, with other settings or seeds. Tables, tests and weights must be of one experiment, so all
who read evaluations back ask here. What their numbers are says `results.kept`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import own_parts

SERIES = "evaluation/series"  # the artefact that says what notebook 04 evaluated last
TRAINED = own_parts.OF_THE_KIT["recommender"]  # in the order of tables
OF = ("domain", "recommender", "embedding")  # what a record says of itself, with the seed
NOTED = ("seeds", "evaluations")  # what the series has beside the settings of its evaluations

Made = dict[str, dict[str, Any]]  # manifests by name


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run that count (`made`), and the paired tests over none but those (`tests`): manifests by name.

    left_out  names of those that are there and do not count.
    missing   names of those that notebook 04's last call made, or tested, and that are gone.
    series    what `note_series` noted; {} in a run from before that.
    """

    made: Made
    tests: Made
    left_out: list[str]
    missing: list[str]
    series: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings of notebook 04's last call: of its trainings, and `tested` where it tested;
        None without a training."""
        trained = {n: m for n, m in self.made.items() if is_trained(m["record"]["recommender"])}
        if not trained:
            return None
        tested = _latest(self.tests)["settings"] if self.tests else {}
        asked = _of_the_series(trained[_last(trained, self.series, self.tests)])
        return asked | {k: v for k, v in tested.items() if k == "tested"}


def is_trained(recommender: str) -> bool:
    """Tell whether a row's numbers depend on a seed: it is a recommender that is trained, and not a baseline or the oracle.

    Names say so, those of one's own parts too (`own_parts.FORMS`), since a run is read where its user's code is not.
    """
    return recommender[:1].isupper()


def make_name(domain: str, recommender: str, embedding: str, seed: int) -> str:
    """Name the artefact of an evaluation; one that trains nothing has the seed 0."""
    return f"evaluation/{domain}/{recommender}-{embedding}-seed{seed}"


def note_series(run: Run, settings: dict[str, Any], seeds: Sequence[int], names: Sequence[str]) -> None:
    """Keep in `run` what was evaluated last: with which settings (those of the manifests), which seeds, under which names.

    The names of its paired tests stand among them: what is named and gone is missing.
    """
    noted = dict(zip(NOTED, (list(seeds), list(names)), strict=True))
    run.make(SERIES, lambda folder: None, settings=settings | noted, quiet=True)


def read_manifest(run: Run, name: str) -> dict[str, Any]:
    """Read an evaluation's manifest; ArtefactError also where its record is another's:
    a copy would count as one more seed."""
    made = run.manifest(name)
    own = make_name(*(made["record"].get(k) for k in (*OF, "seed")))
    if own != name:
        raise ArtefactError(
            f"{run.path_of(name)}.json is not what its name says: it holds the record of {own!r}. Delete it and run "
            f"notebooks/04_downstream_eval.ipynb again (run {run.name!r})."
        )
    return made


def find_evaluations(run: Run, *, sound: bool = False) -> Evaluations:
    """Find the evaluations of the run that count: those that would go into one table. They are made of what the run holds
    now (`Run.changed_inputs`), with the metrics of the last call and the settings of the last series; of a row that the
    series did not have, with the settings of the row's latest evaluation.

    Raises ArtefactError for a damaged manifest; with `sound` passes such over.
    """
    made, tests, series, damaged = _read(run, sound)
    held = {name: m for name, m in made.items() if not run.changed_inputs(name)}
    held = _of_one_experiment(held, series)
    if held:
        asked = held[_last(held, series, tests)]["record"]["metrics"].keys()
        held = {n: m for n, m in held.items() if m["record"]["metrics"].keys() == asked}
    there = {*made, *tests, *damaged}
    old = [n for n in tests if _outdated(run, n, tests[n]["inputs"], there, held)]
    tests = {n: m for n, m in tests.items() if n not in old}
    named = [*series.get("evaluations", ()), *(i for m in tests.values() for i in m["inputs"])]
    missing = sorted({name for name in named if name not in there})
    whole = {n: m for n, m in tests.items() if not any(i in missing for i in m["inputs"])}
    return Evaluations(held, whole, sorted({*made} - {*held}) + old, missing, series)


def _outdated(run: Run, test: str, inputs: Collection[str], there: Collection[str], held: Made) -> bool:
    """Whether a test is over evaluations that do not count, or that were made anew since."""
    changed = run.changed_inputs(test)
    return any(i in there and (i not in held or i in changed) for i in inputs)


def _read(run: Run, sound: bool) -> tuple[Made, Made, dict[str, Any], list[str]]:
    """Manifests of evaluations and of tests, what the series noted, and the names of damaged ones."""
    made, tests, series, damaged = {}, {}, {}, []
    for name in run.names("evaluation"):
        try:
            found = run.manifest(name)
            if name == SERIES:
                series = found["settings"]
            elif "rows" in found["record"]:
                tests[name] = found
            elif "metrics" in found["record"]:
                made[name] = read_manifest(run, name)
        except ArtefactError:
            if not sound:
                raise
            damaged.append(name)
    return made, tests, series, damaged


def _of_one_experiment(made: Made, series: dict[str, Any]) -> Made:
    """Of each row those that have the settings of the series, or of its latest: a mean must not mix two experiments."""
    asked = {name: value for name, value in series.items() if name not in NOTED}
    rows: dict[tuple[Any, ...], Made] = {}
    for name, m in made.items():
        rows.setdefault(tuple(m["record"][k] for k in OF), {})[name] = m
    kept: Made = {}
    for row in rows.values():
        noted = {name: m for name, m in row.items() if _of_the_series(m) == asked}
        wanted = _latest(noted or row)["settings"]
        kept |= {name: m for name, m in row.items() if m["settings"] == wanted}
    return {name: made[name] for name in made if name in kept}


def _of_the_series(made: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's settings without what is its recommender's alone, the hash of an own part."""
    return {name: value for name, value in made["settings"].items() if name != own_parts.KEY}


def _last(made: Made, series: dict[str, Any], tests: Made) -> str:
    """The latest of the evaluations `made` that the series names, or notebook 04's last tests, or of all.

    So what that notebook asked last is known, also where it took all evaluations from earlier.
    """
    tested = _latest(tests)["inputs"] if tests else ()
    for names in (series.get("evaluations", ()), tested, made):
        if there := [n for n in names if n in made]:
            return max(there, key=lambda n: (made[n]["finished"], n))
    raise ValueError("no evaluation")


def _latest(made: Made) -> dict[str, Any]:
    return made[max(made, key=lambda n: (made[n]["finished"], n))]
