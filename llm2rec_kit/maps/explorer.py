"""The explorer: an atlas under the pointer, in a notebook or as one page that needs no kernel.

What is shown is in `static/explorer.js`; what it cannot know is answered here: exact neighbours over all items, where the
encoders put a text that no item has, what a user consumed. `Explorer` ties the two together through anywidget, `page`
through answers written into the page beforehand.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import polars as pl
import traitlets

from llm2rec_kit.corpus import TEST, Corpus
from llm2rec_kit.maps import map_figures, projection
from llm2rec_kit.maps.atlas import ADAPTED, GROUPINGS, Atlas
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.storage import check_target, write_text

STATIC = Path(__file__).parent / "static"
RECOMMENDED = 10
PAGE_NEIGHBOURS = 15  # of each item at each stage that a page carries
PAGE_USERS = 200  # histories that a page carries, drawn by seed
SAME = 1e-6  # cosine distance below which two embeddings are one
HOW = f"the {RECOMMENDED} items nearest to the last one at each stage"

Encode = Callable[[str], dict[str, np.ndarray | str]]  # a text to {stage: float32 (dim,), or why it has no place there}
Recommend = Callable[[np.ndarray], Sequence[int]]  # a history of item ids, oldest first, to item ids


class Explorer(anywidget.AnyWidget):
    """The widget. Set `item`, `text`, `user`, `shown`, `colour` or `selected` from Python as the controls do."""

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"

    data = traitlets.Dict().tag(sync=True)
    shown = traitlets.List(traitlets.Unicode(), help="stages side by side").tag(sync=True)
    colour = traitlets.Unicode(help="the column that colours the items").tag(sync=True)
    count = traitlets.Int(8, min=1, max=30, help="neighbours to list").tag(sync=True)
    item = traitlets.Int(0, min=0, help="the chosen item's id, 0 for none").tag(sync=True)
    selected = traitlets.List(traitlets.Int(), help="ids of the items in the lasso").tag(sync=True)
    text = traitlets.Unicode("", help="a text to place").tag(sync=True)
    user = traitlets.Int(-1, min=-1, help="the user whose history is shown, -1 for none").tag(sync=True)
    neighbours = traitlets.Dict(help="answer to `item`").tag(sync=True)
    placed = traitlets.Dict(help="answer to `text`").tag(sync=True)
    path = traitlets.Dict(help="answer to `user`").tag(sync=True)
    message = traitlets.Unicode("", help="what the kernel is doing").tag(sync=True)

    def __init__(self, atlas: Atlas, *, encode: Encode | None = None, recommend: Recommend | None = None) -> None:
        """`encode` gives a text's embedding at each stage, `recommend` replaces the nearest to the last item as stars."""
        self.atlas, self.encode, self.recommend = atlas, encode, recommend
        data = contents(atlas, encodes=encode is not None)
        super().__init__(data=data, shown=_first_view(atlas), colour=data["columns"][0]["name"])
        self.observe(self._tell_neighbours, names=["item", "count"])
        self.observe(self._tell_place, names="text")
        self.observe(self._tell_path, names="user")

    @property
    def selection(self) -> pl.DataFrame:
        """The items in the lasso, a row each, with all columns of the atlas."""
        return self.atlas.items.filter(pl.col("item").is_in(self.selected))

    @property
    def nearest(self) -> pl.DataFrame:
        """The chosen item's neighbours: stage, rank, item, title, cosine, before. Empty without a choice."""
        if not self.item:
            return self.atlas.nearest(1, 1).clear()
        return self.atlas.nearest(self.item, self.count)

    def figure(self) -> Any:
        """The static twin: the chosen item (or the most popular) and its neighbours at every stage, or the coloured maps."""
        if self.item:
            return map_figures.around(self.atlas, self.item, k=self.count)
        return map_figures.stage_maps(self.atlas, colour=self.colour)

    @traitlets.validate("item")
    def _an_item(self, proposal: dict[str, Any]) -> int:
        if proposal["value"] > self.atlas.corpus.n_items:
            raise traitlets.TraitError(f"Items run from 1 to {self.atlas.corpus.n_items}; found {proposal['value']}.")
        return proposal["value"]

    @traitlets.validate("shown")
    def _known_stages(self, proposal: dict[str, Any]) -> list[str]:
        if unknown := [s for s in proposal["value"] if s not in self.atlas.stages]:
            raise traitlets.TraitError(f"No stage {unknown}; there are {self.atlas.stages}.")
        return proposal["value"]

    @traitlets.validate("user")
    def _a_user(self, proposal: dict[str, Any]) -> int:
        if proposal["value"] >= self.atlas.corpus.n_users:
            raise traitlets.TraitError(f"Users run from 0 to {self.atlas.corpus.n_users - 1}; found {proposal['value']}.")
        return proposal["value"]

    def _tell_neighbours(self, _: Any = None) -> None:
        near = self.nearest
        stages = {s: near.filter(stage=s).select("item", "cosine", "before").fill_null(0).rows() for s in self.atlas.stages}
        self.neighbours = {"item": self.item, "stages": {s: [list(row) for row in rows] for s, rows in stages.items()}}

    def _tell_place(self, _: Any = None) -> None:
        if not self.text.strip() or self.encode is None:
            self.placed = {}
            return
        self.message = "encoding at every stage …"
        try:
            self.placed = place(self.atlas, self.text, self.encode(self.text))
            self.message = ""
        except Exception as error:  # in a callback nobody would see it
            self.message = f"could not place the text: {error}"

    def _tell_path(self, _: Any = None) -> None:
        self.path = {} if self.user < 0 else path_of(self.atlas, self.user, self.recommend)


