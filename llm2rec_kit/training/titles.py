"""The titles that stage 2 learns from, and which of them an optimiser step reads."""

from __future__ import annotations

import numpy as np

from llm2rec_kit.corpus import Corpus


def train_titles(corpus: Corpus) -> list[str]:
    """List the distinct titles of the training domains, in item order: what stage 2 learns from (paper sec. 4.1.3).

    Titles of items that are in no training sample count, too, as in the official code: a title is no interaction. None is
    of another domain.
    """
    return corpus.select(corpus.train_domains)[0].items["title"].unique(maintain_order=True).to_list()


def draw_rows(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Draw which of n titles optimiser step `step` (from 0) reads: a new permutation an epoch, whole batches only."""
    size = min(n, batch_size)
    epoch, k = divmod(step, n // size)
    return np.random.default_rng([seed, epoch]).permutation(n)[k * size : (k + 1) * size]
