"""The panel of notebook 04: pick a user or compose a history, pick recommender and embedding, see the top items at once.

A history may hold titles that no item has: they are read by the encoder under the item table (`Trained.adding`).

The logic is in `saved_recommender`; the widgets only call it. A static twin of what is shown stands under it in the
notebook.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial

import ipywidgets as widgets
import numpy as np
import polars as pl

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream.saved_recommender import Trained, load_from_run, search_titles
from llm2rec_kit.runs import ArtefactError, Run

Loader = Callable[[str, str], Trained]  # (recommender, embedding) to what was trained
Read = Callable[[str, list[str]], np.ndarray]  # (embedding, titles) to embeddings (m, dim)


def show_domains(
    run: Run,
    corpus: Corpus,
    recommenders: list[str],
    embeddings: list[str],
    read: Callable[[str, list[str], str], np.ndarray] | None = None,
) -> widgets.VBox:
    """Show a panel for each domain of the run's corpus, a tab apiece, over the recommenders that the run has trained. `read`
    takes the domain last."""
    panels = []
    for domain in corpus.domains:
        load, here = partial(load_from_run, run, domain, corpus=corpus), read and _read_in(read, domain)
        panels.append(Panel(load, recommenders, embeddings, here))
    return widgets.VBox([widgets.Tab(children=panels, titles=corpus.domains)])


def _read_in(read: Callable[[str, list[str], str], np.ndarray], domain: str) -> Read:
    return lambda embedding, titles: read(embedding, titles, domain)


class Panel(widgets.VBox):
    """Controls and the list; `history` is what the recommender sees, `selection` what it recommends, as a DataFrame."""

    def __init__(self, load: Loader, recommenders: list[str], embeddings: list[str], read: Read | None = None) -> None:
        """`load` is called once for each recommender and embedding; without `read` only titles of the catalogue can be
        added."""
        self._load, self._read = load, read
        self._loaded: dict[tuple[str, str, tuple[str, ...]], Trained] = {}  # by recommender, embedding and titles typed
        wide = widgets.Layout(width="auto")
        self.recommender = widgets.Dropdown(options=recommenders, description="Recommender")
        self.embedding = widgets.Dropdown(options=embeddings, description="Embedding")
        self.beside = widgets.Checkbox(value=False, description="All embeddings side by side", indent=False)
        self.others = widgets.HTML()
        self.count = widgets.IntSlider(value=10, min=1, max=50, description="Items")
        self.unseen = widgets.Checkbox(value=True, description="Leave the history out", indent=False)
        self.source = widgets.ToggleButtons(options=["a test user", "titles"], description="History of")
        self.composed: list[int | str] = []  # items, and titles that are none
        self.corpus = self.model.corpus
        self.targets = self.corpus.samples("test")
        self.user = widgets.BoundedIntText(value=0, min=0, max=len(self.targets) - 1, description="Test sample")
        self.text = widgets.Text(description="Search", placeholder="words of a title", continuous_update=False)
        self.found = widgets.Select(description="Titles", rows=5, layout=wide)
        self.add = widgets.Button(description="Add to the history")
        self.add_typed = widgets.Button(description="Add as typed", tooltip="a title that need not be in the catalogue")
        self.chosen = widgets.Select(description="History", rows=4, layout=wide)
        self.remove = widgets.Button(description="Remove this one")
        self.list = widgets.HTML()
        self.by_user = widgets.HBox([self.user])
        adding = [self.add, self.add_typed] if read else [self.add]
        self.by_titles = widgets.VBox([self.text, self.found, widgets.HBox(adding), self.chosen, self.remove])
        for control in (self.recommender, self.embedding, self.count, self.unseen, self.source, self.user):
            control.observe(self._show, names="value")
            control.style.description_width = "initial"  # or long ones are cut
        for shown in (self.beside, self.list):  # the list is new whenever the history or what it depends on is
            shown.observe(lambda _: setattr(self.others, "value", show_beside(self)), names="value")
        self.text.observe(self._search, names="value")
        self.add.on_click(self._add)
        self.add_typed.on_click(self._add_typed)
        self.remove.on_click(self._remove)
        first = widgets.HBox([self.recommender, self.embedding, self.count, self.unseen, self.beside])
        first.layout.flex_flow = "row wrap"
        super().__init__([first, self.source, self.by_user, self.by_titles, self.list, self.others])
        self._search()
        self._show()

    @property
    def model(self) -> Trained:
        """The chosen recommender over the chosen embedding, with the titles that were typed behind its catalogue.

        Raises ValueError where there are such and the table has no text, ArtefactError where its encoder is not the run's.
        """
        return self.over(self.embedding.value)

    def over(self, embedding: str) -> Trained:
        """Return the chosen recommender over this embedding; raises as `model`."""
        typed, plain = tuple(self._typed), self.of_catalogue(embedding)
        if not typed:
            return plain
        key = self.recommender.value, embedding, typed
        if key not in self._loaded:
            plain.check_places()
            assert self._read is not None  # without it no button adds what was typed
            self._loaded[key] = plain.adding(typed, self._read(embedding, list(typed)))
        return self._loaded[key]

    def of_catalogue(self, embedding: str) -> Trained:
        """Return the chosen recommender over this embedding, without what was typed."""
        key = self.recommender.value, embedding, ()
        if key not in self._loaded:
            self._loaded[key] = self._load(self.recommender.value, embedding)
        return self._loaded[key]

    @property
    def _typed(self) -> list[str]:
        """The titles of the composed history that are no items, once each."""
        composing = self.source.value == "titles"
        return list(dict.fromkeys(one for one in self.composed if composing and isinstance(one, str)))

    @property
    def history(self) -> list[int]:
        """Item ids of the history, oldest first; a typed title has that behind the catalogue's."""
        if self.source.value == "titles":
            place = {title: self.corpus.n_items + n for n, title in enumerate(self._typed, 1)}
            return [place[one] if isinstance(one, str) else one for one in self.composed]
        items: list[int] = self.corpus.history(int(self.targets[self.user.value])).tolist()
        return items

    @property
    def truth(self) -> int | None:
        """The item that the test user went on to; none for a composed history."""
        return None if self.source.value == "titles" else int(self.corpus.sequence[self.targets[self.user.value]])

    @property
    def selection(self) -> pl.DataFrame:
        """rank, item, title, score; empty without a history."""
        if not self.history:
            return pl.DataFrame(schema={"rank": pl.Int64, "item": pl.Int64, "title": pl.String, "score": pl.Float32})
        return self.top(self.model)

    def top(self, model: Trained) -> pl.DataFrame:
        """Rank what `model`, one of `over`, puts first after the history."""
        typed = range(self.corpus.n_items + 1, len(model.titles) + 1)  # nothing that could be had
        return model.top(self.history, self.count.value, exclude_seen=self.unseen.value, without=typed)

    def _search(self, _: object = None) -> None:
        hits = search_titles(self.corpus.items, self.text.value)
        self.found.options = list(zip(hits["title"].to_list(), hits["item"].to_list(), strict=True))

    def _add(self, _: object) -> None:
        if self.found.value is not None:
            self._compose([*self.composed, int(self.found.value)])

    def _add_typed(self, _: object) -> None:
        if title := self.text.value.strip():
            self._compose([*self.composed, *(self.of_catalogue(self.embedding.value).find(title)[:1] or [title])])

    def _remove(self, _: object) -> None:
        at = self.chosen.value
        self._compose([one for place, one in enumerate(self.composed) if place != at])

    def _compose(self, composed: list[int | str]) -> None:
        self.composed = composed
        names = [one if isinstance(one, str) else self.corpus.titles[one - 1] for one in composed]
        self.chosen.options = [(f"{place + 1}. {name}", place) for place, name in enumerate(names)]
        self.chosen.value = len(names) - 1 if names else None
        self._show()

    def _show(self, _: object = None) -> None:
        composing = self.source.value == "titles"
        self.by_user.layout.display = "none" if composing else ""
        self.by_titles.layout.display = "" if composing else "none"
        try:
            titles = self.model.titles
            self.list.value = as_html([titles[i - 1] for i in self.history], self.selection, self.truth, titles)
        except (ValueError, ArtefactError) as error:  # a typed title, and a table without text or an encoder of the run's
            self.list.value = f"<i>{html.escape(str(error))}</i>"


