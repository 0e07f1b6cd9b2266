"""Tracking: what a tracker gets, that it changes nothing, and that it is refused where it cannot be had. None is installed here."""

from __future__ import annotations

import sys
import textwrap

import pytest
from conftest import make_corpus
from trained import SETTINGS, same, train, train_contrastive

from llm2rec_kit.fitting import artefact, tracking, trainer
from llm2rec_kit.reproduction.runner import feasibility
from llm2rec_kit.settings import CSFT, MNTP, Backbone, SettingsError

TRACKIO = """
    import contextvars

    calls, fails = [], []

    class Config(dict):
        def update(self, values, **how):
            super().update(values)

    config = Config()

    class context_vars:
        current_space_id = contextvars.ContextVar("space", default=None)

    def init(**asked):
        if "init" in fails:
            raise RuntimeError("no login")
        calls.append(("init", asked))

    def log(row):
        if "log" in fails:
            raise OSError("the network is gone")
        calls.append(("log", row))

    def finish():
        calls.append(("finish", dict(config)))
"""


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """A package of that name which keeps what it is told: all that transformers' callback calls of it."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "trackio.py").write_text(textwrap.dedent(TRACKIO))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield __import__("trackio")
    sys.modules.pop("trackio")


def test_a_tracker_gets_the_history_and_the_settings_and_changes_nothing(trackio, tmp_path):
    plain, history = train(tmp_path / "run" / "plain")
    tracked, again = train(tmp_path / "run" / ".csft.partial", report_to="trackio")
    assert same(plain, tracked)
    assert history == again
    kinds = [kind for kind, _ in trackio.calls]
    assert kinds == ["init", *["log"] * (len(kinds) - 2), "finish"]
    asked, told = trackio.calls[0][1], trackio.calls[-1][1]
    assert (asked["project"], asked["name"], asked["space_id"]) == ("llm2rec", "run-csft", None)
    assert (told["csft_steps"], told["csft_learning_rate"], told["hidden_size"]) == (12, 3e-3, 32)
    assert "num_train_epochs" not in told  # Trainer's own, which means nothing here
    sent = [row for kind, row in trackio.calls if kind == "log"]
    losses = {row["train/global_step"]: row["train/loss"] for row in sent if "train/loss" in row}
    checked = {row["train/global_step"]: row["eval/loss"] for row in sent if "eval/loss" in row}
    assert losses == {row["step"]: row["loss"] for row in history if "loss" in row}
    assert checked == {row["step"]: row["validation_loss"] for row in history if "validation_loss" in row}
    assert {k.split("/")[1] for row in sent for k in row} == {"loss", "learning_rate", "grad_norm", "global_step"}


def test_nothing_is_sent_unasked(trackio, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "http://127.0.0.1:9")  # by which transformers adds a tracker to "none"
    asked = []
    monkeypatch.setattr(trainer.StepTrainer, "go", lambda self, name: asked.append(self))
    monkeypatch.setattr(trainer.StepTrainer, "history", lambda self: [])
    train(tmp_path / "run")
    names = [type(callback).__name__ for callback in asked[0].callback_handler.callbacks]
    assert not [name for name in names if "Kubeflow" in name or "Trackio" in name]
    assert not trackio.calls


def test_two_trainings_of_one_process_are_two_runs(trackio, tmp_path):
    train(tmp_path / "run" / ".csft.partial", report_to="trackio")
    train_contrastive(tmp_path / "run" / ".contrastive.partial", report_to="trackio")
    assert [asked["name"] for kind, asked in trackio.calls if kind == "init"] == ["run-csft", "run-contrastive"]
    assert sum(kind == "finish" for kind, _ in trackio.calls) == 2


def test_a_tracker_that_fails_under_way_is_told_of_once_and_the_training_goes_on(trackio, tmp_path, capsys):
    trackio.fails.append("log")
    _, history = train(tmp_path / "run", report_to="trackio")
    assert history[-1]["step"] == 12
    assert capsys.readouterr().out.count("the network is gone") == 1


def test_a_tracker_that_cannot_begin_stops_before_a_step(trackio, tmp_path):
    trackio.fails.append("init")
    with pytest.raises(SettingsError, match=r"csft_report_to trackio could not begin: no login Nothing was trained"):
        train(tmp_path / "run", report_to="trackio")
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_a_run_of_a_training_that_breaks_is_ended_too(trackio, tmp_path):
    def broken(*_):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        train(tmp_path / "run", report_to="trackio", loss=broken)
    assert [kind for kind, _ in trackio.calls] == ["init", "finish"]


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "mlflow"])
def test_one_that_is_not_installed_is_refused_with_how_to_install_it(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    said = rf"mntp_report_to is '{tracker}', which is not installed here: pip install {tracker}\. Or set it to none"
    values = {"mntp_report_to": tracker}
    with pytest.raises(SettingsError, match=said):
        feasibility.check_machine(values, ["03"])
    feasibility.check_machine(values, ["02", "04"])
    with pytest.raises(SettingsError, match=said):
        feasibility.check_corpus(make_corpus(), MNTP(report_to=tracker))
    with pytest.raises(SettingsError, match=rf"csft_report_to is '{tracker}'"):
        train(tmp_path / "run", report_to=tracker)


def test_an_unknown_one_is_refused():
    with pytest.raises(SettingsError, match=r"csft_report_to must be one of \['none', 'tensorboard'.*; found 'wandbb'"):
        CSFT(report_to="wandbb")


def test_it_stands_in_no_key():
    place = Backbone()
    assert artefact.split_settings(SETTINGS, place) == artefact.split_settings(
        CSFT(**{**SETTINGS.as_dict(), "report_to": "wandb"}), place
    )
    assert "report_to" not in artefact.split_settings(SETTINGS, place)["settings"]


def test_what_a_tracker_keeps_here_lies_in_the_run_s_folder_unless_its_own_variable_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with tracking._variables(WANDB_PROJECT="llm2rec", WANDB_DIR=str(tmp_path)):
        assert tracking.os.environ["WANDB_PROJECT"] == "mine"
        assert tracking.os.environ["WANDB_DIR"] == str(tmp_path)
    assert "WANDB_DIR" not in tracking.os.environ
