"""How a space of embeddings is shaped: alignment, uniformity, effective rank, lengths.

Together they say whether contrast works (two views of a title close, titles spread out) or the space is collapsing.
"""

from __future__ import annotations

import numpy as np

BLOCK = 4096  # rows that are turned to float64 at a time


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the mean squared distance of unit-length pairs (Wang & Isola 2020): 0 is perfect, 2 unrelated."""
    return float(((scale_to_unit(first) - scale_to_unit(second)) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Compute log mean exp(-2 d^2) over pairs of unit vectors (Wang & Isola 2020): 0 is collapsed, about -4 spread out."""
    rows = scale_to_unit(vectors.astype(np.float64))
    squared = 2 - 2 * rows @ rows.T
    pairs = squared[np.triu_indices(len(rows), 1)]
    return float(np.log(np.exp(-2 * pairs).mean()))


def effective_rank(vectors: np.ndarray) -> float:
    """Compute exp of the entropy of the normalised singular values of the centred vectors (Roy & Vetterli 2007)."""
    squares = np.linalg.eigvalsh(_compute_gram(vectors))
    # The largest comes last; below this share of it stands what squaring and float32 input leave of zeros.
    values = np.sqrt(squares[squares > 1e-12 * max(squares[-1], 0)])
    share = values / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def measure_lengths(vectors: np.ndarray) -> tuple[float, float]:
    """Measure the mean length of vectors (n, dim), and the root mean square length of what each has of its own: its
    difference from the mean of all, which alone tells items apart. In float64, without a copy of the table; NaN without rows."""
    if not len(vectors):
        return float("nan"), float("nan")
    squares, mean = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64), vectors.mean(0, dtype=np.float64)
    return float(np.sqrt(squares).mean()), float(np.sqrt(max(0.0, squares.mean() - mean @ mean)))


def _compute_gram(vectors: np.ndarray) -> np.ndarray:
    """The smaller Gram matrix of the centred vectors (n, dim), float64: their squared singular values are its eigenvalues.

    In float64, since float32 would leave 3e-4 of the largest singular value for each that is zero; a tall table is taken in
    blocks, so that no copy of it is made.
    """
    mean = vectors.mean(0, dtype=np.float64)
    n, dim = vectors.shape
    if n <= dim:
        centred = vectors - mean
        square: np.ndarray = centred @ centred.T
        return square
    gram = np.zeros((dim, dim))
    for at in range(0, n, BLOCK):
        centred = vectors[at : at + BLOCK] - mean
        gram += centred.T @ centred
    return gram


def scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length one; zero rows stay zero."""
    scaled: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled


def normalise_rows(rows: np.ndarray, of: np.ndarray, normalise: str, scale: float = 1.0) -> np.ndarray:
    """Normalise `rows` (m, dim) float32 by the means and variances of the catalogue `of` (n, dim), as asked; times `scale`.

    To whiten is to turn rows into the principal axes of `of`, each centred and of unit variance there; axes without variance
    become zero.
    """
    known = measure_catalogue(of, normalise)
    if normalise == "unit":
        rows = scale_to_unit(rows)
    elif normalise == "standardised":
        rows = (rows - known["mean"]) / known["std"]
    elif normalise == "whitened":
        rows = ((rows.astype(np.float64) - known["mean"]) @ known["axes"]).astype(np.float32)
    return rows if scale == 1 else rows * np.float32(scale)


def measure_catalogue(of: np.ndarray, normalise: str) -> dict[str, np.ndarray]:
    """Measure what `normalise_rows` needs of the catalogue `of` (n, dim): mean and std (dim,) in its dtype to standardise;
    mean (dim,) and axes (dim, dim), float64, to whiten; nothing otherwise."""
    if normalise == "standardised":
        return {"mean": of.mean(0), "std": np.maximum(of.std(0), 1e-12)}
    return _find_axes(of) if normalise == "whitened" else {}


def _find_axes(of: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of `of`, and its principal axes as columns, the widest first, each divided by its spread."""
    mean = of.mean(0, dtype=np.float64)
    spread = of.astype(np.float64) - mean
    values, axes = np.linalg.eigh(spread.T @ spread / len(of))
    values, axes = values[::-1], axes[:, ::-1]
    kept = values > values[0] * 1e-7  # float32 input: below that is rounding, and would be blown up to unit variance
    scale = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)
    return {"mean": mean, "axes": axes * scale}


def compute_nearest_cosines(rows: np.ndarray, among: np.ndarray, *, others: bool = False) -> np.ndarray:
    """Compute the cosine of each row (m, dim) to the nearest of `among` (n, dim): float (m,). With `others` the rows are
    themselves in `among`, and each one's cosine to itself is passed over."""
    rows, among = scale_to_unit(rows.astype(np.float32)), scale_to_unit(among.astype(np.float32))
    found = np.empty(len(rows), dtype=np.float32)
    for at in range(0, len(rows), step := max(1, 2**22 // len(among))):
        cosines = rows[at : at + step] @ among.T
        found[at : at + step] = np.partition(cosines, -2, axis=1)[:, -2] if others else cosines.max(1)
    return found


def compute_usual_cosine(vectors: np.ndarray, *, percentile: float = 5) -> float:
    """Compute the cosine that all but `percentile` percent of 300 rows, drawn from (n, dim), have with their nearest other
    row. A vector whose nearest row is below it is far from all. -1 with one row."""
    if len(vectors) < 2:
        return -1.0
    drawn = np.sort(np.random.default_rng(0).permutation(len(vectors))[:300])
    return float(np.percentile(compute_nearest_cosines(vectors[drawn], vectors, others=True), percentile))
