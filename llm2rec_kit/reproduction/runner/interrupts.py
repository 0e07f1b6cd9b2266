"""Ctrl-C while a notebook runs headless."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def win_over_other_ends() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block after Ctrl-C within it, whatever else the block ends with.

    The kernel is killed then, and the part of papermill's client that sees this first may tell of a kernel that died.
    """
    noted = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            raise KeyboardInterrupt
