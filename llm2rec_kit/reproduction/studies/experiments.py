"""Experiments: runs inside a run, in which one thing at a time is changed.

`open_study(run, name)` makes `<run>/experiments/<name>/`, a Run of its own with the corpus and the backbone of the run around it.
A training there starts from an artefact by name and has the run's own settings but for what the call changes, so two arms
differ in nothing else. Everything is an artefact: reused where nothing changed (also from the run around it and from its
other studies), resumed after an interruption, and compared with `results.significance` as the run's own stages are.

This module does in calls what the notebooks 02 to 04 do in cells, so it stands above the rooms: only notebooks import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.reproduction.studies.study import Study, backbone_changes, open_study, take
from llm2rec_kit.results import evaluations

if TYPE_CHECKING:
    from llm2rec_kit.encoding.encoder import Encoder

__all__ = [
    "Study",
    "backbone_changes",
    "embed",
    "evaluate",
    "load_encoder",
    "open_study",
    "scaled",
    "take_table",
    "texts",
    "train",
]

TRAINED = ("csft", "mntp", "contrastive")
RAW = "raw"  # what a run calls the table of its backbone


def train(
    study: Study,
    stage: str,
    start: str,
    name: str = "",
    *,
    share: float = 1.0,
    domains: Sequence[str] = (),
    text: str = "title",
    **changes: Any,
) -> str:
    """Train `stage` (csft, mntp or contrastive) from artefact `start` of the study; returns the name of the new artefact.

    `name` is `stage` unless given. `changes` are settings of that stage without prefix; `share` scales its steps and warm-up.
    `domains` are those that training sees, instead of the corpus's training domains. `text` "attributes" contrasts items by
    their attributes (`training.llmemb`).
    """
    from llm2rec_kit.fitting import trainer

    name = name or stage
    settings = scaled(dataclasses.replace(study.settings[stage], **changes), share)
    other = ({"domains": list(domains)} if domains else {}) | ({"text": text} if text != "title" else {})
    same = trainer.key(settings, study.settings["backbone"], **other) | {"inputs": ["corpus", start]}
    if name == stage and study.run.adopt(study.base, name, **same):
        return name
    corpus = study.corpus
    if domains:
        corpus = dataclasses.replace(corpus, facts=corpus.facts | {"train_domains": list(domains)})

    def build(folder: Path) -> dict[str, Any]:
        return _train(study, corpus, stage, text, start, settings, folder)

    study.run.make(name, build, **same)
    return name


def scaled(settings: S.Stage, share: float) -> S.Stage:
    """A training's settings with `share` of its steps (1 at least) and of its warm-up."""
    if not 0 < share <= 1:
        raise ValueError(f"A share of the training steps lies above 0 and is 1 at most; found {share}.")
    steps, warmup = max(1, round(settings.steps * share)), round(settings.warmup_steps * share)
    return settings if share == 1 else dataclasses.replace(settings, steps=steps, warmup_steps=warmup)


def embed(study: Study, start: str, name: str = "", *, text: str = "title", **changes: Any) -> str:
    """Encode the study's items with artefact `start`, or with an encoder by hub name or folder; returns the table's name.

    `changes` are settings of the encoding without prefix. The table is `embeddings/<name>` (`start` unless given, or as
    `settings.table_names` calls an encoder's), and taken from the run around the study where that has the very same: the
    run's table of the backbone is `raw`. `text` "attributes" encodes the items' attributes instead of their titles.
    """
    from llm2rec_kit import geometry
    from llm2rec_kit.encoding import encoder
    from llm2rec_kit.models import backbone

    own = study.run.has(start)
    name = name or (start.replace(".", "_") if own else _table_name(study, start))

    def build(folder: Path) -> dict[str, Any]:
        model = load_encoder(study, start, **changes)
        table = model.table(texts(study, text), out=folder / f"{name}.npy", progress=True)
        rank = geometry.effective_rank(table[1:])
        return {"stage": name, "encoder": start, "items": len(table) - 1, "dim": model.dim, "effective_rank": rank}

    other = ({"text": text} if text != "title" else {}) | ({} if own else backbone.contents(start))
    how, made_by = _encoding(study, start, changes), RAW if start == "backbone" else start
    key = encoder.key(how, study.settings["backbone"], made_by, **other)
    same = {"settings": key, "inputs": ["corpus", start] if own else ["corpus"]}
    if not study.run.adopt(study.base, f"embeddings/{name}", **same):
        study.run.make(f"embeddings/{name}", build, quiet=True, **same)
    return name


