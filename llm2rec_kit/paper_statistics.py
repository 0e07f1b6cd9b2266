"""The paper's data sets in numbers (`paper_statistics.yaml`), and a corpus beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    plain = {short: {short, fold_name(about["name"])} for short, about in read_paper()["datasets"].items()}
    return next((short for short, names in plain.items() if fold_name(domain) in names), None)


def find_released_window(domains: Sequence[str], category: str = "") -> tuple[str, str]:
    """Find the first and last month in the names of the released files of these `domains` [C]; ValueError unless they are
    one domain that is among the paper's, by its name or that of its `category`."""
    windows = read_paper()["windows"]
    short = find_paper_name(category or domains[0])
    if len(domains) > 1 or short not in windows:
        raise ValueError(
            f"data_start 'released' is known for one of {sorted(windows)} at a time; the data's domains are {list(domains)}. "
            "Give months, such as 2016-09."
        )
    first, last = windows[short]
    return first, last


def match_domains(asked: Sequence[str], found: Sequence[str]) -> list[str]:
    """Replace each name that is none of `found` by the one there that is the same set of the paper; what has none stays.

    >>> match_domains(["Games", "Arts", "toys"], ["Video_Games", "toy"])
    ['Video_Games', 'Arts', 'toys']
    """
    of = {short: domain for domain in found if (short := find_paper_name(domain))}
    return list(dict.fromkeys(name if name in found else of.get(find_paper_name(name) or "", name) for name in asked))


def compare_with_paper(corpus: Corpus) -> pl.DataFrame:
    """Tabulate statistics in the paper's form, one row a data set, the paper's row under the corpus's for the same category.

    Columns: data, of (this corpus, paper, released), items, samples, train, valid, test (null where the paper prints none),
    and train's share. A synthetic corpus has no counterpart.
    """
    rows = []
    counterpart = {d: find_paper_name(d) if source != "synthetic" else None for d, source in corpus.sources.items()}
    for counts in corpus.statistics().iter_rows(named=True):
        rows.append(_row(counts["domain"], "this corpus", counts))
        if short := counterpart.get(counts["domain"]):
            rows.append(_row(counts["domain"], "paper", read_paper()["datasets"][short]))
    if set(counterpart.values()) == set(read_paper()["mix"]):
        rows += [_row("total", who, about) for who, about in read_paper()["total"].items()]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(COLUMNS, pl.Int64))


def _row(data: str, of: str, about: dict[str, Any]) -> dict[str, Any]:
    counts = {c: about.get(c) for c in COLUMNS}
    share = None if counts["train"] is None else round(counts["train"] / max(1, about["samples"]), 3)
    return {"data": data, "of": of, **counts, "train share": share}


def fold_name(name: str) -> str:
    """Fold a data set's name to what its spellings share: its letters and digits, lower case, & as and."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))
