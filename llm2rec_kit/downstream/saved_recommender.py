"""A trained recommender read back from a run: what it recommends after any history, of items that no training saw, too.

Weights are kept for the first seed of a run; the rest of an item table, the frozen embeddings, is read from the run's
tables. A title that is no item of the catalogue (a *cold* item) gets its row from its embedding, behind the same adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from llm2rec_kit import geometry
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus, read_plain_titles
from llm2rec_kit.downstream import evaluation, item_table
from llm2rec_kit.results import weights
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import own_parts

FOUND = 20  # titles that a search shows


@dataclass(frozen=True, eq=False)
class Trained:
    """A recommender with its item table, over one domain's corpus, ready to recommend.

    catalogue  the items' embeddings (N, dim) as they come, by which further titles get rows; None where the table has no text.
    new        titles that `adding` put behind the catalogue's, with the ids N + 1, N + 2, ..., and `rows`, their vectors.
    """

    corpus: Corpus
    model: nn.Module
    item_table: item_table.ItemTable
    name: str
    settings: S.Evaluation
    catalogue: np.ndarray | None = None
    new: tuple[str, ...] = ()
    rows: torch.Tensor | None = None

    @cached_property
    def table(self) -> torch.Tensor:
        """The item table, float32 (N + 1, hidden), with a row more for each new title."""
        with torch.no_grad():
            items = self.item_table().detach()  # trained ids are a parameter, handed out as it is
        return items if self.rows is None else torch.cat([items, self.rows])

    @cached_property
    def titles(self) -> list[str]:
        """Titles of items 1..N and of the new ones: `titles[i - 1]` is item i's."""
        return [*self.corpus.titles, *self.new]

    @torch.no_grad()
    def adding(self, titles: Sequence[str], embeddings: np.ndarray) -> Trained:
        """Return the same recommender over the catalogue and `titles` behind it, whose `embeddings` (m, dim) are from its
        table's encoder. ValueError where the table has no text, so that nothing tells where a title belongs."""
        new, how = np.asarray(embeddings, np.float32), (self.settings.normalise, self.settings.scale)
        rows = self.item_table.rows(geometry.normalise_rows(new, self.check_places(), *how))
        rows = rows if self.rows is None else torch.cat([self.rows, rows])
        return replace(self, new=(*self.new, *titles), rows=rows)

    def check_places(self) -> np.ndarray:
        """Return the items' embeddings, by which titles that are none get rows; ValueError where the table has no text."""
        if self.catalogue is None:
            raise ValueError(
                f"{self.name} knows an item by a vector that training learned from its purchases, and a title without any has "
                "none: nothing says where it belongs. Take a recommender over embeddings of text, or titles of the catalogue."
            )
        return self.catalogue

    def far(self, embeddings: np.ndarray) -> np.ndarray:
        """Tell which embeddings (m, dim) are nearer to no item than 95 of 100 items are to another, by cosine: bool (m,). Of
        what is far from the catalogue an adapter says little, and may put it first all the same."""
        return geometry.compute_nearest_cosines(embeddings, self.check_places()) < self._usual

    @cached_property
    def _usual(self) -> float:
        return geometry.compute_usual_cosine(self.check_places())

    def find(self, title: str) -> list[int]:
        """Find the ids of the catalogue's items with this title (`Titles.find`)."""
        return self._items.find(title)

    @cached_property
    def _items(self) -> Titles:
        return Titles(self.corpus.items)

    @torch.no_grad()
    def scores(self, history: Sequence[int]) -> np.ndarray:
        """Score every item after `history` (item ids, oldest first; the window's last are read): float32 (N + new,).
        ValueError for an empty history or an id out of range."""
        ids, last = np.asarray(history, dtype=np.int64)[-self.corpus.max_history :], len(self.table) - 1
        if not len(ids) or ids.min() < 1 or ids.max() > last:
            raise ValueError(f"A history is one item id at least, each 1..{last}; found {list(history)!r:.80}.")
        states: torch.Tensor = self.model(F.embedding(torch.from_numpy(ids)[None], self.table))
        return (self.table[1:] @ states[0, -1]).numpy()

    def top(
        self, history: Sequence[int], k: int = 10, *, exclude_seen: bool = False, without: Collection[int] = ()
    ) -> pl.DataFrame:
        """Tabulate the k best items: rank, item, title, score;
        without the history's where `exclude_seen`, never `without`."""
        scores = self.scores(history)
        left_out = [*without, *(history if exclude_seen else ())]
        scores[np.asarray(left_out, dtype=np.int64) - 1] = -np.inf
        best = np.argsort(-scores, kind="stable")[: min(k, int(np.isfinite(scores).sum()))]
        titles = pl.Series([self.titles[at] for at in best], dtype=pl.String)
        ranks = np.arange(1, len(best) + 1)
        return pl.DataFrame({"rank": ranks, "item": best + 1, "title": titles, "score": scores[best]})