def open(
    run: str | Run, outputs: str = "", *, recommend: Recommend | None = None, trust_remote_code: bool = False
) -> Explorer:
    """The explorer over a finished run: `explorer.open("demo")`. Raises ArtefactError where notebook 05 has not run.

    `trust_remote_code`: whether code that came with the run's models may run, to place a text.
    """
    run = run if isinstance(run, Run) else Run(run, outputs)
    atlas = Atlas.load(run)
    return Explorer(atlas, encode=encoders(run, atlas.stages, trust_remote_code=trust_remote_code), recommend=recommend)


def encoders(run: Run, stages: list[str], *, trust_remote_code: bool = False) -> Encode:
    """A function from a text to its embedding at each stage, or to a phrase where a stage has no encoder.

    An encoder is loaded when first asked, and kept.
    """
    from llm2rec_kit.encoder import Encoder

    loaded: dict[str, Encoder | str] = {}

    def encode(text: str) -> dict[str, np.ndarray | str]:
        for stage in stages:
            if stage not in loaded:
                loaded[stage] = _encoder(run, stage, trust_remote_code)
        return {stage: e.encode([text])[0] if isinstance(e, Encoder) else e for stage, e in loaded.items()}

    return encode


def _encoder(run: Run, stage: str, trust_remote_code: bool) -> Any:
    """What made a stage's table, as it was used then: an Encoder, or a phrase that says why there is none.

    A table's encoder is an artefact of the run or, for a baseline, a hub name or folder.
    """
    from llm2rec_kit import backbone
    from llm2rec_kit import settings as S
    from llm2rec_kit.encoder import Encoder

    if stage == ADAPTED:
        return "a recommender's adapter, which knows the items of its domain alone"
    made = run.manifest(f"embeddings/{stage}")
    name, how = made["record"].get("encoder", ""), {k: made["settings"].get(k) for k in ("attention", "pooling")}
    if not name or None in how.values():
        return "its table does not say how titles were read"
    known = {k: v for k, v in made["settings"].items() if k in S.Encoding().as_dict()}
    where = S.Backbone(trust_remote_code=trust_remote_code)
    own = name in made["inputs"]
    try:
        same = (
            run.digest(name) == made["inputs"][name]
            if own
            else made["settings"].get("files") == backbone.contents(name).get("files")
        )
        if not same:
            return f"{name} is not what it was when its table was made"
        return Encoder.load(run.require(name) if own else name, S.Encoding(**known), where)
    except (ArtefactError, backbone.BackboneError) as error:
        return str(error).split(". ")[0]


