"""MNTP, masked next-token prediction: the model learns to use the context that lifting the mask gave it (paper sec. 3.3.1).

A fifth of a title's tokens is hidden; each is predicted from the state of the position *before* it, as the language-model
head was trained to do. Right padding matters: under left padding the first real token would be predicted from a pad.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import settings as S
from llm2rec_kit.encoding.tokenisation import cut_by_length, pad, tokenise_titles
from llm2rec_kit.fitting.trainer import fit
from llm2rec_kit.models import backbone
from llm2rec_kit.training.titles import draw_rows


class Batches:
    """Item k is optimiser step k: `batch_size` titles with the masks of that step."""

    def __init__(self, titles: list[str], tokenizer: PreTrainedTokenizerBase, vocabulary: int, settings: S.MNTP) -> None:
        """Random replacements are token ids below `vocabulary`. Raises ValueError for no titles."""
        if not titles:
            raise ValueError(
                "There is no title to learn from: no domain of the corpus is in-domain "
                "(`data_train_domains`, notebooks/01_data_prep.ipynb)."
            )
        self.tokens = tokenise_titles(tokenizer, titles, settings.max_tokens)
        self.mask_id = backbone.mask_token_id(tokenizer, settings.mask_token)
        self.pad_id, self.vocabulary, self.settings = tokenizer.pad_token_id, vocabulary, settings
        self.steps_per_epoch = -(-len(self.tokens) // settings.batch_size)

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> list[dict[str, torch.Tensor]]:
        rng = np.random.default_rng([self.settings.seed, 1, step])
        return self.micro_batches(draw_rows(len(self.tokens), self.settings.batch_size, self.settings.seed, step), rng)

    def micro_batches(self, chosen: np.ndarray, rng: np.random.Generator) -> list[dict[str, torch.Tensor]]:
        """Mask the chosen titles and cut them by the token budget."""
        lengths = np.array([len(self.tokens[i]) for i in chosen])
        return [
            self._collate([self.tokens[i] for i in chosen[part]], rng)
            for part in cut_by_length(lengths, self.settings.batch_tokens)
        ]

    def _collate(self, titles: list[np.ndarray], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        pairs = [mask_tokens(t, self.mask_id, self.vocabulary, self.settings, rng) for t in titles]
        ids, mask = pad([p[0] for p in pairs], self.pad_id, torch.device("cpu"))
        longest = ids.shape[1]
        # The first token has no position before it to be predicted from, so it carries no loss (as the HF label shift).
        places = np.concatenate([np.flatnonzero(p[1][1:]) + 1 + k * longest for k, p in enumerate(pairs)])
        labels = np.concatenate([t[1:][p[1][1:]] for t, p in zip(titles, pairs, strict=True)])
        batch = {
            "input_ids": ids,
            "sources": torch.from_numpy(places - 1),
            "labels": torch.from_numpy(labels),
            "count": torch.tensor(len(labels)),
        }
        return batch if mask is None else batch | {"attention_mask": mask}


def mask_tokens(
    ids: np.ndarray, mask_id: int, vocabulary: int, settings: S.MNTP, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask each token with probability `rate`; return the ids as the model sees them, and which of them it has to predict.

    `80_10_10` replaces 8 of 10 by the mask token and 1 of 10 by a random token, and leaves 1 of 10 (official code).
    """
    predicted = rng.random(len(ids)) < settings.rate
    kind = rng.random(len(ids)) if settings.replacement == "80_10_10" else np.zeros(len(ids))
    seen = np.where(predicted & (kind < 0.8), mask_id, ids)
    random = rng.integers(0, vocabulary, len(ids))
    return np.where(predicted & (kind >= 0.8) & (kind < 0.9), random, seen), predicted


def show_masks(batches: Batches, tokenizer: PreTrainedTokenizerBase, most: int, *, seed: int = 0) -> pl.DataFrame:
    """Tabulate the first titles of `batches` with masks drawn by seed:
    title, what the model sees, to predict (what is hidden)."""
    rng = np.random.default_rng(seed)
    rows = []
    for ids in batches.tokens[:most]:
        seen, hidden = mask_tokens(ids, batches.mask_id, batches.vocabulary, batches.settings, rng)
        asked = " | ".join(str(tokenizer.decode([token])) for token in ids[hidden])
        rows.append({"title": tokenizer.decode(ids), "what the model sees": tokenizer.decode(seen), "to predict": asked})
    return pl.DataFrame(rows)


def draw_gaps(titles: Iterable[str], tokenizer: PreTrainedTokenizerBase, most: int, *, seed: int) -> list[tuple[str, int]]:
    """Draw one token to hide, never the first, in each of the first titles of three tokens or more:
    (title, place), by seed."""
    rng = np.random.default_rng(seed)
    lengths = ((title, len(tokenizer(title, add_special_tokens=False)["input_ids"])) for title in titles)
    return list(itertools.islice(((title, int(rng.integers(1, n))) for title, n in lengths if n > 2), most))


