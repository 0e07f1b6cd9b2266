"""Executed notebooks that still stand: all that their pages were made of is as it was, so `reproduce` keeps them.

When a notebook of a series has ended well, a note beside its executed copy holds hashes of everything that counts: of the
notebook, the kit, the packages, the machine, the parameters, the data, of the files of its own artefacts and of earlier
notebooks', and of whatever else it wrote, the copy included. One difference, and it runs again. What no hash here tells
(code and models from elsewhere, notebooks whose artefacts MADE_BY does not know) always runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.reproduction.runner import recorded
from llm2rec_kit.runs import MADE_BY, Run, collect_provenance, info, places

ELSEWHERE = {  # parameters that bring in what lies outside of run, kit and packages, each with the value that brings in nothing
    "own_parts": [],
    "data_mix": [],
    "backbone_name": "tiny",
    "backbone_trust_remote_code": False,
    "encoding_own": [],
    "encoding_baselines": [],
}
ENVIRONMENT = ("CUDA_", "IPYTHON", "MPL", "POLARS_")  # beginnings of the variables that a page's looks or numbers may follow


def find_changes(run: Run, book: Path, asked: Mapping[str, Any]) -> list[str] | None:
    """Name what has changed of all that the executed copy of `book` was made of: [] where it stands as it is.

    None where it is not known of what it was made. `asked` are all the notebook's parameters by name, defaults too, and what
    its profile sets, which it shows.
    """
    known = storage.read_note_or_nothing(_locate_note(run, book), f"{book.stem} runs again.")
    if not known or not _is_told(book, asked):
        return None
    sources = _hash_sources(run, book, asked)
    changed = [name for name, digest in sources.items() if known.get("sources", {}).get(name) != digest]
    noted = known.get("files", {})
    files = {path: _hash(run.path / path) for path in {*noted, *_list_artefact_files(run, book)}}
    changed += sorted(path for path, digest in files.items() if not digest or noted.get(path) != digest)
    differing = recorded.find_differing(run, asked, [book.name[:2]])
    return changed + [f"the settings of {name}" for name in differing]


@contextlib.contextmanager
def note_what_counts(run: Run, book: Path, asked: Mapping[str, Any]) -> Iterator[None]:
    """Note what the executed copy of `book` was made of, which runs within, once that has ended well. Until then nothing is noted.

    Nothing is noted either where something that the notebook reads changed meanwhile. `asked` as `find_changes` takes it.
    """
    note = _locate_note(run, book)
    storage.clear(note)
    if not _is_told(book, asked):
        yield
        return
    read, others = _read_what_it_reads(run, book, asked), _list_other_files(run)
    yield
    if read != _read_what_it_reads(run, book, asked):
        return
    written = [path for path, state in _list_other_files(run).items() if others.get(path) != state]
    files = {path: _hash(run.path / path) for path in (*_list_artefact_files(run, book), *written)}
    storage.write_note(note, {"sources": read["sources"], "files": files})


def hash_kit() -> dict[str, str]:
    """Hash every file of the package, as it is now, by its path in it."""
    files = (p for p in places.PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(places.PACKAGE).as_posix(): storage.hash_file_once(p) for p in files}


def _is_told(book: Path, asked: Mapping[str, Any]) -> bool:
    """Whether all that the page of `book` is made of can be told by hashes."""
    return book.stem in MADE_BY.values() and all(asked.get(name, none) == none for name, none in ELSEWHERE.items())


def _read_what_it_reads(run: Run, book: Path, asked: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Hashes of the sources, and of the files of earlier notebooks' artefacts."""
    earlier = [path for path in _list_artefact_files(run, book) if MADE_BY[path.split("/")[0]] < book.stem]
    return {"sources": _hash_sources(run, book, asked), "files": {path: _hash(run.path / path) for path in earlier}}


def _hash_sources(run: Run, book: Path, asked: Mapping[str, Any]) -> dict[str, str]:
    """Hash what a page is made of besides the files in its run, by what it is."""
    from llm2rec_kit.data import sources  # with polars

    told = {
        "the notebook": [str(book), storage.hash_file_once(book)],
        "the run's place": str(run.path),
        "the kit": hash_kit(),
        "packages": [sys.version, *sorted(_list_packages())],
        "the machine": collect_provenance()["machine"],
        "the environment": {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)},
        "parameters": {name: value for name, value in asked.items() if name != "force"},
        "data": sources.hash_files(S.Data.from_parameters(asked)) if asked.get("data_path") else {},
    }
    return {what: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for what, value in told.items()}


def _list_packages() -> Iterable[str]:
    """Names of the notes of installed packages, with their versions: a tenth of the time of reading each."""
    return {p.name for folder in sys.path for p in Path(folder).glob("*.dist-info")}


def _list_artefact_files(run: Run, book: Path) -> list[str]:
    """List the files of what `book` and the notebooks before it make, as the run has them."""
    return [path for path in _list_files(run) if MADE_BY.get(path.split("/")[0], "~") <= book.stem]


def _list_other_files(run: Run) -> dict[str, list[int]]:
    """List the files that belong to no artefact, each with what changes when it is written anew; run.json is not among them."""
    others = (path for path in _list_files(run) if path.split("/")[0] not in MADE_BY and path != info.FILE)
    return {path: _read_state(run.path / path) for path in others}


def _list_files(run: Run) -> list[str]:
    """List the files in a run's folder that are not hidden, nor in a hidden folder."""
    found = []
    for folder, folders, files in os.walk(run.path):  # which passes over what another process takes away meanwhile
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return [path.relative_to(run.path).as_posix() for path in found if path.is_file()]


def _read_state(path: Path) -> list[int]:
    with contextlib.suppress(OSError):
        now = path.stat()
        return [now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns]
    return []


def _hash(path: Path) -> str:
    """The hash of a file; empty where it is none that can be read."""
    with contextlib.suppress(OSError):
        return storage.hash_file_once(path)
    return ""


def _locate_note(run: Run, book: Path) -> Path:
    return run.path / "notebooks" / f".{book.stem}.json"