def take_table(study: Study, name: str) -> str:
    """Take an item table of the run around the study as it is, with the artefacts that it was made from; returns `name`.

    Tables without text, as `id`, have nothing to take. Raises ArtefactError where the run does not have it.
    """
    from llm2rec_kit.settings import item_tables

    text, _ = item_tables.parse(name)
    wanted = [f"embeddings/{text}"] if text else []
    for made in wanted:
        take(study.run, study.base, made)
        wanted += [i for i in study.base.manifest(made)["inputs"] if i not in wanted]
    return name


def _table_name(study: Study, encoder: str) -> str:
    """What the table of an encoder by hub name or folder is called in a study: no stage's name, nor another encoder's."""
    tables = {n.split("/")[-1]: study.run.manifest(n)["settings"].get("encoder") for n in study.run.names("embeddings")}
    others = [table for table, made_by in tables.items() if made_by != encoder]
    return S.table_names([encoder], [*S.NAMED, *study.run.artefacts(), *others])[encoder]


def load_encoder(study: Study, start: str, **changes: Any) -> Encoder:
    """The encoder with which `embed` encodes: artefact `start` of the study, or an encoder by hub name or folder."""
    from llm2rec_kit.encoding.encoder import Encoder

    path = study.run.require(start) if study.run.has(start) else start
    return Encoder.load(path, _encoding(study, start, changes), study.settings["backbone"])


def texts(study: Study, text: str = "title") -> list[str]:
    """What `embed` encodes of items 1..N: their titles, or their `attributes` as a prompt."""
    from llm2rec_kit.training import llmemb

    corpus = study.corpus
    return corpus.titles if text == "title" else [llmemb.prompt(item) for item in llmemb.of(corpus.items)]


def evaluate(
    study: Study,
    embeddings: Sequence[str],
    *,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    domains: Sequence[str] = (),
) -> list[str]:
    """Train each recommender over each table (as `table_names.parse` names them) with each seed, in `domains` or in all.

    Returns the names of the evaluations, which `comparison.table` and `comparison.compare` take.
    """
    from llm2rec_kit.downstream import baselines, evaluation

    settings = dataclasses.replace(study.settings["evaluation"], seeds=list(seeds))
    corpus = study.corpus
    parts = {domain: corpus.select([domain]) for domain in domains or corpus.domains}
    jobs = [evaluation.Job(d, r, e, s) for d in parts for r in recommenders for e in embeddings for s in seeds]

    def reused(job: evaluation.Job) -> bool:
        same = {"settings": evaluation.key(settings, job.recommender), "inputs": job.inputs}
        return study.run.adopt(study.base, job.name, **same) or not study.run.stale(job.name, **same)

    todo = [job for job in jobs if not reused(job)]
    print(f"{study.run.name}: {len(todo)} recommenders to train, {len(jobs) - len(todo)} reused", flush=True)
    texts = dict.fromkeys(job.table for job in todo if job.table)
    tables = {text: np.load(study.run.require(f"embeddings/{text}").with_suffix(".npy")) for text in texts}
    counts = {domain: baselines.training_counts(part) for domain, (part, _) in parts.items()}
    for job, result in evaluation.train_many(todo, parts, tables, settings):
        evaluation.keep(study.run, job, result, settings, counts[job.domain])
    names = [job.name for job in jobs]
    evaluations.note_series(study.run, evaluation.key(settings), settings.seeds, names)
    return names


def _encoding(study: Study, start: str, changes: dict[str, Any]) -> S.Encoding:
    from llm2rec_kit.encoding.encoder import AS_SAVED

    return dataclasses.replace(study.settings["encoding"] if study.run.has(start) else AS_SAVED, **changes)


def _train(study: Study, corpus: Corpus, stage: str, text: str, start: str, settings: Any, folder: Path) -> dict[str, Any]:
    from llm2rec_kit.fitting import trainer
    from llm2rec_kit.models import backbone
    from llm2rec_kit.training import contrastive, csft, llmemb, mntp

    model, tokenizer = backbone.load(study.run.require(start), study.settings["backbone"])
    if stage == "csft":
        history = csft.train(corpus, model, tokenizer, settings, folder)
    elif text == "attributes":
        items = llmemb.of(corpus.select(corpus.train_domains)[0].items)
        history = llmemb.train(items, model, tokenizer, settings, folder)
    else:
        objective = {"mntp": mntp, "contrastive": contrastive}[stage]
        history = objective.train(trainer.train_titles(corpus), model, tokenizer, settings, folder)
    backbone.save(model, tokenizer, folder)
    trainer.write_history(history, folder)
    return {**trainer.final(history), "steps": settings.steps}
