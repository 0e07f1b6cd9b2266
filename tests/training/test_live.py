"""The figure that grows: drawn at validations only, taken away at the end."""

from __future__ import annotations

from types import SimpleNamespace

from llm2rec_kit.training.live import LiveFigure


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
