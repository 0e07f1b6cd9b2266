"""Ours beside the paper's: differences in units of the spread over seeds, where the data is the paper's own.

The paper prints no spread, so the unit is the std over seeds of whoever repeated it: the public reproduction, or us where
our corpus is the paper's data set, by name and by number of items; another corpus has other absolute values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from llm2rec_kit import paper
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.paper_statistics import fold_name
from llm2rec_kit.settings.stage import Stage

# The paper's encoders by the last part of their hub names, and the pooling that plain checkpoints do not bring [C].
ENCODERS = {
    "bert-base-uncased": ("BERT", "cls"),
    "gte-Qwen2-7B-instruct": ("GTE", "as_saved"),
    "bge-large-en-v1.5": ("BGE", "as_saved"),
    "blair-roberta-base": ("BLAIR", "cls"),
    "easyrec-roberta-large": ("EasyRec", "pooler"),
}


def find_encoder(name: str) -> tuple[str, str]:
    """Find what the paper calls an encoder of this hub name or folder, and the pooling to read it with.

    >>> find_encoder("hyp1231/blair-roberta-base"), find_encoder("models/mine")
    (('BLAIR', 'cls'), ('mine', 'as_saved'))
    """
    last = name.rstrip("/").split("/")[-1]
    return ENCODERS.get(last, (last, "as_saved"))


def find_dataset(corpus: Corpus, domain: str) -> str | None:
    """Find the paper's data set that this domain of the corpus is: the same name and number of items; else None."""
    if corpus.sources[domain] == "synthetic":
        return None
    plain = fold_name(domain)
    items = int((corpus.items["domain"] == domain).sum())
    for row in paper.read_datasets().iter_rows(named=True):
        if plain in (fold_name(row["dataset"]), fold_name(row["name"])) and row["items"] == items:
            return str(row["dataset"])
    return None


def compare_in_std(ours: pl.DataFrame, printed: pl.DataFrame, on: list[str]) -> pl.DataFrame:
    """Compare what both have, a row a metric of each row: `on`, metric, paper, ours, std, percent, (ours - paper) / std.

    `printed` has the paper's metrics as columns, `ours` the same with each's spread over seeds as `<metric> std`. The last
    column is null where the spread is 0 (one seed, or a std that rounds to it).
    """
    rows = []
    metrics = [m for m in paper.METRICS if m in printed.columns and m in ours.columns]
    for row in ours.join(printed, on=on, how="inner", suffix=" paper", maintain_order="left").iter_rows(named=True):
        for m in metrics:
            there, here, std = row[f"{m} paper"], row[m], row[f"{m} std"]
            rows.append(
                {k: row[k] for k in on}
                | {"metric": m, "paper": there, "ours": here, "std": std}
                | {"percent": 100 * (here / there - 1), "in stds": (here - there) / std if std else None}
            )
    return pl.DataFrame(rows, schema_overrides={"in stds": pl.Float64}) if rows else pl.DataFrame()


def compare_table(results: pl.DataFrame, names: Mapping[str, str], datasets: Mapping[str, str | None]) -> pl.DataFrame:
    """Compare our Table 3 (`significance.tabulate`) with the printed one, where a domain is a data set of the paper.

    `names` (`directions.name_models`) are the paper's names of those embeddings that are made as its rows; no other is
    compared. `datasets` give each domain's data set or None. Empty where there is none.
    """
    ours = results.rename({f"{m} mean": m for m in paper.METRICS}).filter(pl.col("embedding").is_in([*names]))
    model = pl.col("embedding").replace_strict(names, return_dtype=pl.String)
    dataset = pl.col("domain").replace_strict(datasets, return_dtype=pl.String)
    told = ours.with_columns(model=model, dataset=dataset)
    return compare_in_std(told, paper.read_overall(), ["recommender", "dataset", "model"])


def count_far(gaps: pl.DataFrame) -> dict[str, Any]:
    """Count how many cells differ, by how many stds (the median), and how many by more than 2, below which no difference is read."""
    apart = gaps["in stds"].abs()
    return {"cells": len(gaps), "median_distance_in_stds": apart.median(), "beyond_2_stds": int((apart > 2).sum())}


