"""Starts and lengths: the same embeddings at several lengths, under recommenders with the official start and a scaled one.

The official evaluation gives its five published encoders at length one and every Qwen2 table as it comes (lengths above
100). Its recommenders start with positions of N(0, 1), beside which vectors of length one are small. So a printed difference
between the two kinds of rows holds length besides content. Here only length and start change.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit import geometry, paper
from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.studies import answers
from llm2rec_kit.reproduction.studies.answers import Answer, Arm
from llm2rec_kit.reproduction.studies.directions import AT_LENGTH_ONE, LLM2REC
from llm2rec_kit.reproduction.studies.study import Study, check_tables
from llm2rec_kit.results import kept, significance
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import item_tables

STARTS = ("official", "scaled")
AS_IT_COMES, WHITENED = "as it comes", "whitened"
ROW = ["domain", "recommender", "embedding"]

Studies = dict[tuple[str, str], Any]  # by (start, form); of `experiments` or of `dry_study`


def list_forms(lengths: Sequence[float]) -> dict[str, dict[str, Any]]:
    """List the forms in which a recommender is given a table, by name: settings of its evaluation.

    >>> list(list_forms([1.0, 100.0]))
    ['as it comes', 'length 1', 'length 100', 'whitened']
    """
    at = {f"length {x:g}": {"normalise": "unit", "scale": x} for x in lengths}
    return {AS_IT_COMES: {"normalise": "none", "scale": 1.0}, **at, WHITENED: {"normalise": "whitened", "scale": 1.0}}


def open_studies(base: Any, asked: S.Tables, open_study: Callable[..., Any], **opening: Any) -> Studies:
    """Open a study for each start and form, trained to the paper's patience; `open_study` is that of `study` or `dry_study`."""
    studies, budget = {}, make_budget(asked.start_epochs)
    for start in STARTS:
        for form, given in list_forms(asked.lengths).items():
            changes = {f"evaluation_{k}": v for k, v in (budget | given | {"initialisation": start}).items()}
            name = f"tables-{start}-{form.replace(' ', '-').replace('.', '_')}"
            studies[start, form] = open_study(base, name, **opening, **changes)
    return studies


def make_budget(epochs: int) -> dict[str, Any]:
    """Make the settings of an evaluation that trains to the paper's patience, `epochs` at most."""
    plain = S.Evaluation()
    return {"epochs": epochs, "evaluate_every": plain.evaluate_every, "patience": plain.patience}


def train(do: Any, base: Any, asked: S.Tables, **opening: Any) -> tuple[Studies, list[str]]:
    """Train the recommenders of every start and form over the tables asked; the studies, and the evaluations' names in each.

    `do` is `experiments` or, for a plan, `dry_study`. No studies where no table is asked.
    """
    studies = open_studies(base, asked, do.open_study, **opening) if asked.starts else {}
    names: list[str] = []
    for one in studies.values():
        tables = [do.take_table(one, name) for name in asked.starts]
        names = do.evaluate(one, tables, recommenders=asked.recommenders, seeds=asked.seeds)
    return studies, names


def check(base: Run, asked: S.Tables) -> None:
    """Raise ArtefactError for a table of `tables_starts` that the run does not have, or not of what it holds now."""
    check_tables(base, "tables_starts", asked.starts)


def collect_results(studies: Studies, names: Sequence[str], metric_names: Sequence[str]) -> pl.DataFrame:
    """Collect what the evaluations `names` of every study came to: start, form, length and own part of the vectors that the
    adapter read (`geometry.measure_lengths`), best epoch (mean over seeds), then the columns of `significance.tabulate` with
    intervals."""
    parts = []
    for (start, form), study in studies.items():
        found = significance.tabulate(study.run, list(names), metric_names=metric_names, intervals=True)
        tables = found.select("domain", "embedding").unique(maintain_order=True)
        lengths = [_measure_lengths(study, *table) for table in tables.iter_rows()]
        measured = pl.DataFrame(lengths, schema={"length": pl.Float64, "own part": pl.Float64}, orient="row")
        told = found.with_columns(start=pl.lit(start), form=pl.lit(form))
        told = told.join(tables.hstack(measured), on=tables.columns, maintain_order="left")
        parts.append(told.join(_best_epochs(study.run, names), on=ROW, maintain_order="left"))
    first = ["domain", "embedding", "recommender", "start", "form", "length", "own part", "best epoch"]
    return pl.concat(parts).select(*first, pl.exclude(first))


def _best_epochs(run: Run, names: Sequence[str]) -> pl.DataFrame:
    """The mean best epoch over seeds of each row."""
    records = [kept.read_record(run, name) for name in names]
    rows = [{k: record[k] for k in ROW} | {"best epoch": float(record["best_epoch"])} for record in records]
    return pl.DataFrame(rows).group_by(ROW, maintain_order=True).agg(pl.col("best epoch").mean())


def _measure_lengths(study: Study, domain: str, table: str) -> tuple[float, float]:
    """Length and own part of the domain's vectors as the adapter reads them; NaN for a table without text."""
    from llm2rec_kit.downstream import item_table

    settings, (text, _) = S.Evaluation.among(study.settings), item_tables.parse_name(table)
    if not text:
        return float("nan"), float("nan")
    part, ids = study.corpus.select([domain])
    vectors = np.load(study.run.require(f"embeddings/{text}").with_suffix(".npy"))[ids]
    return geometry.measure_lengths(
        item_table.prepare_embeddings(vectors, part.n_items, settings.normalise, settings.scale)[1:]
    )


