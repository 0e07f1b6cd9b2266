"""Ranking: where the target stands among all items of the catalogue, and which items stand in the top-k lists.

Ranks are counted (how many items score no lower than the target), never sorted, a block of samples at a time. Where a target
stands among items of its own score is `ties`: by default an equal score counts against it. The lists are made only where
they are asked for: coverage and novelty need them, ranks do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream.samples import Rows
from llm2rec_kit.fitting.ragged import compute_offsets, index_spans
from llm2rec_kit.models.kernels import multiply

SCORES = 2**22  # scores held at once: 16 MiB of float32, what stays in a last-level cache while it is counted
LEAST = 64  # samples at once, however large the catalogue: fewer, and a product mostly reads and reorders the table
ROWS = 256  # histories read at once


@dataclass(frozen=True)
class Ranking:
    """Where the targets of n samples stand among all items, and which items stand in the samples' top-k lists.

    ranks   int32 (n,), 1 is best; or (n, 2), the first and the last place that a target has among equal scores.
    listed  int32 (len(cutoffs), N), in how many of the n top-k lists each item stands.
    """

    ranks: np.ndarray
    listed: np.ndarray


@dataclass(frozen=True)
class Excluded:
    """Items that may not be recommended for each of n samples:
    `items[offsets[k]:offsets[k + 1]]` (ids from 1) for sample k."""

    offsets: np.ndarray
    items: np.ndarray

    def pairs(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List (place in `samples`, item id) of every exclusion of those samples."""
        counts = np.diff(self.offsets)[samples]
        return np.repeat(np.arange(len(samples)), counts), self.items[index_spans(self.offsets[samples], counts)]


def find_excluded(corpus: Corpus, targets: np.ndarray, what: str) -> Excluded | None:
    """Find what `what` excludes for samples `targets`:
    none, last (the history's last item), or seen (all that the user had)."""
    if what == "none":
        return None
    starts = {"last": targets - 1, "seen": corpus.offsets[corpus.owners(targets)]}[what]
    counts = targets - starts
    return Excluded(compute_offsets(counts), corpus.sequence[index_spans(starts, counts)])


def rank(
    scores_of: Callable[[np.ndarray], torch.Tensor],
    targets: np.ndarray,
    n_items: int,
    *,
    exclude: Excluded | None = None,
    cutoffs: list[int] | tuple[int, ...] = (),
    order: np.ndarray | None = None,
    ties: str = "worst",
) -> Ranking:
    """Rank `targets` (item ids, (n,)) by `scores_of(samples)`: float (len(samples), N) over items 1..N, free to overwrite.

    Samples are asked for in `order` (default: as they stand), what comes back is in theirs. An excluded item takes part in
    no rank and no list; a target that is itself excluded cannot be recommended and ranks last, at N. Among items of its own
    score the target is the last (`ties` worst) or the first (best); with mean its ranks are (n, 2), both places.
    Raises ValueError for a cutoff beyond the catalogue, a target out of range, or one whose score is not finite.
    """
    check_cutoffs(cutoffs, n_items)
    if len(targets) and not (targets.min() >= 1 and targets.max() <= n_items):
        raise ValueError(f"Targets are item ids 1..{n_items}; found {targets.min()} to {targets.max()}.")
    order = np.arange(len(targets)) if order is None else order
    places = np.empty((len(targets), 2), dtype=np.int32)
    listed = np.zeros((len(cutoffs), n_items), dtype=np.int32)
    for at in range(0, len(order), step := max(LEAST, SCORES // n_items)):
        some = order[at : at + step]
        scores = scores_of(some)
        own = scores.gather(1, torch.from_numpy(targets[some].astype(np.int64)).to(scores.device)[:, None] - 1)
        if not torch.isfinite(own).all():
            raise ValueError(
                f"Scores of {int((~torch.isfinite(own)).sum())} targets are NaN or infinite; they cannot be ranked. "
                "A training that diverged does this: lower the learning rate."
            )
        barred = _bar(scores, exclude, some, targets)
        last = _count(scores, own, operator.ge)
        first = last if ties == "worst" else _count(scores, own, operator.gt) + 1
        places[some] = np.where(barred, n_items, (first, last)).T
        if len(cutoffs):
            _list(scores, cutoffs, listed)
    return Ranking({"worst": places[:, 1], "best": places[:, 0], "mean": places}[ties].copy(), listed)


def check_cutoffs(cutoffs: list[int] | tuple[int, ...], n_items: int) -> None:
    """Raise ValueError for a k that is no k of a top-k list of `n_items` items."""
    if wrong := [k for k in cutoffs if not 1 <= k <= n_items]:
        raise ValueError(
            f"A cutoff k lies between 1 and the catalogue's {n_items} items; found {wrong[0]} (evaluation_cutoffs)."
        )


def _bar(scores: torch.Tensor, exclude: Excluded | None, some: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Set excluded scores to minus infinity; whether each sample's own target is among them."""
    if exclude is None:
        return np.zeros(len(some), dtype=bool)
    places, items = exclude.pairs(some)
    at = (torch.from_numpy(index).to(scores.device) for index in (places, items.astype(np.int64) - 1))
    scores[tuple(at)] = -torch.inf
    return np.bincount(places[items == targets[some][places]], minlength=len(some)) > 0


def _count(scores: torch.Tensor, own: torch.Tensor, compare: Callable[[Any, Any], Any]) -> np.ndarray:
    """How many scores of each row are, by `compare`, no lower (ge) or higher (gt) than its `own` (b, 1)."""
    counts: np.ndarray
    if scores.device.type == "cpu":  # numpy sums truth values at twice torch's speed
        counts = compare(scores.numpy(), own.numpy()).sum(1, dtype=np.int32)
    else:
        counts = compare(scores, own).sum(1, dtype=torch.int32).cpu().numpy()
    return counts


def _list(scores: torch.Tensor, cutoffs: list[int] | tuple[int, ...], listed: np.ndarray) -> None:
    """Add to `listed` which items stand in each row's top k, for each k."""
    best = scores.topk(max(cutoffs), 1)
    items = best.indices.cpu().numpy()
    there = (best.values > -torch.inf).cpu().numpy()  # where fewer than k items are left, the list is shorter
    for row, k in zip(listed, cutoffs, strict=True):
        row += np.bincount(items[:, :k][there[:, :k]], minlength=len(row)).astype(np.int32)


@torch.no_grad()
def rank_rows(
    model: nn.Module,
    table: torch.Tensor,
    rows: Rows,
    *,
    exclude: Excluded | None = None,
    cutoffs: list[int] | tuple[int, ...] = (),
    ties: str = "worst",
) -> Ranking:
    """Rank each row's one target by a recommender over `table` (N + 1, d); padding is no candidate. `ties` as `rank` has it.

    Rows are read shortest first, so that a block is no longer than it must be.
    """
    model.eval()
    states = torch.empty(len(rows), table.shape[1], dtype=table.dtype, device=table.device)
    order = np.argsort(rows.lengths, kind="stable")
    for at in range(0, len(order), ROWS):
        some = order[at : at + ROWS]
        where, longest = torch.from_numpy(some).to(states.device), int(rows.lengths[some].max())
        histories, labels = rows.histories[where, :longest], rows.labels[where, :longest]
        states[where] = model(F.embedding(histories, table), labels > 0)
    targets, items = rows.labels.amax(1).cpu().numpy(), table[1:]

    def scores_of(some: np.ndarray) -> torch.Tensor:
        return multiply(states[torch.from_numpy(some).to(states.device)], items)

    return rank(scores_of, targets, len(items), exclude=exclude, cutoffs=cutoffs, ties=ties)