class Titles:
    """Items by their titles: the plain ones and, where the text that is read of an item has more than its title, that text,
    as lists of items show it."""

    def __init__(self, items: pl.DataFrame) -> None:
        self._known: list[tuple[dict[str, list[int]], dict[str, list[int]]]] = []
        plain, shown = read_plain_titles(items).to_list(), items["title"].to_list()
        for texts in (plain, shown) if plain != shown else (plain,):
            exact: dict[str, list[int]] = {}
            alike: dict[str, list[int]] = {}
            for item, text in enumerate(texts, 1):
                exact.setdefault(text, []).append(item)
                alike.setdefault(self._plain(text), []).append(item)
            self._known.append((exact, alike))

    def find(self, title: str) -> list[int]:
        """Find the ids of the items of this title: to the letter, else in any case and spacing; else those whose whole text
        it is, alike; [] where there is none."""
        for exact, alike in self._known:
            if found := exact.get(title) or alike.get(self._plain(title)):
                return found
        return []

    @staticmethod
    def _plain(title: str) -> str:
        return " ".join(title.casefold().split())


def search_titles(items: pl.DataFrame, text: str) -> pl.DataFrame:
    """Find items whose title holds every word of `text`, in any case: (item, title), the first few."""
    held = pl.lit(True)
    for word in text.lower().split():
        held = held & pl.col("title").str.to_lowercase().str.contains(word, literal=True)
    return items.filter(held).select("item", "title").head(FOUND)


def load(
    run: Run, domain: str, recommender: str, embedding: str, part: tuple[Corpus, np.ndarray], tables: dict[str, np.ndarray]
) -> Trained:
    """Load the recommender of `run` whose weights are current; `part` and `tables` as `evaluation.train_many` takes them.

    Raises ValueError where the run kept none, ArtefactError where they are damaged.
    """
    kept = weights.find_kept(run, domain, recommender, embedding)
    if not kept:
        raise ValueError(
            f"{run} kept no weights of {recommender} over {embedding!r} in {domain!r} that are of what it holds now. Run "
            "notebooks/04_downstream_eval.ipynb, with `force` where its evaluations are older than kept weights."
        )
    corpus, ids = part
    stage, kind = item_table.parse_name(embedding)
    asked = run.manifest(kept)["settings"]
    made_by = asked.pop(own_parts.KEY, "")
    if made_by and own_parts.find("recommender", recommender).digest != made_by:
        raise ValueError(
            f"{kept} of run {run.name!r} was trained by another version of the {own_parts.find('recommender', recommender)} than the "
            "one here. Run notebooks/04_downstream_eval.ipynb again: it trains with this one."
        )
    settings = S.Evaluation(**asked)
    vectors = tables[stage][ids] if stage else None
    both = evaluation.make_model_and_table(recommender, corpus.n_items, corpus.max_history, vectors, settings, kind)
    both.load_state_dict(load_file(weights.find_file(run, kept)))
    both.eval()
    catalogue = None if vectors is None else vectors[1:]
    return Trained(corpus, both[0], both.table, f"{recommender} over {embedding}", settings, catalogue)


