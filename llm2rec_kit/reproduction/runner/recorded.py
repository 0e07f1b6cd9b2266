"""What a finished run was made with, read back as parameters, and what other values would replace.

Manifests hold settings; the rest is told by an evaluation's series or the last `reproduce`. `trust_remote_code` and
`own_parts` are never read back: that code may run is a word that each command gives anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm2rec_kit import settings as S
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import MADE_BY, ArtefactError, Run, find_begun
from llm2rec_kit.settings.evaluation import LATER, list_unread
from llm2rec_kit.settings.ranges import show_value
from llm2rec_kit.settings.stage import make_default

HOLDERS = {  # by a stage's prefix the artefacts whose manifest tells its settings; the first that is there counts
    "data": ("corpus",),
    "backbone": ("backbone",),
    "csft": ("csft",),
    "mntp": ("mntp",),
    "contrastive": ("contrastive",),
    "encoding": ("embeddings/contrastive", "embeddings/csft", "embeddings/raw"),
    "evaluation": (evaluations.SERIES,),
    "maps": ("maps",),
}
TRAININGS, WHERE = ("csft", "mntp", "contrastive"), ("device", "dtype")  # where a training computed is in its own manifest
NEVER = ("backbone_trust_remote_code", "own_parts")
KINDS = {"embeddings": "tables of embeddings", "evaluation": "evaluations"}  # what an artefact in a folder is one of


class Held(NamedTuple):
    """What a finished artefact has for a parameter."""

    value: Any
    artefact: str


def read_defaults() -> dict[str, Any]:
    """Read every setting's own default, by its flat name."""
    return {f"{s.prefix}_{f.name}": make_default(f) for s in S.STAGES for f in dataclasses.fields(s)}


def read_held(run: Run, names: Collection[str] = ()) -> dict[str, Held]:
    """Read the parameters that finished artefacts of the run tell, by flat name; nothing of what is missing or damaged.

    `names` are the parameters of the notebook that asks: where a training among them has its own word on device and dtype,
    that is taken, not the backbone's.
    """
    found: dict[str, Held] = {}
    for stage in S.STAGES:
        for holder in HOLDERS.get(stage.prefix, ()):
            if settings := _settings(run, holder):
                settings = (LATER if stage is S.Evaluation else {}) | settings
                own = {f"{stage.prefix}_{f.name}": f.name for f in dataclasses.fields(stage) if f.name in settings}
                found |= {full: Held(settings[name], holder) for full, name in own.items() if full not in NEVER}
                break
    for training in (t for t in TRAININGS if f"{t}_steps" in names):
        settings = _settings(run, training)
        found |= {f"backbone_{k}": Held(settings[k], training) for k in WHERE if k in settings}
    return found | _of_the_series(run)


def read_asked(run: Run) -> tuple[str, dict[str, Any]]:
    """Read the profile and the parameters of the run's last `reproduce`; ("", {}) where there was none."""
    told = run.read_info()["asked"]
    parameters = told.get("parameters")
    known = parameters if isinstance(parameters, dict) else {}
    return str(told.get("profile", "")), {k: v for k, v in known.items() if k not in NEVER}


