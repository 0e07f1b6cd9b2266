"""The paper's data sets in numbers (`paper_statistics.yaml`), and a corpus beside them."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

import polars as pl
import yaml

from llm2rec_kit.corpus import SPLITS, Corpus

COLUMNS = ("items", "samples", *SPLITS)


@cache
def read_paper() -> dict[str, Any]:
    """Read `paper_statistics.yaml`: datasets, mix, total, windows."""
    said: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("paper_statistics.yaml").read_text())
    return said


def find_paper_name(domain: str) -> str | None:
    """Find the paper's short name of a domain by its short or full name (`Video_Games`, `Video Games`, `games`), or None."""
    plain = {short: {short, _plain(about["name"])} for short, about in read_paper()["datasets"].items()}
    return next((short for short, names in plain.items() if _plain(domain) in names), None)


def compare_with_paper(corpus: Corpus) -> pl.DataFrame:
    """Tabulate statistics in the paper's form, one row a data set, the paper's row under the corpus's for the same category.

    Columns: data, of (this corpus, paper, released), items, samples, train, valid, test (null where the paper prints none),
    and train's share. A synthetic corpus has no counterpart.
    """
    rows = []
    sources = dict.fromkeys(corpus.domains, corpus.facts.get("source")) | corpus.facts.get("sources", {})
    counterpart = {d: find_paper_name(d) if sources[d] != "synthetic" else None for d in corpus.domains}
    for domain in corpus.domains:
        part = corpus.select([domain])[0] if len(corpus.domains) > 1 else corpus
        rows.append(_row(domain, "this corpus", _counts(part)))
        if short := counterpart[domain]:
            rows.append(_row(domain, "paper", read_paper()["datasets"][short]))
    if len(corpus.domains) > 1:
        rows.append(_row("total", "this corpus", _counts(corpus)))
    if set(counterpart.values()) == set(read_paper()["mix"]):
        rows += [_row("total", who, about) for who, about in read_paper()["total"].items()]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(COLUMNS, pl.Int64))


def _counts(corpus: Corpus) -> dict[str, int]:
    parts = {name: int((corpus.splits == code).sum()) for name, code in SPLITS.items()}
    return {"items": corpus.n_items, "samples": len(corpus.targets), **parts}


def _row(data: str, of: str, about: dict[str, Any]) -> dict[str, Any]:
    counts = {c: about.get(c) for c in COLUMNS}
    share = None if counts["train"] is None else round(counts["train"] / max(1, about["samples"]), 3)
    return {"data": data, "of": of, **counts, "train share": share}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))
