"""Splits: which interactions are targets, and whether a target is a sample of train, valid or test.

Each domain is split by itself, as the paper's data sets are data sets of their own: `split_global_time` cuts a domain at
moments of that domain's samples. One cut for all would leave a domain that ended early without a test.

Samples of equal target time are cut by `split_global_time` in the corpus's order: by user, then by position.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm2rec_kit.corpus import SPLITS, TEST, TRAIN, VALID, Corpus
from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.settings import Data


def split_rules(interactions: Interactions, settings: Data) -> dict[str, str]:
    """Choose how each domain is to be split, {domain: leave_one_out or global_time}, as `settings.split` says.

    released: Goodreads leave_one_out, the rest global_time, as the official data is split [C]. Goodreads is a domain whose
    name begins so (goodreads_poetry, too), and whatever comes from the source of that name.
    """
    domains = interactions.items["domain"].unique(maintain_order=True).to_list()
    if settings.split != "released":
        return dict.fromkeys(domains, settings.split)
    shelves = [d for d in domains if settings.source == "goodreads" or d.lower().startswith("goodreads")]
    return {d: "leave_one_out" if d in shelves else "global_time" for d in domains}


def split(
    offsets: NDArray[np.int64], times: NDArray[np.int64] | None, domains: pl.Series, rules: dict[str, str]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Choose targets (int64, ascending) and their splits (uint8), each domain by itself and by its rule (`split_rules`).

    `domains` names the domain of each user (U,). Raises ValueError naming a domain that `split_global_time` cannot cut.
    """
    targets, splits = leave_one_out(offsets)
    samples = np.maximum(np.diff(offsets) - 1, 0)  # of each user: every event but the first is a target
    for domain in domains.unique(maintain_order=True):
        if rules[domain] == "global_time":
            assert times is not None  # a cut by time is refused where there is none (`cleaning.build_corpus`)
            own = np.repeat((domains == domain).to_numpy(), samples)
            splits[own] = split_global_time(times[targets[own]], domain)
    return targets, splits


def leave_one_out(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Choose targets (int64) and splits (uint8): a user's last is test, the one before valid, from the second on train."""
    lengths = np.repeat(np.diff(offsets), np.diff(offsets))  # of each interaction's user
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    splits = np.full(len(positions), TRAIN, dtype=np.uint8)
    splits[positions == lengths - 1] = TEST
    splits[positions == lengths - 2] = VALID
    targets = np.flatnonzero(positions >= 1)
    return targets, splits[targets]


def split_global_time(times: NDArray[np.int64], domain: str = "") -> NDArray[np.uint8]:
    """Cut samples 80/10/10 by their targets' times (int64), stably, into splits (uint8) [C]; ValueError for too few."""
    n = len(times)
    first, second = n * 8 // 10, n * 9 // 10
    if min(first, second - first, n - second) == 0:
        raise ValueError(
            f"The split global_time needs samples in each of its parts (80/10/10) of each domain; {domain!r} has {n} in all. "
            "Leave the domain out, keep more users (data_users) or lower data_min_interactions."
        )
    splits = np.empty(n, dtype=np.uint8)
    order = np.argsort(times, kind="stable")
    splits[order[:first]], splits[order[first:second]], splits[order[second:]] = TRAIN, VALID, TEST
    return splits


def take_given_splits(marks: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Take targets (int64) and splits (uint8) as the source says: `marks` is train, valid, test or, for no sample, null."""
    targets = np.flatnonzero(marks.is_not_null().to_numpy())
    splits = marks.drop_nulls().replace_strict(SPLITS, default=None, return_dtype=pl.UInt8)
    if splits.null_count():
        raise ValueError(f"A source's split is train, valid or test; found {sorted(set(marks.drop_nulls()) - set(SPLITS))}.")
    return targets, splits.to_numpy()


def split_times(corpus: Corpus) -> pl.DataFrame:
    """Tell where the splits of each domain lie in time, by their targets.

    One row a domain (domain, rule, train until, valid from, valid until, test from; UTC, null where the source has no
    times). Where the rule is global_time, no split begins before the one ahead of it ends.
    """
    domains = corpus.users["domain"].gather(corpus.owners(corpus.targets))
    times = None if corpus.times is None else corpus.times[corpus.targets]
    frame = pl.DataFrame({"domain": domains, "split": corpus.splits, "time": times}, schema_overrides={"time": pl.Int64})
    when = {s: pl.col("time").filter(pl.col("split") == code).cast(pl.Datetime("ms")) for s, code in SPLITS.items()}
    found = frame.group_by("domain").agg(
        when["train"].max().alias("train until"),
        when["valid"].min().alias("valid from"),
        when["valid"].max().alias("valid until"),
        when["test"].min().alias("test from"),
    )
    rules = pl.DataFrame({"domain": corpus.split_rules.keys(), "rule": corpus.split_rules.values()})
    return rules.join(found, on="domain", maintain_order="left")


def list_histories(corpus: Corpus, users: int = 5, last: int = 4) -> pl.DataFrame:
    """List for `users` test samples, spread over all, the `last` items of the history, as the models see it, and the next.

    user (as the source names it), when (null where the source has no times), item (its text), and whether it is history or next.
    """
    tests, texts, rows = corpus.samples("test"), ["", *corpus.titles], []
    for target in tests[np.linspace(0, len(tests) - 1, users).astype(int)]:
        shown = np.arange(max(corpus.starts(np.array([target]))[0], target - last), target + 1)
        user = corpus.users["source_id"][int(corpus.owners(np.array([target]))[0])]
        when = [None] * len(shown) if corpus.times is None else corpus.times[shown]
        marks = ["next" if at == target else "history" for at in shown]
        rows += [(user, t, texts[corpus.sequence[at]], mark) for at, t, mark in zip(shown, when, marks, strict=True)]
    return pl.DataFrame(
        rows, schema={"user": pl.String, "when": pl.Datetime("ms"), "item": pl.String, "": pl.String}, orient="row"
    )
