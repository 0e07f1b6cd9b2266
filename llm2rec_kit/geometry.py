"""How a space of embeddings is shaped, in three numbers: alignment, uniformity, effective rank.

Together they say whether contrast works (two views of a title close, titles spread out) or the space is collapsing.
"""

from __future__ import annotations

import numpy as np


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of unit-length pairs (Wang & Isola 2020): 0 is perfect, 2 unrelated."""
    return float(((unit(first) - unit(second)) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """log mean exp(-2 d^2) over pairs of unit vectors (Wang & Isola 2020): 0 is collapsed, about -4 spread out."""
    rows = unit(vectors.astype(np.float64))
    squared = 2 - 2 * rows @ rows.T
    pairs = squared[np.triu_indices(len(rows), 1)]
    return float(np.log(np.exp(-2 * pairs).mean()))


def effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of the centred vectors (Roy & Vetterli 2007)."""
    centred = vectors - vectors.mean(0)
    # The eigenvalues of the smaller Gram matrix: the same values, in memory that does not grow with n x n.
    small = centred.T if len(centred) > centred.shape[1] else centred
    values = np.sqrt(np.maximum(np.linalg.eigvalsh((small @ small.T).astype(np.float64)), 0))
    share = values / max(values.sum(), 1e-12)
    share = share[share > 1e-7]  # what the squaring leaves of zeros
    return float(np.exp(-(share * np.log(share)).sum()))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length one; zero rows stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
