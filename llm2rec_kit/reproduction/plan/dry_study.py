"""A dry study: what a run and its studies would make, written down instead of made.

The functions take what those of `study` and `experiments` take. As there, an artefact is known by its name, its settings and
what it is made from, and made once: here that is one dictionary, `Made`, there `Run.reuse_from` and the studies' store.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.studies.experiments import scale_steps
from llm2rec_kit.reproduction.studies.study import change_settings
from llm2rec_kit.settings import item_tables
from llm2rec_kit.settings.encoding import AS_SAVED


@dataclass(frozen=True)
class Artefact:
    """One thing to make, by the name that a run has for it.

    section   (notebook, where in it) of who needs it first, as ("06", "Table 3").
    settings  of its stage; the stage tells what kind of thing it is.
    model     the language model at its bottom; an encoder from elsewhere by its name.
    inputs    what it is made from: the corpus first, then what it starts from or reads.
    domains   what CSFT sees instead of the training domains; of an evaluation, its domain.
    text      what of the items is read: title or attributes.
    kept      False for what is read and thrown away.
    """

    section: tuple[str, str] = field(compare=False)
    name: str
    settings: S.Stage
    model: S.Backbone
    inputs: tuple[Artefact, ...] = ()
    domains: tuple[str, ...] = ()
    text: str = "title"
    kept: bool = True

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Two artefacts with the same are one."""
        own = (self.name, repr(self.settings), repr(self.model), self.domains, self.text)
        return own + tuple(made.key for made in self.inputs)

    @property
    def data(self) -> S.Data:
        """The settings of the corpus under it."""
        found = self.inputs[0].settings if self.inputs else self.settings
        assert isinstance(found, S.Data)  # the corpus stands first among inputs, and has none itself
        return found


@dataclass
class Made:
    """All that was made so far, each thing once, and the section under which the next is."""

    section: tuple[str, str] = ("01", "corpus")
    artefacts: dict[tuple[Any, ...], Artefact] = field(default_factory=dict)

    def once(self, name: str, *what: Any, **more: Any) -> Artefact:
        """Return the artefact of this description: the one there is, or a new one."""
        new = Artefact(self.section, name, *what, **more)
        return self.artefacts.setdefault(new.key, new)


@dataclass(frozen=True)
class Study:
    """A run (the one named "") or a study in it: its settings by prefix, and what it holds by name."""

    name: str
    settings: dict[str, S.Stage]
    domains: tuple[str, ...]
    made: Made
    holds: dict[str, Artefact] = field(default_factory=dict)
    base: Study | None = None

    def keep(self, name: str, *what: Any, **more: Any) -> str:
        """Make an artefact, or take the same one; returns its name."""
        self.holds[name] = self.made.once(name, *what, **more)
        return name


def begin(settings: dict[str, S.Stage], domains: Sequence[str]) -> Study:
    """Begin a run with these settings by prefix and a corpus of these domains: it has its corpus and its backbone."""
    run = Study("", settings, tuple(domains), Made())
    run.keep("corpus", settings["data"], settings["backbone"])
    run.made.section = ("02", "backbone")
    run.keep("backbone", settings["backbone"], settings["backbone"], (run.holds["corpus"],))
    return run


def open_study(base: Study, name: str, **changes: Any) -> Study:
    """Open a study as `study.open_study` does: with a corpus or a backbone of its own where `changes` are of these."""
    settings = change_settings(base.settings, changes)
    study = Study(name, settings, base.domains, base.made, {k: base.holds[k] for k in ("corpus", "backbone")}, base)
    place = settings["backbone"]
    if any(k.startswith("data_") for k in changes):
        study.keep("corpus", settings["data"], place)
    if any(k.startswith("backbone_") for k in changes):
        study.keep("backbone", place, place, (study.holds["corpus"],))
    return study


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
    """Write down a training that `experiments.train` would do; returns its name."""
    settings = scale_steps(dataclasses.replace(study.settings[stage], **changes), share)
    inputs = (study.holds["corpus"], study.holds[start])
    return study.keep(name or stage, settings, study.settings["backbone"], inputs, tuple(domains), text)


def embed(study: Study, start: str, name: str = "", *, text: str = "title", kept: bool = True, **changes: Any) -> str:
    """Write down an encoding that `experiments.embed` would do; returns its table's name. An encoder from elsewhere needs a
    `name`. With `kept` False the items are read once more, and no table is left."""
    own = start in study.holds
    name = name or start
    how = dataclasses.replace(S.Encoding.among(study.settings) if own else AS_SAVED, **changes)
    # Which further tables a run has says nothing of this one.
    how = dataclasses.replace(how, variants=[], baselines=[], own=[])
    model = study.settings["backbone"] if own else S.Backbone(name=start)
    inputs = (study.holds["corpus"], *([study.holds[start]] if own else []))
    if not kept:
        study.made.once(f"reading/{name}", how, model, inputs, text=text, kept=False)
        return name
    study.keep(f"embeddings/{name}", how, model, inputs, text=text)
    return name


def take_table(study: Study, name: str) -> str:
    """Take a table of the base as `experiments.take_table` does; one that it does not have is left to `evaluate` to name."""
    text, _ = item_tables.parse_name(name)
    there = study.base.holds if study.base else {}
    wanted = [there[f"embeddings/{text}"]] if f"embeddings/{text}" in there else []
    for made in wanted:
        study.holds[made.name] = made
        wanted += made.inputs
    return name


def evaluate(
    study: Study,
    embeddings: Sequence[str],
    *,
    recommenders: Sequence[str],
    seeds: Sequence[int],
    domains: Sequence[str] = (),
) -> None:
    """Write down the evaluations that `experiments.evaluate` would do; ValueError for a table that the study lacks."""
    for embedding in embeddings:
        for domain in domains or study.domains:
            for recommender, seed in itertools.product(recommenders, seeds):
                _rank(study, embedding, domain, f"{recommender}-{embedding}-seed{seed}")


def hold_out(study: Study, settings: S.Evaluation) -> None:
    """Write down the trainings without held-out items that `cold.make_cold` would do."""
    if not settings.cold or not settings.recommenders:
        return
    for domain, embedding in itertools.product(study.domains, settings.embeddings):
        _rank(study, embedding, domain, f"cold-{settings.recommenders[0]}-{embedding}-seed{settings.seeds[0]}")


def _rank(study: Study, embedding: str, domain: str, name: str) -> None:
    text, _ = item_tables.parse_name(embedding)
    if text and f"embeddings/{text}" not in study.holds:
        raise ValueError(f"Recommenders are asked for over {embedding!r}, but there are no embeddings {text!r} to be had.")
    table = study.holds[f"embeddings/{text}"] if text else None
    inputs = (study.holds["corpus"], *([table] if table else []))
    model = table.model if table else study.settings["backbone"]
    study.keep(f"evaluation/{domain}/{name}", study.settings["evaluation"], model, inputs, (domain,))
