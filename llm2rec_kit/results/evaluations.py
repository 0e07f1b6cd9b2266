"""Which of the evaluations in a run's folder count, what notebook 04 was asked when it last ended, and what is missing of that.

An evaluation is named after its domain, recommender, embedding and seed. What earlier calls of the notebook made stays in the
folder: of other embeddings, with other settings or seeds. Tables, tests and weights must be of one experiment, so notebook 04
ends by writing one artefact, SERIES, whose inputs are its evaluations and tests: those count, as they were then, and nothing
else. All who read evaluations back ask here. What their numbers are says `results.kept`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm2rec_kit.runs import ArtefactError, Run, freshness
from llm2rec_kit.runs.manifest import hash_content
from llm2rec_kit.settings import own_parts
from llm2rec_kit.settings.evaluation import Evaluation, match_settings

SERIES = "evaluation/series"  # the artefact that says what notebook 04 evaluated when it last ended
TRAINED = own_parts.OF_THE_KIT["recommender"]  # in the order of tables
OF = ("domain", "recommender", "embedding")  # what a record says of itself, with the seed
NOTED = ("seeds", "evaluations")  # what the series has beside the settings of its evaluations
PLACE = ("device", "workers")  # and where these were trained, kept aside: studies train where the run did
BESIDE = ("tested", "baselines")  # kept aside, too: no test tells them where no two stages were there to compare
ASIDE = (*PLACE, *BESIDE)

Made = dict[str, dict[str, Any]]  # manifests by name


@dataclass(frozen=True)
class Asked:
    """What notebook 04 was asked when it last ended.

    settings  of its trainings, as their manifests have them.
    names     its evaluations and their tests: first what depends on a seed, in the order of the call.
    digests   what each of them held; {} where an earlier version, or nobody, has kept that.
    tested    the metric of its paired tests, had there been any; "" where that was not kept.
    """

    settings: dict[str, Any]
    names: list[str]
    digests: dict[str, str]
    tested: str = ""

    def has(self, name: str, made: dict[str, Any]) -> bool:
        """Tell whether `name`, with this manifest, is one of those, and what it was then."""
        return name in self.names and self.digests.get(name, now := hash_content(made)) == now

    def is_of(self, made: dict[str, Any]) -> bool:
        """Tell whether an evaluation has these settings, of those that its recommender reads; of one that trains nothing, the
        same metrics."""
        if is_trained(recommender := made["record"]["recommender"]):
            own = _without_own(made)
            return match_settings(self.settings, own, recommender) == own
        return bool(made["settings"].get("cutoffs") == self.settings.get("cutoffs"))


@dataclass(frozen=True)
class Evaluations:
    """made and tests are manifests by name: of the evaluations that count, and of the paired tests over none but those.

    left_out  names of those that are there and do not count.
    missing   names of those that notebook 04's last call made, or tested, and that are gone.
    asked     what that call was asked.
    """

    made: Made
    tests: Made
    left_out: list[str]
    missing: list[str]
    asked: Asked

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings of notebook 04's last call: of its trainings, and `tested` where that is known; None without a training."""
        if not any(is_trained(m["record"]["recommender"]) for m in self.made.values()):
            return None
        by_tests = (m["settings"].get("tested") for m in self.tests.values())
        tested = next(by_tests, None) or self.asked.tested
        return self.asked.settings | ({"tested": tested} if tested else {})


def is_trained(recommender: str) -> bool:
    """Tell whether numbers of this row depend on a seed: it is a recommender that is trained, and not a baseline or the oracle.

    Names say so, those of one's own parts too (`own_parts.FORMS`), since a run is read where its user's code is not.
    """
    return recommender[:1].isupper()


def make_name(domain: str, recommender: str, embedding: str, seed: int) -> str:
    """Make the name of the artefact of an evaluation; one that trains nothing has the seed 0."""
    return f"evaluation/{domain}/{recommender}-{embedding}-seed{seed}"


