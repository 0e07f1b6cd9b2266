"""Interactions as flat arrays of numbers, whatever their ids look like, and the masks that leave some of them out.

A cleaning step is a mask, the k-core a handful of `bincount`s: that lets 50 million of them through in little memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

COUNTED = 2**24  # codes counted at a time: numpy's bincount makes an int64 copy of them
NO_TIME = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Events:
    """Interactions as arrays of one length, in the source's order.

    row   int32, or int64 where it takes that: row of the source's frame of events.
    user  int32: a code. item  int32: row of the item table, -1: not in it.
    time  int64 milliseconds, NO_TIME where missing; None where the source has none.
    """

    row: NDArray[np.int32] | NDArray[np.int64]
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
    kept, of_user, of_item = number_rows(len(users)), count_codes(users), count_codes(items)
    while (few := (of_user < user_least)[users] | (of_item < item_least)[items]).any():
        # Few are dropped at a time, but for the first: counts are brought up to date, not made anew.
        of_user -= np.bincount(users[few], minlength=len(of_user))
        of_item -= np.bincount(items[few], minlength=len(of_item))
        left = ~few
        kept, users, items = kept[left], users[left], items[left]
        users, of_user = _close_gaps(users, of_user)
        items, of_item = _close_gaps(items, of_item)
    mask[kept] = True
    return mask


def count_codes(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Count how often each code from 0 to the largest occurs (int64)."""
    counts = np.zeros(int(codes.max(initial=-1)) + 1, dtype=np.int64)
    for at in range(0, len(codes), COUNTED):
        some = np.bincount(codes[at : at + COUNTED])
        counts[: len(some)] += some
    return counts


def number_rows(n: int) -> NDArray[np.int32] | NDArray[np.int64]:
    """Number n rows from 0, in as few bytes as that takes."""
    return np.arange(n, dtype=np.int32) if n <= np.iinfo(np.int32).max else np.arange(n)


def _close_gaps(codes: NDArray[np.int32], counts: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Codes and their counts, renumbered where half of the codes have no event left: small tables stay in cache."""
    there = counts > 0
    if 2 * np.count_nonzero(there) > len(there):
        return codes, counts
    return number_marked(there)[codes], counts[there]


def mark_first_events(
    users: NDArray[np.int32],
    items: NDArray[np.int32],
    times: NDArray[np.int32] | NDArray[np.int64],
    *,
    same_time: bool = False,
) -> NDArray[np.bool_]:
    """Mark (bool) the events that are no repeats: of each user and item the earliest, of equal times the first row.

    With `same_time` only an event that is equal in time, too, is a repeat. Sorts only the pairs that come more than once.
    """
    keep = np.ones(len(users), dtype=bool)
    pairs = _pair(users, items)
    pairs.sort()
    twice = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    if not len(twice):
        return keep
    pairs = _pair(users, items)  # made again: a sorted copy beside it would be half a gigabyte at full size
    rows = np.flatnonzero(pl.Series(pairs).is_in(pl.Series(twice).implode()).to_numpy())
    rows = rows[np.lexsort((times[rows], pairs[rows]))]
    again = pairs[rows[1:]] == pairs[rows[:-1]]
    if same_time:
        again &= times[rows[1:]] == times[rows[:-1]]
    keep[rows[1:][again]] = False
    return keep


def _pair(users: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.int64]:
    """One code for each event's user and item."""
    pairs = users.astype(np.int64)
    pairs *= int(items.max(initial=0)) + 1
    pairs += items
    return pairs


def find_first_positions(codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Find the first position of each code from 0 to the largest (int64); -1 where a code does not occur."""
    first = np.full(int(codes.max(initial=-1)) + 1, -1)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # of several assignments to one place the last holds
    return first


def renumber(codes: NDArray[np.int32] | NDArray[np.int64]) -> NDArray[np.int32]:
    """Renumber the codes as 0, 1, 2, ... in their order, without gaps (int32)."""
    return number_marked(np.bincount(codes) > 0)[codes]


def number_marked(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number what `mask` (bool) marks as 0, 1, 2, ... in its order; what it does not mark has no number of its own."""
    return np.cumsum(mask, dtype=np.int32) - np.int32(1)