def place(atlas: Atlas, text: str, vectors: dict[str, np.ndarray | str], k: int = 15) -> dict[str, Any]:
    """Where a text's embeddings would stand: {"text", "at": {stage: [x, y]}, "near": {stage: item id}, "without": {stage: why}}.

    At the mean of its k nearest items' places, weighted by exp(-(d - d_1) / mean(d - d_1)); on an item with the very same
    embedding. `without` are the stages that `vectors` has a phrase for, or nothing.
    """
    box = _box(atlas)
    at, near, without = {}, {}, {}
    for stage in atlas.stages:
        vector = vectors.get(stage, "none was given")
        if isinstance(vector, str):
            without[stage] = vector
            continue
        ids, distances = projection.nearest(
            vector[None], min(k, atlas.corpus.n_items), among=np.asarray(atlas.tables[stage][1:])
        )
        gap = distances[0] - distances[0, 0]
        weight = np.exp(-gap / max(float(gap.mean()), 1e-12)) if distances[0, 0] > SAME else np.arange(len(gap)) == 0
        spot = weight @ atlas.aligned[stage][ids[0]] / weight.sum()
        at[stage], near[stage] = _scaled(spot, box).tolist(), int(ids[0, 0]) + 1
    return {"text": text, "at": at, "near": near, "without": without}


def path_of(atlas: Atlas, user: int, recommend: Recommend | None = None) -> dict[str, Any]:
    """A user's history before the test target, that target, and recommendations: what `path` holds.

    Without `recommend`, the items nearest to the history's last at each stage, none that the history has.
    """
    history, target = _history(atlas.corpus, user)
    if recommend is not None:
        chosen = [int(i) for i in recommend(np.asarray(history))][:RECOMMENDED]
        stars, how = dict.fromkeys(atlas.stages, chosen), "what the recommender puts first"
    else:
        near = atlas.nearest(history[-1], RECOMMENDED + len(history)).filter(~pl.col("item").is_in(history))
        stars, how = {s: near.filter(stage=s)["item"].head(RECOMMENDED).to_list() for s in atlas.stages}, HOW
    return {"user": user, "history": history, "target": target, "recommended": stars, "how": how}


def contents(atlas: Atlas, *, encodes: bool, carried: list[int] | None = None) -> dict[str, Any]:
    """What the browser draws from: stages' places (uint16 in the unit square), columns, titles. Values are bytes.

    `carried` are the users whose paths it has with it, where it can ask for no others.
    """
    box = _box(atlas)
    quality = {row["stage"]: row for row in atlas.quality["stages"]}
    stages = [
        {
            "name": stage,
            "note": f"{quality[stage]['kept_aligned']:.0%} of neighbours kept",
            "xy": np.round(_scaled(plane, box) * 65535).astype(np.uint16).tobytes(),
        }
        for stage, plane in atlas.aligned.items()
    ]
    titles = "\n".join(" ".join(title.split()) for title in atlas.items["title"].to_list())
    return {
        "n": len(atlas.items),
        "users": atlas.corpus.n_users,
        "carried": carried,
        "encodes": encodes,
        "stages": stages,
        "columns": [_column(atlas, name) for name in columns_of(atlas)],
        "titles": zlib.compress(titles.encode(), 6),
    }


def columns_of(atlas: Atlas) -> list[str]:
    """Columns to colour by: category, cluster, community, popularity, domain, then any further text or number with few gaps."""
    first = [c for c in ("category", "cluster", "community", "popularity", "domain") if c in atlas.items.columns]
    others = [
        name
        for name, kind in atlas.items.schema.items()
        if name not in (*first, "item", "source_id", "title")
        and (kind.is_numeric() or (kind == pl.String and atlas.items[name].n_unique() <= len(atlas.items) / 4))
    ]
    return first + others


