"""What the explorer's browser side cannot know: exact neighbours, a text's place, a user's path, how two tables differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit import geometry
from llm2rec_kit.corpus import TEST, Corpus
from llm2rec_kit.maps import projection
from llm2rec_kit.maps.atlas import Atlas

RECOMMENDED = 10
COMPARED = 10  # nearest neighbours by which two tables are compared
LISTED = 10  # titles nearest to a text
SAME = 1e-6  # cosine distance below which two embeddings are one
HOW = f"the {RECOMMENDED} items nearest to the last one at each stage"

Recommend = Callable[[np.ndarray], Sequence[int]]  # a history of item ids, oldest first, to item ids
Box = tuple[np.ndarray, float]


def find_box(atlas: Atlas) -> Box:
    """Find the corner and side of the square around all stages: one scale for both axes."""
    every = np.concatenate(list(atlas.aligned.values()))
    return every.min(0), max(float((every.max(0) - every.min(0)).max()), 1e-9)


def scale_points(points: np.ndarray, box: Box) -> np.ndarray:
    """Scale points of the aligned frame into the unit square."""
    return (points - box[0]) / box[1]


def find_neighbours(atlas: Atlas, item: int, count: int) -> dict[str, Any]:
    """Find an item's nearest at each stage: {"item", "stages": {stage: [[item, cosine, rank at the stage before or 0]]}}."""
    if not item:
        return {"item": 0, "stages": {}}
    near = atlas.nearest(item, count)
    rows = {s: near.filter(stage=s).select("item", "cosine", "before").fill_null(0).rows() for s in atlas.stages}
    return {"item": item, "stages": {s: [list(row) for row in found] for s, found in rows.items()}}


def place(
    atlas: Atlas, text: str, vectors: dict[str, np.ndarray | str], k: int = 15, usual: dict[str, float] | None = None
) -> dict[str, Any]:
    """Find where a text's embeddings would stand: {"at", "near", "nearest", "far", "without"}.

    `at` (stage to [x, y]) is the mean of the places of its k nearest items, weighted by exp(-(d - d_1) / mean(d - d_1)); on
    an item with the very same embedding, that item's place. `near` is the nearest item's id at each stage, `nearest` has the
    first titles of each as [item, cosine]; `far` those stages where even the nearest is below `usual` (see
    `compute_usual_cosines`), with that cosine; `without` the stages that `vectors` has a phrase for, or nothing.
    """
    box = find_box(atlas)
    at, near, nearest, far, without = {}, {}, {}, {}, {}
    for stage in atlas.stages:
        vector = vectors.get(stage, "none was given")
        if isinstance(vector, str):
            without[stage] = vector
            continue
        among = np.asarray(atlas.tables[stage][1:])
        ids, distances = projection.find_nearest(vector[None], min(k, atlas.corpus.n_items), among=among)
        gap = distances[0] - distances[0, 0]
        weight = np.exp(-gap / max(float(gap.mean()), 1e-12)) if distances[0, 0] > SAME else np.arange(len(gap)) == 0
        spot = weight @ atlas.aligned[stage][ids[0]] / weight.sum()
        at[stage], near[stage] = scale_points(spot, box).tolist(), int(ids[0, 0]) + 1
        nearest[stage] = [[int(i) + 1, 1 - float(d)] for i, d in zip(ids[0, :LISTED], distances[0], strict=False)]
        if usual and 1 - distances[0, 0] < usual[stage]:
            far[stage] = usual[stage]
    return {"text": text, "at": at, "near": near, "nearest": nearest, "far": far, "without": without}


def compute_usual_cosines(atlas: Atlas) -> dict[str, float]:
    """Compute for each stage the cosine to the nearest other item that 19 of 20 items have at least."""
    return {stage: geometry.compute_usual_cosine(np.asarray(table[1:])) for stage, table in atlas.tables.items()}


def name_user(corpus: Corpus, user: int) -> str:
    """Name a user by the source's own id; in a mix, where several have it, with `@` and the domain behind."""
    ids = corpus.users["source_id"]
    return f"{ids[user]}@{corpus.users['domain'][user]}" if (ids == ids[user]).sum() > 1 else str(ids[user])


def find_user(corpus: Corpus, who: str) -> int:
    """Find a user's number from the source's own id (the first of several who share it), from a name (`name_user`) or, where
    none reads so, from the number itself; -1 if none."""
    own, _, domain = who.rpartition("@")
    for mine in (pl.col("source_id") == who, (pl.col("source_id") == own) & (pl.col("domain") == domain)):
        if len(found := corpus.users.filter(mine)["user"]):
            return int(found[0])
    return int(who) if who.isdecimal() and int(who) < corpus.n_users else -1


def find_path(atlas: Atlas, user: int, recommend: Recommend | None = None) -> dict[str, Any]:
    """Collect for `Explorer.path` a user's history, the test target, its rank at each stage, and recommendations.

    The history ends before the target. `ranks` are those of the target among all items outside the history by cosine to the
    history's last, 0 where the history has it. Without `recommend`, the items nearest to the history's last at each stage,
    none that the history has; with it, `starred` is the target's rank among the `first` that it puts first, 0 where it is
    not among them.
    """
    history, target = _history(atlas.corpus, user)
    ranks, stars, how = {}, {}, HOW
    for stage, table in atlas.tables.items():
        order = _by_cosine(np.asarray(table[1:], np.float32), atlas.lengths[stage], history)
        at = np.flatnonzero(order == target)
        ranks[stage] = int(at[0]) + 1 if len(at) else 0
        stars[stage] = order[:RECOMMENDED].tolist()
    own_id = name_user(atlas.corpus, user)
    told = {"user": user, "id": own_id, "history": history, "target": target, "ranks": ranks, "first": RECOMMENDED}
    if recommend is not None:
        chosen = [int(i) for i in recommend(np.asarray(history))][:RECOMMENDED]
        stars, how = dict.fromkeys(atlas.stages, chosen), "what the recommender puts first"
        told["starred"] = chosen.index(target) + 1 if target in chosen else 0
    return {**told, "recommended": stars, "how": how}


def count_lost(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Count for each item how many of its nearest ids (n, k) at one stage are not among those at another: uint8 (n,)."""
    found: np.ndarray = np.round((1 - projection.measure_shared_by_row(first, second)) * first.shape[1]).astype(np.uint8)
    return found


def _by_cosine(vectors: np.ndarray, long: np.ndarray, history: list[int]) -> np.ndarray:
    """Item ids outside a history by cosine to its last, nearest first; `long` are the rows' lengths (N,)."""
    order: np.ndarray = np.argsort(-(vectors @ vectors[history[-1] - 1]) / long, kind="stable") + 1
    return order[~np.isin(order, history)]


def _history(corpus: Corpus, user: int) -> tuple[list[int], int]:
    """Items before the user's last test target (the last item where there is none), and that target."""
    first, last = corpus.offsets[user], corpus.offsets[user + 1]
    own = corpus.targets[(corpus.targets >= first) & (corpus.targets < last) & (corpus.splits == TEST)]
    target = int(own[-1]) if len(own) else int(last - 1)
    return corpus.history(target).tolist() or [int(corpus.sequence[target])], int(corpus.sequence[target])
