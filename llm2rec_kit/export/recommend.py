"""What a run's recommender puts first after a list of titles: `llm2rec recommend`, and the same in Python.

    from llm2rec_kit import runs
    from llm2rec_kit.export import recommend

    model = recommend.load(runs.find("demo"), domain="games")
    model.after(["a title", "another title"], new=["a title that nobody has bought yet"]).top

A title that is no item of the catalogue is read by the encoder that made the embeddings under the item table, and goes
behind the same adapter: the recommender need not have seen it (`downstream.saved_recommender`).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data import new_titles
from llm2rec_kit.downstream import item_table, saved_recommender
from llm2rec_kit.encoding import minilm, table_encoder, title_files
from llm2rec_kit.results import weights
from llm2rec_kit.results.evaluations import TRAINED
from llm2rec_kit.runs import Run
from llm2rec_kit.settings.ranges import show_value

STAGES = ("contrastive", "mntp", "csft", "raw")  # which embedding is taken where none is named, if the run has it
BETWEEN = r"\s+\|\s+"  # what parts titles on the command line
ASKED = {"title": pl.String, "item": pl.Int64, "far": pl.Boolean}
FAR = "far from every item, so where it stands says little"
Read = Callable[[Sequence[str]], np.ndarray]  # titles to embeddings (m, dim)


@dataclass(frozen=True)
class Answer:
    """What was asked and what was found, as frames.

    history  title, item, known, far: the item that each title is taken for, or the id that it got as none of the catalogue,
             and whether such a one is far from all of the catalogue (`saved_recommender.Trained.far`).
    top      rank, item, source_id, title, score, new: the best first; a new title has no source_id.
    new      title, item, far, rank, score of each title that was to be ranked with the catalogue, wherever it stands.
    """

    history: pl.DataFrame
    top: pl.DataFrame
    new: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Recommender:
    """A trained recommender of a run, and `read`, the encoder under its item table."""

    model: saved_recommender.Trained
    read: Read

    def after(self, history: Sequence[str], k: int = 10, *, new: Sequence[str] = (), seen: bool = False) -> Answer:
        """Recommend the k best items after `history` (titles, oldest first), those of the history left out unless `seen`.

        `new` titles are ranked with the catalogue. Raises ValueError for an empty history, k below 1, or, over ids alone, a
        title that is not in the catalogue.
        """
        if not history or k < 1:
            raise ValueError(f"A history has one title at least, and a list one item; found {len(history)} titles and {k}.")
        known = {title: found[0] for title in [*history, *new] if (found := self.model.find(title))}
        cold = list(dict.fromkeys(title for title in [*history, *new] if title not in known))
        model, distant = self._with(cold)
        ids = known | {title: self.model.corpus.n_items + n for n, title in enumerate(cold, 1)}
        # A title that was only typed is part of the history, and none of what there is to recommend.
        typed = {ids[title] for title in history if title not in known and title not in new}
        read = [ids[title] for title in history]
        ranked = model.top(read, len(model.titles), exclude_seen=not seen, without=typed)
        said, asked = (
            pl.DataFrame({"title": list(t), "item": [ids[x] for x in t], "far": [x in distant for x in t]}, schema=ASKED)
            for t in (history, new)
        )
        asked = asked.join(ranked.select("item", "rank", "score"), on="item", how="left", maintain_order="left")
        said = said.select("title", "item", pl.Series("known", [title in known for title in history]), "far")
        return Answer(said, self._named(ranked.head(k)), asked)

    def _named(self, top: pl.DataFrame) -> pl.DataFrame:
        """`top` with the items' own ids, and which are new."""
        known = self.model.corpus.items.select("item", pl.col("source_id").cast(pl.String))
        named = top.join(known.cast({"item": pl.Int64}), on="item", how="left", maintain_order="left")
        named = named.with_columns(new=pl.col("item") > self.model.corpus.n_items)
        return named.select("rank", "item", "source_id", "title", "score", "new")

    def _with(self, cold: list[str]) -> tuple[saved_recommender.Trained, set[str]]:
        """The recommender with the titles `cold` behind its catalogue, and which of them are far from all of it."""
        if not cold:
            return self.model, set()
        try:
            self.model.check_places()
        except ValueError as error:
            near = saved_recommender.search_titles(self.model.corpus.items, cold[0])["title"].to_list()[:3]
            hint = f" Titles that hold its words: {'; '.join(near)}." if near else ""
            raise ValueError(f"{show_value(cold[0])} is no title of the catalogue. {error}{hint}") from None
        embeddings = self.read(cold)
        far = {title for title, is_far in zip(cold, self.model.far(embeddings), strict=True) if is_far}
        return self.model.adding(cold, embeddings), far