def page(atlas: Atlas, title: str) -> str:
    """The explorer as one HTML page that needs no kernel and no network: answers for every item are in it.

    What a page cannot do is place a text, since that takes the encoders. Of users it carries `PAGE_USERS`, by their numbers in
    the corpus.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(atlas.corpus.n_users)[:PAGE_USERS]).tolist()
    data = contents(atlas, encodes=False, carried=drawn)
    near = {stage: _all_neighbours(table) for stage, table in atlas.tables.items()}
    state = {"data": data, "shown": _first_view(atlas), "colour": data["columns"][0]["name"], "count": 8}
    known = {"near": near, "paths": {user: _page_path(atlas, user, near) for user in drawn}}
    source = (STATIC / "explorer.js").read_text()
    ending = "export default { render };"
    if source.count(ending) != 1:
        raise AssertionError(f"explorer.js must end in {ending!r}: the page runs what stands before it.")
    parts = {
        "/*CSS*/": (STATIC / "explorer.css").read_text(),
        # In a page's script a "<" of the data could begin a tag or a comment.
        "/*STATE*/": json.dumps({"state": state, **known}, default=_base64).replace("<", "\\u003c"),
        "/*EXPLORER*/": source.replace(ending, ""),
        "<!--TITLE-->": html.escape(title),
    }
    places = re.compile("|".join(map(re.escape, parts)))  # in one pass: what is put in may hold such words itself
    return places.sub(lambda place: parts[place[0]], (STATIC / "page.html").read_text())


def write_page(run: Run, path: Path | None = None) -> Path:
    """Write a run's explorer as one HTML file (default: explorer.html in the run's folder); returns its path.

    ValueError where `path` is given and holds something other than a page.
    """
    begins = b"<!" if path else b""  # the run's own page is made anew also where it is damaged
    path = path or run.path / "explorer.html"
    check_target(path, begins)  # before the work
    write_text(path, page(Atlas.load(run), f"LLM2Rec run {run.name}"))
    return path


def _first_view(atlas: Atlas) -> list[str]:
    return list(dict.fromkeys([atlas.stages[0], atlas.quality["clusters_of"]]))


def _column(atlas: Atlas, name: str) -> dict[str, Any]:
    values = atlas.items[name]
    if values.dtype.is_numeric() and name not in GROUPINGS:
        numbers = values.cast(pl.Float32).fill_null(np.nan).to_numpy()  # NaN: not known, drawn in grey
        ends = dict(zip(("low", "high"), map_figures.number_range(values), strict=True))
        scale = "log" if map_figures.log_scaled(values) else "linear"
        return {"name": name, "kind": "number", "values": numbers.tobytes(), "scale": scale, **ends}
    codes, names = map_figures.coded(atlas, name)
    rest = "none" if name in GROUPINGS else "other"
    return {"name": name, "kind": "text", "names": names, "values": codes.astype(np.int16).tobytes(), "rest": rest}


def _box(atlas: Atlas) -> tuple[np.ndarray, float]:
    """Corner and side of the square around all stages: one scale for both axes."""
    every = np.concatenate(list(atlas.aligned.values()))
    return every.min(0), max(float((every.max(0) - every.min(0)).max()), 1e-9)


def _scaled(points: np.ndarray, box: tuple[np.ndarray, float]) -> np.ndarray:
    return (points - box[0]) / box[1]


def _history(corpus: Corpus, user: int) -> tuple[list[int], int]:
    """Items before the user's last test target (the last item where there is none), and that target."""
    first, last = corpus.offsets[user], corpus.offsets[user + 1]
    own = corpus.targets[(corpus.targets >= first) & (corpus.targets < last) & (corpus.splits == TEST)]
    target = int(own[-1]) if len(own) else int(last - 1)
    return corpus.history(target).tolist() or [int(corpus.sequence[target])], int(corpus.sequence[target])


def _all_neighbours(table: np.ndarray) -> dict[str, Any]:
    """Every item's nearest: ids int32 and cosines uint8, (N, k) each, as bytes."""
    vectors = np.asarray(table[1:])
    k = min(PAGE_NEIGHBOURS, len(vectors) - 1)
    ids, distances = projection.nearest(vectors, k)
    cosine = np.round(127.5 * (2 - distances)).clip(0, 255).astype(np.uint8)
    return {"k": k, "ids": (ids + 1).astype(np.int32).tobytes(), "cosines": cosine.tobytes()}


def _page_path(atlas: Atlas, user: int, near: dict[str, dict[str, Any]]) -> dict[str, Any]:
    history, target = _history(atlas.corpus, user)
    stars = {}
    for stage, known in near.items():
        ids = np.frombuffer(known["ids"], np.int32).reshape(-1, known["k"])[history[-1] - 1]
        stars[stage] = [int(i) for i in ids if i not in history][:RECOMMENDED]
    return {"history": history, "target": target, "recommended": stars, "how": HOW}


def _base64(value: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(value).decode()}
