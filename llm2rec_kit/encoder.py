"""Encoder: titles to embeddings. An item is the mean of its title's last hidden states (paper sec. 3.3).

An embedding depends on its text alone, not on the batch it was computed in: titles are sorted by length and batched by a
token budget, rows of equal length carry no mask at all, and the rest are right-padded under a mask.
The folder that `save` writes is a transformers model and a SentenceTransformer at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import backbone
from llm2rec_kit import settings as S


class Encoder:
    """A model, its tokenizer, and how hidden states become one vector."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.Encoding | None = None):
        """`settings.attention` other than `as_trained` sets the model's mask, in place."""
        self.settings = settings or S.Encoding()
        self.model, self.tokenizer = model, tokenizer
        if self.settings.attention == "bidirectional":
            backbone.bidirectional(model)
        elif self.settings.attention == "causal":
            backbone.causal(model)

    @classmethod
    def load(cls, path: str | Path, settings: S.Encoding | None = None, place: S.Backbone | None = None) -> Encoder:
        """The encoder in a folder (a stage's, or one that `save` wrote), or a hub model by name."""
        return cls(*backbone.load(path, place), settings)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.model.config.hidden_size

    @torch.inference_mode()
    def encode(self, titles: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Embeddings of `titles`, float32 (len(titles), dim), in their order; equal titles are computed once.

        Raises ValueError for a title that has no token.
        """
        distinct, where = np.unique(np.asarray(titles, dtype=object), return_inverse=True)
        ids = title_tokens(self.tokenizer, distinct.tolist(), self.settings.max_tokens)
        out = np.empty((len(distinct), self.dim), dtype=np.float32)
        was_training = self.model.training
        self.model.eval()
        quiet = not progress or not sys.stderr.isatty()
        with tqdm(total=len(distinct), unit="title", disable=quiet) as bar:
            for rows in length_batches(np.array([len(i) for i in ids]), self.settings.batch_tokens):
                out[rows] = self._pooled([ids[r] for r in rows]).float().cpu().numpy()
                bar.update(len(rows))
        self.model.train(was_training)
        return out[where]

    def table(self, titles: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Embeddings of items 1..N with the padding row in front: float32 (N + 1, dim), row 0 zero."""
        rows = self.encode(titles, progress=progress)
        return np.concatenate([np.zeros((1, self.dim), dtype=np.float32), rows])

    def _pooled(self, ids: list[np.ndarray]) -> torch.Tensor:
        input_ids, mask = pad(ids, self.tokenizer.pad_token_id, self.model.device)
        states = backbone.body(self.model)(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
        return pool(states, mask, self.settings.pooling)

    def save(self, folder: Path, card: str = "") -> None:
        """Write a folder that transformers and sentence-transformers both load, with `card` as its README.md."""
        folder = Path(folder)
        backbone.save(self.model, self.tokenizer, folder)
        layout = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        pooling = {
            "word_embedding_dimension": self.dim,
            "pooling_mode_mean_tokens": self.settings.pooling == "mean",
            "pooling_mode_lasttoken": self.settings.pooling == "last",
        }
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "modules.json").write_text(json.dumps(layout, indent=1))
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=1))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": self.settings.max_tokens}))
        if card:
            (folder / "README.md").write_text(card)


def title_tokens(tokenizer: PreTrainedTokenizerBase, titles: list[str], max_tokens: int) -> list[np.ndarray]:
    """Token ids of each title (int64), at most `max_tokens`; raises ValueError naming a title without tokens."""
    if not titles:
        return []
    found = tokenizer(titles, add_special_tokens=False, truncation=True, max_length=max_tokens)["input_ids"]
    for title, ids in zip(titles, found, strict=True):
        if not ids:
            raise ValueError(
                f"Title {title!r} has no token and so no embedding. Drop empty titles in data prep "
                "(notebooks/01_data_prep.ipynb)."
            )
    return [np.asarray(ids, dtype=np.int64) for ids in found]


def pad(ids: list[np.ndarray], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Right-padded ids (int64, (rows, longest)) and their mask, or None where nothing is padded.

    No mask is more than thrift: without one the attention kernels take their fast path.
    """
    lengths = np.array([len(i) for i in ids])
    padded = np.full((len(ids), lengths.max()), pad_id, dtype=np.int64)
    filled = np.arange(lengths.max()) < lengths[:, None]
    padded[filled] = np.concatenate(ids)
    mask = None if filled.all() else torch.from_numpy(filled.astype(np.int64)).to(device)
    return torch.from_numpy(padded).to(device), mask


def pool(states: torch.Tensor, mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """(rows, tokens, dim) to (rows, dim): the mean over real tokens, or the last real token's state."""
    if pooling == "last":
        if mask is None:
            return states[:, -1]
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    if mask is None:
        return states.mean(1)
    weight = mask.to(states.dtype).unsqueeze(-1)
    return (states * weight).sum(1) / weight.sum(1)


def length_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Rows sorted by length, cut so that rows x longest <= batch_tokens (one row at least): [indices, ...].

    >>> [b.tolist() for b in length_batches(np.array([5, 2, 2, 9]), 10)]
    [[1, 2], [0], [3]]
    """
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or (stop - start + 1) * lengths[order[stop]] > batch_tokens:
            batches.append(order[start:stop])
            start = stop
    return batches
