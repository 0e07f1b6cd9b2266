"""Sizes: how many items and samples a run's catalogues have, before the run or after its notebook 01.

What is known best is taken: the run's own corpus, the paper's tables, or the settings of the synthetic store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from llm2rec_kit import paper
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus, CorpusError, read_plain_titles
from llm2rec_kit.data import mixing
from llm2rec_kit.data.sources.synthetic import SHARES
from llm2rec_kit.runs import ArtefactError, Run, find_outputs

SYNTHETIC_LENGTH = 7.4  # interactions a user of the synthetic store


@dataclass(frozen=True)
class Domain:
    """One catalogue: items, and samples in training, validation and test."""

    name: str
    items: int
    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class Sizes:
    """The data that a plan counts with.

    domains        its catalogues, in the corpus's order; none where nothing is known.
    source         in words, where the counts are from.
    train_domains  those that training sees.
    corpus         the run's corpus, where notebook 01 has made it.
    """

    domains: list[Domain]
    source: str
    train_domains: list[str]
    corpus: Corpus | None = None

    @property
    def items(self) -> int:
        """Items of all domains."""
        return sum(d.items for d in self.domains)

    def words(self, template: str, limit: int) -> tuple[float, float] | None:
        """Compute the mean words of the titles and of a text of this template, cut at `limit` (0: not); None without a
        corpus."""
        if self.corpus is None:
            return None
        items = self.corpus.items.with_columns(read_plain_titles(self.corpus.items))
        counted = items.select(pl.col(pl.String).fill_null("").str.count_matches(r"\S+"))
        named = re.findall(r"{(\w+)}", template)
        long = counted.select(pl.sum_horizontal(pl.lit(0), *(c for c in named if c in counted.columns))).to_series()
        read = long.clip(upper_bound=limit) if limit else long
        return int(counted["title"].sum()) / len(items), int(read.sum()) / len(items)


def find_sizes(values: dict[str, Any]) -> Sizes:
    """Find the sizes of a run with these (checked) parameters."""
    data = S.Data.from_parameters(values)
    run = find_outputs(values.get("outputs", "")) / values["run"]
    if (found := _of_run(run)) is not None:
        return found
    if data.source == "synthetic":
        return _synthetic(data)
    if data.source == "mix" and (found := _of_parts(data, values.get("outputs", ""))) is not None:
        return found
    printed = paper.read_datasets()
    if data.train_domains and set(data.train_domains) <= set(printed["dataset"]):
        rows = [_printed(row) for row in printed.iter_rows(named=True)]
        return Sizes(rows, "the paper's Tables 1 and 2 (80/10/10 where not printed)", data.train_domains)
    return Sizes([], "", data.train_domains)


def _of_run(run: Path) -> Sizes | None:
    """Counts of the corpus that the run has already; None without a sound one."""
    if not (run / "corpus" / "manifest.json").is_file():
        return None
    try:
        made = Run(run.name, run.parent)
        rows, corpus = made.record("corpus")["statistics"], Corpus.load(made.require("corpus"))
    except (ArtefactError, CorpusError, KeyError):
        return None
    return _counted(corpus, rows, f"the corpus in {run}")


def _of_parts(data: S.Data, outputs: str) -> Sizes | None:
    """Counts of the corpora that are to be mixed; None where one of them is not there yet, or they do not go together."""
    try:
        corpus = mixing.mix_corpora(data, outputs)
    except (ValueError, OSError, PolarsError):
        return None
    return _counted(corpus, corpus.statistics().to_dicts(), f"the corpora of {' and '.join(data.mix)}")


def _counted(corpus: Corpus, rows: list[dict[str, Any]], source: str) -> Sizes:
    """Sizes of a corpus with these rows of its statistics: a row a domain, and a total where there are several."""
    rows = [r for r in rows if r["domain"] != "total" or len(rows) == 1]
    domains = [Domain(r["domain"], r["items"], r["train"], r["valid"], r["test"]) for r in rows]
    return Sizes(domains, source, corpus.train_domains, corpus)


def _synthetic(data: S.Data) -> Sizes:
    """The synthetic store's domains, each with its share of items and users; the k-core leaves somewhat fewer."""
    domains = []
    for name, share in SHARES.items():
        users = round(share * data.synthetic_users)
        samples = round(users * (SYNTHETIC_LENGTH - 1))
        held = users if data.split == "leave_one_out" else samples // 10
        domains.append(Domain(name, round(share * data.synthetic_items), samples - 2 * held, held, held))
    source = f"the synthetic store's settings, {SYNTHETIC_LENGTH} interactions a user assumed"
    return Sizes(domains, source, data.train_domains or ["games"])


def _printed(row: dict[str, Any]) -> Domain:
    held = row["valid_and_test_each"] or row["interactions"] // 10
    return Domain(row["dataset"], row["items"], row["train"] or row["interactions"] - 2 * held, held, held)
