"""What a terminal, and what a log file, shows of a running notebook."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from llm2rec_kit.reproduction.runner import progress
from llm2rec_kit.reproduction.runner.progress import Progress

CELLS = [
    ("markdown", "# Title\ntext"),
    ("code", "x = 1"),
    ("markdown", "## 1. First\n### deeper"),
    ("code", "# no heading"),
    ("markdown", "no heading"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(stream, prints=()):
    with Progress("[1/2] 01_x", len(CELLS), stream) as shown:
        for k, (kind, source) in enumerate(CELLS):
            shown.on_cell_start(SimpleNamespace(cell_type=kind, source=source), k)
            for text in prints if k == 3 else ():
                shown.write(text)
                shown.flush()
    return stream.getvalue()


def test_a_log_gets_one_line_a_heading():
    assert play(io.StringIO()) == "  cell 1/5: Title\n  cell 3/5: 1. First\n"


def test_printed_lines_come_as_they_are_and_headings_begin_a_line():
    text = play(io.StringIO(), ["half", " a line\n", "  step 1\nno end"])
    assert text == "  cell 1/5: Title\n  cell 3/5: 1. First\nhalf a line\n  step 1\nno end\n"


def test_a_terminal_gets_a_bar_with_the_heading_under_the_printed_lines(monkeypatch):
    monkeypatch.setattr(progress, "TICK_SECONDS", 60.0)
    text = play(Terminal(), ["from a cell\n"])
    assert "[1/2] 01_x  cell 1/5" in text
    assert "[1/2] 01_x  cell 5/5" in text
    assert text.rindex("from a cell") < text.rindex("cell 5/5")
    assert ", 1. First" in text
    assert text.endswith("\r")  # the bar is gone


def test_the_bar_s_clock_runs_on_while_a_cell_is_silent(monkeypatch):
    import threading

    ticked = threading.Event()

    def refresh(bar, **how):
        if threading.current_thread() is not threading.main_thread():
            ticked.set()

    monkeypatch.setattr(progress.tqdm, "refresh", refresh)
    monkeypatch.setattr(progress, "TICK_SECONDS", 1e-3)
    with Progress("label", 3, Terminal()):
        assert ticked.wait(30)


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_an_error_closes_it(stream):
    with pytest.raises(ZeroDivisionError), Progress("label", 3, stream()) as shown:
        shown.write("x" * (1 // 0))
    assert not getattr(shown, "clock", None) or not shown.clock.thread.is_alive()
