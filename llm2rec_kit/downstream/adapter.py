"""What the adapter learned: which directions of the embedding space it keeps, and how far it turns the space.

The embeddings are frozen, so all that training did to the text is in the adapter; these numbers compare the space before it
(the embeddings, centred) with the space behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from llm2rec_kit import geometry
from llm2rec_kit.downstream.item_table import ItemTable

DRAWN = 2000  # items, drawn by seed, whose neighbours are compared


@torch.no_grad()
def inspect(table: ItemTable) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Measure what the adapter of a trained item table makes of the embeddings' space: (numbers, arrays).

    Numbers: `axes before` and `axes behind`, effective dimensions of the two spaces; `similarity (CKA)` and `neighbours
    kept` between them; of a linear adapter also `adapter axes` and `median angle` (degrees). Arrays, of a linear adapter
    alone: `space` (dim,) shares of variance, `adapter` (hidden,) shares of squared singular values, `angles` (hidden,)
    degrees.
    """
    before, after = table.embeddings[1:].cpu().numpy(), table.eval()()[1:].cpu().numpy()
    shares, axes = compute_principal_axes(before)
    numbers = {
        "axes before": compute_effective_dimension(shares),
        "axes behind": compute_effective_dimension(compute_principal_axes(after)[0]),
        "similarity (CKA)": compare_spaces(before, after),
        "neighbours kept": measure_neighbours_kept(before, after),
    }
    linear: Any = getattr(table, "adapter", None)
    if not isinstance(linear, nn.Linear):  # deeper, or there is no text
        return numbers, {}
    weight = linear.weight.detach().cpu().numpy().astype(np.float64)
    values = np.linalg.svd(weight, compute_uv=False) ** 2
    arrays = {
        "space": shares,
        "adapter": values / values.sum(),
        "angles": compute_principal_angles(weight, axes[: len(weight)]),
    }
    numbers["adapter axes"] = compute_effective_dimension(arrays["adapter"])
    numbers["median angle"] = float(np.median(arrays["angles"]))
    return numbers, arrays


def inspect_each(tables: Mapping[str, ItemTable]) -> tuple[pl.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """Inspect each of the tables that stand on text alone: the numbers, a row an embedding, and the arrays of the linear adapters."""
    found = {name: inspect(table) for name, table in tables.items() if table.kind == "text"}
    numbers = pl.DataFrame([{"embedding": name} | one for name, (one, _) in found.items()])
    return numbers, {name: arrays for name, (_, arrays) in found.items() if arrays}


def compute_principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the shares of the rows' variance along their principal axes (dim,), largest first,
    and the axes as rows (dim, dim)."""
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values[::-1], 0)
    return values / max(values.sum(), 1e-300), axes[:, ::-1].T


def compute_effective_dimension(shares: np.ndarray) -> float:
    """Compute over how many axes shares are spread: exp of their entropy.

    >>> round(compute_effective_dimension(np.array([0.25, 0.25, 0.25, 0.25, 0.0])), 6)
    4.0
    """
    kept = shares[shares > 0]
    return float(np.exp(-(kept * np.log(kept)).sum()))


def compute_principal_angles(weight: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Compute the degrees between the subspaces of `weight` (hidden, dim) and of `axes` (m, dim, orthonormal), smallest
    first: 0 everywhere where the adapter keeps those axes, as PCA would."""
    read = np.linalg.svd(weight, full_matrices=False)[2]
    angles: np.ndarray = np.degrees(np.arccos(np.clip(np.linalg.svd(read @ axes.T, compute_uv=False), 0, 1)))
    return angles


def compare_spaces(before: np.ndarray, after: np.ndarray) -> float:
    """Compute the linear CKA of two spaces over the same items (Kornblith et al. 2019):
    1 for a rotation and scaling, 0 for unrelated ones."""
    a, b = (x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in (before, after))
    return float(((b.T @ a) ** 2).sum() / max(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b), 1e-300))


def measure_neighbours_kept(before: np.ndarray, after: np.ndarray) -> float:
    """Measure which share of an item's ten nearest before the adapter are among its ten nearest behind it (centred cosine)."""
    drawn = np.random.default_rng(0).permutation(len(before))[:DRAWN]
    near = [_nearest(x, drawn, min(10, len(before) - 1)) for x in (before, after)]
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(*near, strict=True)]))


def _nearest(rows: np.ndarray, drawn: np.ndarray, k: int) -> np.ndarray:
    unit = geometry.scale_to_unit(rows - rows.mean(0))
    step, found = max(1, 25_000_000 // len(unit)), []  # at most 100 MB of cosines at a time, and twice that of indices
    for part in np.split(drawn, range(step, len(drawn), step)):
        cosines = unit[part] @ unit.T
        cosines[np.arange(len(part)), part] = -np.inf
        found.append(np.argpartition(cosines, -k, axis=1)[:, -k:])
    return np.concatenate(found)
