"""Item-level contrast: two views of one title attract, other titles of the batch repel (paper sec. 3.3.2, eq. 4).

Paper and official code disagree on what makes a view: random token masking, or attention dropout on the unmasked title.
Both are here. Titles of a batch are distinct, so no negative is the same text as its positive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import backbone
from llm2rec_kit import settings as S
from llm2rec_kit.encoder import Encoder, length_batches, pad, pool, title_tokens
from llm2rec_kit.training import ranks
from llm2rec_kit.training.trainer import drawn, fit


class Batches:
    """Item k is optimiser step k: two views of `batch_size` distinct titles, all in one micro-batch.

    The titles are each other's negatives, so a step cannot be cut into independent micro-batches; to pad little, its
    views are read in `chunks` of like length, and `place` puts them back in order: first views, then second views.
    """

    def __init__(self, titles: list[str], tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive) -> None:
        """Raises ValueError for fewer than two distinct titles: there would be no negative."""
        titles = list(dict.fromkeys(titles))
        if len(titles) < 2:
            raise ValueError(f"Contrast needs two distinct titles at least; the training domains have {len(titles)}.")
        self.tokens = title_tokens(tokenizer, titles, settings.max_tokens)
        self.mask_id, self.pad_id = backbone.mask_token_id(tokenizer, "blank"), tokenizer.pad_token_id
        self.settings = settings
        self.steps_per_epoch = -(-len(self.tokens) // settings.batch_size)

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> list[dict]:
        rng = np.random.default_rng([self.settings.seed, 2, step])
        chosen = [self.tokens[i] for i in drawn(len(self.tokens), self.settings.batch_size, self.settings.seed, step)]
        views = [view(t, self.mask_id, self.settings, rng) for _ in range(2) for t in chosen]
        parts = length_batches(np.array([len(v) for v in views]), self.settings.batch_tokens)
        chunks = []
        for part in parts:
            ids, mask = pad([views[i] for i in part], self.pad_id, torch.device("cpu"))
            chunks.append({"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask})
        place = torch.from_numpy(np.argsort(np.concatenate(parts)))
        return [{"chunks": chunks, "place": place, "count": torch.tensor(len(chosen))}]


def view(ids: np.ndarray, mask_id: int, settings: S.Contrastive, rng: np.random.Generator) -> np.ndarray:
    """One view of a title: tokens replaced by the mask token with probability `mask_rate`, or the title as it is where
    dropout alone makes the difference. At least one token stays."""
    if settings.views == "dropout":
        return ids
    hidden = rng.random(len(ids)) < settings.mask_rate
    if hidden.all():
        hidden[rng.integers(len(ids))] = False
    return np.where(hidden, mask_id, ids)


def info_nce(first: torch.Tensor, second: torch.Tensor, temperature: float, symmetric: bool = False) -> torch.Tensor:
    """Summed InfoNCE of (n, d) and (n, d): cosine / temperature, row i of `second` is the positive of row i of `first`."""
    scores = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T / temperature
    labels = torch.arange(len(scores), device=scores.device)
    loss = F.cross_entropy(scores, labels, reduction="sum")
    return (loss + F.cross_entropy(scores.T, labels, reduction="sum")) / 2 if symmetric else loss


def loss_of(settings: S.Contrastive):
    """The loss function of these settings: (model, micro-batch) -> (summed InfoNCE, titles)."""

    def loss(model: PreTrainedModel, micro: dict) -> tuple[torch.Tensor, int]:
        pooled = [_pooled(model, chunk["input_ids"], chunk.get("attention_mask")) for chunk in micro["chunks"]]
        first, second = ranks.gathered(torch.cat(pooled))[micro["place"]].chunk(2)
        return info_nce(first, second, settings.temperature, settings.symmetric), len(first)

    return loss


def _pooled(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    states = backbone.body(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return pool(states, mask, "mean")


@contextlib.contextmanager
def dropout(model: PreTrainedModel, settings: S.Contrastive) -> Iterator[None]:
    """Attention dropout while training on dropout views; modules and config are as before afterwards."""
    rate = 0.0 if settings.views == "mask" else settings.dropout
    layers = [m for m in model.modules() if hasattr(m, "attention_dropout")]
    before = [m.attention_dropout for m in layers]
    for layer in layers:
        layer.attention_dropout = rate
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.attention_dropout = value


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of unit-length pairs (Wang & Isola 2020): 0 is perfect."""
    return float(((_unit(first) - _unit(second)) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """log mean exp(-2 d^2) over pairs of unit vectors (Wang & Isola 2020): 0 is collapsed, about -4 spread out."""
    unit = _unit(vectors.astype(np.float64))
    squared = 2 - 2 * unit @ unit.T
    pairs = squared[np.triu_indices(len(unit), 1)]
    return float(np.log(np.exp(-2 * pairs).mean()))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def train(
    titles: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive, folder: Path
) -> list[dict[str, float]]:
    """Contrast `titles` with each other, training the bidirectional `model` in place; returns the history."""
    batches = Batches(titles, tokenizer, settings)
    print(f"  contrastive: {len(batches.tokens)} distinct titles", flush=True)
    with dropout(model, settings):
        return fit(
            "contrastive",
            backbone.bidirectional(model),
            batches,
            loss_of(settings),
            settings,
            folder,
            validate=lambda m: _probe(m, tokenizer, titles, settings),
        )


def _probe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, titles: list[str], settings: S.Contrastive
) -> dict[str, float]:
    """Uniformity of the space: towards 0 it is collapsing."""
    sample = np.random.default_rng(settings.seed).permutation(len(titles))[:512]
    place = S.Encoding(max_tokens=settings.max_tokens)
    return {"uniformity": uniformity(Encoder(model, tokenizer, place).encode([titles[i] for i in sample]))}
