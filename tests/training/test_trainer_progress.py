"""What a training says while it runs where no terminal shows a bar."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from llm2rec_kit.fitting import callbacks


@pytest.fixture
def clock(monkeypatch):
    """Seconds, moved on by hand."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now.seconds)
    return now


def at(step):
    return SimpleNamespace(global_step=step, max_steps=100)


def test_a_log_hears_of_a_slow_training_every_half_minute(clock, capsys):
    shown = callbacks.Progress("csft", 100)
    shown.on_train_begin(None, at(20), None)  # resumed there
    for step in range(21, 31):
        clock.seconds += 12
        shown.on_step_end(None, at(step), None)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "  csft step 23/100: 12.0 s a step, about 15:24 left",
        "  csft step 26/100: 12.0 s a step, about 14:48 left",
        "  csft step 29/100: 12.0 s a step, about 14:12 left",
    ]


def test_a_validation_is_such_a_word(clock, capsys):
    shown = callbacks.Progress("csft", 100)
    shown.on_train_begin(None, at(0), None)
    for step in (1, 2):
        clock.seconds += 20
        shown.on_log(None, at(step), None, logs={"validation_loss": 1.5})
        shown.on_step_end(None, at(step), None)
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["validation loss 1.500"] * 2


def test_a_fast_training_says_nothing_between_validations(clock, capsys):
    shown = callbacks.Progress("csft", 100)
    shown.on_train_begin(None, at(0), None)
    for step in range(1, 101):
        clock.seconds += 0.2
        shown.on_step_end(None, at(step), None)
    assert not capsys.readouterr().out