def note_series(
    run: Run,
    settings: dict[str, Any],
    seeds: Sequence[int],
    names: Sequence[str],
    references: Sequence[str] = (),
    *,
    place: Mapping[str, Any] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Keep in `run` what counts from now on: the evaluations and paired tests `names`, and the `references` that train nothing.

    `settings` are those of the trainings' manifests, `place` the settings of PLACE and `beside` those of BESIDE, which change
    no evaluation. Raises ArtefactError where one of those named is missing or damaged.
    """
    aside = dict(place or {}) | dict(beside or {})
    noted = dict(zip(NOTED, (list(seeds), list(names)), strict=True)) | aside
    moved = False
    with contextlib.suppress(ArtefactError):  # none yet, or a damaged one: it is written anyway
        told = _read_aside(run)
        moved = any(told[name] != value for name, value in aside.items())  # which alone would leave the note as it was
    inputs = [*names, *references]
    run.make(
        SERIES,
        lambda folder: None,
        settings=settings | noted,
        inputs=inputs,
        aside=tuple(aside),
        force=moved,
        quiet=True,
    )


def read_place(run: Run) -> dict[str, Any]:
    """Read where notebook 04's last call trained, the settings of PLACE; their defaults of a run from before they were kept.
    ArtefactError without a series, or with a damaged one."""
    told = _read_aside(run)
    return {name: told[name] for name in PLACE}


def _read_aside(run: Run) -> dict[str, Any]:
    """What the series keeps aside, the settings of ASIDE; their defaults of a run from before they were kept."""
    told, usual = run.manifest(SERIES)["settings"], Evaluation().as_dict()
    return {name: told.get(name, usual[name]) for name in ASIDE}


def read_manifest(run: Run, name: str) -> dict[str, Any]:
    """Read the manifest of an evaluation; ArtefactError also where its record is another's: a copy would count as one more seed."""
    made = run.manifest(name)
    own = make_name(*(made["record"].get(k) for k in (*OF, "seed")))
    if own != name:
        raise ArtefactError(
            f"{run.path_of(name)}.json is not what its name says: it holds the record of {own!r}. Delete it and run "
            f"notebooks/04_downstream_eval.ipynb again (run {run.name!r})."
        )
    return made


def find_evaluations(run: Run, *, sound: bool = False) -> Evaluations:
    """Find the evaluations that count, and what is beside them in the run's folder.

    An evaluation counts where notebook 04's last call names it (`Asked`) and it is of what the run holds now, down to the
    corpus: a table that is still there does not stand for a training that was made anew since.

    Raises ArtefactError for a damaged manifest; with `sound` passes such over.
    """
    made, tests, series, damaged = _read(run, sound)
    is_current = freshness.make_check(run, sound=sound)
    current = {n: m for n, m in made.items() if not run.changed_inputs(n) and all(map(is_current, m["inputs"]))}
    asked = _asked(series, current, tests)
    held = {n: m for n, m in current.items() if asked.has(n, m) and asked.is_of(m)}
    there = {*made, *tests, *damaged}
    missing = sorted({*asked.names} - there)

    def outdated(test: str, m: dict[str, Any]) -> bool:
        """Whether a test is not of the last call, is over what does not count, or over what was made anew since."""
        inputs, changed = there.intersection(m["inputs"]), run.changed_inputs(test)
        return not asked.has(test, m) or any(i not in held or i in changed for i in inputs)

    old = [n for n, m in tests.items() if outdated(n, m)]
    whole = {n: m for n, m in tests.items() if n not in old and not any(i in missing for i in m["inputs"])}
    return Evaluations(held, whole, sorted({*made} - {*held}) + old, missing, asked)


def _read(run: Run, sound: bool) -> tuple[Made, Made, dict[str, Any], list[str]]:
    """Manifests of evaluations and of tests, that of SERIES ({} without one), and the names of damaged ones."""
    made: Made = {}
    tests: Made = {}
    series: dict[str, Any] = {}
    damaged = []
    for name in run.names("evaluation"):
        try:
            found = run.manifest(name)
            if name == SERIES:
                series = found
            elif "rows" in found["record"]:
                tests[name] = found
            elif "metrics" in found["record"]:
                made[name] = read_manifest(run, name)
        except ArtefactError:
            if not sound:
                raise
            damaged.append(name)
    return made, tests, series, damaged


def _asked(series: dict[str, Any], made: Made, tests: Made) -> Asked:
    """What the artefact SERIES says of notebook 04's last call."""
    told = series.get("settings", {})
    if not series.get("inputs"):
        return _not_told(told, made, tests)
    names = list(dict.fromkeys([*told["evaluations"], *series["inputs"]]))
    return Asked(_of_trainings(told), names, series["inputs"], told.get("tested", ""))


def _not_told(told: dict[str, Any], made: Made, tests: Made) -> Asked:
    """What notebook 04 was asked in a run whose SERIES does not name all, as of an earlier version, or that has none yet.

    Earlier versions named trainings and tests alone: what trains nothing counts wherever it is there. Where nothing is named
    the settings are those of the training that was finished last, and all of them count.
    """
    trained = {n: m for n, m in made.items() if is_trained(m["record"]["recommender"])}
    settings = _of_trainings(told)
    if not told and trained:
        settings = _without_own(trained[max(trained, key=lambda n: (trained[n]["finished"], n))])
    named = told.get("evaluations") or [*trained, *tests]
    tested = [i for n in named if n in tests for i in tests[n]["inputs"]]
    return Asked(settings, list(dict.fromkeys([*named, *tested, *(n for n in made if n not in trained)])), {})


def _of_trainings(told: dict[str, Any]) -> dict[str, Any]:
    """What a series says of its trainings' manifests."""
    return {name: value for name, value in told.items() if name not in (*NOTED, *ASIDE)}


def _without_own(made: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's settings without what is its recommender's alone, the hash of an own part."""
    return {name: value for name, value in made["settings"].items() if name != own_parts.KEY}
