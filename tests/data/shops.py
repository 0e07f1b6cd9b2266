"""Small sources of interactions for tests of cleaning, splits and leakage, and how to read what became of them."""

from __future__ import annotations

import polars as pl

from llm2rec_kit.data.sources import Interactions
from llm2rec_kit.settings import Data

LETTERS = {c: f"Item {c}" for c in "abcdef"}
ERAS = {"x": "old", "y": "old", "z": "old", "a": "new", "b": "new", "c": "new"}


def shop(events: list[tuple], titles: dict[str, str | None], domains: dict[str, str] | None = None, **more) -> Interactions:
    names = ["user", "item", "time"][: len(events[0]) if events else 2]
    items = pl.DataFrame(
        {
            "source_id": list(titles),
            "title": pl.Series(list(titles.values()), dtype=pl.String),
            "domain": [(domains or {}).get(i, "shop") for i in titles],
        },
        schema_overrides={"source_id": pl.String, "domain": pl.String},
    )
    frame = pl.DataFrame(events, schema=names, orient="row", schema_overrides={"user": pl.String, "item": pl.String})
    return Interactions(items=items, events=frame, domains_in=items["domain"].unique(maintain_order=True).to_list(), **more)


def two_eras(**more) -> Interactions:
    """Domain `old`, of whose users nobody is left when the first of domain `new` comes; ten users each, three events each."""
    events = [(f"{letters}{u}", i, start + 10 * u + t) for letters, start in (("xyz", 0), ("abc", 10_000)) for u in range(10)
              for t, i in enumerate(letters, 1)]  # fmt: skip
    return shop(events, dict.fromkeys(ERAS, "Item"), ERAS, **more)


def plain(**kw) -> Data:
    return Data(source="table", min_interactions=kw.pop("min_interactions", 0), **kw)


def sequences(corpus) -> dict[str, str]:
    ids = corpus.items["source_id"].to_list()
    return {
        u: "".join(ids[i - 1] for i in corpus.sequence[corpus.offsets[n] : corpus.offsets[n + 1]])
        for n, u in enumerate(corpus.users["source_id"])
    }


def dropped(corpus) -> dict[str, int]:
    return {s["step"]: s["rows_dropped"] for s in corpus.facts["cleaning"]}
