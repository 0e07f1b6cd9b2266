"""The item table: one vector an item, looked up in the history and scored against as a class of the softmax.

What a recommender knows of an item is a row of this table. `text` is the paper's: frozen embeddings behind a linear adapter.
`id` is the baseline that learns a free vector an item. Both may be joined, added or side by side. `id_detached` is the
official code's ID baseline, whose scores pass no gradient to the table; it is here to be named, not to be used.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llm2rec_kit import geometry
from llm2rec_kit.downstream import fast_ops
from llm2rec_kit.runs import ArtefactError, Run, freshness
from llm2rec_kit.settings.item_tables import list_stages as list_stages
from llm2rec_kit.settings.item_tables import parse_name as parse_name

SCALED_STD = 0.02  # of weights that start scaled down
BLOCK = 2**16  # rows looked at at once


def read_table(run: Run, stages: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the embeddings of a run, {stage: (N + 1, dim)}, for the stages that `evaluation_embeddings` stand on.

    Raises ArtefactError for one that the run does not have, with its name where an encoder is named instead of its table, and
    for one that is not of what the run holds now: what is trained over it would count nowhere.
    """
    there = {n.split("/")[-1]: run.record(n).get("encoder", "") for n in run.names("embeddings")}
    for stage in stages:
        if stage not in there:
            of_it = [table for table, encoder in there.items() if f"/{encoder}/".endswith(f"/{stage.strip('./')}/")]
            called = f"the table of the encoder {stage!r} is called {' or '.join(map(repr, of_it))}"
            hint = called if of_it else f"it has {list(there) or 'none'}"
            raise ArtefactError(
                f"Run {run.name!r} has no embeddings {stage!r}, which evaluation_embeddings names: {hint}. Run "
                "notebooks/03_item_embedding.ipynb first: it makes them, and prints their names."
            )
    freshness.refuse_outdated(run, [f"embeddings/{stage}" for stage in stages])
    return {stage: np.load(run.require(f"embeddings/{stage}").with_suffix(".npy")) for stage in stages}


class Linear(nn.Linear):
    """nn.Linear through `fast_ops.linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., in) to (..., out)."""
        return fast_ops.linear(x, self.weight, self.bias)


