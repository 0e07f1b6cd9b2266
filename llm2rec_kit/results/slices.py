"""Slices: the same ranks, by kind of sample. A mean hides who gained: repeats or novel targets, cold items or popular ones.

A slice is a column of labels, one a test sample; the metric of a label is the mean over its samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm2rec_kit.corpus import Corpus, Parts
from llm2rec_kit.results import metrics
from llm2rec_kit.results.significance import SEED, Row, add_verdicts, list_names, read_ranks, read_sample_values
from llm2rec_kit.runs import Run

# Each slice's labels in order; numbers are inclusive upper bounds of a bucket.
KINDS = ("immediate repeat", "seen before", "novel")
TARGETS = (0, 4, 9, 19, 49)
LENGTHS = (3, 6, 9, 19)


def label_samples(corpus: Corpus) -> pl.DataFrame:
    """Label the test samples, in their order, as Enums in reading order:

    target      is the history's last item (immediate repeat), another item that the user had, or novel.
    popularity  how often the target is a training *target*; 0 is a cold item, which no loss ever asked for.
    history     how many items the user had before, also beyond the window that the recommender sees.
    """
    targets = corpus.samples("test")
    items = corpus.sequence[targets]
    before = count_items_before(corpus)
    kind = np.where(items == corpus.sequence[targets - 1], 0, np.where(_seen_before(corpus, targets), 1, 2))
    asked = np.bincount(corpus.sequence[corpus.samples("train")], minlength=corpus.n_items + 1)[items]
    return pl.DataFrame(
        {
            "target": _labels(kind, list(KINDS)),
            "popularity": _labels(np.searchsorted(TARGETS, asked), ["cold", *_ranges(TARGETS)]),
            "history": _labels(np.searchsorted(LENGTHS, before), [f"1-{LENGTHS[0]}", *_ranges(LENGTHS)]),
        }
    )


def count_items_before(corpus: Corpus, split: str = "test") -> NDArray[np.int64]:
    """Count the items that the user of each sample had before its target, all in all: int64 (n,)."""
    targets = corpus.samples(split)
    before: NDArray[np.int64] = targets - corpus.offsets[corpus.owners(targets)]
    return before


def _seen_before(corpus: Corpus, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a user had the target earlier at all (bool (n,))."""
    owners = np.repeat(np.arange(corpus.n_users), np.diff(corpus.offsets))
    key = owners.astype(np.int64) * (corpus.n_items + 1) + corpus.sequence
    order = np.argsort(key, kind="stable")
    again = np.zeros(len(key), dtype=bool)
    again[order[1:]] = key[order[1:]] == key[order[:-1]]
    return again[targets]


def _ranges(bounds: Sequence[int]) -> list[str]:
    return [f"{a + 1}-{b}" for a, b in itertools.pairwise(bounds)] + [f"{bounds[-1] + 1}+"]


def _labels(codes: np.ndarray, names: list[str]) -> pl.Series:
    return pl.Series(np.array(names)[codes], dtype=pl.Enum(names))


def tabulate(
    run: Run, domain: str, corpus: Corpus, rows: Sequence[Row], *, seeds: Sequence[int], metric: str = "ndcg@10"
) -> pl.DataFrame:
    """Tabulate the metric of each row in each slice, with its 95% interval over users.

    domain, slice, label, place (of the label among all, for figures), samples, recommender, embedding, mean, low, high;
    labels without a sample are left out.
    """
    values = np.stack([read_sample_values(run, domain, row, metric, seeds) for row in rows], 1)
    users = corpus.owners(corpus.samples("test"))
    out = []
    for named, here in _parts(label_samples(corpus)):
        bounds = metrics.compute_intervals(values[here], users[here], seed=SEED)
        means = values[here].mean(0)
        for k, row in enumerate(rows):
            measured = {"mean": means[k], "low": bounds[0, k], "high": bounds[1, k]}
            out.append({"domain": domain} | named | {"recommender": row[0], "embedding": row[1]} | measured)
    return pl.DataFrame(out)


