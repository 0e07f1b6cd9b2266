"""Own tables: item vectors that a user brings, read into the rows of a corpus, or refused with what does not fit.

The file is an .npy array of two dimensions. Its rows are the corpus's items 1..N in order, with or without a row of zeros in
front; or, where `<name>.ids.txt` lies beside `<name>.npy`, a line of that a row: the item's id in the source.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from llm2rec_kit import storage
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.encoding import title_files
from llm2rec_kit.settings import SettingsError


def find_ids_file(file: Path) -> Path:
    """Name the file that may hold the ids of the rows in `file`: for vectors.npy it is vectors.ids.txt."""
    return file.with_suffix(".ids.txt")


def check_file(name: str, file: str) -> Path:
    """Return the path of the table's file; SettingsError where it is none that can be opened."""
    path = storage.expand_home(file)
    if why := storage.find_fault(path):
        raise SettingsError(f"encoding_own, {name}: {path} {why}")
    return path


def hash_files(file: str) -> dict[str, str]:
    """Compute the sha256 of a table's files, by which it is told from another."""
    path = storage.expand_home(file)
    files = {"own": path} | ({"own_ids": find_ids_file(path)} if find_ids_file(path).is_file() else {})
    return {name: storage.hash_file_once(one) for name, one in files.items()}


def read(name: str, file: str, corpus: Corpus) -> tuple[np.ndarray, int]:
    """Read the table (N + 1, dim) float32, padding row first, and count the file's rows that are no item of the corpus.

    Raises SettingsError where the file is missing, no array of numbers of two dimensions, or holds NaN or infinity; without
    ids where it has not a row an item; with ids where they are not one a row, stand twice (in the corpus, too) or lack one.
    """
    path = check_file(name, file)
    vectors = _array(name, path)
    if find_ids_file(path).is_file():
        found, more = _by_id(name, path, vectors, corpus)
    else:
        found, more = _in_order(name, path, vectors, corpus.n_items), 0
    bad = ~np.isfinite(found).all(1)
    if bad.any():
        raise _wrong(name, path, f"{bad.sum()} items have NaN or infinity, first item {bad.argmax() + 1}")
    return np.concatenate([np.zeros((1, found.shape[1]), np.float32), found]), more


def _array(name: str, path: Path) -> np.ndarray:
    """The file's array, not yet in memory."""
    try:
        vectors = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise _wrong(name, path, f"it is no .npy file of numbers ({str(error)[:100]})") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.shape[1]:
        raise _wrong(name, path, f"it holds {getattr(vectors, 'dtype', 'no array')} of shape {np.shape(vectors)}")
    return vectors


def _in_order(name: str, path: Path, vectors: np.ndarray, n_items: int) -> np.ndarray:
    padded = len(vectors) == n_items + 1 and not np.any(vectors[0])
    if len(vectors) != n_items and not padded:
        raise _wrong(
            name,
            path,
            f"it has {len(vectors):,} rows, and the corpus has {n_items:,} items. Give a row an item in the order of the corpus "
            f"(corpus/items.parquet), one of zeros in front or none; or put the id of each row, a line each, into {find_ids_file(path)}",
        )
    return _float32(vectors[1:] if padded else vectors)


def _by_id(name: str, path: Path, vectors: np.ndarray, corpus: Corpus) -> tuple[np.ndarray, int]:
    ids, wanted = title_files.read(find_ids_file(path)), corpus.items["source_id"].to_list()
    if len(ids) != len(vectors):
        raise _wrong(name, path, f"it has {len(vectors):,} rows and {len(ids):,} ids")
    for what, values in (("its ids", ids), ("the items of the corpus (several domains?)", wanted)):
        if twice := [one for one, n in Counter(values).items() if n > 1]:
            raise _wrong(name, path, f"of {what} {len(twice):,} stand more than once, such as {twice[0]!r:.60}")
    row = {one: k for k, one in enumerate(ids)}
    if lacking := [one for one in wanted if one not in row]:
        shown = ", ".join(f"{one!r:.60}" for one in lacking[:3])
        raise _wrong(name, path, f"{len(lacking):,} of {len(wanted):,} items have no row, such as {shown}")
    return _float32(vectors[[row[one] for one in wanted]]), len(ids) - len(wanted)


def _float32(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is named by `read`
        return np.array(vectors, dtype=np.float32)


def _wrong(name: str, path: Path, what: str) -> SettingsError:
    return SettingsError(f"encoding_own, {name}: {path} is no table for this corpus: {what}.")
