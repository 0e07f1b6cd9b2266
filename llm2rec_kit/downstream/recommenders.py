"""SASRec and GRU4Rec over an item table, as the official code has them (paper sec. 4.1.3; facts of the code in its configs).

A recommender turns a history into a vector; the score of an item is its dot product with the item's row of the *same*
table that the history was looked up in. The table is frozen text embeddings behind one linear adapter, or trainable ids.
Both models are causal and read right-padded rows from position 0, so one row of a user's items gives the state after every
prefix of it: evaluation and training read as many samples off a row as it has.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llm2rec_kit import settings as S


class ItemTable(nn.Module):
    """(N + 1, hidden) rows to look items up in; row 0 is padding.

    With `embeddings` (N + 1, dim): those, frozen, behind a linear adapter (Xavier normal, zero bias). Without: trainable
    ids, trained on both sides, as input and as class.
    """

    def __init__(self, n_items: int, hidden: int, embeddings: np.ndarray | None = None, normalise: str = "none") -> None:
        """Raises ValueError where `embeddings` has not N + 1 rows, or holds NaN or infinity."""
        super().__init__()
        self.frozen = embeddings is not None
        if embeddings is None:
            self.ids = nn.Embedding(n_items + 1, hidden, padding_idx=0)
            nn.init.normal_(self.ids.weight, std=0.02)
            with torch.no_grad():
                self.ids.weight[0] = 0
            return
        table = torch.from_numpy(checked_embeddings(embeddings, n_items, normalise))
        self.register_buffer("embeddings", table, persistent=False)  # frozen: no copy of it among the best weights
        self.adapter = nn.Linear(embeddings.shape[1], hidden)
        nn.init.xavier_normal_(self.adapter.weight)
        nn.init.zeros_(self.adapter.bias)

    def forward(self) -> torch.Tensor:
        """The whole table, computed once a step; the padding row of ids stays zero, also as a class of the softmax."""
        if self.frozen:
            return self.adapter(self.embeddings)
        return torch.cat([self.ids.weight[:1].detach(), self.ids.weight[1:]])


class SASRec(nn.Module):
    """Self-attention over positions: learned positions, post-norm layers, GELU, no norm on input or output [C]."""

    def __init__(self, settings: S.Evaluation, max_history: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_history, settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.apply(_initialise)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Item vectors (B, L, d), right-padded, to the state after each of them (B, L, d)."""
        states = self.dropout(items + self.positions.weight[: items.shape[1]])
        for layer in self.layers:
            states = layer(states)
        return states


class _Layer(nn.Module):
    def __init__(self, settings: S.Evaluation) -> None:
        super().__init__()
        self.heads, self.rate = settings.heads, settings.dropout
        self.qkv = nn.Linear(settings.hidden, 3 * settings.hidden)
        self.out = nn.Linear(settings.hidden, settings.hidden)
        self.inner, self.outer = nn.Linear(settings.hidden, settings.inner), nn.Linear(settings.inner, settings.hidden)
        self.norm1, self.norm2 = (nn.LayerNorm(settings.hidden, eps=1e-12) for _ in range(2))
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        b, length, d = states.shape
        q, k, v = self.qkv(states).view(b, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        # Padding is on the right, so the causal mask alone keeps it out of every state that is ever read.
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.rate if self.training else 0.0)
        states = self.norm1(states + self.dropout(self.out(mixed.transpose(1, 2).reshape(b, length, d))))
        return self.norm2(states + self.dropout(self.outer(F.gelu(self.inner(states)))))


class GRU4Rec(nn.Module):
    """A GRU over positions, dropout on its input, no bias, no dense layer on its output [C]."""

    def __init__(self, settings: S.Evaluation, max_history: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = nn.GRU(settings.hidden, settings.hidden, settings.layers, bias=False, batch_first=True)
        for name, weight in self.gru.named_parameters():
            if "weight_ih" in name:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.orthogonal_(weight)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Item vectors (B, L, d), right-padded, to the state after each of them (B, L, d)."""
        return self.gru(self.dropout(items))[0]


MODELS = {"SASRec": SASRec, "GRU4Rec": GRU4Rec}


def make(name: str, settings: S.Evaluation, max_history: int) -> nn.Module:
    """The recommender `name`, freshly initialised; raises ValueError for another name or heads that do not divide."""
    if name not in MODELS:
        raise ValueError(f"Recommender {name!r} is none of {list(MODELS)}.")
    if name == "SASRec" and settings.hidden % settings.heads:
        raise ValueError(f"evaluation_hidden {settings.hidden} is not a multiple of evaluation_heads {settings.heads}.")
    return MODELS[name](settings, max_history)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def checked_embeddings(embeddings: np.ndarray, n_items: int, normalise: str = "none") -> np.ndarray:
    """A float32 copy (N + 1, dim), items normalised as asked; raises ValueError for another shape, NaN or infinity."""
    if embeddings.ndim != 2 or len(embeddings) != n_items + 1:
        raise ValueError(
            f"An item table for {n_items} items takes embeddings of shape ({n_items + 1}, dim), row 0 padding; "
            f"found {embeddings.shape}."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is named below
        table = np.array(embeddings, dtype=np.float32)
    bad = ~np.isfinite(table).all(1)
    if bad.any():
        raise ValueError(
            f"Embeddings hold NaN or infinity in {bad.sum()} rows, first in row {bad.argmax()}. "
            "Encode again (notebooks/03_item_embedding.ipynb)."
        )
    if normalise == "unit":
        table[1:] /= np.maximum(np.linalg.norm(table[1:], axis=1, keepdims=True), 1e-12)
    elif normalise == "standardised":
        table[1:] = (table[1:] - table[1:].mean(0)) / np.maximum(table[1:].std(0), 1e-12)
    return table
