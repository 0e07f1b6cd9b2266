"""What a terminal shows of a running notebook: the cell it is at, under which heading, and what the cells print.

On a terminal that is a bar at the bottom whose clock runs on; anywhere else (a log file, CI) one plain line a heading.
"""

from __future__ import annotations

import os
import re
import sys
from typing import IO, Any, Never

from tqdm import tqdm

from llm2rec_kit.runs import meter

TICK_SECONDS = 1.0


class Progress:
    """Follows one notebook: papermill's `stdout_file` and nbclient's `on_cell_start` at once. A context manager."""

    def __init__(self, label: str, cells: int, stream: IO[str] | None = None) -> None:
        """`label` such as "[2/5] 02_csft"; `cells` are all the notebook's, prose included."""
        self.label, self.cells, self.stream = label, cells, stream or sys.stdout
        self.heading, self.fresh_line = "", True
        self.bar: tqdm[Never] | None = None

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            form = "{desc}  cell {n_fmt}/{total_fmt} |{bar:16}| {elapsed}{postfix}"
            width = None if _columns(self.stream) else 80
            self.bar = tqdm(total=self.cells, desc=self.label, bar_format=form, file=self.stream, leave=False, ncols=width)
            self.clock = meter.Ticker(self.bar.refresh, TICK_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.clock.stop()
            self.bar.close()
        elif not self.fresh_line:
            self.stream.write("\n")
        self.stream.flush()

    def on_cell_start(self, cell: Any, cell_index: int) -> None:
        """Note where the notebook is; `cell_index` counts from 0."""
        found = re.search(r"(?m)^#+ +(.+?) *$", cell.source) if cell.cell_type == "markdown" else None
        new = found is not None and found[1] != self.heading
        self.heading = found[1] if found else self.heading
        if self.bar:
            self.bar.set_postfix_str(self.heading, refresh=False)
            self.bar.update(cell_index + 1 - self.bar.n)
            self.bar.refresh()
        elif new:
            own_line = "" if self.fresh_line else "\n"
            self._plain(f"{own_line}  cell {cell_index + 1}/{self.cells}: {self.heading}\n")

    def write(self, text: str) -> None:
        """Show what a cell printed, above the bar."""
        if self.bar:
            with tqdm.external_write_mode(file=self.stream):
                self.stream.write(text if text.endswith("\n") else text + "\n")
        else:
            self._plain(text)

    def flush(self) -> None:
        """Do nothing: no output is held back."""
        self.stream.flush()

    def _plain(self, text: str) -> None:
        self.stream.write(text)
        self.fresh_line = text.endswith("\n")
        self.stream.flush()


def _columns(stream: IO[str]) -> int:
    """Width of a terminal; 0 where it does not know its own, as under some recorders."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0
