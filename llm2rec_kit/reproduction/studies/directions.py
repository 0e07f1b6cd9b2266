"""Directions: for each pair of rows that the paper prints, which is higher, and does ours point the same way?

Absolute values of another corpus, backbone or budget are not comparable with the paper's. What a method claims is a
direction: this row beats that one. The paper's direction is counted over its data sets, in-domain and out-of-domain apart;
ours is what a paired test allows to be said, by the same metric: tables 4 and 5 print two, and Figure 4 one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from llm2rec_kit import paper
from llm2rec_kit.results.significance import NOTHING, Row

SAME, OTHER, OPEN = "same way", "the other way", "the paper is of two minds"
UNTRAINED = {"raw": "LLM2Vec"}  # what Table 3 and Figure 4 call the backbone as it comes
# Rows of Table 3 that the official code normalises (baselines/model.py).
AT_LENGTH_ONE = ("BERT", "GTE", "BGE", "BLAIR", "EasyRec")
AS_THEY_COME = UNTRAINED | {"llmemb": "LLMEmb", "contrastive": "LLM2Rec"}  # its other rows, by our tables
WAYS = (SAME, OTHER, NOTHING, OPEN)  # all that `judge_agreement` says
LLM2REC = "LLM2Rec"
STEPS = (("causal", "bidirectional"), ("bidirectional", "csft"), ("csft", "mntp"), ("mntp", "contrastive"))
MIXING = (("backbone", "single"), *((before, mix) for mix in ("mix-2", "mix-6") for before in ("single", "backbone")))
BACKBONES = (("LLM2Vec", "csft"), ("LLM2Vec", "LLMEmb"), ("csft", "contrastive"))
SCHEMA: dict[str, type[pl.DataType]] = dict.fromkeys(
    ("table", "metric", "recommender", "before", "after", "where"), pl.String
)
SCHEMA |= {"data sets": pl.Int64, "higher in": pl.Int64, "percent": pl.Float64, "paper": pl.String}


def read_printed() -> pl.DataFrame:
    """Read every pair of rows that the notebook asks about, in every metric that the paper prints of it.

    table, metric, recommender, before, after, where (in-domain, out-of-domain), data sets, higher in (how many of them
    `after` is higher in), percent (the mean change over them), paper (higher, lower, or both).
    """
    overall = paper.read_overall()
    rivals = [m for m in overall["model"].unique(maintain_order=True) if m != LLM2REC]
    rows = []
    for recommender in ("SASRec", "GRU4Rec"):
        part = overall.filter(recommender=recommender).rename({"model": "row"})
        pairs = [*((m, LLM2REC) for m in rivals), ("LLM2Vec", "LLMEmb")]
        rows += _counted("Table 3", recommender, part, pairs)
    rows += _counted("Table 4", "SASRec", paper.read_ablation(), STEPS)
    rows += _counted("Table 5", "SASRec", paper.read_mixing(), MIXING)
    figure = paper.read_backbones().rename({"model": "row"})
    rows += _counted("Figure 4", "SASRec", figure, BACKBONES, by=["dataset", "backbone"])
    return pl.DataFrame(rows, schema=SCHEMA)


def list_metrics(table: str) -> list[str]:
    """List the metrics that the paper prints in a table.

    >>> list_metrics("Table 4"), list_metrics("Figure 4")
    (['recall@10', 'ndcg@10'], ['recall@10'])
    """
    return read_printed().filter(table=table)["metric"].unique(maintain_order=True).to_list()


def _counted(
    table: str,
    recommender: str,
    frame: pl.DataFrame,
    pairs: Sequence[tuple[str, str]],
    by: Sequence[str] = ("dataset",),
) -> list[dict[str, Any]]:
    where = paper.read_datasets().select("dataset", "downstream")
    rows = []
    for metric, (before, after) in itertools.product([m for m in paper.METRICS if m in frame.columns], pairs):
        a, b = (frame.filter(row=name).select(*by, metric) for name in (before, after))
        both = a.join(b, on=list(by), suffix=" after").join(where, on="dataset")
        for kind in ("in-domain", "out-of-domain"):
            part = both.filter(downstream=kind)
            if len(part):
                rows.append(_row(part[metric], part[f"{metric} after"]) | {"table": table, "recommender": recommender})
                rows[-1] |= {"metric": metric, "before": before, "after": after, "where": kind}
    return rows


def _row(before: pl.Series, after: pl.Series) -> dict[str, Any]:
    higher, lower = int((after > before).sum()), int((after < before).sum())
    way = "higher" if higher == len(before) else "lower" if lower == len(before) else "both"
    change: Any = (after / before - 1).mean()  # of numbers, where polars thinks of times as well
    return {"data sets": len(before), "higher in": higher, "percent": 100 * float(change), "paper": way}


def judge_agreement(way: str, verdict: str) -> str:
    """Judge whether our verdict (`significance.compare`) points the paper's way (higher, lower, both).

    >>> judge_agreement("higher", "better"), judge_agreement("lower", "better"), judge_agreement("both", "worse")
    ('same way', 'the other way', 'the paper is of two minds')
    """
    if verdict == NOTHING:
        return NOTHING
    if way == "both":
        return OPEN
    return SAME if (way == "higher") == (verdict == "better") else OTHER


def put_beside_paper(verdicts: pl.DataFrame, table: str, where: str, names: Mapping[str, str]) -> pl.DataFrame:
    """Put beside our verdicts (`significance.compare`) what the paper prints, and how the two agree.

    Null where the paper prints nothing of a pair. `names` are the paper's names of our embeddings; several may have one
    name. The printed pair is that of `table` and `where` (in-domain or out-of-domain) with the verdict's recommender, in the
    metric that was tested.
    """
    known = read_printed().filter(table=table, where=where)
    pairs = {tuple(r[k] for k in ("recommender", "metric", "before", "after")): r for r in known.iter_rows(named=True)}
    rows = []
    for v in verdicts.iter_rows(named=True):
        pair = names.get(v["before"]), names.get(v["after"])
        there = pairs.get((v["recommender"], v["metric"], *pair))
        said = (
            f"{pair[0]} to {pair[1]}: {there['percent']:+.1f}%, higher in {there['higher in']} of {there['data sets']}"
            if there
            else None
        )
        rows.append({"paper": said, "agreement": judge_agreement(there["paper"], v["verdict"]) if there else None})
    told = pl.DataFrame(rows, schema={"paper": pl.String, "agreement": pl.String})
    return pl.concat([verdicts, told], how="horizontal")


def count_agreements(frames: Sequence[pl.DataFrame]) -> dict[str, int]:
    """Count the printed comparisons by how ours agree with them."""
    found = [a for f in frames for a in f["agreement"]]
    return {name: found.count(name) for name in WAYS}


def count_by_table(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Count agreements for each of the paper's tables, in order, as `count_agreements` does; `rows` name theirs in the
    column `table`, as "Figure 4, tiny-96"."""
    named = rows.with_columns(table=pl.col("table").str.extract(r"^(\w+ \d+)")) if len(rows) else rows
    parts = named.partition_by("table", maintain_order=True) if len(rows) else []
    return {part["table"][0]: count_agreements([part]) for part in parts}