def load_from_run(run: Run, domain: str, recommender: str, embedding: str, corpus: Corpus | None = None) -> Trained:
    """Load as `load` does, with its errors, from the run alone; `corpus` is the run's, where it has been read already."""
    corpus = corpus or Corpus.load(run.require("corpus"))
    return load(run, domain, recommender, embedding, corpus.select([domain]), _tables(run, embedding))


def _tables(run: Run, embedding: str) -> dict[str, np.ndarray]:
    """The embeddings that a table stands on, by stage; none for ids."""
    stage = item_table.parse_name(embedding)[0]
    return item_table.read_table(run, [stage]) if stage else {}


def has_weights(run: Run, corpus: Corpus, recommender: str, embedding: str) -> bool:
    """Tell whether the run has current weights of this recommender in every domain of the corpus."""
    return all(weights.find_kept(run, domain, recommender, embedding) for domain in corpus.domains)


def recommend_across_domains(
    run: Run, corpus: Corpus, recommender: str, embedding: str, k: int = 10
) -> Callable[[Sequence[int]], np.ndarray]:
    """Build a function that takes a history of the corpus's item ids, all of one domain, and gives the k best items not in
    it. The recommender of each domain is read when first asked. Raises ValueError as `load` does."""
    domain_of = corpus.items["domain"].to_list()
    tables = _tables(run, embedding)
    loaded: dict[str, tuple[Trained, np.ndarray]] = {}

    def recommend(history: Sequence[int]) -> np.ndarray:
        domain = domain_of[int(history[-1]) - 1]
        if domain not in loaded:
            part = corpus.select([domain])
            loaded[domain] = load(run, domain, recommender, embedding, part, tables), part[1]
        model, ids = loaded[domain]
        best = model.top(np.searchsorted(ids, np.asarray(history)).tolist(), k, exclude_seen=True)
        found: np.ndarray = ids[best["item"].to_numpy()]
        return found

    return recommend


def compare_top(models: dict[str, Trained], target: int, k: int = 10) -> pl.DataFrame:
    """Tabulate each model's top k, a column a model, for one test target (an index into `sequence`); `>` marks the truth."""
    corpus = next(iter(models.values())).corpus
    truth = int(corpus.sequence[target])
    columns: dict[str, list[Any]] = {"rank": list(range(1, k + 1))}
    for name, model in models.items():
        top = model.top(corpus.history(target).tolist(), k)
        marks = ["> " if item == truth else "" for item in top["item"]]
        titles = [mark + title for mark, title in zip(marks, top["title"], strict=True)]
        columns[name] = titles + [""] * (k - len(titles))
    return pl.DataFrame(columns)


def show_users(models: dict[str, Trained], users: int = 5, k: int = 10) -> dict[str, pl.DataFrame]:
    """Compare the top lists (`compare_top`) of `users` users, spread over those that are tested, at the first test sample of
    each, under user, history and truth in words."""
    corpus = next(iter(models.values())).corpus
    tests, titles = corpus.samples("test"), np.array(["", *corpus.titles], dtype=object)
    tests = tests[np.unique(corpus.owners(tests), return_index=True)[1]]
    count = len(tests)
    chosen = tests if count <= users else tests[(np.arange(users) + 1) * count // (users + 1) - 1]
    found = {}
    for target, owner in zip(chosen, corpus.owners(chosen), strict=True):
        history, truth = " / ".join(titles[corpus.history(target)]), titles[corpus.sequence[target]]
        user = corpus.users["source_id"][int(owner)]
        found[f"user {user}\nhistory: {history}\ntruth:   {truth}"] = compare_top(models, target, k)
    return found
