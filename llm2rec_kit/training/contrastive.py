"""Item-level contrast: two views of one title attract, other titles of the batch repel (paper sec. 3.3.2, eq. 4).

Paper and official code disagree on what makes a view: random token masking, or attention dropout on the unmasked title.
Both are here. A title never repels itself: batches hold distinct titles, and those that differ in case or spacing alone
are left out of each other's denominator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import geometry
from llm2rec_kit import settings as S
from llm2rec_kit.encoding.tokenisation import cut_by_length, pad, pool, tokenise_titles
from llm2rec_kit.fitting import distributed
from llm2rec_kit.fitting.distributed import MicroBatch
from llm2rec_kit.fitting.faulty_rows import Loss
from llm2rec_kit.fitting.trainer import fit
from llm2rec_kit.models import backbone, dropout_rates, kernels
from llm2rec_kit.training.collapse_watch import Watch
from llm2rec_kit.training.titles import draw_rows

PROBED = 512  # titles whose alignment, uniformity and effective rank are followed


class Batches:
    """Item k is optimiser step k: two views of `batch_size` distinct titles, all in one micro-batch.

    The titles are each other's negatives, so a step cannot be cut into independent micro-batches; to pad little, its
    views are read in `chunks` of like length, and `place` puts them back in order: first views, then second views.
    `same` (n,) is equal for titles that are the same but for case and spacing.
    """

    def __init__(self, titles: list[str], tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive) -> None:
        """Titles that are the same tokens are taken once. Raises ValueError for fewer than two:
        there would be no negative."""
        tokens = tokenise_titles(tokenizer, titles, settings.max_tokens)
        distinct = {ids.tobytes(): k for k, ids in reversed(list(enumerate(tokens)))}
        self.kept = kept = sorted(distinct.values())  # indices into titles
        if len(kept) < 2:
            raise ValueError(f"Contrast needs two distinct titles at least; the training domains have {len(kept)}.")
        self.tokens, self.same = [tokens[k] for k in kept], number_titles([titles[k] for k in kept])
        self.mask_id = backbone.mask_token_id(tokenizer, settings.mask_token) if self.hides_tokens(settings) else None
        self.pad_id, self.settings = tokenizer.pad_token_id, settings
        self.steps_per_epoch = -(-len(self.tokens) // settings.batch_size)

    @staticmethod
    def hides_tokens(settings: S.Contrastive) -> bool:
        """Tell whether views of these batches hide tokens, so that the tokenizer needs a mask token."""
        return settings.hides_tokens

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        rng = np.random.default_rng([self.settings.seed, 2, step])
        chosen = draw_rows(len(self.tokens), self.settings.batch_size, self.settings.seed, step)
        return [self.micro_batch(chosen, rng) | {"step": torch.tensor(step)}]

    def micro_batch(self, chosen: np.ndarray, rng: np.random.Generator) -> MicroBatch:
        """Make two views each of the chosen titles, as one micro-batch."""
        views, same = self.views(chosen, rng)
        counted = {"same": torch.from_numpy(same), "count": torch.tensor(len(chosen))}
        return chunk_texts(views, self.settings.batch_tokens, self.pad_id) | counted

    def views(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        """Make the token ids of the first views of `chosen`, then of the second,
        and give the titles' numbers (`number_titles`)."""
        views = [make_view(self.tokens[i], self.mask_id, self.settings, rng) for _ in range(2) for i in chosen]
        return views, self.same[chosen]


def chunk_texts(texts: list[np.ndarray], batch_tokens: int, pad_id: int) -> MicroBatch:
    """Cut the token ids of texts into `chunks` of like length, each within the token budget; `place` restores the order:
    row place[i] of all chunks is the i-th text."""
    parts = cut_by_length(np.array([len(t) for t in texts]), batch_tokens)
    chunks = []
    for part in parts:
        ids, mask = pad([texts[i] for i in part], pad_id, torch.device("cpu"))
        chunks.append({"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask})
    return {"chunks": chunks, "place": torch.from_numpy(np.argsort(np.concatenate(parts)))}


def number_titles(titles: list[str]) -> np.ndarray:
    """Number the titles (int64), those that differ in case and spacing alone with the same number.

    >>> number_titles(["Iron Vale", "iron  vale ", "Iron Veil"]).tolist()
    [0, 0, 1]
    """
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(" ".join(t.casefold().split()), len(seen)) for t in titles], dtype=np.int64)


