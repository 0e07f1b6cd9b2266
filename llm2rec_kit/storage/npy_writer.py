"""RowFile: a `.npy` file filled block by block, in constant memory, by one process or by several.

Until every row is there it is a hidden `.NAME.<key>.partial` beside its place, with one small file a process that says how
many of its rows are on the disk, and their hash. A killed process goes on after them; what was made of other titles, another
model or other settings has another key and is never gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm2rec_kit.storage import check_target, read_note_or_nothing, write_note

BEGINS = np.lib.format.MAGIC_PREFIX


class RowFile:
    """float32 (lead + rows, dim) at `path`: zero rows, then those written, here of `share(rows, *shard)` in order."""

    def __init__(
        self, path: Path, rows: int, dim: int, key: dict[str, Any], shard: tuple[int, int] = (0, 1), lead: int = 0
    ) -> None:
        """Open the file that holds the rows so far, and remove what is left of other keys.

        `key` is all that the rows depend on, JSON values. Raises ValueError where `path` is something other than a .npy
        file; of a link to one, that file is replaced.
        """
        self.path, self.rows, self.dim, self.lead, self.shard = check_target(path, BEGINS), rows, dim, lead, shard
        self.start, self.stop = share(rows, *shard)
        text = json.dumps([key, rows, dim, lead, shard[1]], sort_keys=True)
        stem = f".{self.path.name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ours = re.compile(re.escape(f".{self.path.name}.") + r"[0-9a-f]{16}\.partial(\.\d+-of-\d+)?")
        for old in self.path.parent.iterdir():
            if ours.fullmatch(old.name) and not old.name.startswith(stem):
                old.unlink(missing_ok=True)
        self.partial = self.path.with_name(f"{stem}.partial")
        self.marks = [self.path.with_name(f"{stem}.partial.{r}-of-{shard[1]}") for r in range(shard[1])]
        self._file, self._data = self._open()
        self._inode = os.fstat(self._file).st_ino
        self.done, self._seen = self._begun()

    def write(self, start: int, block: np.ndarray) -> None:
        """Write rows start.. of all, float32; they are on the disk when this returns.

        Not through a memory map: its pages would count as this process's memory until the system takes them back.
        """
        block = np.ascontiguousarray(block, dtype="<f4")
        data, at = block.reshape(-1).view(np.uint8).data, self._data + start * self.dim * 4
        while len(data):  # a disk that runs full takes a part of them without an error
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written
        os.fsync(self._file)
        self._seen.update(block)
        self.done = start + len(block) - self.start
        made = {"rows": self.done, "inode": self._inode, "sha256": self._seen.hexdigest()}
        write_note(self.marks[self.shard[0]], made)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read rows that are written already, float32 (len(rows), dim)."""
        return np.array(self._map()[self.lead + rows])

    def finish(self) -> NDArray[np.float32]:
        """Return this process's rows, read-only and memory-mapped; the last process to finish gives the file its name."""
        os.close(self._file)
        mapped = self._map()[self.start + (self.lead if self.start else 0) : self.stop + self.lead]
        shares = [share(self.rows, r, self.shard[1]) for r in range(self.shard[1])]
        if [self._read_mark(m)[0] for m in self.marks] == [b - a for a, b in shares]:
            with contextlib.suppress(FileNotFoundError):  # two may finish together; then the other one did it
                os.replace(self.partial, self.path)
            for mark in self.marks:
                mark.unlink(missing_ok=True)
        return mapped

    def discard(self) -> None:
        """Remove what is written: these rows can never be finished. Of several processes' rows, all."""
        os.close(self._file)
        for left in (self.partial, *self.marks):
            left.unlink(missing_ok=True)

    def _map(self) -> NDArray[np.float32]:
        """Map the file, which another process that finished just now may have given its name."""
        try:
            found: NDArray[np.float32] = np.load(self.partial, mmap_mode="r")
        except FileNotFoundError:
            found = np.load(self.path, mmap_mode="r")
        return found

    def _open(self) -> tuple[int, int]:
        """Open the file at its full size, with its header, which every process writes; returns (handle, byte of row 0)."""
        handle = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(os.dup(handle), "r+b") as file:
            shape = (self.lead + self.rows, self.dim)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            first = file.tell()
        os.truncate(handle, first + 4 * shape[0] * shape[1])
        return handle, first + 4 * self.lead * self.dim

    def _begun(self) -> tuple[int, Any]:
        """How many of this process's rows are there as they were written, and their hash, which goes on with the next."""
        rows, digest = self._read_mark(self.marks[self.shard[0]])
        seen, size = hashlib.sha256(), self.dim * 4
        for at in range(0, rows, step := max(1, 2**24 // size)):
            seen.update(os.pread(self._file, min(step, rows - at) * size, self._data + (self.start + at) * size))
        if rows and seen.hexdigest() != digest:
            print(
                f"  the {rows} rows in {self.partial} are not those that were written; they are computed again", flush=True
            )
            return 0, hashlib.sha256()
        return rows, seen

    def _read_mark(self, mark: Path) -> tuple[int, Any]:
        """How many rows a mark vouches for, and their hash: none where it is damaged, or is of another file of the name."""
        made = read_note_or_nothing(mark, "The rows that it vouched for are computed again.")
        rows = made.get("rows") if made.get("inode") == self._inode else 0
        return (rows if type(rows) is int and 0 <= rows <= self.rows else 0), made.get("sha256")


class RowArray:
    """The same in memory, this process's rows alone; nothing to go on from."""

    def __init__(self, rows: int, dim: int, shard: tuple[int, int] = (0, 1), lead: int = 0) -> None:
        """Make room for `lead` zero rows and this process's share of `rows`."""
        self.start, self.stop = share(rows, *shard)
        self.all, self.done = np.zeros((lead + self.stop - self.start, dim), dtype=np.float32), 0
        self.rows = self.all[lead:]

    def write(self, start: int, block: np.ndarray) -> None:
        """Keep rows start.. of the whole."""
        self.rows[start - self.start : start - self.start + len(block)] = block

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows that are written already, float32 (len(rows), dim)."""
        return self.rows[rows - self.start]

    def finish(self) -> NDArray[np.float32]:
        """Return this process's rows, the zero rows in front."""
        return self.all

    def discard(self) -> None:
        """Do nothing: no file is left to remove."""


def share(rows: int, rank: int, world: int) -> tuple[int, int]:
    """Compute the slice of `rows` that process `rank` of `world` fills: [start, stop).

    >>> [share(10, r, 3) for r in range(3)]
    [(0, 3), (3, 6), (6, 10)]
    """
    return rows * rank // world, rows * (rank + 1) // world
