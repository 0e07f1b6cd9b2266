"""What the explorer's browser side draws from, and the explorer as one HTML page that needs no kernel and no network."""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.figures import map_figures
from llm2rec_kit.maps import projection
from llm2rec_kit.maps.atlas import GROUPINGS, Atlas
from llm2rec_kit.runs import Run
from llm2rec_kit.storage import check_target, write_text
from llm2rec_kit.widgets import explorer_answers as answers

STATIC = Path(__file__).parent / "static"
# The browser side, each after what it imports.
MODULES = (
    *("basics", "catalogue", "marks", "names", "panel", "search"),
    *("selection", "filters", "lists", "compare", "picture", "explorer"),
)
ENDING = "export default { render };"
MOST = 30  # neighbours that a kernel is asked for
PAGE_NEIGHBOURS = 15  # of each item at each stage that a page carries
PAGE_USERS = 200  # histories that a page carries, drawn by seed


def read_program() -> str:
    """Read the browser side as one ES module: its files one after the other, without imports and exports between them."""
    source = "\n".join((STATIC / f"{name}.js").read_text(encoding="utf-8") for name in MODULES)
    source = re.sub(r"^import .*;\n", "", source, flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", source, flags=re.MULTILINE)


def make_contents(atlas: Atlas, *, encodes: bool, carried: list[int] | None = None) -> dict[str, Any]:
    """Collect what the browser draws from: places at each stage, columns, titles, the source's ids. Values are bytes.

    Places are uint16 in the unit square. `carried` are the users whose paths a page holds, where it can ask for no others, each
    as `_list_users` has it; None where a kernel answers.
    """
    box = answers.find_box(atlas)
    quality = {row["stage"]: row for row in atlas.quality["stages"]}
    stages = [
        {
            "name": stage,
            "note": f"{quality[stage]['kept_aligned']:.0%} of neighbours kept",
            "xy": np.round(answers.scale_points(plane, box) * 65535).astype(np.uint16).tobytes(),
        }
        for stage, plane in atlas.aligned.items()
    ]
    return {
        "n": len(atlas.items),
        "users": atlas.corpus.n_users,
        "carried": None if carried is None else _list_users(atlas.corpus, carried),
        "kernel": carried is None,
        "most": max(1, min(MOST if carried is None else PAGE_NEIGHBOURS, atlas.corpus.n_items - 1)),
        "encodes": encodes,
        "stages": stages,
        "columns": [_column(atlas, name) for name in list_columns(atlas)],
        "titles": _lines(atlas.items["title"]),
        "ids": _lines(atlas.corpus.items["source_id"].gather(atlas.items["item"].cast(pl.Int64) - 1)),
    }


def _list_users(corpus: Corpus, carried: list[int]) -> list[list[Any]]:
    """[number, name, own id, whether the number reads as anybody's id] of each user that is carried."""
    ids = corpus.users["source_id"].cast(pl.String).to_list()
    known = {*ids}
    return [[user, answers.name_user(corpus, user), ids[user], str(user) in known] for user in carried]


def list_columns(atlas: Atlas) -> list[str]:
    """List the columns to colour by: category, cluster, community, popularity, domain, then any text or number with few
    gaps."""
    first = [c for c in ("category", "cluster", "community", "popularity", "domain") if c in atlas.items.columns]
    others = [
        name
        for name, kind in atlas.items.schema.items()
        if name not in (*first, "item", "source_id", "title")
        and (kind.is_numeric() or (kind == pl.String and atlas.items[name].n_unique() <= len(atlas.items) / 4))
    ]
    return first + others


def render_page(atlas: Atlas, title: str) -> str:
    """Render the explorer as one HTML page that needs no kernel and no network: answers for every item are in it.

    What a page cannot do is place a text, since that takes the encoders. Of users it carries `PAGE_USERS`, by their numbers
    in the corpus and the source's ids. Neighbours stand last, so that the maps are seen before they are read.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(atlas.corpus.n_users)[:PAGE_USERS]).tolist()
    data = make_contents(atlas, encodes=False, carried=drawn)
    near = [_all_neighbours(table) for table in atlas.tables.values()]
    view = {"shown": choose_first_view(atlas), "colour": data["columns"][0]["name"], "count": min(8, data["most"])}
    known = {
        "state": {"data": data, **view},
        "k": near[0]["k"],
        "paths": {user: answers.find_path(atlas, user) for user in drawn},
    }
    if read_program().count(ENDING) != 1:
        raise AssertionError(f"explorer.js must end in {ENDING!r}: the page runs what stands before it.")
    parts = {
        "/*CSS*/": (STATIC / "explorer.css").read_text(encoding="utf-8"),
        # In a page's script a "<" of the data could begin a tag or a comment.
        "/*STATE*/": json.dumps(known, default=_base64).replace("<", "\\u003c"),
        "/*EXPLORER*/": read_program().replace(ENDING, ""),
        "/*HOST*/": (STATIC / "page_host.js").read_text(encoding="utf-8"),
        "/*NEAR*/": "\n".join(
            f'<script type="text/plain" id="{part}-{k}">{_base64(found[part])["base64"]}</script>'
            for k, found in enumerate(near)
            for part in ("ids", "cosines")
        ),
        "<!--TITLE-->": html.escape(title),
    }
    places = re.compile("|".join(map(re.escape, parts)))  # in one pass: what is put in may hold such words itself
    return places.sub(lambda place: parts[place[0]], (STATIC / "page.html").read_text(encoding="utf-8"))


def write_page(run: Run, path: Path | None = None) -> Path:
    """Write a run's explorer as one HTML file (default: explorer.html in the run's folder); returns its path. ValueError
    where `path` is given and holds something other than a page."""
    begins = b"<!" if path else b""  # the run's own page is made anew also where it is damaged
    path = path or run.path / "explorer.html"
    check_target(path, begins)  # before the work
    write_text(path, render_page(Atlas.load(run), f"LLM2Rec run {run.name}"))
    return path


def choose_first_view(atlas: Atlas) -> list[str]:
    """Choose the stages that are shown first: the first one and that of the clusters."""
    return list(dict.fromkeys([atlas.stages[0], atlas.quality["clusters_of"]]))


def _column(atlas: Atlas, name: str) -> dict[str, Any]:
    """A column as the browser has it: float32 with NaN for none, or codes int32 of which the first `drawn` have a colour."""
    values = atlas.items[name]
    if values.dtype.is_numeric() and name not in GROUPINGS:
        numbers = values.cast(pl.Float32).fill_null(np.nan).to_numpy()
        finite = numbers[np.isfinite(numbers)]
        ends = {"low": float(finite.min()), "high": float(finite.max())} if len(finite) else {"low": 0.0, "high": 0.0}
        scale = "log" if map_figures.is_log_scaled(values) else "linear"
        return {"name": name, "kind": "number", "scale": scale, "values": numbers.tobytes(), **ends}
    codes, names = map_figures.encode_groups(atlas, name)
    shown = {"name": name, "kind": "text", "drawn": len(names), "rest": "none"}
    if (codes == map_figures.FURTHER).any():  # so are further groups
        every = atlas.words[name]
        place = {group: k for k, group in enumerate(every)}
        codes, names = np.array([place.get(group, -1) for group in values.to_list()]), list(every.values())
    if name not in GROUPINGS and (codes < 0).any():  # rarer values are grey, and told by name all the same
        texts = values.cast(pl.String)
        rarer = texts.filter(pl.Series(codes < 0)).drop_nulls().unique().sort().to_list()
        place = {text: len(names) + k for k, text in enumerate(rarer)}
        codes = np.array([code if code >= 0 else place.get(text, -1) for code, text in zip(codes, texts, strict=True)])
        names = [*names, *rarer]
    return {**shown, "names": names, "values": codes.astype(np.int32).tobytes()}


def _lines(texts: pl.Series) -> bytes:
    """Texts, a line each, deflated."""
    return zlib.compress("\n".join(" ".join(str(text).split()) for text in texts.to_list()).encode(), 6)


def _all_neighbours(table: np.ndarray) -> dict[str, Any]:
    """Every item's nearest: k, and ids int32 and cosines uint8, (N, k) each, deflated."""
    vectors = np.asarray(table[1:])
    k = min(PAGE_NEIGHBOURS, len(vectors) - 1)
    ids, distances = projection.find_nearest(vectors, k)
    cosine = np.round(127.5 * (2 - distances)).clip(0, 255).astype(np.uint8)
    told: dict[str, np.ndarray] = {"ids": (ids + 1).astype(np.int32), "cosines": cosine}
    return {"k": k, **{name: zlib.compress(values.tobytes(), 1) for name, values in told.items()}}


def _base64(value: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(value).decode()}