@torch.no_grad()
def fill_gaps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    gaps: Iterable[tuple[str, int]],
    settings: S.MNTP,
    *,
    most: int = 3,
) -> pl.DataFrame:
    """Fill each gap of `draw_gaps`: seen, truth, fillings (the model's `most` likeliest), found (the first is the truth).

    As in training, a hidden token is read off the state of the one before it.
    """
    rows = []
    for title, place in gaps:
        ids = tokenizer(title, add_special_tokens=False)["input_ids"]
        seen = [*ids[:place], backbone.mask_token_id(tokenizer, settings.mask_token), *ids[place + 1 :]]
        logits = model(input_ids=torch.tensor([seen], device=model.device)).logits[0, place - 1]
        likeliest = [str(tokenizer.decode(token)) for token in logits.topk(most).indices]
        truth = tokenizer.decode(ids[place])
        found = {"fillings": " | ".join(likeliest), "found": likeliest[0] == truth}
        rows.append({"seen": tokenizer.decode(seen), "truth": truth, **found})
    return pl.DataFrame(rows, schema={"seen": str, "truth": str, "fillings": str, "found": bool})


def compute_loss(model: PreTrainedModel, micro: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Compute the summed cross-entropy of the hidden tokens, and their number."""
    logits = _logits(model, micro)
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(exact, micro["labels"], reduction="sum"), len(micro["labels"])


def _logits(model: PreTrainedModel, micro: dict[str, torch.Tensor]) -> torch.Tensor:
    states = backbone.last_states(model, micro["input_ids"], micro.get("attention_mask"))
    return backbone.compute_logits(model, states.flatten(0, 1)[micro["sources"]])


@torch.no_grad()
def validate(model: PreTrainedModel, batches: Batches) -> dict[str, float]:
    """Measure loss, perplexity and accuracy on hidden tokens of all titles of `batches`, with one fixed draw of masks."""
    was_training = model.training
    model.eval()
    total, right, count = 0.0, 0, 0
    for micro in batches.micro_batches(np.arange(len(batches.tokens)), np.random.default_rng(batches.settings.seed)):
        micro = {k: v.to(model.device) for k, v in micro.items()}
        logits = _logits(model, micro)
        total += F.cross_entropy(logits.float(), micro["labels"], reduction="sum").item()
        right += int((logits.argmax(-1) == micro["labels"]).sum())
        count += len(micro["labels"])
    model.train(was_training)
    mean = total / max(1, count)
    return {"loss": mean, "accuracy": right / max(1, count), "perplexity": math.exp(min(mean, 100))}


def split_titles(titles: list[str], settings: S.MNTP) -> tuple[list[str], list[str]]:
    """Split the titles into (training titles, held-out titles), drawn by seed."""
    order = np.random.default_rng(settings.seed).permutation(len(titles))
    held = round(len(titles) * settings.held_out)
    return [titles[i] for i in np.sort(order[held:])], [titles[i] for i in np.sort(order[:held])]


def check_titles(titles: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise SettingsError where no title has two tokens:
    a token is predicted from the one before it, so nothing is learned."""
    if titles and max(map(len, tokenise_titles(tokenizer, titles, 2))) < 2:
        raise S.SettingsError(
            "Every title of the training domains is one token, and MNTP predicts a token from those beside it: nothing would be "
            "learned, at a perplexity of 1.0. Give the items longer texts (data_text), or take a tokenizer that tells more apart."
        )


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.MNTP) -> PreTrainedModel:
    """Lift the causal mask and, where the settings ask for a `new` mask token, add it, in place; return the model."""
    if settings.mask_token == "new":
        backbone.add_mask_token(model, tokenizer)
    return backbone.lift_causal_mask(model)


def count_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens to draw replacements from: a tokenizer may name more than the model has rows for (Gemma 3's image)."""
    return min(len(tokenizer), backbone.token_rows(model))


def train(
    titles: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.MNTP, folder: Path
) -> list[dict[str, float]]:
    """Train `model` in place, bidirectionally, on `titles`, a share of them held out; return the history."""
    backbone.check_length(model, settings.max_tokens, "mntp_max_tokens")
    check_titles(titles, tokenizer)
    known = len(tokenizer)
    prepare(model, tokenizer, settings)
    added = [int(tokenizer.mask_token_id)] if len(tokenizer) > known else []
    vocabulary, (learned, held) = count_tokens(model, tokenizer), split_titles(titles, settings)
    batches = Batches(learned, tokenizer, vocabulary, settings)
    checked = Batches(held, tokenizer, vocabulary, settings) if held else None
    print(f"  mntp: {len(learned)} titles, {len(held)} held out", flush=True)
    check = partial(validate, batches=checked) if checked else None
    return fit("mntp", model, batches, compute_loss, settings, folder, validate=check, new_tokens=added)