def compare_reproduction() -> pl.DataFrame:
    """Compare the public reproduction with Table 3, in its stds: a row a data set, model, step and metric."""
    found = paper.read_reproduction().with_columns(
        model_step=pl.concat_str("model", "step", separator=" ", ignore_nulls=True)
    )
    printed = paper.read_overall().filter(recommender="SASRec")
    parts = []
    for (named,), part in found.group_by(["model_step"], maintain_order=True):
        rows = compare_in_std(part, printed, ["dataset", "model"])
        parts.append(rows.with_columns(pl.lit(named).alias("model")))
    return pl.concat(parts).rename({"ours": "reproduced"})


def compare_untrained() -> pl.DataFrame:
    """Compare Table 3's LLM2Vec with the untrained backbone (Table 4) by Recall@10 and NDCG@10, a row a data set: `equal`
    where both metrics are."""
    trained = paper.read_overall().filter(recommender="SASRec", model="LLM2Vec")
    raw = paper.read_ablation().filter(row="bidirectional")
    both = trained.join(raw, on="dataset", suffix=" of the backbone", maintain_order="left")
    columns = [f"{m}{ending}" for m in ("recall@10", "ndcg@10") for ending in ("", " of the backbone")]
    same = [pl.col(m) == pl.col(f"{m} of the backbone") for m in ("recall@10", "ndcg@10")]
    return both.select("dataset", *columns, equal=pl.all_horizontal(same))


def compare_mixing(arms: Mapping[str, Sequence[str]], domain: str) -> tuple[dict[str, str], str]:
    """Match our arms {embedding: domains that its CSFT saw} to rows of Table 5; tell if `domain` is in-domain there.

    An arm is the row with as many training sets; with another number it is none. The paper's in-domain set is in all of its
    training sets, its out-of-domain ones in none: an arm that alone saw the domain is none either.

    >>> compare_mixing({"raw": [], "one": ["a"], "both": ["a", "b"], "three": ["a", "b", "c"]}, "a")
    ({'raw': 'backbone', 'one': 'single', 'both': 'mix-2'}, 'in-domain')
    """
    inside = all(domain in seen for seen in arms.values() if seen)
    rows = _mixing_rows()
    names = {arm: rows[len(seen)] for arm, seen in arms.items() if len(seen) in rows and (inside or domain not in seen)}
    return names, "in-domain" if inside else "out-of-domain"


def describe_mix(domains: Sequence[str], steps: int) -> str:
    """Say what Table 5 is made of here, with so many steps of CSFT an arm: a line; of one domain nothing is."""
    if len(domains) < 2:
        return (
            f"This corpus has one domain ({domains[0]}): there is nothing to mix, so the paper's numbers stand alone. "
            "A run with data_source=mix has several."
        )
    return f"single: {domains[:1]}, mixed: {domains}; {steps:,} steps of CSFT each. {match_mix(len(domains))}"


def match_mix(sets: int) -> str:
    """Say beside which row of Table 5 a mix of so many training sets stands, as a line."""
    if sets in (rows := _mixing_rows()):
        return f"{sets} training sets: they stand beside the paper's row {rows[sets]}."
    printed = " and ".join(str(n) for n in rows if n > 1)
    return f"The paper mixes {printed} training sets, this run {sets}: its mix stands beside no printed number."


def list_disagreements(of_run: Mapping[str, Stage], corpus: Corpus) -> pl.DataFrame:
    """List where paper and official code disagree (`paper.read_disagreements`), and what a run had of it.

    `of_run` are its settings by prefix; how it was split says its `corpus`, since a mix does not read that setting.
    """
    here = {f"{prefix}_{name}": str(value) for prefix, part in of_run.items() for name, value in part.as_dict().items()}
    here["data_split"] = _describe_split(corpus) or here["data_split"]
    told = paper.read_disagreements().with_columns(pl.col("parameter").replace_strict(here).alias("this run"))
    return told.select("parameter", "paper", "official", "this run", "what", "where")


def _describe_split(corpus: Corpus) -> str:
    """How a corpus was split: as all its parts were, else each domain's rule; "" where nothing says."""
    split, rules = corpus.facts.get("split") or "", corpus.split_rules
    return ", ".join(f"{d}: {rule}" for d, rule in rules.items()) if " + " in split else split


def _mixing_rows() -> dict[int, str]:
    """Names of Table 5's rows by their number of training sets."""
    return dict(paper.read_mixing().select("training_sets", "row").unique(maintain_order=True).iter_rows())