def make_answer(
    studies: Studies, table: str, domain: str, *, recommenders: Sequence[str], seeds: Sequence[int], metric: str
) -> Answer:
    """Test over one table, paired: every form against the first length under each start, and the two starts at each form."""
    arms = [Arm(f"{form}, {start}", study, table) for (start, form), study in studies.items()]
    names = list(dict.fromkeys(form for _, form in studies))
    first = names[1]
    pairs = [(f"{first}, {start}", f"{form}, {start}") for start in STARTS for form in names if form != first]
    pairs += [(f"{form}, {STARTS[0]}", f"{form}, {STARTS[1]}") for form in names]
    title = f"{table} on {domain}: start and length"
    return answers.answer(title, arms, pairs, domain=domain, recommenders=recommenders, seeds=seeds, metric=metric)


def answer_each(studies: Studies, asked: S.Tables, domains: Sequence[str], metric: str) -> dict[str, Answer]:
    """Answer for every table asked in every domain, by the name of its record; {} without studies."""
    found = {}
    for domain, table in itertools.product(domains, asked.starts) if studies else ():
        one = make_answer(studies, table, domain, recommenders=asked.recommenders, seeds=asked.seeds, metric=metric)
        found[f"starts_{domain}_{table}"] = one
    return found


def compute_gains(found: pl.DataFrame, lengths: Sequence[float], metric: str) -> pl.DataFrame:
    """Compute what length alone and the start alone are worth, for each domain, table and recommender.

    Length: the percent that `metric` gains from the first to the last of `lengths`, of one from it to the table as it comes,
    under each start. Start: what the scaled one gains over the official one at the first length.
    """
    low, high = _name_ends(lengths)
    rows = []
    for key, part in found.group_by(ROW, maintain_order=True):
        value = {(r["start"], r["form"]): r[f"{metric} mean"] for r in part.iter_rows(named=True)}
        row = dict(zip(ROW, key, strict=True))
        row |= {f"{start}: {low} to {high} (%)": _percent(value[start, low], value[start, high]) for start in STARTS}
        rows.append(row | {f"{low}: official to scaled (%)": _percent(value["official", low], value["scaled", low])})
    return pl.DataFrame(rows)


def _name_ends(lengths: Sequence[float]) -> tuple[str, str]:
    """The two forms between which length alone is told."""
    low, high = (f"length {lengths[k]:g}" for k in (0, -1))
    return low, high if high != low else AS_IT_COMES


def compute_printed_gains(metric: str) -> pl.DataFrame:
    """Compute what LLM2Rec gains (percent) in Table 3 over the best rows of either kind: at length one, and as they come.
    Also which of the two holds the best baseline, against which the paper prints its %Improv."""
    rows = []
    for (recommender, dataset), part in paper.read_overall().group_by("recommender", "dataset", maintain_order=True):
        ours = part.filter(model=LLM2REC)[metric][0]
        others = part.filter(pl.col("model") != LLM2REC)
        at_one = pl.col("model").is_in(AT_LENGTH_ONE)
        kinds = {"at length one": at_one, "as they come": ~at_one}
        best = {kind: others.filter(of).sort(metric, descending=True).row(0, named=True) for kind, of in kinds.items()}
        row: dict[str, Any] = {"recommender": recommender, "dataset": dataset}
        for kind, its in best.items():
            row |= {f"best {kind}": its["model"], f"over it, {kind} (%)": _percent(its[metric], ours)}
        rows.append(row | {"best of all": max(best, key=lambda kind: best[kind][metric])})
    return pl.DataFrame(rows)


def list_comparable() -> pl.DataFrame:
    """List which printed rows differ in content alone, and which in length as well."""
    qwen = [m for m in paper.read_overall()["model"].unique(maintain_order=True) if m not in AT_LENGTH_ONE]
    rows = [
        ("Table 3", ", ".join(AT_LENGTH_ONE), "one", "among themselves"),
        ("Table 3", ", ".join(qwen), "as they come", "among themselves"),
        ("Table 3", "one of each", "one, and above 100", "no: length differs, too"),
        ("Tables 4, 5, Figure 4", "all, of Qwen2, Qwen2.5 and Gemma", "as they come", "yes"),
    ]
    return pl.DataFrame(rows, schema=["where", "rows", "length", "comparable as printed"], orient="row")


def describe_gains(found: pl.DataFrame, printed: pl.DataFrame, lengths: Sequence[float], metric: str) -> str:
    """Say how much of the printed difference to rows at length one could be length, on this data."""
    low, high = _name_ends(lengths)
    under = f"official: {low} to {high} (%)"
    parts = []
    for (recommender,), part in compute_gains(found, lengths, metric).group_by("recommender", maintain_order=True):
        theirs = printed.filter(recommender=recommender)
        parts.append(
            f"{recommender}: length alone, from {low} to {high}, moves {metric} by {_span(part, under)} under the official start; "
            f"LLM2Rec is printed {_span(theirs, 'over it, at length one (%)')} over the best row at length one"
        )
    return "; ".join(parts)


def _span(found: pl.DataFrame, column: str) -> str:
    low, high = found.select(low=pl.min(column), high=pl.max(column)).row(0)
    return f"{low:+.0f}% to {high:+.0f}%"


def _percent(before: float, after: float) -> float:
    return round(100 * (after / before - 1), 2) if before else float("nan")


def as_plain(found: pl.DataFrame, metric: str) -> pl.DataFrame:
    """Arrange `collect_results` for reading, a row a form: the starts side by side as "mean ± std (best epoch)"."""
    told = (*(pl.col(f"{metric} {kind}").round(4) for kind in ("mean", "std")), pl.col("best epoch").round(0))
    shown = found.with_columns(pl.format("{} ± {} ({})", *told).alias(metric), pl.col("length", "own part").round(2))
    return shown.pivot("start", index=[*ROW, "form", "length", "own part"], values=metric)
