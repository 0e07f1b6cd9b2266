"""The paper's printed numbers, and what others got when they repeated it, as tables to stand beside our own.

The numbers, and where each stands, are in paper.yaml. Metrics are shares (0 to 1), improvements percent, as printed.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import polars as pl

from llm2rec_kit.settings import plain_yaml

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")


def read_datasets() -> pl.DataFrame:
    """Read Tables 1 and 2, one row a data set (9): dataset, name, pretraining, downstream (in-domain, out-of-domain or
    null), platform, items, interactions, train, valid_and_test_each (null where a set is no downstream one)."""
    return _table("datasets")


def read_printed_total() -> dict[str, int]:
    """Read the last row of Table 1 as printed: items and interactions. The interactions are 1,000 short of their sum."""
    return dict(_numbers()["datasets"]["printed_total"])


def read_released() -> pl.DataFrame:
    """Read the published data's sizes (2 corpora): train, valid, test, train_users, items, train_targets, history_items."""
    return _table("released")


def read_overall() -> pl.DataFrame:
    """Read Table 3, 96 rows: recommender, dataset, model, and the four metrics."""
    return _table("overall")


def read_improvements() -> pl.DataFrame:
    """Read the %Improv. rows of Table 3 (12), percent over the best baseline of the same cell."""
    return _table("improvements")


def read_ablation() -> pl.DataFrame:
    """Read Table 4, 15 rows: row (causal, bidirectional, csft, mntp, contrastive), attention, pooling, dataset, 2
    metrics."""
    return _table("ablation")


def read_mixing() -> pl.DataFrame:
    """Read Table 5, 12 rows: row, training_sets (how many corpora CSFT saw), dataset, two metrics and their improvements."""
    return _table("mixing")


def read_backbones() -> pl.DataFrame:
    """Read Figure 4, 32 rows: backbone, dataset, model (LLM2Vec, LLMEmb, csft, contrastive), recall@10."""
    return _table("backbones")


def read_encoding_times() -> pl.DataFrame:
    """Read Figure 5, 8 rows: model, backbone, seconds for 9,517 titles on one A40 (about 0.1 s either way), recall@10."""
    return _table("encoding_times")


def read_reproduction() -> pl.DataFrame:
    """Read the public reproduction in full (18 rows): dataset, model, step of the contrastive stage, metrics with their
    population std over three seeds."""
    return _table("reproduction")


def read_small_budget() -> pl.DataFrame:
    """Read the public reproduction at a tenth of CSFT's steps and its variants (11 rows), Games with SASRec."""
    return _table("small_budget")


def cite_table(name: str) -> str:
    """Say where the numbers of a table stand, with what must be known of them; `name` is that of a table in paper.yaml."""
    entry = _numbers()[name]
    return f"{entry['where']}. {entry['note']}" if "note" in entry else entry["where"]


WIDE = {  # tables that are read with a column a data set, and what tells their rows apart
    "overall": ["recommender", "model"],
    "improvements": ["recommender"],
    "ablation": ["row", "attention", "pooling"],
    "mixing": ["row", "training_sets"],
}


def show_table(name: str, metric: str = "") -> dict[str, pl.DataFrame]:
    """Show the table of a function above, under where it stands; one of WIDE has a column a data set, of `metric` alone."""
    if name not in WIDE:
        return {cite_table(name): _table(name)}
    return {f"{cite_table(name)} {metric}": _table(name).pivot("dataset", index=WIDE[name], values=metric)}


def read_disagreements() -> pl.DataFrame:
    """Read every parameter in which the profiles `paper` and `official` differ: parameter, paper, official (as text), where,
    what. Notebook 06 measures what each is worth."""
    rows = plain_yaml.load_own(resources.files(__package__).joinpath("disagreements.yaml").read_text())
    return pl.DataFrame([{"parameter": k, **{c: str(v) for c, v in row.items()}} for k, row in rows.items()])


@cache
def _numbers() -> dict[str, Any]:
    tables: dict[str, Any] = plain_yaml.load_own(resources.files(__package__).joinpath("paper.yaml").read_text())
    return tables


def _table(name: str) -> pl.DataFrame:
    entry = _numbers()[name]
    return pl.DataFrame(entry["rows"], schema=entry["columns"], orient="row", infer_schema_length=None)
