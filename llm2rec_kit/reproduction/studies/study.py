"""A study: a run inside a run, with the settings of the run around it but for what the study as a whole changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm2rec_kit import pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import sources
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import ArtefactError, Run, freshness
from llm2rec_kit.settings import item_tables
from llm2rec_kit.settings.ranges import clip

CHANGEABLE = ("data", "backbone", "csft", "mntp", "contrastive", "encoding", "evaluation")  # stages whose settings it has
FOLDER = "experiments"


@dataclass(frozen=True)
class Study:
    """A run inside `base`, and the settings of its stages by prefix: the base's, but for what the whole study changes."""

    run: Run
    base: Run
    settings: dict[str, S.Stage]

    @property
    def corpus(self) -> Corpus:
        """The study's corpus."""
        return Corpus.load(self.run.require("corpus"))


def read_settings(run: Run) -> dict[str, S.Stage]:
    """Read each stage's settings in a finished run, by prefix, evaluation's last, and where it trained; ArtefactError for one
    that did not run."""
    found: dict[str, S.Stage] = {}
    for stage in (s for s in S.STAGES if s.prefix in CHANGEABLE):
        name = {"data": "corpus", "encoding": "embeddings/contrastive"}.get(stage.prefix, stage.prefix)
        known = {f.name for f in dataclasses.fields(stage)} - {"trust_remote_code"}  # it may be another user's word
        kept = evaluations.find_evaluations(run).settings if name == "evaluation" else run.manifest(name)["settings"]
        if kept is None:
            raise ArtefactError(f"Run {run.name!r} has no evaluation yet. Run notebooks/04_downstream_eval.ipynb first.")
        if name == "evaluation" and run.has(evaluations.SERIES):
            kept = kept | evaluations.read_place(run)
        found[stage.prefix] = stage(**{k: v for k, v in kept.items() if k in known})
    return found


def open_study(base: Run, name: str, *, force: bool = False, trust_remote_code: bool = False, **changes: Any) -> Study:
    """Open the study `name` of a run that went through notebooks 01 to 04.

    `changes` (flat names, as `data_split`) hold for all of it: with one of `data_...` the corpus is made anew from the
    source, with one of `backbone_...` the backbone. `trust_remote_code`: whether code that comes with its models may run;
    what the run says of that counts for nothing. With `force` what the study has is forgotten and made again.
    """
    settings = read_settings(base)
    settings["backbone"] = dataclasses.replace(S.Backbone.among(settings), trust_remote_code=trust_remote_code)
    settings = change_settings(settings, changes)
    folder = base.path / FOLDER
    (folder / ".store").mkdir(parents=True, exist_ok=True)
    study = Study(Run(name, folder), base, settings)
    for made in study.run.artefacts() if force else ():
        if not study.run.made_by_this_force(made):
            study.run.forget(made)
    if any(k.startswith("data_") for k in changes):
        data = S.Data.among(settings)
        if data.source == "mix":
            raise S.SettingsError(
                "A study cannot change how a mix of corpora is made; change the runs that it is mixed from."
            )
        pipeline.make_corpus(data).make(study.run)
    else:
        take(study.run, base, "corpus")
    if any(k.startswith("backbone_") for k in changes):
        pipeline.make_backbone(study.run, S.Backbone.among(settings)).make(study.run, base=base)
    else:
        take(study.run, base, "backbone")
    return study


def check_source(base: Run, data: S.Data, questions: Sequence[str]) -> None:
    """Raise SettingsError where the source's files are not those that the base's corpus was made from.

    What reads them again with other settings, as these `questions` do, would compare other data, or stop in the middle.
    """
    was = base.manifest("corpus")["settings"].get("files", {})
    now = pipeline.make_corpus(data).settings["files"]
    if sources.match_files(data, now, was) == was and (now or data.source == "synthetic"):
        return
    differing = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    named = f" ({', '.join(differing[:5])}{', ...' * (len(differing) > 5)})" if differing else ""
    raise S.SettingsError(
        f"The questions {', '.join(questions)} read the source {data.source!r} at {clip(data.path) or 'no data_path'} again, and its "
        f"files are not those that the corpus of run {base.name!r} was made from{named}: put them back, make the run anew from "
        "notebook 01, or leave these questions out of questions_asked."
    )


def check_tables(base: Run, setting: str, names: Sequence[str]) -> None:
    """Raise ArtefactError for an item table of `names` whose embeddings the base does not have, or not of what it holds now.
    `setting` is where they are named."""
    there = [name.split("/")[-1] for name in base.names("embeddings")]
    for name in names:
        if (text := item_tables.parse_name(name)[0]) and text not in there:
            raise ArtefactError(
                f"Run {base.name!r} has no embeddings {text!r}, which {setting} names; it has {', '.join(there) or 'none'}. "
                "Leave it out, or make it with notebooks/03_item_embedding.ipynb (minilm: 04)."
            )
    freshness.refuse_outdated(base, [f"embeddings/{text}" for text in item_tables.list_stages(names)])


def change_settings(settings: Mapping[str, S.Stage], changes: Mapping[str, Any]) -> dict[str, S.Stage]:
    """Return settings by prefix with `changes` (flat names) made; SettingsError for an unknown or unfit one."""
    known = [f"{p}_{f.name}" for p, stage in settings.items() for f in dataclasses.fields(stage)]
    for name in changes:
        if name not in known:
            raise S.SettingsError(S.describe_unknown(name, known))
    changed = {}
    for prefix, stage in settings.items():
        own = {k.removeprefix(f"{prefix}_"): v for k, v in changes.items() if k.startswith(f"{prefix}_")}
        changed[prefix] = dataclasses.replace(stage, **own)
    return changed


def choose_backbone_settings(name: str) -> dict[str, Any]:
    """Choose what `open_study` takes for a backbone by name: `tiny-<width>`, or a hub name or folder.

    >>> choose_backbone_settings("tiny-96"), choose_backbone_settings("Qwen/Qwen2-1.5B")
    ({'backbone_name': 'tiny', 'backbone_hidden': 96}, {'backbone_name': 'Qwen/Qwen2-1.5B'})
    """
    kind, _, width = name.partition("-")
    if kind == "tiny" and width.isdigit():
        return {"backbone_name": kind, "backbone_hidden": int(width)}
    return {"backbone_name": name}


def take(run: Run, base: Run, name: str) -> None:
    """Take artefact `name` of the base as it is, unless the study has that very one."""
    if not run.has(name) or run.digest(name) != base.digest(name):
        run.link_from(base, name)
