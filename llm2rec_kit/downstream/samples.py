"""Samples as tensors: rows of item ids, and what to predict after each place of a row.

Samples of a user that begin at the same history item are read off one row (both recommenders are causal, so the state at a
place does not know what follows): the same loss and gradient as one row a sample, for a fraction of the work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from llm2rec_kit.corpus import Corpus


@dataclass(frozen=True)
class Rows:
    """Right-padded item rows and what to predict after each place: histories and labels int32 (R, L), 0 for none."""

    histories: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.histories)

    @cached_property
    def samples(self) -> np.ndarray:
        """Samples in each row, int64 (R,)."""
        return (self.labels > 0).sum(1).cpu().numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Items in each row, int64 (R,)."""
        return (self.histories > 0).sum(1).cpu().numpy()

    def to(self, device: str | torch.device) -> Rows:
        """Move the rows to `device`."""
        return replace(self, histories=self.histories.to(device), labels=self.labels.to(device))

    def take(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Take a batch's histories and labels: labels of its neighbours blanked, empty rows appended up to a multiple of 16.

        The fixed width and the few heights matter: oneDNN compiles a kernel for every shape that it meets.
        """
        where = torch.from_numpy(batch.rows).to(self.histories.device)
        histories, labels = self.histories[where], self.labels[where]
        first, last = (labels[[0, -1]] > 0).cumsum(1)  # which sample of its row a place is, from 1
        labels[0, first <= batch.skip] = 0
        if batch.stop is not None:
            labels[-1, last > batch.stop] = 0
        more = -len(where) % 16
        return F.pad(histories, (0, 0, 0, more)), F.pad(labels, (0, 0, 0, more))


@dataclass(frozen=True)
class Batch:
    """Rows of a batch (int64).
    Of the first row the first `skip` samples, and of the last those from `stop` on, belong to its neighbours."""

    rows: np.ndarray
    skip: int = 0
    stop: int | None = None


def make_rows(corpus: Corpus, targets: np.ndarray, *, shared: bool) -> Rows:
    """Build rows from samples: one for all samples of one start where `shared`, else one each in the order of `targets`."""
    targets = np.sort(targets) if shared else targets
    starts = corpus.starts(targets)
    row = np.cumsum(np.diff(starts, prepend=-1) != 0) - 1 if shared else np.arange(len(targets))
    first = np.searchsorted(row, np.arange(row[-1] + 1 if len(row) else 0))
    last = np.append(first[1:], len(row)) - 1 if len(row) else first
    length = targets[last] - starts[last]
    place = np.arange(corpus.max_history)
    inside = place < length[:, None]
    where = np.where(inside, starts[first][:, None] + place, 0)
    histories = np.where(inside, corpus.sequence[where], 0).astype(np.int32)
    labels = np.zeros_like(histories)
    labels[row, targets - starts - 1] = corpus.sequence[targets]
    return Rows(torch.from_numpy(histories), torch.from_numpy(labels))


def draw_batches(samples: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[Batch]:
    """Draw the rows in a random order, cut into batches of exactly `batch_size` samples, the last with the rest; `samples`
    int (R,) is how many each row holds. A row that a cut goes through stands in both batches."""
    order = rng.permutation(len(samples))
    done = np.cumsum(samples[order])
    out = []
    for start in range(0, int(done[-1]), batch_size):
        stop = min(start + batch_size, int(done[-1]))
        first, last = np.searchsorted(done, (start, stop - 1), side="right")
        before_last = done[last] - samples[order[last]]
        skip = start - (done[first] - samples[order[first]])
        out.append(Batch(order[first : last + 1], int(skip), int(stop - before_last)))
    return out
