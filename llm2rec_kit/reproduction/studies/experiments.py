"""Experiments: runs inside a run, in which one thing at a time is changed: in calls what notebooks 02 to 04 do in cells.

`open_study(run, name)` makes `<run>/experiments/<name>/`, a Run of its own with the corpus and the backbone of the run
around it. A training there starts from an artefact by name and has the run's own settings but for what the call changes, so
two arms differ in nothing else. Everything is an artefact: reused where nothing changed, also from the run around it and
from its other studies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm2rec_kit import evaluating, pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.studies.study import Study, take
from llm2rec_kit.reproduction.studies.study import open_study as open_study
from llm2rec_kit.settings import item_tables
from llm2rec_kit.settings.encoding import AS_SAVED

if TYPE_CHECKING:
    from llm2rec_kit.encoding.encoder import Encoder

# A training's name, and what 06 and 07 each called it once.
ONCE_NAMED = {"mntp_from_backbone": ("llm2vec_mntp", "mntp_alone")}


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

    `name` is `stage` unless given. `changes` are settings of that stage without prefix; `share` scales its steps
    and what goes with them (`scale_steps`). `domains` and `text` as in `pipeline.train_stage`.
    """
    settings = scale_steps(dataclasses.replace(study.settings[stage], **changes), share)
    place = S.Backbone.among(study.settings)
    recipe = pipeline.train_stage(study.run, settings, place, name, start=start, domains=domains, text=text)
    recipe = _as_once_named(study, recipe)
    recipe.make(study.run, base=study.base if recipe.name == stage else None)
    return recipe.name


def _as_once_named(study: Study, recipe: pipeline.Recipe) -> pipeline.Recipe:
    """The recipe under the name that an earlier version gave it, where the study has that very artefact."""
    once = (dataclasses.replace(recipe, name=name) for name in ONCE_NAMED.get(recipe.name, ()))
    return next((old for old in once if study.run.has(old.name) and not study.run.stale(old.name, **old.same)), recipe)


def scale_steps(settings: S.Stage, share: float) -> S.Training:
    """Scale a training's settings to `share` of its steps, and of what is counted beside them: the warm-up, the decay's plan
    (in whole epochs where it is of epochs) and, where the validation loss decides something, the steps between validations.
    What is 0 stays 0, and all but the warm-up is 1 at least. ValueError for a share that is none."""
    assert isinstance(settings, S.Training)  # no other stage has steps
    if not 0 < share <= 1:
        raise ValueError(f"A share of the training steps lies above 0 and is 1 at most; found {share}.")
    if share == 1:
        return settings
    counted = ["steps", "schedule_steps", "schedule_epochs"]
    if settings.patience or settings.keep == "best":
        counted.append("evaluate_every")  # elsewhere it changes no weights, and arms of finished runs keep their key
    scaled = {name: max(1, round(count * share)) for name in counted if (count := getattr(settings, name))}
    return dataclasses.replace(settings, **scaled, warmup_steps=round(settings.warmup_steps * share))


def embed(study: Study, start: str, name: str = "", *, text: str = "title", **changes: Any) -> str:
    """Encode the study's items with artefact `start`, or with an encoder by hub name or folder; returns the table's name.

    `changes` are settings of the encoding without prefix. The table is `embeddings/<name>` (`start` unless given, or as
    `settings.name_tables` calls an encoder's), and taken from the run around the study where that has the very same: the
    run's table of the backbone is `raw`. `text` "attributes" encodes the items' attributes instead of their titles.
    """
    name = name or (start.replace(".", "_") if study.run.has(start) else _table_name(study, start))
    how, place = _encoding(study, start, changes), S.Backbone.among(study.settings)
    pipeline.embed_items(study.run, name, start, how, place, text=text).make(study.run, base=study.base, quiet=True)
    return name


def take_table(study: Study, name: str) -> str:
    """Take an item table of the run around the study, with the artefacts that it was made from; returns `name`. Without
    text, as `id`, nothing is taken. Raises ArtefactError where the run does not have it."""
    text, _ = item_tables.parse_name(name)
    wanted = [f"embeddings/{text}"] if text else []
    for made in wanted:
        take(study.run, study.base, made)
        wanted += [i for i in study.base.manifest(made)["inputs"] if i not in wanted]
    return name


def _table_name(study: Study, encoder: str) -> str:
    """What the table of an encoder by hub name or folder is called in a study: no stage's name, nor another encoder's."""
    tables = {n.split("/")[-1]: study.run.manifest(n)["settings"].get("encoder") for n in study.run.names("embeddings")}
    others = [table for table, made_by in tables.items() if made_by != encoder]
    return S.name_tables([encoder], [*S.NAMED, *study.run.artefacts(), *others])[encoder]


def load_encoder(study: Study, start: str, **changes: Any) -> Encoder:
    """Load the encoder with which `embed` encodes: artefact `start` of the study, or an encoder by hub name or folder."""
    from llm2rec_kit.encoding.encoder import Encoder

    path = study.run.require(start) if study.run.has(start) else start
    return Encoder.load(path, _encoding(study, start, changes), S.Backbone.among(study.settings))


def evaluate(
    study: Study,
    embeddings: Sequence[str],
    *,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    domains: Sequence[str] = (),
) -> list[str]:
    """Train each recommender over each table (as `item_tables.parse_name` names them) with each seed, in `domains` or all.
    Returns the evaluations' names."""
    from llm2rec_kit.downstream import evaluation

    settings = dataclasses.replace(S.Evaluation.among(study.settings), seeds=list(seeds))
    domains = domains or study.corpus.domains
    jobs = [evaluation.Job(d, r, e, s) for d in domains for r in recommenders for e in embeddings for s in seeds]
    evaluating.evaluate(study.run, jobs, settings, base=study.base, quiet=True)
    return [job.name for job in jobs]


def _encoding(study: Study, start: str, changes: dict[str, Any]) -> S.Encoding:
    return dataclasses.replace(S.Encoding.among(study.settings) if study.run.has(start) else AS_SAVED, **changes)
