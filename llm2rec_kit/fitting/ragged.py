"""Ragged: many pieces of token ids in one flat array, and what can be done to all of them without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ragged:
    """Many pieces in one flat array: piece i is flat[offsets[i]:offsets[i + 1]].

    >>> r = Ragged.of([np.array([7, 8]), np.array([9])])
    >>> r.flat.tolist(), r.offsets.tolist(), r.take(np.array([1, 0])).flat.tolist()
    ([7, 8, 9], [0, 2, 3], [9, 7, 8])
    """

    flat: NDArray[np.int32]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray]) -> Ragged:
        """Build int32 pieces from a list of them."""
        flat = np.concatenate(pieces).astype(np.int32) if len(pieces) else np.empty(0, np.int32)
        return cls(flat, compute_offsets(np.array([len(p) for p in pieces], dtype=np.int64)))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """Join the pieces of `parts`, one part after the other."""
        lengths = np.concatenate([p.lengths for p in parts])
        return cls(np.concatenate([p.flat for p in parts]), compute_offsets(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each piece (int64)."""
        return np.diff(self.offsets)

    def take(self, which: np.ndarray, skip: np.ndarray | int = 0) -> Ragged:
        """Take pieces `which`, in that order, each without its first `skip` entries."""
        begins = self.offsets[which] + skip
        lengths = self.offsets[which + 1] - begins
        return Ragged(np.asarray(self.flat[index_spans(begins, lengths)]), compute_offsets(lengths))


def compute_offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute where pieces of `lengths` begin in one flat array, and its end (int64, one more than lengths)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def index_spans(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute the indices of all spans, one after the other (int64).

    >>> index_spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(lengths.sum())


def count_common_prefix(a: Ragged, b: Ragged, of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how many first entries piece i of `a` has in common with piece of[i] of `b` (int64); no piece of `a` is empty.

    >>> a, b = Ragged.of([np.array([1, 2]), np.array([1, 3])]), Ragged.of([np.array([1, 2, 4])])
    >>> count_common_prefix(a, b, np.array([0, 0]))
    array([2, 1])
    """
    n: NDArray[np.int64] = np.minimum(a.lengths, b.offsets[of + 1] - b.offsets[of])
    unequal = a.flat[index_spans(a.offsets[:-1], n)] != b.flat[index_spans(b.offsets[of], n)]
    place = np.where(unequal, index_spans(np.zeros_like(n), n), np.iinfo(np.int64).max)
    found, some = n.copy(), n > 0
    if some.any():
        found[some] = np.minimum(n[some], np.minimum.reduceat(place, compute_offsets(n)[:-1][some]))
    return found


def compare_pieces(a: Ragged, b: Ragged) -> NDArray[np.bool_]:
    """Tell which pieces of `a` and `b` are the same (bool); both have as many pieces."""
    same: NDArray[np.bool_] = a.lengths == b.lengths
    same[same] = count_common_prefix(a.take(np.flatnonzero(same)), b, np.flatnonzero(same)) == a.lengths[same]
    return same
