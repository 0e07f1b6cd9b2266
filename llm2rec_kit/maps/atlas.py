"""Atlas: everything that the figures, the explorer and the exports draw from, made once and kept in a run's `maps/`.

    maps.parquet    item, stage, x, y (the stage's own layout), aligned_x, aligned_y (one frame), placed (by `transform`)
    groups.parquet  item, popularity, cluster, community

Tables are (N + 1, dim), row 0 padding. The stage `adapted` is the space that a trained recommender compares items in: the
last embedding behind the linear adapter of its SASRec. Each domain has a recommender, so a domain's items stand in its own
adapter's space, at right angles to the other domains', with whose items no recommender ever compared them. Its isotropy
and effective rank are means over the domains' spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit import geometry
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.maps import groups, projection, quality
from llm2rec_kit.results import weights
from llm2rec_kit.runs import ArtefactError, Run, freshness

ADAPTED = "adapted"
PAIRS = 5000  # of either kind, for the numbers
GROUPINGS = ("cluster", "community")
NORMALISED = ("none", "unit", "standardised")  # values of evaluation_normalise whose adapters are mapped


@dataclass(frozen=True, eq=False)
class Atlas:
    """Maps, items and tables of a run.

    items    DataFrame, a row a mapped item: item, title, domain, further columns of the corpus, popularity, cluster,
             community.
    own, aligned  {stage: float32 (n, 2)} in the order of `items`.
    tables   {stage: float32 (N + 1, dim)}, all items of the corpus.
    words    {"cluster": {0: "star harbor, headset", ...}, "community": ...}: the groups' names, from titles.
    quality  the record: numbers under the maps.
    """

    items: pl.DataFrame
    own: dict[str, np.ndarray]
    aligned: dict[str, np.ndarray]
    tables: dict[str, np.ndarray]
    corpus: Corpus
    words: dict[str, dict[int, str]]
    quality: dict[str, Any]

    @classmethod
    def load(cls, run: Run) -> Atlas:
        """Load the atlas that `write` made in a run; ArtefactError where notebook 05 has not run over what the run holds."""
        folder = run.require("maps")
        if changed := run.changed_inputs("maps"):
            raise ArtefactError(
                f"The maps of run {run.name!r} show what it does not hold any more: {', '.join(changed)} changed. Run "
                f"notebooks/05_embedding_maps.ipynb again (run {run.name!r})."
            )
        made_from = list(run.manifest("maps")["inputs"])
        freshness.refuse_outdated(run, made_from)
        corpus = Corpus.load(run.require("corpus"))
        tables = _embeddings(run, [n.split("/")[1] for n in made_from if n.startswith("embeddings/")])
        if adapters := [n for n in made_from if n.startswith("evaluation/")]:
            tables[ADAPTED] = apply_adapters(run, corpus, tables[run.record(adapters[0])["embedding"]], adapters)
        return cls.read(folder, corpus, tables, run.record("maps"))

    @classmethod
    def read(cls, folder: Path, corpus: Corpus, tables: dict[str, np.ndarray], record: dict[str, Any]) -> Atlas:
        """Read the atlas in `folder`, over the corpus and tables that it was made from."""
        maps = pl.read_parquet(folder / "maps.parquet")
        stages = maps["stage"].unique(maintain_order=True).to_list()
        parts = {stage: maps.filter(pl.col("stage") == stage) for stage in stages}
        kept = corpus.items.join(pl.read_parquet(folder / "groups.parquet"), on="item", maintain_order="right", how="right")
        items = kept.select("item", pl.exclude("item"))
        own, aligned = (
            {stage: part.select(x, y).to_numpy() for stage, part in parts.items()}
            for x, y in (("x", "y"), ("aligned_x", "aligned_y"))
        )
        words = {column: groups.name_groups(items["title"].to_list(), items[column].to_numpy()) for column in GROUPINGS}
        return cls(items, own, aligned, {stage: tables[stage] for stage in stages}, corpus, words, record)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in order."""
        return list(self.aligned)

    @property
    def kind(self) -> str:
        """The column that says what an item is: `category` where the corpus has it, else `domain`."""
        return "category" if "category" in self.items.columns else "domain"

    def rows(self, items: np.ndarray) -> np.ndarray:
        """Find where item ids stand in `items`, int64; -1 for an item that is not on the map."""
        ids = self.items["item"].to_numpy()
        at = np.searchsorted(ids, items).clip(max=len(ids) - 1)
        return np.where(ids[at] == items, at, -1)

    @cached_property
    def lengths(self) -> dict[str, np.ndarray]:
        """Lengths of all items' embeddings at each stage, float32 (N,), zero ones as 1e-12: measured once, since a click or a
        user's path needs them all."""
        return {s: np.maximum(np.linalg.norm(np.asarray(t[1:]), axis=1), 1e-12) for s, t in self.tables.items()}

    def nearest(self, item: int, k: int) -> pl.DataFrame:
        """Find the k nearest of all items at each stage: stage, rank, item, title, cosine, before.

        `before` is the neighbour's rank at the stage before (1 is nearest), null at the first stage.
        """
        if not 1 <= item <= self.corpus.n_items:
            raise ValueError(f"Items run from 1 to {self.corpus.n_items}; found {item}.")
        titles, rows = self.corpus.items["title"], []
        before: np.ndarray | None = None
        for stage, table in self.tables.items():
            vectors, long = np.asarray(table[1:], np.float32), self.lengths[stage]
            cosine = vectors @ (vectors[item - 1] / long[item - 1]) / long
            cosine[item - 1] = -np.inf
            order = np.argsort(-cosine, kind="stable")
            ranks = np.empty(len(order), dtype=np.int64)
            ranks[order] = np.arange(1, len(order) + 1)
            for rank, row in enumerate(order[: min(k, len(order) - 1)], 1):
                was = None if before is None else int(before[row])
                rows.append((stage, rank, int(row) + 1, titles[int(row)], float(cosine[row]), was))
            before = ranks
        schema = {"stage": str, "rank": int, "item": int, "title": str, "cosine": float, "before": int}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def nearest_titles(self, item: int, k: int) -> pl.DataFrame:
        """List the titles of the k items `nearest` to an item, nearest first, a column a stage."""
        near = self.nearest(item, k)
        return pl.DataFrame({stage: near.filter(stage=stage)["title"] for stage in self.stages})

    def travelled(self, first: str, last: str, most: int = 20) -> pl.DataFrame:
        """Rank items by how far they went between two stages of the aligned frame, furthest first.

        item, title, kind, distance (in standard deviations of the frame), kept (share of the ten nearest at `first` that are
        among the ten nearest at `last`, in the spaces themselves: the check on what the page shows).
        """
        from_, to = self.aligned[first], self.aligned[last]
        spread = float(np.concatenate([from_, to]).std())
        distance = np.linalg.norm(to - from_, axis=1) / max(spread, 1e-12)
        order = np.argsort(-distance, kind="stable")[:most]
        ids = self.items["item"].to_numpy()[order]
        k = min(10, self.corpus.n_items - 1)
        near = []
        for table in (self.tables[first], self.tables[last]):
            found = projection.find_nearest(np.asarray(table[ids]), k + 1, among=np.asarray(table[1:]))
            near.append(projection.drop_own(*found, ids - 1)[0])
        kept = projection.measure_shared_by_row(*near)
        part = self.items[order].select("item", "title", self.kind)
        return part.with_columns(distance=pl.Series(distance[order]), kept=pl.Series(kept))


