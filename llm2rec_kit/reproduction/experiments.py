"""Experiments: runs inside a run, in which one thing at a time is changed.

`open_study(run, name)` makes `<run>/experiments/<name>/`, a Run of its own with the corpus and the backbone of the run around it.
A training there starts from an artefact by name and has the run's own settings but for what the call changes, so two arms
differ in nothing else. Everything is an artefact: reused where nothing changed (also from the run around it and from its
other studies), resumed after an interruption, and compared with `downstream.comparison` as the run's own stages are.

This module does in calls what the notebooks 02 to 04 do in cells, so it stands above the rooms: only notebooks import it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.runs import ArtefactError, Run

TRAINED = ("csft", "mntp", "contrastive")
FOLDER = "experiments"
NOT_OF_STUDIES = ("maps", "questions")  # prefixes of stages that no study goes through


@dataclass(frozen=True)
class Study:
    """A run inside `base`, and the settings of its stages by prefix: the base's, but for what the study as a whole changes."""

    run: Run
    base: Run
    settings: dict[str, S.Stage]

    @property
    def corpus(self) -> Corpus:
        """The study's corpus."""
        return Corpus.load(self.run.require("corpus"))

    @property
    def where(self) -> dict[str, str]:
        """Where trainings compute: it counts as one of their settings."""
        return {name: getattr(self.settings["backbone"], name) for name in ("device", "dtype")}


def settings_of(run: Run) -> dict[str, S.Stage]:
    """The settings that each stage of a finished run had, by prefix. Raises ArtefactError naming a stage that did not run."""
    found: dict[str, S.Stage] = {}
    for stage in S.STAGES:
        name = {"data": "corpus", "encoding": "embeddings/contrastive"}.get(stage.prefix, stage.prefix)
        if stage.prefix == "evaluation":
            name = _one_training(run)
        if stage.prefix not in NOT_OF_STUDIES:
            known = {f.name for f in dataclasses.fields(stage)}
            kept = run.manifest(name)["settings"]
            found[stage.prefix] = stage(**{k: v for k, v in kept.items() if k in known})
    return found


def open_study(base: Run, name: str, **changes: Any) -> Study:
    """The study `name` of a run that went through notebooks 01 to 04; `changes` (flat names, as `data_split`) hold for all of it.

    With a change of `data_...` the corpus is made anew from the source. Raises SettingsError for an unknown or unfit change.
    """
    settings = settings_of(base)
    _known(changes, settings)
    for prefix, stage in settings.items():
        own = {k.removeprefix(f"{prefix}_"): v for k, v in changes.items() if k.startswith(f"{prefix}_")}
        settings[prefix] = dataclasses.replace(stage, **own)
    folder = base.path / FOLDER
    (folder / ".store").mkdir(parents=True, exist_ok=True)
    study = Study(Run(name, folder), base, settings)
    if any(k.startswith("data_") for k in changes):
        _make_corpus(study)
    else:
        _take(study.run, base, "corpus")
    _take(study.run, base, "backbone")
    return study


def forget(base: Run, start: str) -> None:
    """Remove the studies whose names begin with `start`, and what studies share: other studies keep what they have."""
    for folder in (base.path / FOLDER).glob(f"{start}*"):
        shutil.rmtree(folder)
    shutil.rmtree(base.path / FOLDER / ".store", ignore_errors=True)


def train(study: Study, stage: str, start: str, name: str = "", *, share: float = 1.0, **changes: Any) -> str:
    """Train `stage` (csft, mntp or contrastive) from artefact `start` of the study; returns the name of the new artefact.

    `name` is `stage` unless given. `changes` are settings of that stage without prefix; `share` scales its steps and warm-up.
    """
    name = name or stage
    settings = scaled(dataclasses.replace(study.settings[stage], **changes), share)
    key, inputs = settings.as_dict() | study.where, ["corpus", start]
    if name == stage and study.run.adopt(study.base, name, settings=key, inputs=inputs):
        return name
    study.run.make(name, lambda folder: _train(study, stage, start, settings, folder), settings=key, inputs=inputs)
    return name


def scaled(settings: S.Stage, share: float) -> S.Stage:
    """A training's settings with `share` of its steps (1 at least) and of its warm-up."""
    if not 0 < share <= 1:
        raise ValueError(f"A share of the training steps lies above 0 and is 1 at most; found {share}.")
    steps, warmup = max(1, round(settings.steps * share)), round(settings.warmup_steps * share)
    return settings if share == 1 else dataclasses.replace(settings, steps=steps, warmup_steps=warmup)


def embed(study: Study, start: str, name: str = "", **changes: Any) -> str:
    """Encode the study's titles with artefact `start`, or with an encoder by hub name or folder; returns the table's name.

    `changes` are settings of the encoding without prefix. The table is `embeddings/<name>` (`start` unless given).
    """
    from llm2rec_kit import geometry
    from llm2rec_kit.encoder import AS_SAVED, Encoder

    own = study.run.has(start)
    name = name or start.rstrip("/").split("/")[-1]
    how = dataclasses.replace(study.settings["encoding"] if own else AS_SAVED, **changes)

    def build(folder: Path) -> dict[str, Any]:
        encoder = Encoder.load(study.run.require(start) if own else start, how, study.settings["backbone"])
        table = encoder.table(study.corpus.titles, out=folder / f"{name}.npy", progress=True)
        rank = geometry.effective_rank(table[1:])
        return {"stage": name, "encoder": start, "items": len(table) - 1, "dim": encoder.dim, "effective_rank": rank}

    plain = {k: v for k, v in how.as_dict().items() if k not in ("variants", "baselines", "batch_tokens")}
    inputs = ["corpus", start] if own else ["corpus"]
    study.run.make(f"embeddings/{name}", build, settings=plain | study.where | {"encoder": start}, inputs=inputs, quiet=True)
    return name


