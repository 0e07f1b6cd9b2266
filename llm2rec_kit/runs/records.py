"""Records: the numbers worth keeping, in a manifest and in an executed notebook."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2rec_kit import storage
from llm2rec_kit.storage import as_plain

if TYPE_CHECKING:
    import polars as pl

RECORD_MIME = "application/vnd.llm2rec.record+json"
UNSEEN = "<!-- a record: its numbers are in this output's own MIME type -->"


def show_record(name: str, values: dict[str, Any]) -> None:
    """Keep numbers in the executed notebook for `read_records`; a page shows nothing of it, a terminal a line."""
    from IPython.display import display

    text = "  ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
    kept = storage.seal({"name": name, "values": values})
    display({RECORD_MIME: kept, "text/html": UNSEEN, "text/plain": f"recorded {name}: {text}"}, raw=True)


def show_records(name: str, frame: pl.DataFrame, values: Sequence[str] = ()) -> None:
    """Keep each row of a frame as `show_record` does, all of its columns or `values`; `name` is filled in from the row.

    `show_records("{domain}_{recommender}", frame)` keeps a row of SASRec on games as "games_SASRec".
    """
    for row in frame.iter_rows(named=True):
        show_record(name.format(**row), {column: row[column] for column in values or row})


def read_records(notebook: Path) -> dict[str, dict[str, Any]]:
    """Read the records of an executed notebook, by name; ValueError, which names it, where it or a record is damaged."""
    again = "Run the notebook again: it makes nothing anew that is finished."
    try:
        cells = storage.read_json(Path(notebook)).get("cells", [])
        found = [o["data"][RECORD_MIME] for c in cells for o in c.get("outputs", []) if RECORD_MIME in o.get("data", {})]
        sound = all(storage.is_sealed(o) for o in found)
        records = {o["name"]: o["values"] for o in found}
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{error} {again}") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{notebook} is damaged: it is no notebook, or its records are none. {again}") from None
    if not sound:
        raise ValueError(f"{notebook} is damaged: a record in it is not what was written (its hash is another). {again}")
    return records


def check_record(what: str, record: dict[str, Any]) -> None:
    """Raise ValueError for a record (`what` it is) that cannot be kept: better before its files are moved than after."""
    try:
        json.dumps(record, default=as_plain, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{what} cannot be kept as JSON: {error}. It takes finite numbers, text, lists and dicts; found {record!r:.300}."
        ) from None
