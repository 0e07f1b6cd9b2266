"""The arms of notebook 06: what each of the paper's tables is made of, as calls.

`do` makes what is called for: the module `experiments`, or, for a plan, `plan.dry_study`, which writes it down. So what a
plan counts is what the notebook makes. `study` and `base` are those of `do`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.models.checkpoint import BackboneError
from llm2rec_kit.pipeline import RAW, STARTS, TABLES
from llm2rec_kit.reproduction.studies import printed_gaps
from llm2rec_kit.reproduction.studies.study import choose_backbone_settings

Cells = dict[tuple[str, str, str], str]  # {(stage, pooling, attention): table}
Backbones = dict[str, tuple[Any, list[str]]]  # {label: (study, names of its evaluations)}


@dataclass(frozen=True)
class Arm:
    """A row of Table 3: its item table, the artefact or encoder that encodes, the paper's name, how `embed` is called."""

    table: str
    encoder: str
    model: str
    how: dict[str, Any] = field(default_factory=dict)


def make_stages(do: Any, study: Any) -> None:
    """Make the run's own stages and their tables; anew only where the study differs before them."""
    for stage, start in STARTS.items():
        do.train(study, stage, start)
    for table, start in TABLES.items():
        do.embed(study, start, table)


BACKBONE = Arm(RAW, "backbone", "LLM2Vec")
OURS = Arm("contrastive", "contrastive", "LLM2Rec")


def mntp_from_backbone(do: Any, study: Any) -> str:
    """Train MNTP from the backbone as it came; its name is one, so that the studies of 06 and 07 share the one training."""
    name: str = do.train(study, "mntp", "backbone", "mntp_from_backbone")
    return name


def make_llm2vec(do: Any, study: Any) -> Arm:
    """Train LLM2Vec, MNTP and contrast from the backbone as it came, without CSFT."""
    do.train(study, "contrastive", mntp_from_backbone(do, study), "llm2vec")
    return Arm("llm2vec", "llm2vec", "LLM2Vec")


def make_llmemb(do: Any, study: Any, asked: S.Tables) -> Arm:
    """Train LLMEmb, contrast of the items' attributes, some left out of each view, under the causal mask."""
    drop = {"views": "mask", "mask_rate": asked.attribute_drop, "symmetric": True}
    do.train(study, "contrastive", "backbone", "llmemb", text="attributes", **drop)
    return Arm("llmemb", "llmemb", "LLMEmb", {"text": "attributes", "attention": "causal"})


def make_encoder(do: Any, study: Any, name: str, table: str) -> Arm:
    """Encode with an encoder by hub name or folder, pooled as the paper says; raises BackboneError if it cannot be had."""
    label, pooling = printed_gaps.find_encoder(name)
    do.embed(study, name, table, pooling=pooling, normalise="none")
    return Arm(table, name, label, {"pooling": pooling})


def make_encoders(do: Any, study: Any, asked: S.Tables) -> list[Arm]:
    """Make an arm of each of `tables_encoders`; of one that cannot be had it is told why."""
    found = []
    for name, table in asked.tables.items():
        try:
            found.append(make_encoder(do, study, name, table))
        except BackboneError as error:
            print(f"{name} is left out: {error}")
    return found


def make_at_lengths(do: Any, study: Any, arms: Sequence[Arm], asked: S.Tables) -> list[dict[str, str]]:
    """Make Table 3's arms as they come and, if asked, at unit length; returns embedding (table), model and length.

    Of a run that gives its recommenders another form (`name_form`) each stands once, in that: a second row would be the same
    vectors, or be called what it is not.
    """
    labels, own = [], name_form(study.settings)
    plain = "unit" if S.Encoding.among(study.settings).normalise == "unit" else "none"  # as the run encodes its own
    for arm, length in itertools.product(arms, (own, "unit") if asked.normalised and own == "none" else (own,)):
        name, normalise = (arm.table, plain) if length == own else (f"{arm.table}-unit", length)
        given = {"normalise": normalise} if length != own or arm.encoder in asked.encoders else {}
        do.embed(study, arm.encoder, name, **arm.how, **given)
        labels.append({"embedding": name, "model": arm.model, "length": length})
    return labels


def name_form(settings: Mapping[str, S.Stage]) -> str:
    """Name the form in which a run with these settings gives item tables to its recommenders.

    >>> name_form({"encoding": S.Encoding(), "evaluation": S.Evaluation()})
    'none'
    >>> name_form({"encoding": S.Encoding(normalise="unit"), "evaluation": S.Evaluation(scale=100.0)})
    'unit, times 100'
    """
    encoding, evaluation = S.Encoding.among(settings), S.Evaluation.among(settings)
    encoded = "unit" if encoding.normalise == "unit" else "none"
    form = encoded if evaluation.normalise == "none" else evaluation.normalise
    return form if evaluation.scale == 1 else f"{form}, times {evaluation.scale:g}"


def make_cells(do: Any, study: Any, asked: S.Tables) -> Cells:
    """Make the cells of Table 4: {(stage, pooling, attention): table}, four for each stage in `tables_cells`."""
    own = (study.settings["encoding"].pooling, study.settings["encoding"].attention)
    found = {}
    for stage, pooling, attention in itertools.product(asked.cells, ("last", "mean"), ("causal", "bidirectional")):
        table = stage if (pooling, attention) == own else f"{stage}-{pooling}-{attention}"
        found[stage, pooling, attention] = do.embed(study, TABLES[stage], table, pooling=pooling, attention=attention)
    return found


def choose_domains(seen: Sequence[str], domains: Sequence[str]) -> list[str]:
    """Choose the domains that Table 5 mixes, if there are several: those that CSFT saw, else all."""
    return list(seen if len(seen) > 1 else domains)


def make_mixing(do: Any, study: Any, asked: S.Tables, seen: Sequence[str], several: Sequence[str]) -> dict[str, list[str]]:
    """Make the arms of Table 5, CSFT on no domain, the first of `several` and all of them: {table: domains that it saw}."""
    sets: dict[str, list[str]] = {RAW: []}
    for name, domains in (("csft_single", list(several[:1])), ("csft_mixed", list(several))):
        whole = asked.share == 1 and domains == list(seen)  # the run's own
        how = {} if whole else {"name": name, "share": asked.share, "domains": domains}
        sets[do.embed(study, do.train(study, "csft", "backbone", **how))] = domains
    return sets


def make_backbone(do: Any, base: Any, asked: S.Tables, name: str, label: str, **opening: Any) -> tuple[Any, list[str]]:
    """Make a backbone of Figure 4: its study, and its tables before and after CSFT; BackboneError as `make_encoder`."""
    study = do.open_study(base, f"tables-{label}", **opening, **choose_backbone_settings(name))
    csft = do.train(study, "csft", "backbone", share=asked.share)
    return study, [do.embed(study, "backbone", RAW), do.embed(study, csft)]


def make_backbones(do: Any, base: Any, asked: S.Tables, **opening: Any) -> Backbones:
    """Make Figure 4's arms, `make_backbone` for each of `tables_backbones`, its tables evaluated; of one that cannot be had it is told why."""
    found: Backbones = {}
    for name, label in asked.labels.items():
        try:
            study, tables = make_backbone(do, base, asked, name, label, **opening)
        except BackboneError as error:
            print(f"{label} is left out: {error}")
            continue
        done = do.evaluate(study, tables, recommenders=asked.recommenders[:1], seeds=asked.seeds)
        found[label] = study, done
    return found