def _parts(labels: pl.DataFrame) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each label that has samples, as the columns that name it, and where they are (bool (n,))."""
    place = -1
    for name in labels.columns:
        kind = labels[name].dtype
        assert isinstance(kind, pl.Enum)  # as `label_samples` makes them
        for label in kind.categories:
            place += 1
            here = (labels[name] == label).to_numpy()
            if here.any():
                yield {"slice": name, "label": label, "place": place, "samples": int(here.sum())}, here


def tabulate_domains(
    run: Run, parts: Parts, rows: Sequence[Row], *, seeds: Sequence[int], metric: str = "ndcg@10"
) -> pl.DataFrame:
    """Tabulate every domain, one under another; `parts` is {domain: (corpus, ids)} as `Corpus.select` gives them."""
    return pl.concat([tabulate(run, d, part, rows, seeds=seeds, metric=metric) for d, (part, _) in parts.items()])


def compare_tables(
    run: Run,
    parts: Parts,
    recommenders: Sequence[str],
    before: str,
    after: str,
    *,
    seeds: Sequence[int],
    metric: str = "ndcg@10",
) -> dict[str, pl.DataFrame]:
    """Tabulate the gains (`tabulate_gains`) of the embedding `after` over `before` under each recommender in each domain: {"SASRec, games": ...}."""
    return {
        f"{r}, {d}": tabulate_gains(run, d, part, (r, before), (r, after), seeds=seeds, metric=metric)
        for d, (part, _) in parts.items()
        for r in recommenders
    }


def tabulate_gains(
    run: Run, domain: str, corpus: Corpus, before: Row, after: Row, *, seeds: Sequence[int], metric: str = "ndcg@10"
) -> pl.DataFrame:
    """Tabulate where `after` wins and loses against `before`: the paired difference in each slice, p corrected (Holm).

    slice, label, place, samples, before, after, difference, low, high, effect, p_holm (over all rows), verdict.
    """
    a, b = (read_sample_values(run, domain, row, metric, seeds) for row in (before, after))
    users = corpus.owners(corpus.samples("test"))
    out = []
    for named, here in _parts(label_samples(corpus)):
        means = {"before": a[here].mean(), "after": b[here].mean()}
        (found,) = metrics.test_pairs(a[here][:, None], b[here][:, None], users[here], seed=SEED)
        out.append(named | means | found)
    add_verdicts(out)
    return pl.DataFrame(out).drop("p")


def find_extremes(
    run: Run, domain: str, corpus: Corpus, before: Row, after: Row, *, seeds: Sequence[int], most: int = 5, window: int = 3
) -> pl.DataFrame:
    """Find the test samples whose target `after` ranks highest above `before`, and furthest below, `most` of each
    or as many as there are.

    history (its last `window` titles, newest first), target, label of popularity, and both ranks (geometric means over
    seeds). Ordered by the ratio of the ranks among targets that one of the two has in its first twenty: a move from 3,000 to
    1,500 shows nobody anything.
    """
    a, b = (_geometric_rank(run, domain, row, seeds) for row in (before, after))
    targets = corpus.samples("test")
    moved = np.where(np.minimum(a, b) <= 20, np.log(a / b), 0.0)
    order = np.argsort(-moved, kind="stable")
    titles = np.array(["", *corpus.titles], dtype=object)
    labels = label_samples(corpus)["popularity"]
    rows = []
    for verdict, some, sign in (("won", order[:most], 1), ("lost", order[::-1][:most], -1)):
        for k in (k for k in some if sign * moved[k] > 0):  # where few lose, the last of the order have won
            history = " / ".join(titles[corpus.history(targets[k])][-window:][::-1])
            target = {"target": titles[corpus.sequence[targets[k]]], "asked for in training": labels[int(k)]}
            ranks = {f"rank {before[1]}": a[k], f"rank {after[1]}": b[k]}
            rows.append({"": verdict, "history, newest first": history} | target | ranks)
    return pl.DataFrame(rows)


def _geometric_rank(run: Run, domain: str, row: Row, seeds: Sequence[int]) -> np.ndarray:
    """Each test sample's rank, geometric mean over seeds: float64 (n_test,)."""
    ranks = [read_ranks(run, domain, name) for name in list_names(run, domain, row, seeds)]
    means: np.ndarray = np.exp(np.mean([np.log(r if r.ndim == 1 else r.mean(1)) for r in ranks], axis=0))
    return means