def load(
    run: Run,
    *,
    recommender: str = "",
    embedding: str = "",
    domain: str = "",
    history: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Recommender:
    """Load the recommender of `run` that `pick_recommender` finds; the encoder waits until a title has to be read."""
    row, corpus = pick_recommender(run, recommender=recommender, embedding=embedding, domain=domain, history=history)
    read = make_reader(run, row[2], trust_remote_code=trust_remote_code)
    return Recommender(saved_recommender.load_from_run(run, *row, corpus), partial(read, domain=row[0]))


def pick_recommender(
    run: Run, *, recommender: str = "", embedding: str = "", domain: str = "", history: Sequence[str] = ()
) -> tuple[tuple[str, str, str], Corpus]:
    """Choose a recommender whose weights the run has; returns ((domain, recommender, embedding), the run's corpus).

    Without a name: SASRec, over the last of the run's stages that it was trained over, in the domain whose items the titles
    of `history` are. Raises ValueError naming what there is where that is none, or in more than one domain.
    """
    found = _chosen(weights.list_rows(run), run, recommender, embedding)
    corpus = Corpus.load(run.require("corpus"))
    domain = domain or _domain(corpus, [row[0] for row in found], history)
    here = [row for row in found if row[0] == domain]
    if not here:
        raise ValueError(
            f"{found[0][1]} over {found[0][2]} was trained in {_listed(row[0] for row in found)}, not in {show_value(domain)}."
        )
    return here[0], corpus


def make_reader(run: Run, embedding: str, *, trust_remote_code: bool = False) -> Callable[..., np.ndarray]:
    """Return a function from (titles, domain), prepared as those of the corpus were, to embeddings (m, dim) as in the run's table.

    The domain counts in a mix, whose parts have texts of their own, and may be left out. The encoder is loaded when first
    asked. It raises ArtefactError where the table was not made by an encoder of the run, and as `new_titles.find_settings`.
    """
    stage = item_table.parse_name(embedding)[0] or embedding
    encoder = cache(partial(table_encoder.load_encoder, run, stage, trust_remote_code=trust_remote_code))
    find_settings = cache(partial(new_titles.find_settings, run))

    def read(titles: Sequence[str], domain: str = "") -> np.ndarray:
        texts = new_titles.as_in_corpus(titles, find_settings(domain))
        return minilm.encode_titles(texts)[1:] if stage == minilm.NAME else encoder().encode(texts)

    return read


def make_readers(run: Run, embeddings: Sequence[str]) -> Callable[..., np.ndarray]:
    """Make a function from (embedding, titles, domain) to embeddings (m, dim), by `make_reader` of each of these item tables that stands on text."""
    by_name = {name: make_reader(run, name) for name in embeddings if item_table.parse_name(name)[0]}
    return lambda embedding, titles, domain="": by_name[embedding](titles, domain)


def split_histories(histories: Sequence[str], is_title: Callable[[str], bool]) -> list[str]:
    """Split `--history "title | title"`, which may be given several times, into titles; a text that is one stays whole."""
    out: list[str] = []
    for text in histories:
        out += [text.strip()] if is_title(text.strip()) else re.split(BETWEEN, text.strip())
    if not any(out):
        raise ValueError("A history has one title at least, oldest first: --history 'title | title'.")
    return [title for title in out if title]


def _chosen(there: list[tuple[str, str, str]], run: Run, recommender: str, embedding: str) -> list[tuple[str, str, str]]:
    """The kept rows of one recommender over one embedding, a row a domain."""
    if not there:
        raise ValueError(
            f"Run {run.name!r} kept no trained recommender that is of what it holds now. notebooks/04_downstream_eval.ipynb trains "
            f"them: llm2rec reproduce --run {run.name} --only 04, with the run's profile."
        )
    fits = [r for r in there if recommender in ("", r[1]) and embedding in ("", r[2])]
    if not fits:
        by = {name: [r[2] for r in there if r[1] == name] for name in dict.fromkeys(r[1] for r in there)}
        have = "; ".join(f"{name} over {_listed(tables)}" for name, tables in by.items())
        asked = f"{recommender or 'recommender'} over {embedding or 'any embedding'}"
        raise ValueError(f"Run {run.name!r} kept no {asked}. It has {have}.")
    first = min(fits, key=lambda r: (_place(TRAINED, r[1]), _place(STAGES, r[2])))
    return [r for r in fits if r[1:] == first[1:]]


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _domain(corpus: Corpus, domains: list[str], history: Sequence[str]) -> str:
    """The domain meant: the only one, or that whose items most titles of `history` are; ValueError for none or two."""
    if len(domains) == 1:
        return domains[0]
    titles = saved_recommender.Titles(corpus.items)
    of_items = corpus.items["domain"].to_list()
    votes = [{of_items[item - 1] for item in titles.find(title)} for title in history]
    counts = {domain: sum(domain in vote for vote in votes) for domain in domains}
    best = [domain for domain in domains if counts[domain] == max(counts.values())]
    if len(best) > 1:
        options = " or ".join(f"--domain {domain}" for domain in domains)
        raise ValueError(
            f"The run has a recommender for each of the domains {_listed(domains)}, and nothing tells which is meant"
            f"{': no title of the history is an item of one alone' * bool(history)}. Say so: {options}."
        )
    return best[0]


def _listed(names: Any) -> str:
    return ", ".join(dict.fromkeys(names))


def run_command(run: Run, args: argparse.Namespace) -> None:
    """Print what `llm2rec recommend` was asked; raises what the functions here raise."""
    new = title_files.read(args.new, args.column) if args.new else []
    titles = saved_recommender.Titles(Corpus.load(run.require("corpus")).items)
    history = split_histories(args.history, lambda text: bool(titles.find(text)))
    names = {name: getattr(args, name) for name in ("recommender", "embedding", "domain", "trust_remote_code")}
    model = load(run, history=history, **names)
    found = model.after(history, args.top, new=new, seen=args.seen)
    print(as_json(model, found) if args.json else as_text(model, found))


def as_text(model: Recommender, found: Answer) -> str:
    """Format as lines what the history was taken for, and the list."""
    lines = [f"{model.model.name}, {_listed(model.model.corpus.domains)}", "", "history, oldest first"]
    for title, _, known, far in found.history.iter_rows():
        lines.append(f"  {title}" if known else f"  {title}  (no item: read by the encoder{f'; {FAR}' * far})")
        same = len(model.model.find(title))
        lines[-1] += f"  (the first of {same} items of this title)" * (same > 1)
    far = {title for title, is_far in found.new.select("title", "far").iter_rows() if is_far}
    top = found.top.select("source_id", "title").iter_rows()
    names = [source or f"new{', far' * (title in far)}" for source, title in top]
    width = max(len(name) for name in ["item", *names])
    lines += ["", f"{'rank':>4}  {'score':>8}  {'item':{width}}  title"]
    for name, (rank, title, score) in zip(names, found.top.select("rank", "title", "score").iter_rows(), strict=True):
        lines.append(f"{rank:>4}  {score:>8.3f}  {name:{width}}  {title}")
    if len(found.new):
        lines += ["", f"{'rank':>4}  of {len(found.new)} new titles among all"]
        for title, _, far, rank, _ in found.new.sort("rank", nulls_last=True).iter_rows():
            lines.append(f"{rank or '-':>4}  {title}{f'  ({FAR})' * far}")
    return "\n".join(lines)


def as_json(model: Recommender, found: Answer) -> str:
    """Format as JSON the recommender, its domain, and the frames of the answer, a dict a row."""
    said = {"recommender": model.model.name, "domain": _listed(model.model.corpus.domains)}
    said |= {name: getattr(found, name).to_dicts() for name in ("history", "top", "new")}
    return json.dumps(said, ensure_ascii=False, indent=1)
