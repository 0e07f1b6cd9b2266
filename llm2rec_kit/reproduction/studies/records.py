"""What a run's studies say: the one table with which the notebooks 06 and 07 begin, from disk, and end, as computed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from llm2rec_kit import storage
from llm2rec_kit.reproduction.studies import directions
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import Run, read_records
from llm2rec_kit.settings import QUESTIONS

LAST = {"06_paper_tables": "directions", "07_beyond_the_paper": "answers"}  # the record that each notebook makes last
STANDS_ON = ("corpus", "csft", "mntp", "contrastive", evaluations.SERIES)
Records = Mapping[str, Mapping[str, Any]]


def summarise(run: Run, name: str, records: Records | None = None) -> pl.DataFrame | None:
    """Summarise what notebook `name` found in `run`: question and answer, a row each.

    None, and a line that says why, where nothing is there. With `records`, those that the notebook has just made, the table
    is kept beside the run's executed notebooks. Without, it is what was kept there, or, of a run of an earlier version, what
    the executed notebook recorded. A table that was kept of other artefacts than the run holds now is named but not shown.
    """
    path = _locate_note(run, name)
    if records is not None:
        rows = list(_rows(records))
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_note(path, {"made_of": _made_of(run), "rows": rows})
        return _table(rows)
    kept = storage.read_note_or_nothing(path, "The summary is made again at the end of this notebook.")
    if kept and _is_current(run, kept):
        return _table(kept["rows"])
    found = {} if kept else read_recorded(run).get(name)
    if found:
        return _table(list(_rows(found)))
    why = "is of artefacts that the run no longer holds" if kept else "is not there yet"
    print(f"The summary of {name} in run {run.name!r} {why}: this notebook makes it, at its end.")
    return None


def read_recorded(run: Run) -> dict[str, dict[str, Any]]:
    """Read what the executed notebooks 06 and 07 recorded, by their names, where they ran to their end."""
    books = {name: run.path / "notebooks" / f"{name}.ipynb" for name in LAST}
    found = {name: read_records(book) for name, book in books.items() if os.path.lexists(book)}
    return {name: records for name, records in found.items() if LAST[name] in records}


def read_current(run: Run) -> dict[str, dict[str, Any]]:
    """Read what `read_recorded` does, without the notebooks whose summary was kept of other artefacts than the run holds
    now, which is told. Of a notebook without a summary, as earlier versions left it, nothing says that it is of others."""
    found = read_recorded(run)
    for name in [*found]:
        kept: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            kept = storage.read_note(_locate_note(run, name))
        if kept and not _is_current(run, kept):
            print(
                f"The answers of {name} in run {run.name!r} are of artefacts that it no longer holds: left out.", flush=True
            )
            del found[name]
    return found


def describe_tally(tally: Mapping[str, int]) -> str:
    """Say how many comparisons point which way; a way that none points is not named.

    >>> describe_tally({"same way": 2, "the other way": 0, "no detectable difference": 1})
    '3 tested: 2 same way, 1 no detectable difference'
    """
    ways = ", ".join(f"{tally[way]} {way}" for way in directions.WAYS if tally.get(way))
    return f"{sum(tally.values())} tested: {ways}" if ways else "none tested"


def _table(rows: list[dict[str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"question": pl.String, "answer": pl.String})


def _rows(records: Records) -> Iterator[dict[str, str]]:
    """The records of either notebook as rows; which of the two it is, its last record says."""
    if "answers" in records:
        answers = records["answers"]
        yield from ({"question": text, "answer": answers[name]} for name, text in QUESTIONS.items() if name in answers)
        return
    asked = "differences that the paper prints: which way do ours point?"
    yield {"question": f"all {asked}", "answer": describe_tally(records["directions"])}
    for table, tally in records.get("by_table", {}).items():
        yield {"question": f"{table}: {asked}", "answer": describe_tally(tally)}
    for name, record in records.items():
        if name.startswith("starts_") and "answer" in record:
            what = name.removeprefix("starts_").replace("_", " ")
            yield {"question": f"start and length of embeddings, {what}", "answer": record["answer"]}


def _locate_note(run: Run, name: str) -> Path:
    """Where the summary of notebook `name` is kept."""
    return run.path / "notebooks" / f"{name}.json"


def _is_current(run: Run, kept: Mapping[str, Any]) -> bool:
    """Whether a summary was kept of what the run holds now; one of an earlier version said nothing of inputs."""
    return kept.get("made_of") in (_made_of(run), _made_of(run, parts=("artefact", "files", "settings")))


def _made_of(run: Run, parts: Sequence[str] = ("artefact", "files", "settings", "inputs")) -> str:
    """A hash over the manifests of what the studies stand on, as the run holds it now: the inputs of the series are what
    each evaluation held. Where these were trained, and what else the series keeps aside, changes none."""
    manifests = [run.manifest(name) for name in STANDS_ON if run.has(name)]
    for made in (m for m in manifests if m["artefact"] == evaluations.SERIES):
        made["settings"] = {k: v for k, v in made["settings"].items() if k not in evaluations.ASIDE}
    said = [[m[part] for part in parts] for m in manifests]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