def make_view(ids: np.ndarray, mask_id: int | None, settings: S.Contrastive, rng: np.random.Generator) -> np.ndarray:
    """Make one view of a title: tokens replaced by the mask token with probability `mask_rate`, or the title as it is where
    dropout alone makes the difference. At least one token stays."""
    if mask_id is None or not settings.hides_tokens:
        return ids
    hidden = rng.random(len(ids)) < settings.mask_rate
    if hidden.all():
        hidden[rng.integers(len(ids))] = False
    return np.where(hidden, mask_id, ids)


def show_views(batches: Batches, tokenizer: PreTrainedTokenizerBase, most: int, *, seed: int) -> pl.DataFrame:
    """Tabulate the first titles of `batches` with two views of each, drawn by seed: title, first view, second view."""
    rng = np.random.default_rng(seed)
    rows = []
    for ids in batches.tokens[:most]:
        first, second = (tokenizer.decode(make_view(ids, batches.mask_id, batches.settings, rng)) for _ in range(2))
        rows.append({"title": tokenizer.decode(ids), "first view": first, "second view": second})
    return pl.DataFrame(rows)


def info_nce(
    first: torch.Tensor, second: torch.Tensor, temperature: float, symmetric: bool = False, same: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum the InfoNCE of (n, d) and (n, d): cosine / temperature; row i of `second` is the positive of row i of `first`.

    Rows i and j with `same[i] == same[j]` are one title: j is left out of i's denominator, and i out of j's. Where texts tell
    titles apart and the views are other texts, `same` is (2, n), the first views' numbers and the second's: each direction
    goes by those of the views that it is to find.
    """
    exact = torch.float64 if first.dtype == torch.float64 else torch.float32
    scores = F.normalize(first.to(exact), dim=-1) @ F.normalize(second.to(exact), dim=-1).T / temperature
    labels = torch.arange(len(scores), device=scores.device)
    loss = torch.zeros_like(scores[0, 0])
    for way, views in ((scores, 1), (scores.T, 0)) if symmetric else ((scores, 1),):
        if same is not None:
            numbers = same.expand(2, -1)[views]
            twins = (numbers[:, None] == numbers) & (labels[:, None] != labels)
            way = way.masked_fill(twins, float("-inf"))
        loss = loss + F.cross_entropy(way, labels, reduction="sum")
    return loss / 2 if symmetric else loss


def make_loss(settings: S.Contrastive, seen: Callable[[int, float], None] | None = None) -> Loss:
    """Make these settings' loss function: (model, micro-batch) -> (summed InfoNCE, titles); `seen` is told each step's.

    With `gradient_cache` the chunks are read without a graph, and read again one at a time for the gradient, with the same
    random state (GradCache, Gao et al. 2021): a batch of any size in the memory of one chunk. torch's activation
    checkpoint over a chunk does exactly that.
    """

    def loss(model: PreTrainedModel, micro: MicroBatch) -> tuple[torch.Tensor, int]:
        cached = settings.gradient_cache and torch.is_grad_enabled()
        first, second = distributed.all_gather(embed_chunks(model, micro["chunks"], cached))[micro["place"]].chunk(2)
        value = info_nce(first, second, settings.temperature, settings.symmetric, micro.get("same"))
        if seen and model.training:
            seen(int(micro["step"]), value.item() / len(first))
        return value, len(first)

    return loss


def embed_chunks(model: PreTrainedModel, chunks: list[MicroBatch], cached: bool = False) -> torch.Tensor:
    """Compute the mean-pooled embeddings of the chunks of a micro-batch, one after the other: (texts, d)."""
    parts = [(model, chunk["input_ids"], chunk.get("attention_mask")) for chunk in chunks]
    return torch.cat([checkpoint(_pooled, *part, use_reentrant=False) if cached else _pooled(*part) for part in parts])


def _pooled(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return pool(backbone.last_states(model, ids, mask), mask, "mean")


def check_views(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive) -> None:
    """Raise BackboneError or SettingsError where this model or tokenizer, as it is before MNTP, cannot make the views that
    `settings` ask for."""
    if settings.hides_tokens and settings.mask_token != "new":  # MNTP makes that one
        backbone.mask_token_id(tokenizer, settings.mask_token)
    check_dropout(model, settings)


@torch.no_grad()
def check_dropout(model: PreTrainedModel, settings: S.Contrastive) -> None:
    """Raise SettingsError where `settings` make views by attention dropout and the model has none: its states in training
    mode, drawn by one seed, are then the same at two rates. The model is as before afterwards."""
    if settings.views == "mask":
        return
    ids = torch.arange(3, 11, device=model.device)[None] % backbone.token_rows(model)
    was_training, states = model.training, []
    with torch.random.fork_rng():
        for rate in (0.25, 0.75):
            torch.manual_seed(0)
            with dropout_rates.use_rate(model, rate):
                states.append(backbone.last_states(model.train(), ids, None))
    model.train(was_training)
    if torch.equal(*states):
        raise S.SettingsError(
            f"contrastive_views {settings.views!r} makes views by attention dropout, and this model of the family "
            f"{model.config.model_type} has none: contrastive_dropout would do nothing. Take contrastive_views mask, or another "
            "backbone."
        )


@contextlib.contextmanager
def use_dropout(model: PreTrainedModel, settings: S.Contrastive) -> Iterator[None]:
    """Switch attention dropout on within the block, while training on dropout views, and off for others;
    then modules and config are as before."""
    with dropout_rates.use_rate(model, 0.0 if settings.views == "mask" else settings.dropout):
        yield


@torch.no_grad()
def probe(model: PreTrainedModel, batches: Batches) -> dict[str, float]:
    """Measure InfoNCE and alignment of two views, uniformity and effective rank of the titles, of the same drawn titles at
    every call. The loss has as many negatives as there are titles here, so it does not compare with a batch's."""
    settings, was_training = batches.settings, model.training
    rng = np.random.default_rng([settings.seed, 3])
    chosen = rng.permutation(len(batches.tokens))[:PROBED]
    views = batches.micro_batch(chosen, rng)
    plain = chunk_texts([batches.tokens[i] for i in chosen], settings.batch_tokens, batches.pad_id)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        first, second = np.split(_in_order(model.train(), views), 2)
    vectors = _in_order(model.eval(), plain)
    model.train(was_training)
    loss = info_nce(
        torch.from_numpy(first), torch.from_numpy(second), settings.temperature, settings.symmetric, views["same"]
    )
    return {
        "loss": loss.item() / len(chosen),
        "alignment": geometry.alignment(first, second),
        "uniformity": geometry.uniformity(vectors),
        "effective_rank": geometry.effective_rank(vectors),
    }


def train(
    titles: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive, folder: Path
) -> list[dict[str, float]]:
    """Contrast `titles` with each other, training the bidirectional `model` in place; return the history, as `run` does."""
    batches = Batches(titles, tokenizer, settings)
    print(f"  contrastive: {len(batches.tokens)} distinct titles", flush=True)
    return run(batches, backbone.lift_causal_mask(model), settings, folder)


def run(batches: Batches, model: PreTrainedModel, settings: S.Contrastive, folder: Path) -> list[dict[str, float]]:
    """Train `model` in place, under the mask that it has, on these batches; return the history, whose row of step 0 tells
    where it began. Raises TrainingError where the space breaks (`collapse_watch.Watch`)."""
    backbone.check_length(model, settings.max_tokens, "contrastive_max_tokens")
    check_dropout(model, settings)
    with use_dropout(model, settings), kernels.use_fast_linears(model):
        start = probe(model, batches)
        watch = Watch(settings, start, folder)
        history = fit(
            "contrastive",
            model,
            batches,
            make_loss(settings, watch.loss),
            settings,
            folder,
            validate=lambda m: watch.space(probe(m, batches)),
            callbacks=[watch],
        )
    return [{"step": 0, **{f"validation_{k}": v for k, v in start.items()}}, *history]


def _in_order(model: PreTrainedModel, micro: MicroBatch) -> np.ndarray:
    """Embeddings of a micro-batch's texts in their order: float32 (texts, d)."""
    chunks = [{k: v.to(model.device) for k, v in chunk.items()} for chunk in micro["chunks"]]
    return embed_chunks(model, chunks)[micro["place"].to(model.device)].float().cpu().numpy()
