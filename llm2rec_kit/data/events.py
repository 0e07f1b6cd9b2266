"""Interactions as flat arrays of numbers, whatever their ids look like, and the masks that leave some of them out.

A cleaning step is a mask, the k-core a handful of `bincount`s: that lets 50 million of them through in little memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Events:
    """Interactions as arrays of one length, in the source's order.

    row   int64: row of the source's frame of events. user  int32: a code. item  int32: row of the item table, -1: not in it.
    time  int64 milliseconds, NO_TIME where missing; None where the source has none.
    """

    row: NDArray[np.int64]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def times(self) -> NDArray[np.int64]:
        """`time` of a source that has it; ValueError of one that has none."""
        if self.time is None:
            raise ValueError("The source's events have no times.")
        return self.time

    def keep(self, mask: NDArray[np.bool_]) -> Events:
        """Keep the events where `mask` (bool) holds."""
        if mask.all():
            return self
        time = None if self.time is None else self.time[mask]
        return Events(self.row[mask], self.user[mask], self.item[mask], time)


def mark_k_core(users: NDArray[np.int32], items: NDArray[np.int32], user_least: int, item_least: int) -> NDArray[np.bool_]:
    """Mark (bool) the events that are left when users and items with fewer events are dropped again and again.

    `users` and `items` are int (T,) of small non-negative codes. The fixed point does not depend on the order.
    """
    mask = np.zeros(len(users), dtype=bool)
    kept = np.arange(len(users))
    while len(kept):
        # Renumbered, what is left needs tables of counts no larger than itself.
        users, items = renumber(users), renumber(items)
        enough = (np.bincount(users) >= user_least)[users] & (np.bincount(items) >= item_least)[items]
        if enough.all():
            break
        kept, users, items = kept[enough], users[enough], items[enough]
    mask[kept] = True
    return mask


def mark_first_events(
    users: NDArray[np.int32], items: NDArray[np.int32], times: NDArray[np.int64], *, same_time: bool = False
) -> NDArray[np.bool_]:
    """Mark (bool) the events that are no repeats: of each user and item the earliest, of equal times the first row.

    With `same_time` only an event that is equal in time, too, is a repeat. Sorts only the pairs that come more than once.
    """
    keep = np.ones(len(users), dtype=bool)
    pairs = users.astype(np.int64) * (int(items.max(initial=0)) + 1) + items
    ordered = np.sort(pairs)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return keep
    rows = np.flatnonzero(pl.Series(pairs).is_in(pl.Series(twice).implode()).to_numpy())
    rows = rows[np.lexsort((times[rows], pairs[rows]))]
    again = pairs[rows[1:]] == pairs[rows[:-1]]
    if same_time:
        again &= times[rows[1:]] == times[rows[:-1]]
    keep[rows[1:][again]] = False
    return keep


def find_first_positions(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Find the first position of each code from 0 to the largest (int64); -1 where a code does not occur."""
    first = np.full(int(codes.max(initial=-1)) + 1, -1)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # of several assignments to one place the last holds
    return first


def renumber(codes: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.int32]:
    """Renumber the codes as 0, 1, 2, ... in their order, without gaps (int32)."""
    numbers: NDArray[np.int32] = np.cumsum(np.bincount(codes) > 0, dtype=np.int32) - np.int32(1)
    return numbers[codes]