def evaluate(
    study: Study,
    embeddings: Sequence[str],
    *,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    domains: Sequence[str] = (),
) -> list[str]:
    """Train each recommender over each table (as `item_table.parse` names them) with each seed, in `domains` or in all.

    Returns the names of the evaluations, which `comparison.table` and `comparison.compare` take.
    """
    from llm2rec_kit.downstream import baselines, evaluation, item_table

    settings = dataclasses.replace(study.settings["evaluation"], seeds=list(seeds))
    together = ("recommenders", "embeddings", "baselines", "seeds", "tested", "device", "workers")
    key = {k: v for k, v in settings.as_dict().items() if k not in together}
    corpus = study.corpus
    parts = {domain: corpus.select([domain]) for domain in domains or corpus.domains}
    jobs = [evaluation.Job(d, r, e, s) for d in parts for r in recommenders for e in embeddings for s in seeds]

    def inputs_of(job: evaluation.Job) -> list[str]:
        text = item_table.parse(job.embedding)[0]
        return ["corpus"] + ([f"embeddings/{text}"] if text else [])

    def reused(job: evaluation.Job) -> bool:
        same = {"settings": key, "inputs": inputs_of(job)}
        return study.run.adopt(study.base, job.name, **same) or not study.run.stale(job.name, **same)

    todo = [job for job in jobs if not reused(job)]
    print(f"{study.run.name}: {len(todo)} recommenders to train, {len(jobs) - len(todo)} reused", flush=True)
    texts = dict.fromkeys(text for job in todo if (text := item_table.parse(job.embedding)[0]))
    tables = {text: np.load(study.run.require(f"embeddings/{text}").with_suffix(".npy")) for text in texts}
    counts = {domain: baselines.training_counts(part) for domain, (part, _) in parts.items()}
    for job, result in evaluation.train_many(todo, parts, tables, settings):
        facts = {"domain": job.domain, "embedding": job.embedding}
        stem = job.name.split("/")[-1]
        study.run.make(
            job.name,
            lambda folder, r=result, s=stem, j=job, f=facts: evaluation.write(r, folder, s, counts[j.domain]) | f,
            settings=key,
            inputs=inputs_of(job),
            force=True,
            quiet=True,
            spent=result.seconds,
        )
    return [job.name for job in jobs]


def _train(study: Study, stage: str, start: str, settings: Any, folder: Path) -> dict[str, Any]:
    from llm2rec_kit import backbone
    from llm2rec_kit.training import contrastive, csft, mntp, trainer

    corpus = study.corpus
    model, tokenizer = backbone.load(study.run.require(start), study.settings["backbone"])
    if stage == "csft":
        history = csft.train(corpus, model, tokenizer, settings, folder)
    else:
        objective = {"mntp": mntp, "contrastive": contrastive}[stage]
        history = objective.train(trainer.train_titles(corpus), model, tokenizer, settings, folder)
    backbone.save(model, tokenizer, folder)
    trainer.write_history(history, folder)
    return {**trainer.final(history), "steps": settings.steps}


def _make_corpus(study: Study) -> None:
    from llm2rec_kit.data import cleaning, sources

    data = study.settings["data"]
    if data.source == "mix":
        raise S.SettingsError("A study cannot change how a mix of corpora is made; change the runs that it is mixed from.")

    def build(folder: Path) -> dict[str, Any]:
        corpus = cleaning.build(sources.load(data), data)
        corpus.save(folder)
        return {"source": corpus.facts["source"], "split": corpus.facts["split"], "items": corpus.n_items}

    study.run.make("corpus", build, settings=data.as_dict() | {"files": sources.fingerprint(data)})


def _take(run: Run, base: Run, name: str) -> None:
    """Take artefact `name` of the base as it is, unless the study has that very one."""
    if not run.has(name) or run.digest(name) != base.digest(name):
        run.take(base, name)


def _one_training(run: Run) -> str:
    """An evaluation that is a training; all of a run have the same settings."""
    from llm2rec_kit.downstream.recommenders import MODELS

    for name in run.names("evaluation"):
        if name.split("/")[-1].split("-")[0] in MODELS:
            return name
    raise ArtefactError(f"Run {run.name!r} has no evaluation yet. Run notebooks/04_downstream_eval.ipynb first.")


def _known(changes: dict[str, Any], settings: dict[str, S.Stage]) -> None:
    known = [f"{p}_{f.name}" for p, stage in settings.items() for f in dataclasses.fields(stage)]
    for name in changes:
        if name not in known:
            raise S.SettingsError(S.unknown(name, known))