def as_html(history: list[str], top: pl.DataFrame, truth: int | None, titles: list[str]) -> str:
    """Format the history, the truth where it is known, and the list with its scores as bars; titles escaped."""
    if not history:
        return "<i>The history is empty: search a title and add it.</i>"
    lines = "".join(f"<li>{html.escape(title)}</li>" for title in history)
    out = f"<b>History, oldest first</b><ol>{lines}</ol>"
    if truth is not None:
        at = top.filter(pl.col("item") == truth)["rank"]
        where = f"at rank {at[0]}" if len(at) else "not in the list"
        out += f"<b>Went on to</b> {html.escape(titles[truth - 1])} ({where})<br><br>"
    low, high = top.select(low=pl.min("score"), high=pl.max("score")).row(0)
    rows = ""
    for rank, item, title, score in top.iter_rows():
        width = 20 + 100 * (score - low) / max(high - low, 1e-9)
        name = f"<b>{html.escape(title)}</b>" if item == truth else html.escape(title)
        bar = f"<span style='display:inline-block;height:9px;width:{width:.0f}px;background:#0072B2'></span>"
        cells = f"<td>{rank}</td><td style='padding:0 12px'>{name}</td><td>{bar} {score:.2f}</td>"
        rows += f"<tr>{cells}</tr>"
    return f"{out}<b>Recommended</b><table style='line-height:1.5'>{rows}</table>"


def show_beside(view: Panel) -> str:
    """Format what a panel shows under its list where asked for: the list of every embedding, a column each. Under them stands
    why one has none: a typed title and a table without text, an encoder or weights that are not sound."""
    if not view.beside.value or not view.history:
        return ""
    lists, lacking = {}, ""
    for name in view.embedding.options:
        try:
            lists[name] = view.top(view.over(name))
        except (ValueError, ArtefactError) as error:
            lacking += f"<br><i>{html.escape(f'{name}: {error}')}</i>"
    return (as_columns(lists, view.truth) if lists else "") + lacking


def as_columns(lists: dict[str, pl.DataFrame], truth: int | None) -> str:
    """Format lists (rank, item, title) as a table, a column each, the truth bold; titles escaped, and none cut."""
    cell = "<td style='padding:0 12px; vertical-align:top; text-align:left'>"
    head = "".join(f"<th style='padding:0 12px; text-align:left'>{html.escape(name)}</th>" for name in lists)
    rows = ""
    for rank in range(max(len(top) for top in lists.values())):
        rows += f"<tr><td>{rank + 1}</td>"
        for top in lists.values():
            item, title = (top["item"][rank], html.escape(top["title"][rank])) if rank < len(top) else (None, "")
            rows += f"{cell}{f'<b>{title}</b>' if title and item == truth else title}</td>"
        rows += "</tr>"
    return f"<b>Side by side</b><table style='line-height:1.5'><tr><th></th>{head}</tr>{rows}</table>"
