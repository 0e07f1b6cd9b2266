"""Running a grid's nodes on a Dask cluster, local or by address, and telling how far it is.

Dask brings the order of the graph, retries, workers that die and are started again, machines beyond this one.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from typing import IO, Any

from llm2rec_kit.reproduction.grid import graph as grids
from llm2rec_kit.reproduction.grid import summary
from llm2rec_kit.reproduction.grid.graph import Grid
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run
from llm2rec_kit.storage import check_writable

ANSWER_SECONDS = 20.0  # patience with a scheduler given by address
LOOK_SECONDS = 2.0  # between two looks at what is running


def run_grid(grid: Grid, *, workers: int = 2, address: str = "", retries: int = 1, stream: IO[str] | None = None) -> int:
    """Run what is not done yet; returns 0, or 1 where a node failed, which harms none but those that need it. `address` is
    that of a scheduler whose workers have this kit and see the grid's folder; without, `workers` work here."""
    check_writable(grid.folder)
    grids.prepare(grid)
    board = Board(grid, read_states(grid), stream or sys.stdout)
    with _client(workers, address) as client:
        failures = _follow(_submit(client, grid, board.states, retries), board)
    board.close()
    for name, error in failures.items():
        board.say(f"\n{name} ({grid.nodes[name].book}) failed: {error}\n  its log: {grid.runs / name / 'log.txt'}")
    rows = summary.write(grid, board.states)
    board.say(f"\n{summary.render_text(rows)}" if rows is not None else "\nNo cell has an evaluation yet.")
    board.say(f"grid: {grid.folder / 'grid.md'}")
    if failures:
        board.say("The same command tries what failed again and keeps the rest.")
    return 1 if failures else 0


class Board:
    """How far a grid is: on a terminal a table drawn over itself, elsewhere a line a change and the table at the end."""

    def __init__(self, grid: Grid, states: dict[str, str], stream: IO[str]) -> None:
        self.grid, self.states, self.stream, self.drawn = grid, states, stream, 0
        done = list(states.values()).count("done")
        self.say(summary.describe(grid) + (f"\n{done} of {len(states)} are done already." if done else ""))

    def say(self, text: str) -> None:
        """Print a line or more."""
        print(text, file=self.stream, flush=True)

    def tell(self, name: str, state: str, more: str = "") -> None:
        """Note that a node is in another state, and show it with the cells that it is for."""
        if self.states[name] == state:
            return
        self.states[name] = state
        over = sum(s not in ("waiting", "running") for s in self.states.values())
        line = (
            f"[{over}/{len(self.states)}] {self.grid.nodes[name].book}, {summary.name_cells(self.grid, name)}: {state}{more}"
        )
        table = [*summary.draw_progress(self.grid, self.states), line]
        width, height = shutil.get_terminal_size()
        if self.stream.isatty() and len(table) < height:
            self._draw([row[: width - 1] for row in table])  # a row that wraps would be two
        else:
            self.say(line)

    def close(self) -> None:
        """Show the table as it is in the end."""
        if not self.drawn:
            self.say("\n".join(summary.draw_progress(self.grid, self.states)))

    def _draw(self, lines: list[str]) -> None:
        over = f"\x1b[{self.drawn}A\x1b[J" if self.drawn else ""
        self.stream.write(over + "".join(f"{line}\n" for line in lines))
        self.stream.flush()
        self.drawn = len(lines)


def read_states(grid: Grid) -> dict[str, str]:
    """Read each node's state from disk: {node: done or waiting}."""
    books = {book.stem: book for book in notebooks.list_series(grid.root)}
    states = {}
    for name, node in grid.nodes.items():
        there = (grid.runs / name).is_dir() and grids.read_finished(Run(name, grid.runs), node, books[node.book])
        states[name] = "done" if there else "waiting"
    return states


@contextlib.contextmanager
def _client(workers: int, address: str) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("A grid needs Dask: pip install 'llm2rec-kit[grid]' (or dask's `distributed`).") from None
    if address:
        try:
            client = Client(address, timeout=ANSWER_SECONDS)
        except OSError as error:
            raise ValueError(f"No Dask scheduler answers at {address}: {str(error).splitlines()[0]}") from None
        with client:
            yield client
        return
    # One thread a worker: a notebook has a process to itself, and matrix libraries are told to use one core.
    here = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "host": "127.0.0.1"}
    with LocalCluster(**here, dashboard_address=None, silence_logs=logging.ERROR) as cluster, Client(cluster) as client:
        yield client


def _submit(client: Any, grid: Grid, states: dict[str, str], retries: int) -> dict[str, Any]:
    """{node: future} of every node that is not done, each waiting for the one it begins with."""
    futures: dict[str, Any] = {}
    for name, node in grid.nodes.items():  # a node comes after those it begins with
        if states[name] != "done":
            before = [futures[node.before]] if node.before in futures else []
            key = f"{grid.folder}/{name}"  # a scheduler may serve other grids, too
            futures[name] = client.submit(
                grids.run_node, node, str(grid.folder), grid.root, *before, key=key, retries=retries, pure=False
            )
    return futures


def _follow(futures: dict[str, Any], board: Board) -> dict[str, str]:
    """Wait for all, telling each change; returns {node: error} of those that failed themselves."""
    from distributed import wait

    grid, left, failures = board.grid, dict(futures), {}
    while left:
        with contextlib.suppress(TimeoutError):
            wait(list(left.values()), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")
        for name, future in [(n, f) for n, f in left.items() if f.done()]:
            del left[name]
            if future.status == "finished":
                board.tell(name, "done", f" in {future.result()['seconds']:.0f} s")
            # A future whose predecessor failed has its predecessor's error.
            elif any(futures[a].status == "error" for a in grids.list_ancestors(grid, name) if a in futures):
                board.tell(name, "not run", ": what it begins with failed")
            else:
                failures[name] = _reason(future)
                board.tell(name, "failed")
        for name in left:
            if (grid.runs / name / grids.BEGUN).exists():
                board.tell(name, "running")
    return failures


def _reason(future: Any) -> str:
    """The error of a node as one paragraph."""
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return "its worker died several times, most often for want of memory; fewer --workers or smaller batches need less"
    return f"{error}" if isinstance(error, notebooks.NotebookFailed) else f"{type(error).__name__}: {error}"