def project(run: Run, corpus: Corpus, settings: S.Maps, *, force: bool = False) -> Atlas:
    """Lay out the stages of `settings` and keep them as the run's artefact `maps`, or reuse it where nothing changed."""
    tables, made_from = read_tables(run, settings.stages, corpus)
    build = partial(write, corpus=corpus, tables=tables, settings=settings)
    run.make("maps", build, settings=settings.as_dict(), inputs=["corpus", *made_from], force=force)
    return Atlas.load(run)


def read_tables(run: Run, stages: list[str], corpus: Corpus) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the stages' embeddings, from disk as needed, and the names of the artefacts that they come from.

    `adapted` is left out, with a line that says why, where notebook 04 kept no current weights for it.
    """
    plain = [stage for stage in stages if stage != ADAPTED]
    tables = _embeddings(run, plain)
    freshness.refuse_outdated(run, [f"embeddings/{stage}" for stage in plain])
    stage, adapters = _adapters(run, corpus.domains, plain) if ADAPTED in stages else ("", [])
    if adapters:
        tables[ADAPTED] = apply_adapters(run, corpus, tables[stage], adapters)
    elif ADAPTED in stages:
        over = " or ".join(plain[::-1])
        print(f"{ADAPTED}: left out, notebook 04 kept no linear SASRec adapter over {over} as it is now for every domain")
    return tables, [*(f"embeddings/{s}" for s in plain), *adapters]


def _embeddings(run: Run, stages: list[str]) -> dict[str, np.ndarray]:
    return {s: np.load(run.require(f"embeddings/{s}").with_suffix(".npy"), mmap_mode="r") for s in stages}


def apply_adapters(run: Run, corpus: Corpus, table: np.ndarray, made_from: list[str]) -> np.ndarray:
    """Apply each domain's adapter to its items of `table` (N + 1, dim): (N + 1, domains x width), zero outside of the
    domain's own block of columns."""
    from safetensors.numpy import load_file

    blocks = []
    domain = corpus.items["domain"].to_numpy()
    for name in made_from:
        found = load_file(weights.find_file(run, name))
        weight, bias = (
            next(w for key, w in found.items() if key.endswith(f"adapter.{part}")) for part in ("weight", "bias")
        )
        block = np.zeros((len(table), len(weight)), dtype=np.float32)
        own = np.flatnonzero(domain == run.record(name)["domain"]) + 1
        asked = run.manifest(name)["settings"]
        rows = table[own]
        given = geometry.normalise_rows(rows, rows, asked.get("normalise", "none"), asked.get("scale", 1.0))
        block[own] = given @ weight.T + bias
        blocks.append(block)
    return np.concatenate(blocks, axis=1)


