"""Inventory: the artefacts that the notebooks 02 to 04, 06 and 07 make with given parameters, each under who needs it first.

The arms of 06 and 07 are those that the notebooks call (`paper_arms`, `question_arms`), over a `dry_study` that writes
artefacts down. tests/reproduction/test_inventory.py holds it against what a finished run has, name by name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import attribute_columns
from llm2rec_kit.encoding import minilm
from llm2rec_kit.pipeline import RAW, STARTS, TABLES, list_tables
from llm2rec_kit.reproduction.plan import dry_study
from llm2rec_kit.reproduction.plan.dry_study import Artefact, Study, embed, evaluate, hold_out, open_study, train
from llm2rec_kit.reproduction.plan.sizes import Sizes
from llm2rec_kit.reproduction.studies import initialisations, paper_arms, question_arms, questions
from llm2rec_kit.reproduction.studies.study import CHANGEABLE


@dataclass(frozen=True)
class Inventory:
    """All artefacts, each once, and the run and its studies by name with what each holds."""

    artefacts: list[Artefact]
    studies: dict[str, Study]


def list_artefacts(values: dict[str, Any], sizes: Sizes, numbers: Collection[str]) -> Inventory:
    """List what a run makes with these (checked) parameters; of 06 and 07 where they are among the notebooks' `numbers`."""
    settings = {s.prefix: s.from_parameters(values) for s in S.STAGES if s.prefix in CHANGEABLE}
    run = dry_study.begin(settings, [d.name for d in sizes.domains])
    _of_run(run)
    studies = [run]
    if "06" in numbers:
        studies += _of_tables(run, S.Tables.from_parameters(values), sizes)
    if "07" in numbers:
        studies += _of_questions(run, S.Questions.from_parameters(values), sizes)
    return Inventory(list(run.made.artefacts.values()), {study.name: study for study in studies})


def _of_run(run: Study) -> None:
    """The notebooks 02 to 04."""
    for (stage, start), number in zip(STARTS.items(), ("02", "03", "03"), strict=True):
        run.made.section = (number, stage)
        train(run, stage, start)
    run.made.section = ("03", "encoding")
    encoding = S.Encoding.among(run.settings)
    for table, (start, how) in list_tables(encoding).items():
        embed(run, start, table, **how.as_dict())
    for table in encoding.own_files:  # read off a file: nothing to reckon with
        run.holds[f"embeddings/{table}"] = run.holds[f"embeddings/{RAW}"]
    run.made.section = ("04", "evaluation")
    asked = S.Evaluation.among(run.settings)
    if any(name.startswith(minilm.NAME) for name in asked.embeddings):
        embed(run, minilm.MODEL, minilm.NAME)
    evaluate(run, asked.embeddings, recommenders=asked.recommenders, seeds=asked.seeds)
    hold_out(run, asked)


def _of_tables(run: Study, asked: S.Tables, sizes: Sizes) -> list[Study]:
    """Notebook 06, its sections in their order; returns its studies."""
    study = open_study(run, "tables")
    _section(run, "Table 3")
    paper_arms.make_stages(dry_study, study)
    arms = [paper_arms.BACKBONE, *_rivals(study, asked, sizes), paper_arms.OURS]
    tables = [row["embedding"] for row in paper_arms.make_at_lengths(dry_study, study, arms, asked)]
    evaluate(study, tables, recommenders=asked.recommenders, seeds=asked.seeds)
    first: dict[str, Any] = {"recommenders": asked.recommenders[:1], "seeds": asked.seeds}
    _section(run, "Table 4")
    evaluate(study, list(TABLES), **first)
    evaluate(study, list(paper_arms.make_cells(dry_study, study, asked).values()), **first)
    _section(run, "Table 5")
    several = paper_arms.choose_domains(sizes.train_domains, study.domains)
    if len(several) > 1 and study.domains:
        sets = paper_arms.make_mixing(dry_study, study, asked, sizes.train_domains, several)
        evaluate(study, list(sets), **first)
    _section(run, "Figure 4")
    others = [other for other, _ in paper_arms.make_backbones(dry_study, run, asked).values()]
    _section(run, "Figure 5")
    for arm in arms:
        embed(study, arm.encoder, arm.table, kept=False, **arm.how)
    _section(run, "start and length")
    opened, _ = initialisations.train(dry_study, run, asked)
    return [study, *others, *opened.values()]


def _section(run: Study, label: str) -> None:
    run.made.section = ("06", label)


def _rivals(study: Study, asked: S.Tables, sizes: Sizes) -> list[paper_arms.Arm]:
    """The rivals of Table 3 that can be had; of LLMEmb that is not known as long as there is no corpus to look at."""
    arms = [paper_arms.make_llm2vec(dry_study, study)] if "LLM2Vec" in asked.models else []
    if "LLMEmb" in asked.models and (sizes.corpus is None or attribute_columns(sizes.corpus.items)):
        arms.append(paper_arms.make_llmemb(dry_study, study, asked))
    return arms + paper_arms.make_encoders(dry_study, study, asked)


def _of_questions(run: Study, asked: S.Questions, sizes: Sizes) -> list[Study]:
    """Notebook 07: what the questions that are asked, and can be answered as far as is known, make; returns its studies."""
    run.made.section = ("07", "the run's own")
    domain = asked.domain or (sizes.train_domains or [""])[0]
    at = question_arms.At(dry_study, run, asked, domain, sizes.corpus)
    paper_arms.make_stages(dry_study, at.own)
    _ = at.short
    share = S.Evaluation.among(run.settings).user_share
    known = questions.find_unanswerable(sizes.corpus, S.Data.among(run.settings), asked, share=share)
    for question, arms in question_arms.ARMS.items():
        if question in asked.asked and question not in known:
            run.made.section = ("07", question)
            families = arms(at)
            if run.domains:
                question_arms.rank(at, families)
    return list(at.studies.values())
