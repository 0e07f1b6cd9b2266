"""The panel's face: what is left out at first, every embedding beside the others, labels whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ipywidgets
import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.runs import ArtefactError
from llm2rec_kit.widgets import recommender_panel


@dataclass
class InTurn:
    """Recommends items in turn, from `first` on."""

    corpus: Corpus
    first: int
    new: tuple[str, ...] = ()
    has_text: bool = True

    @property
    def titles(self) -> list[str]:
        return [*self.corpus.titles, *self.new]

    def find(self, title):
        return []

    def check_places(self):
        if not self.has_text:
            raise ValueError("knows no <text>")

    def adding(self, titles, embeddings):
        return replace(self, new=tuple(titles))

    def top(self, history, k=10, *, exclude_seen=False, without=()):
        if max(history) > len(self.titles):
            raise ValueError(f"A history is one item id at least, each 1..{len(self.titles)}")
        order = [1 + (self.first + n) % self.corpus.n_items for n in range(self.corpus.n_items)]
        items = [i for i in order if not (exclude_seen and i in history)][:k]
        titles = [self.corpus.titles[i - 1] for i in items]
        return pl.DataFrame({"rank": range(1, len(items) + 1), "item": items, "title": titles, "score": [1.0] * len(items)})


@pytest.fixture
def view():
    corpus = make_corpus(users=20)
    return recommender_panel.Panel(lambda r, e: InTurn(corpus, {"raw": 0, "csft": 5}[e]), ["SASRec"], ["raw", "csft"])


def test_the_history_is_left_out_at_first(view):
    assert not set(view.selection["item"]) & set(view.history)
    view.unseen.value = False
    assert view.selection["item"].to_list() == list(range(1, 11))


def test_every_embedding_beside_the_others(view):
    assert view.others.value == ""
    view.count.value = 4
    view.beside.value = True
    view.unseen.value = False
    page, titles = view.others.value, view.model.corpus.titles
    assert page.index(">raw<") < page.index(">csft<")
    assert page.count("<tr>") == 5
    for item in (1, 4, 6, 9):
        assert f">{titles[item - 1]}<" in page
    view.user.value = 3
    assert (f"<b>{titles[view.truth - 1]}</b>" in view.others.value) == (view.truth in (1, 2, 3, 4, 6, 7, 8, 9))
    view.source.value = "titles"
    assert view.others.value == ""  # an empty history
    view.found.value = 2
    view.add.click()
    assert "csft" in view.others.value
    view.beside.value = False
    assert view.others.value == ""


def test_a_typed_title_is_read_beside_and_what_cannot_be_shown_says_why():
    corpus = make_corpus(users=20)

    def load(recommender, embedding):
        if embedding == "broken":
            raise ArtefactError("the weights are damaged")
        return InTurn(corpus, {"raw": 0, "csft": 5, "id": 9}[embedding], has_text=embedding != "id")

    names = ["raw", "csft", "id", "broken"]
    view = recommender_panel.Panel(load, ["SASRec"], names, lambda embedding, titles: np.zeros((len(titles), 2)))
    view.beside.value = True
    assert "<i>broken: the weights are damaged</i>" in view.others.value
    view.source.value = "titles"
    view.text.value = "nobody's title"
    view.add_typed.click()
    assert view.history == [corpus.n_items + 1]
    page = view.others.value
    assert page.index(">raw<") < page.index(">csft<")
    assert f">{corpus.titles[0]}<" in page
    assert ">id<" not in page
    assert "<i>id: knows no &lt;text&gt;</i>" in page


def test_a_typed_title_is_read_as_those_of_its_domain(monkeypatch):
    corpus, asked = make_corpus(users=20), []
    monkeypatch.setattr(recommender_panel, "load_from_run", lambda *_, corpus: InTurn(corpus, 0))

    def read(embedding, titles, domain):
        asked.append((embedding, titles, domain))
        return np.zeros((len(titles), 2))

    (tabs,) = recommender_panel.show_domains(None, corpus, ["SASRec"], ["raw"], read).children
    view = tabs.children[0]
    view.source.value, view.text.value = "titles", "nobody's title"
    view.add_typed.click()
    assert asked == [("raw", ["nobody's title"], "toy")]


def test_titles_beside_each_other_are_escaped_and_lists_may_be_short():
    long = pl.DataFrame({"rank": [1, 2], "item": [1, 2], "title": ["<b>x</b>", "y"]})
    page = recommender_panel.as_columns({"<i>": long, "short": long.head(1)}, 2)
    assert "<b>x</b>" not in page
    assert "<i>" not in page
    assert "<b>y</b>" in page


def test_no_label_is_cut(view):
    labelled = [c for c in vars(view).values() if isinstance(c, ipywidgets.DOMWidget) and getattr(c, "description", "")]
    for control in (view.recommender, view.embedding, view.user, view.count):
        assert control in labelled
        assert control.style.description_width == "initial"
