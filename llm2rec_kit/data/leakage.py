"""Leakage: what a test of a corpus may know beforehand, counted."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llm2rec_kit.corpus import SPLITS, Corpus
from llm2rec_kit.data.events import NO_TIME

Finding = tuple[str, str, int, int, str]  # what, split, count, of, meaning


def find_leakage(corpus: Corpus) -> pl.DataFrame:
    """Find what a test of this corpus may know beforehand: one row a finding (finding, split, count, of, share, meaning)."""
    samples = {s: corpus.samples(s) for s in SPLITS}
    owners = {s: np.unique(corpus.owners(t)) for s, t in samples.items()}
    several = (np.bincount(np.concatenate(list(owners.values())), minlength=corpus.n_users) > 1).sum()
    rows = [("users in several splits", "all", several, corpus.n_users, "by design in leave_one_out")]
    for s in ("valid", "test"):
        strange = ~np.isin(owners[s], owners["train"])
        rows.append(("users without a training sample", s, strange.sum(), len(owners[s]), "known by their history only"))
    for s, t in samples.items():
        repeats = corpus.sequence[t] == corpus.sequence[t - 1]
        rows.append(("target repeats the last item", s, repeats.sum(), len(t), "copying the last item is right"))
    # A number (int64 (N + 1,)) for each item, equal for equal texts; -1 for padding.
    texts = np.concatenate([[-1], corpus.items["title"].rank("dense").to_numpy().astype(np.int64)])
    for s, t in samples.items():
        again = _in_history(corpus, t, texts)
        rows.append(("target's text is in its history", s, again.sum(), len(t), "copying some item's text is right"))
    targets = np.isin(np.arange(corpus.n_items + 1), corpus.sequence[samples["train"]])
    for s in ("valid", "test"):
        unseen = ~targets[corpus.sequence[samples[s]]]
        rows.append(("target never a training target", s, unseen.sum(), len(unseen), "cold for a table of items"))
    trained = _seen_in_training(corpus, samples["train"])
    for s in ("valid", "test"):
        nowhere = ~trained[corpus.sequence[samples[s]]]
        rows.append(("target nowhere in training", s, nowhere.sum(), len(nowhere), "neither target nor history there"))
    alike = corpus.items.filter(pl.struct("domain", "title").is_duplicated()).height
    rows.append(("items with a title of another", "all", alike, corpus.n_items, "text cannot tell them apart"))
    rows += _leakage_in_time(corpus, samples)
    told = [(what, s, int(n), int(of), round(int(n) / max(1, int(of)), 4), meaning) for what, s, n, of, meaning in rows]
    return pl.DataFrame(told, schema=["finding", "split", "count", "of", "share", "meaning"], orient="row")


def _leakage_in_time(corpus: Corpus, samples: dict[str, NDArray[np.int64]]) -> list[Finding]:
    """Findings about times. A domain is cut by itself, so what a recommender may know is judged within it; a language model
    that trains on several domains sees the other domains' later events besides."""
    if corpus.times is None:
        return []
    rows: list[Finding] = []
    own, others = _latest_training(corpus, samples["train"], corpus.times)
    for s in ("valid", "test"):
        users, when = corpus.owners(samples[s]), corpus.times[samples[s]]
        early = (when < own[users]).sum()
        rows.append(("target older than a training target", s, early, len(when), "training knows its domain's future"))
        if len(corpus.domains) > 1:
            early = (when < others[users]).sum()
            rows.append(("target older than another domain's", s, early, len(when), "CSFT knows other domains' future"))
    for s, t in samples.items():
        tied = (corpus.times[t] == corpus.times[t - 1]).sum()
        rows.append(("target tied in time with the item before", s, tied, len(t), "their order is the source's row order"))
    return rows


def _latest_training(
    corpus: Corpus, targets: NDArray[np.int64], times: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Time of the latest training target in each user's domain, and in the other training domains (int64, both (U,))."""
    domains = corpus.users["domain"]
    trained = pl.DataFrame({"domain": domains.gather(corpus.owners(targets)), "time": times[targets]})
    latest: dict[str, int] = dict(trained.group_by("domain").max().iter_rows())
    seen = {d: t for d, t in latest.items() if d in corpus.train_domains}
    others = {d: max((t for e, t in seen.items() if e != d), default=NO_TIME) for d in corpus.domains}
    own = {d: latest.get(d, NO_TIME) for d in corpus.domains}
    in_own, in_others = (domains.replace_strict(table, return_dtype=pl.Int64).to_numpy() for table in (own, others))
    return in_own, in_others


def _seen_in_training(corpus: Corpus, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each item (bool (N + 1,)) is the target, or in the history, of a training sample."""
    starts = corpus.starts(targets)
    # +1 where a sample's window of items begins, -1 after its target: the running sum is above 0 inside any window.
    change = np.bincount(starts, minlength=len(corpus.sequence) + 1).astype(np.int64)
    change -= np.bincount(targets + 1, minlength=len(corpus.sequence) + 1)
    seen = np.zeros(corpus.n_items + 1, dtype=bool)
    seen[corpus.sequence[np.cumsum(change)[:-1] > 0]] = True
    return seen


def _in_history(corpus: Corpus, targets: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each target's code is also that of an item of its history (bool)."""
    starts, found = corpus.starts(targets), np.zeros(len(targets), dtype=bool)
    for back in range(1, corpus.max_history + 1):
        inside = targets - back >= starts
        if not inside.any():
            break
        found |= inside & (codes[corpus.sequence[np.maximum(targets - back, 0)]] == codes[corpus.sequence[targets]])
    return found