class ItemTable(nn.Module):
    """(N + 1, hidden) rows to look items up in; row 0 is padding.

    With `embeddings` (N + 1, dim): those, frozen, behind an adapter (Xavier normal, zero bias [C]): linear, or with a GELU
    after each of `widths`. `kind` is one of text, add (a free vector an item is added), concat (the adapter gives the first
    half of the row, a free vector the second), id and id_detached (no text). Free vectors start as `initialisation` says:
    N(0, 1), row 0 too (official [C]), or of std 0.02 and row 0 zero (scaled); row 0 is never trained.
    """

    embeddings: torch.Tensor
    mean: torch.Tensor
    rounded: torch.Tensor

    def __init__(
        self,
        n_items: int,
        hidden: int,
        embeddings: np.ndarray | None = None,
        *,
        kind: str = "",
        normalise: str = "none",
        scale: float = 1.0,
        initialisation: str = "scaled",
        widths: tuple[int, ...] | list[int] = (),
        low_precision: bool = False,
    ) -> None:
        """Raises ValueError where `embeddings` has not N + 1 rows, holds NaN or infinity, or does not go with `kind`."""
        super().__init__()
        self.kind = kind or ("id" if embeddings is None else "text")
        self.low_precision = low_precision
        self.n_items = n_items
        if self.has_text == (embeddings is None):
            raise ValueError(f"An item table of kind {self.kind!r} takes embeddings only where it has text.")
        if self.kind == "concat" and hidden % 2:
            raise ValueError(f"evaluation_hidden must be even to put text and id side by side; found {hidden}.")
        own = hidden // 2 if self.kind == "concat" else hidden
        if self.kind != "text":
            self.ids = nn.Embedding(n_items + 1, own, padding_idx=0)
            nn.init.normal_(self.ids.weight, std=SCALED_STD if initialisation == "scaled" else 1.0)
            if initialisation == "scaled":
                with torch.no_grad():
                    self.ids.weight[0] = 0
            # As a class of the softmax the padding row would learn; it stays as it is there, too.
            self.ids.weight.register_post_accumulate_grad_hook(_no_padding)
        if embeddings is not None:
            self._freeze(torch.from_numpy(prepare_embeddings(embeddings, n_items, normalise, scale, copy=False)))
            self.adapter = _adapter([embeddings.shape[1], *widths, own])

    def _freeze(self, table: torch.Tensor) -> None:
        # Not persistent: frozen, so no copy of it among the best weights.
        self.register_buffer("embeddings", table, persistent=False)
        if self.low_precision:
            mean = table[1:].mean(0)
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("rounded", (table - mean).bfloat16(), persistent=False)

    @property
    def has_text(self) -> bool:
        """Whether rows come from embeddings, in part at least."""
        return self.kind in ("text", "add", "concat")

    def forward(self) -> torch.Tensor:
        """Compute the whole table, (N + 1, hidden); once a step."""
        return self._joined(self._adapted() if self.has_text else None, self.ids.weight if self.kind != "text" else None)

    def at(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the table's rows (n, hidden) at `ids` int64 (n,), at the cost of n rows; the free vectors' gradient is sparse."""
        free = None if self.kind == "text" else F.embedding(ids, self.ids.weight, padding_idx=0, sparse=True)
        return self._joined(self._adapted(ids) if self.has_text else None, free)

    def _joined(self, text: torch.Tensor | None, free: torch.Tensor | None) -> torch.Tensor:
        given = [rows for rows in (text, free) if rows is not None]
        if len(given) == 1:
            return given[0]
        return given[0] + given[1] if self.kind == "add" else torch.cat(given, 1)

    def classes(self, table: torch.Tensor) -> torch.Tensor:
        """Return the table as the scores see it: itself, but for the official code's detached ids [C]."""
        return table.detach() if self.kind == "id_detached" else table

    def rows(self, embeddings: np.ndarray) -> torch.Tensor:
        """Compute rows (m, hidden) of items that no training saw, from embeddings (m, dim) normalised as the table's. A free
        vector is zero here, the mean of those that training starts from."""
        text: torch.Tensor = self.adapter(torch.from_numpy(embeddings).to(self.embeddings.device))
        return F.pad(text, (0, text.shape[1])) if self.kind == "concat" else text

    def _adapted(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        low = self.low_precision and self.training
        table = self.rounded if low else self.embeddings
        table = table if ids is None else table.index_select(0, ids)
        if not low:
            out: torch.Tensor = self.adapter(table)
            return out
        first, *rest = self.adapter if isinstance(self.adapter, nn.Sequential) else [self.adapter]
        # W e + b = W (e - mean) + (W mean + b): only the first term, what tells items apart, is rounded.
        weight, bias = first.get_parameter("weight"), first.get_parameter("bias")
        out = fast_ops.low_precision_linear(table, weight) + (weight @ self.mean + bias)
        for layer in rest:
            out = layer(out)
        return out


def _adapter(sizes: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.GELU()] if layers else []
        layers.append(linear := Linear(wide, narrow))
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _no_padding(ids: torch.Tensor) -> None:
    assert ids.grad is not None  # the hook runs once there is one
    if not ids.grad.is_sparse:  # as `at` gives it, without row 0
        ids.grad[0].zero_()


def prepare_embeddings(
    embeddings: np.ndarray, n_items: int, normalise: str = "none", scale: float = 1.0, *, copy: bool = True
) -> np.ndarray:
    """Copy embeddings to float32 (N + 1, dim), items normalised as asked and times `scale`; raises ValueError for another shape,
    NaN or infinity.

    Without `copy` it is `embeddings` itself where nothing of it is to change: of a million items a copy is gigabytes.
    """
    if embeddings.ndim != 2 or len(embeddings) != n_items + 1:
        raise ValueError(
            f"An item table for {n_items} items takes embeddings of shape ({n_items + 1}, dim), row 0 padding; "
            f"found {embeddings.shape}."
        )
    same = not copy and normalise == "none" and scale == 1 and embeddings.dtype == np.float32
    # Where it is not both of these, torch takes it with a warning, or copies.
    same = same and embeddings.flags.writeable and embeddings.flags.c_contiguous
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is named below
        table = embeddings if same else np.array(embeddings, dtype=np.float32)
    bad = ~np.concatenate([np.isfinite(table[at : at + BLOCK]).all(1) for at in range(0, len(table), BLOCK)])
    if bad.any():
        raise ValueError(
            f"Embeddings hold NaN or infinity in {bad.sum()} rows, first in row {bad.argmax()}. "
            "Encode again (notebooks/03_item_embedding.ipynb)."
        )
    if not same:
        items = table[1:]
        items[:] = geometry.normalise_rows(items, items, normalise, scale)
    return table
