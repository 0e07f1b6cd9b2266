"""Processes that work side by side, and end with the one that started them: killed, interrupted, or by an error."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def count_cores() -> int:
    """Count the cores that this process may use; where the system does not say, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_workers(count: int, prepare: Callable[..., None], *given: Any) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of `count` fresh processes, each of which first calls `prepare(*given)`.

    What the block raises, an interrupt above all, ends them at once: what is under way may have hours to go.
    """
    others = set(multiprocessing.active_children())
    _let_interrupts_end_waits()
    context = multiprocessing.get_context("spawn")  # a forked one would hold torch's threads, which are gone
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(prepare, *given)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _start(prepare: Callable[..., None], *given: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(*given)


def _end_with_parent() -> None:
    """A killed kernel tells its workers nothing: without this they would wait for work, and hold their memory, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _let_interrupts_end_waits() -> None:
    """polars has the system go on with a wait after SIGINT (its issue 21739):
    Ctrl-C would do nothing until the next result."""
    if hasattr(signal, "siginterrupt"):  # not on Windows
        signal.siginterrupt(signal.SIGINT, True)