def read_training(run: Run, stage: str, otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """Read by what the training `stage` of a run and its backbone were made: what their manifests hold, over what the last
    `reproduce` asked, or over `otherwise` where there was none."""
    held = {name: found.value for name, found in read_held(run, [f"{stage}_steps"]).items()}
    told = {**(read_asked(run)[1] or otherwise), **held}
    return {name: value for name, value in told.items() if name.startswith((f"{stage}_", "backbone_"))}


def put_place(values: dict[str, Any], numbers: Collection[str]) -> dict[str, Any]:
    """Put into `values` where the run's notebook 04 trained: the studies of 06 and 07 do so, unless 04 is to run before them."""
    if "04" in numbers or not {"06", "07"} & {*numbers}:
        return values
    run, plain = find_begun(values["run"], values.get("outputs", "")), read_defaults()
    if not run:
        return values
    with contextlib.suppress(ArtefactError):  # none yet, or a damaged one: the notebook says so
        held = {f"evaluation_{k}": v for k, v in evaluations.read_place(run).items()}
        return values | {name: v for name, v in held.items() if values.get(name, plain[name]) != v}
    return values


def find_differing(run: Run, values: Mapping[str, Any], numbers: Collection[str]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Find {artefact: {parameter: (has, asked)}} that notebooks of these numbers would replace under `values`. By settings
    alone (defaults where not given): whether files changed is seen when they are read."""
    plain = read_defaults()
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for name, (has, artefact) in read_held(run).items():
        if _number(artefact) not in numbers or _is_of_the_series(name, artefact):
            continue
        wanted = values.get(name, plain[name])
        if wanted != has and name.split("_", 1)[1] not in _list_aside(run, artefact, plain | dict(values)):
            found.setdefault(artefact, {})[name] = (has, wanted)
    for training in (t for t in TRAININGS if _number(t) in numbers):
        has = _settings(run, training)
        for k, name in ((k, f"backbone_{k}") for k in WHERE if k in has):
            if has[k] != (wanted := values.get(name, plain[name])):
                found.setdefault(training, {})[name] = (has[k], wanted)
    return found


def find_dependents(run: Run, names: Iterable[str]) -> list[str]:
    """Find the finished artefacts that were made from `names`, directly or not, in the order of the notebooks."""
    inputs = {}
    for artefact in run.artefacts():
        with contextlib.suppress(ArtefactError):
            inputs[artefact] = set(run.manifest(artefact)["inputs"])
    first, reached = set(names), set(names)
    while more := {a for a, made_from in inputs.items() if made_from & reached} - reached:
        reached |= more
    order = list(MADE_BY)
    return sorted(reached - first, key=lambda a: (order.index(a.split("/")[0]) if a.split("/")[0] in order else 99, a))


def count_in_words(names: Iterable[str]) -> str:
    """Name the artefacts, those of a folder by their number: "mntp, encoder, 4 tables of embeddings and maps"."""
    folders = Counter(KINDS.get(n.split("/")[0], n.split("/")[0]) if "/" in n else n for n in names)
    words = [kind if number == 1 and kind not in KINDS.values() else f"{number} {kind}" for kind, number in folders.items()]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def describe_replacement(run: Run, values: Mapping[str, Any], books: Iterable[Path], only: Collection[str] = ()) -> str:
    """Say in a sentence or two what a `reproduce` with these values is about to replace (of the artefacts in `only`, if
    any are named); empty where that is nothing."""
    numbers = [book.name[:2] for book in books]
    if values.get("force"):
        there = [n for n in run.artefacts() if _number(n) in numbers and not run.made_by_this_force(n)]
        return f"forced: this makes anew, in run {run.name!r}: {count_in_words(there)}." if there else ""
    found = {a: changed for a, changed in find_differing(run, values, numbers).items() if not only or a in only}
    if not found:
        return ""
    replaced, gone = [], []
    for artefact, changed in found.items():
        words = [f"{name} {show_value(has)} -> {show_value(wanted)}" for name, (has, wanted) in changed.items()]
        if members := _members(run, artefact, changed):
            replaced.append(f"{count_in_words(members)} ({', '.join(words)})")
            gone += members
    if not gone:
        return ""
    after = find_dependents(run, gone)
    more = f" Outdated by that, and made anew by the notebooks that make them: {count_in_words(after)}." if after else ""
    return f"this replaces, in run {run.name!r}: {'; '.join(replaced)}.{more} Another name for the run keeps them."


def _number(artefact: str) -> str:
    """The number of the notebook that makes an artefact; empty where none does."""
    return MADE_BY.get(artefact.split("/")[0], "")[:2]


def _members(run: Run, artefact: str, changed: Collection[str]) -> list[str]:
    """List what shares the `changed` parameters with an artefact: with a table all stages' tables, with a series those of its
    evaluations that read one of them, and what is beside these."""
    if artefact != evaluations.SERIES:
        return run.names(artefact.split("/")[0]) if artefact in HOLDERS["encoding"] else [artefact]
    loss, names = _settings(run, artefact).get("loss", ""), run.names("evaluation")
    makers = {n: m[1] for n in names if (m := re.fullmatch(r"evaluation/[^/]+/([^-]+)-.+-seed\d+", n))}
    settings = {name.removeprefix("evaluation_") for name in changed}
    unread = {n for n, recommender in makers.items() if settings <= list_unread(recommender, loss)}
    aged = any(evaluations.is_trained(recommender) for n, recommender in makers.items() if n not in unread)
    return [n for n in names if n not in unread] if aged or not unread else []


def _settings(run: Run, artefact: str) -> dict[str, Any]:
    with contextlib.suppress(ArtefactError):
        if artefact == evaluations.SERIES and not run.has(artefact):  # a run from before there was one, or before its end
            return evaluations.find_evaluations(run, sound=True).settings or {}
        found: dict[str, Any] = run.manifest(artefact)["settings"]
        return found
    return {}


def _list_aside(run: Run, artefact: str, asked: Mapping[str, Any]) -> list[str]:
    """The settings of an artefact that change no result: by what is asked for, as when it is made, else by its manifest;
    none where it is not there, as a series before its first end."""
    for stage in S.STAGES:
        if artefact in HOLDERS.get(stage.prefix, ()) and hasattr(stage, "aside"):
            with contextlib.suppress(S.SettingsError):
                aside: list[str] = stage.from_parameters(asked).aside
                return aside
    with contextlib.suppress(ArtefactError):
        return list(run.manifest(artefact).get("aside", ()))
    return []


def _is_of_the_series(name: str, artefact: str) -> bool:
    """Whether a parameter says which evaluations there are: with another value there are others, and none is replaced."""
    lists = ("recommenders", "embeddings", "baselines", "seeds", "tested")
    return artefact == evaluations.SERIES and name.removeprefix("evaluation_") in lists


def _of_the_series(run: Run) -> dict[str, Held]:
    """What the names and tests of the last series tell: recommenders, embeddings, baselines, and what was tested."""
    series = _settings(run, evaluations.SERIES)
    names = series.get("evaluations", [])
    tests = [n for n in names if n.endswith("/comparisons")]
    found: dict[str, Any] = {}
    trained = [m[1] for n in names if (m := re.fullmatch(r"evaluation/[^/]+/(.+)-seed\d+", n))]
    if pairs := [one.partition("-")[::2] for one in trained]:
        recommenders, embeddings = (list(dict.fromkeys(of)) for of in zip(*pairs, strict=True))
        found |= {"recommenders": recommenders, "embeddings": embeddings}
    with contextlib.suppress(ArtefactError):
        for test in tests:
            made = run.manifest(test)
            found["tested"] = made["settings"]["tested"]
            of = [run.record(n)["recommender"] for n in made["inputs"] if n not in names and run.has(n)]
            found["baselines"] = _baselines(dict.fromkeys(of))
    return {f"evaluation_{k}": Held(v, evaluations.SERIES) for k, v in found.items()}


def _baselines(ranked: Collection[str]) -> list[str]:
    """The baselines that were asked for; a source without times ranks none by recent popularity."""
    usual = S.Evaluation().baselines
    found = [name for name in ranked if name in usual]
    return usual if set(usual) - {"recent"} == set(found) else found
