"""The figure that grows: drawn at validations only, taken away at the end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llm2rec_kit.fitting import live
from llm2rec_kit.fitting.live import LiveBar, LiveFigure
from llm2rec_kit.runs import SERIES


def test_it_is_drawn_at_validations_and_cleared_at_the_end(monkeypatch):
    shown, updates = [], []

    def display(figure, display_id):
        shown.append(figure)
        return SimpleNamespace(update=updates.append)

    monkeypatch.setattr("IPython.display.display", display)
    live = LiveFigure(lambda rows: [dict(r) for r in rows])
    live.on_train_begin(None, SimpleNamespace(log_history=[{"step": 1, "loss": 5.0}]), None)
    live.on_log(None, SimpleNamespace(global_step=2), None, logs={"loss": 4.0})
    assert not shown
    live.on_log(None, SimpleNamespace(global_step=2), None, logs={"validation_loss": 4.5})
    live.on_log(None, SimpleNamespace(global_step=3), None, logs={"validation_loss": 4.0})
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 2, "validation_loss": 4.5}]
    assert shown == [rows]
    assert updates == [[*rows, {"step": 3, "validation_loss": 4.0}]]
    live.on_train_end()
    assert updates[-1].data == ""
    LiveFigure(lambda rows: rows).on_train_end()


@pytest.mark.parametrize("kernel", [True, False])
def test_the_bar_tells_steps_tokens_and_time_left_where_somebody_looks(monkeypatch, kernel):
    shown = []

    def display(bar, display_id):
        shown.append(bar.data)
        return SimpleNamespace(update=lambda bar: shown.append(bar.data))

    monkeypatch.delenv(SERIES, raising=False)
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()) if kernel else None)
    monkeypatch.setattr("IPython.display.display", display)
    times = iter([100.0, 100.0, 110.0, 110.0, 110.1, 120.0, 120.0])
    bar = LiveBar("csft", lambda: 2000, clock=lambda: next(times))
    state = SimpleNamespace(global_step=4, max_steps=44)  # resumed
    bar.on_train_begin(None, state, None)
    for state.global_step in (5, 6, 7):
        bar.on_step_end(None, state, None)
    bar.on_train_end()
    told = [text.split("</progress> ")[-1] for text in shown]
    assert told == (
        [
            "csft step 4 of 44",
            "csft step 5 of 44, 200 tokens a second, about 06:30 left",
            "csft step 7 of 44, 300 tokens a second, about 04:06 left",
            "",
        ]
        if kernel
        else []
    )


def test_a_series_that_runs_headless_has_no_bar(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setenv(SERIES, "1")
    assert not live.is_watched()