def write(folder: Path, corpus: Corpus, tables: dict[str, np.ndarray], settings: S.Maps) -> dict[str, Any]:
    """Lay out `tables` ((N + 1, dim) each) and write maps.parquet and groups.parquet; returns the record, a row a stage.

    Past `settings.max_items`, items drawn by seed are laid out and the rest placed among them.
    """
    fitted = projection.choose_items(corpus.n_items, settings.max_items, settings.seed)
    spaces = {stage: np.asarray(table[1:], dtype=np.float32) for stage, table in tables.items()}
    layouts = projection.lay_out(spaces, settings, fitted=fitted - 1)
    items = np.arange(1, corpus.n_items + 1, dtype=np.int32)
    placed = ~np.isin(items, fitted)
    stages = [
        pl.DataFrame(
            {"item": items, "stage": stage, "placed": placed}
            | dict(zip(("x", "y"), layouts.own[stage].T, strict=True))
            | dict(zip(("aligned_x", "aligned_y"), layouts.aligned[stage].T, strict=True))
        )
        for stage in tables
    ]
    pl.concat(stages).write_parquet(folder / "maps.parquet")
    last = [stage for stage in tables if stage != ADAPTED or len(tables) == 1][-1]
    pl.DataFrame(
        {
            "item": items,
            "popularity": np.bincount(corpus.sequence, minlength=corpus.n_items + 1)[1:],
            "cluster": groups.find_clusters(spaces[last], settings.clusters, seed=settings.seed),
            "community": groups.find_communities(corpus, settings.clusters, seed=settings.seed),
        }
    ).write_parquet(folder / "groups.parquet")
    told = {"items": len(items), "fitted": len(fitted), "placed": int(placed.sum()), "neighbours": quality.NEIGHBOURS}
    return {**told, "clusters_of": last, **_numbers(corpus, tables, layouts, settings)}


def _numbers(corpus: Corpus, tables: dict[str, np.ndarray], layouts: projection.Layouts, settings: S.Maps) -> dict[str, Any]:
    """Numbers of projections and spaces, a row a stage, and the overlap of neighbours between stages."""
    anchors = quality.draw_anchors(corpus.n_items, settings.seed)
    together = projection.list_co_consumed_pairs(corpus, PAIRS, seed=settings.seed)
    at_random = projection.draw_random_pairs(corpus, PAIRS, seed=settings.seed)
    rows = []
    for stage, table in tables.items():
        vectors = np.asarray(table[1:], dtype=np.float32)
        own = quality.measure_projection(vectors, layouts.own[stage], settings.metric, anchors=anchors)
        aligned = quality.measure_projection(vectors, layouts.aligned[stage], settings.metric, anchors=anchors)
        in_frame = {f"{name}_aligned": value for name, value in aligned.items()}
        parts = _spaces(corpus, stage, np.asarray(table)[1:])
        space = quality.measure_space(np.asarray(table), together, at_random, parts=parts)
        rows.append({"stage": stage, **own, **in_frame, **space})
    overlap = quality.measure_overlaps({stage: np.asarray(t[1:]) for stage, t in tables.items()}, anchors=anchors)
    return {"anchors": len(anchors), "stages": rows, "overlap": overlap}


def _spaces(corpus: Corpus, stage: str, vectors: np.ndarray) -> list[np.ndarray]:
    """The spaces that a stage's `vectors` (N, dim) are made of: one, but each domain's block of `adapted` over several."""
    if stage != ADAPTED or len(corpus.domains) == 1:
        return [vectors]
    held = corpus.items["domain"].to_numpy()
    own = [vectors[held == domain] for domain in corpus.domains]
    return [rows[:, rows.any(0)] for rows in own]


def _adapters(run: Run, domains: list[str], stages: list[str]) -> tuple[str, list[str]]:
    """Find the last stage with SASRec's weights current in every domain, and those evaluations; ("", []) without any."""
    for stage in reversed(stages):
        found = [weights.find_kept(run, domain, "SASRec", stage) for domain in domains]
        if all(found) and all(_linear(run, name) for name in found):
            return stage, found
    return "", []


def _linear(run: Run, name: str) -> bool:
    """Whether an evaluation kept one linear adapter over embeddings that can be normalised here as they were there."""
    from safetensors import safe_open

    if run.manifest(name)["settings"].get("normalise", "none") not in NORMALISED:
        return False
    with safe_open(weights.find_file(run, name), "numpy") as file:
        kept: list[str] = list(file.keys())
    return sum(key.endswith(("adapter.weight", "adapter.bias")) for key in kept) == 2
