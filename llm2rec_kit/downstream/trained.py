"""A trained recommender read back from a run: what it recommends after any history.

Weights are kept for the first seed of a run; the rest of an item table, the frozen embeddings, is read from the run's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from llm2rec_kit import own_parts, weights
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream import evaluation, item_table
from llm2rec_kit.runs import Run


@dataclass(frozen=True, eq=False)
class Trained:
    """A recommender with its item table, over one domain's corpus, ready to recommend."""

    corpus: Corpus
    model: nn.Module
    item_table: nn.Module
    name: str

    @cached_property
    def table(self) -> torch.Tensor:
        """The item table, float32 (N + 1, hidden)."""
        with torch.no_grad():
            return self.item_table()

    @torch.no_grad()
    def scores(self, history: Sequence[int]) -> np.ndarray:
        """Score of items 1..N after `history` (item ids, oldest first; the window's last are read): float32 (N,).

        Raises ValueError for an empty history or an id out of range.
        """
        ids = np.asarray(history, dtype=np.int64)[-self.corpus.max_history :]
        if not len(ids) or ids.min() < 1 or ids.max() > self.corpus.n_items:
            raise ValueError(
                f"A history is one item id at least, each 1..{self.corpus.n_items}; found {list(history)!r:.80}."
            )
        states = self.model(F.embedding(torch.from_numpy(ids)[None], self.table))
        return (self.table[1:] @ states[0, -1]).numpy()

    def top(self, history: Sequence[int], k: int = 10, *, exclude_seen: bool = False) -> pl.DataFrame:
        """The k best items: rank, item, title, score; without those in `history` where `exclude_seen`."""
        scores = self.scores(history)
        if exclude_seen:
            scores[np.asarray(history) - 1] = -np.inf
        best = np.argsort(-scores, kind="stable")[: min(k, int(np.isfinite(scores).sum()))]
        titles = self.corpus.items["title"]
        return pl.DataFrame(
            {"rank": np.arange(1, len(best) + 1), "item": best + 1, "title": titles.gather(best), "score": scores[best]}
        )


def load(
    run: Run, domain: str, recommender: str, embedding: str, part: tuple[Corpus, np.ndarray], tables: dict[str, np.ndarray]
) -> Trained:
    """The recommender of `run` whose weights are current; `part` and `tables` as `evaluation.train_many` takes them.

    Raises ValueError where the run kept none, ArtefactError where they are damaged.
    """
    kept = weights.kept(run, domain, recommender, embedding)
    if not kept:
        raise ValueError(
            f"{run} kept no weights of {recommender} over {embedding!r} in {domain!r} that are of what it holds now. Run "
            "notebooks/04_downstream_eval.ipynb, with `force` where its evaluations are older than kept weights."
        )
    corpus, ids = part
    stage, kind = item_table.parse(embedding)
    asked = run.manifest(kept)["settings"]
    made_by = asked.pop(own_parts.KEY, "")
    if made_by and own_parts.find("recommender", recommender).digest != made_by:
        raise ValueError(
            f"{kept} of run {run.name!r} was trained by another version of the {own_parts.find('recommender', recommender)} than the "
            "one here. Run notebooks/04_downstream_eval.ipynb again: it trains with this one."
        )
    settings = S.Evaluation(**asked)
    vectors = tables[stage][ids] if stage else None
    both = evaluation.make_both(recommender, corpus.n_items, corpus.max_history, vectors, settings, kind)
    both.load_state_dict(load_file(weights.file(run, kept)))
    both.eval()
    return Trained(corpus, both[0], both[1], f"{recommender} over {embedding}")


def has_weights(run: Run, corpus: Corpus, recommender: str, embedding: str) -> bool:
    """Whether the run has current weights of this recommender in every domain of the corpus."""
    return all(weights.kept(run, domain, recommender, embedding) for domain in corpus.domains)


def across_domains(
    run: Run, corpus: Corpus, recommender: str, embedding: str, k: int = 10
) -> Callable[[Sequence[int]], np.ndarray]:
    """A function from a history of the corpus's item ids, all of one domain, to the k best items that it does not hold.

    The recommender of each domain is read when first asked. Raises ValueError as `load` does.
    """
    domain_of = corpus.items["domain"].to_list()
    stage = item_table.parse(embedding)[0]
    tables = {stage: np.load(run.require(f"embeddings/{stage}").with_suffix(".npy"))} if stage else {}
    loaded: dict[str, tuple[Trained, np.ndarray]] = {}

    def recommend(history: Sequence[int]) -> np.ndarray:
        domain = domain_of[int(history[-1]) - 1]
        if domain not in loaded:
            part = corpus.select([domain])
            loaded[domain] = load(run, domain, recommender, embedding, part, tables), part[1]
        model, ids = loaded[domain]
        best = model.top(np.searchsorted(ids, np.asarray(history)), k, exclude_seen=True)
        return ids[best["item"].to_numpy()]

    return recommend


def side_by_side(models: dict[str, Trained], target: int, k: int = 10) -> pl.DataFrame:
    """The top k of each model for one test target (an index into `sequence`), a column a model; `>` marks the truth."""
    corpus = next(iter(models.values())).corpus
    truth = int(corpus.sequence[target])
    columns = {"rank": np.arange(1, k + 1)}
    for name, model in models.items():
        top = model.top(corpus.history(target), k)
        marks = ["> " if item == truth else "" for item in top["item"]]
        titles = [mark + title for mark, title in zip(marks, top["title"], strict=True)]
        columns[name] = titles + [""] * (k - len(titles))
    return pl.DataFrame(columns)