def compare_metrics(metric: str) -> pl.DataFrame:
    """Say by what each table is tested where the run tests `metric`, and whether the paper prints that; Figure 4 has Recall@10 alone."""
    rows = []
    for table in ("Table 3", "Table 4", "Table 5", "Figure 4"):
        printed, tested = list_metrics(table), "recall@10" if table == "Figure 4" else metric
        said = {"in the paper": table, "it prints": ", ".join(printed), "tested here by": tested}
        rows.append(said | {"comparable": "yes" if tested in printed else f"no: it prints no {tested}"})
    return pl.DataFrame(rows)


def name_models(labels: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Say what Table 3 calls our tables, of each of its rows the one that is made as that: its five encoders at length one, its
    models on Qwen2 as they come, LLM2Vec untrained. `labels` have embedding, model and length (`paper_arms.make_at_lengths`)."""
    names: dict[str, str] = {}
    for row in labels:
        at_one = row["model"] in AT_LENGTH_ONE and row["length"] == "unit"
        as_it_comes = AS_THEY_COME.get(row["embedding"]) if row["length"] == "none" else None
        name = row["model"] if at_one else as_it_comes
        if name and name not in names.values():
            names[row["embedding"]] = name
    return names


def pair_models(tables: Sequence[str], recommenders: Sequence[str], names: Mapping[str, str] = {}) -> list[tuple[Row, Row]]:
    """Pair the models of Table 3 (before, after), by the tables' names: every rival and LLM2Rec at the same length; the backbone and LLMEmb, as the
    paper compares them; every model as it comes and at unit length. Of those that `names` (`name_models`) has at unit length
    also the pair that the paper prints, with LLM2Rec as it comes."""
    ours = [name for name in ("contrastive", "contrastive-unit") if name in tables]
    at_unit = {name: name.endswith("-unit") for name in tables}
    pairs = [
        ((r, t), (r, last))
        for r in recommenders
        for last in ours
        for t in tables
        if t != last and at_unit[t] == at_unit[last]
    ]
    pairs += [((r, t), (r, "contrastive")) for r in recommenders for t in tables if t in names and at_unit[t]]
    pairs += [((r, "raw"), (r, "llmemb")) for r in recommenders if "llmemb" in tables]
    return pairs + [((r, t), (r, f"{t}-unit")) for r in recommenders for t in tables if f"{t}-unit" in tables]


def pair_cells(cells: Mapping[tuple[str, str, str], str], recommender: str) -> list[tuple[Row, Row]]:
    """Pair (before, after) each stage's four cells {(stage, pooling, attention): table}: mask and pooling at once, as the paper's
    first two rows; the mask alone, at either pooling; the pooling alone, under either mask."""
    pairs = []
    for stage in dict.fromkeys(stage for stage, _, _ in cells):
        cell = {(p, a): (recommender, table) for (s, p, a), table in cells.items() if s == stage}
        pairs += [(cell["last", "causal"], cell["mean", "bidirectional"])]
        pairs += [(cell[p, "causal"], cell[p, "bidirectional"]) for p in ("last", "mean")]
        pairs += [(cell["last", a], cell["mean", a]) for a in ("causal", "bidirectional")]
    return pairs


def name_cells(cells: Mapping[tuple[str, str, str], str]) -> dict[str, str]:
    """Say what Table 4 calls two of the untrained backbone's cells."""
    printed = {("raw", "last", "causal"): "causal", ("raw", "mean", "bidirectional"): "bidirectional"}
    return {cells[cell]: name for cell, name in printed.items() if cell in cells}
