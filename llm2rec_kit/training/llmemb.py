"""Attributes: LLMEmb's supervised contrastive fine-tuning, the rival that knows items by more than their titles.

From its paper (Liu et al., AAAI 2025) and its released script: an item's text is an instruction and its attributes
("brand is X; category is Y"); a view shuffles them and leaves a share out; the other items of the batch are the negatives,
in both directions; the model stays causal and an embedding is the mean over all tokens. Ours: the loss is InfoNCE over
cosines as in `contrastive`, with that stage's temperature, steps and tuning (the script has soft targets, a learned
temperature and LoRA); at least one attribute is left out where there are two; items whose views read the same do not
repel each other. LLMEmb's second stage, an adapter aligned with a collaborative model, is left out: here every model's
embeddings meet the same recommender.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit import settings as S
from llm2rec_kit.corpus import attribute_columns as columns
from llm2rec_kit.corpus import read_plain_titles
from llm2rec_kit.data.sources import frames
from llm2rec_kit.encoding.tokenisation import tokenise_titles
from llm2rec_kit.models import backbone
from llm2rec_kit.training import contrastive

LONGEST = 100  # characters of a value, as in the released prompts
Item = tuple[str, list[str]]  # domain, attributes


def list_attributes(items: pl.DataFrame) -> list[Item]:
    """List the domain and attributes ("category is Puzzle") of each item; empty values are left out,
    whole floats written as whole numbers."""
    names = columns(items)
    if not names:
        raise ValueError(f"These items have no attributes besides their titles; their columns are {items.columns}.")
    items = items.with_columns(read_plain_titles(items))
    texts = {name: frames.as_text(items, name, "the items") for name in names}
    values = {name: column.fill_null("").to_list() for name, column in texts.items()}
    return [
        (domain, [f"{name} is {text[:LONGEST]}" for name in names if (text := values[name][row].strip())])
        for row, domain in enumerate(items["domain"])
    ]


def make_prompt(item: Item) -> str:
    """Write the text of an item: the instruction, then its attributes.

    >>> make_prompt(("games", ["title is Chess", "category is Board"]))
    'The games item has the following attributes:\\ntitle is Chess; category is Board'
    """
    return f"The {item[0]} item has the following attributes:\n" + "; ".join(item[1])


def make_view(item: Item, share: float, rng: np.random.Generator) -> Item:
    """Make one view: the attributes in another order, `share` of them left out (rounded down; at least one of two or
    more)."""
    domain, attributes = item
    left_out = min(max(int(len(attributes) * share), len(attributes) > 1), len(attributes) - 1)
    kept = rng.permutation(len(attributes))[: len(attributes) - left_out]
    return domain, [attributes[k] for k in kept]


def show_views(items: pl.DataFrame, share: float, count: int = 4, seed: int = 0) -> pl.DataFrame:
    """Show the attributes of the first items and two views of each: item, view 1, view 2, without the instruction before them."""
    rng = np.random.default_rng(seed)
    rows = []
    for item in list_attributes(items)[:count]:
        read = {"item": item, "view 1": make_view(item, share, rng), "view 2": make_view(item, share, rng)}
        rows.append({name: make_prompt(one).split("\n")[1] for name, one in read.items()})
    return pl.DataFrame(rows)


class Batches(contrastive.Batches):
    """Batches as contrast's, of items with attributes: each view leaves out the share `settings.mask_rate` of them."""

    def __init__(self, items: list[Item], tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive) -> None:
        """Items of one text are taken once, as titles are."""
        super().__init__([make_prompt(item) for item in items], tokenizer, settings)
        self.items, self.tokenizer = [items[k] for k in self.kept], tokenizer

    @staticmethod
    def hides_tokens(settings: S.Contrastive) -> bool:
        """Tell that no token is hidden: the attributes that are left out make the views."""
        return False

    def views(self, chosen: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        """Make views as contrast does, of texts with attributes left out; views that read the same get one number, (2, n)."""
        texts = [make_prompt(make_view(self.items[i], self.settings.mask_rate, rng)) for _ in range(2) for i in chosen]
        tokens = tokenise_titles(self.tokenizer, texts, self.settings.max_tokens)
        return tokens, contrastive.number_titles(texts).reshape(2, -1)


def train(
    items: list[Item], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: S.Contrastive, folder: Path
) -> list[dict[str, float]]:
    """Contrast items by their attributes, training the causal `model` in place; return the history, as `contrastive.run`.

    Raises SettingsError where `settings.views` is not `mask`: the dropped attributes alone make the views differ.
    """
    if settings.views != "mask":
        raise S.SettingsError(f"Views that leave out attributes take contrastive_views mask; found {settings.views!r}.")
    batches = Batches(items, tokenizer, settings)
    print(f"  attributes: {len(batches.tokens)} distinct items", flush=True)
    return contrastive.run(batches, backbone.restore_causal_mask(model), settings, folder)
