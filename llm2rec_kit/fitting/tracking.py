"""Tracking: the numbers of a training sent, while it runs, to the tracker that its `report_to` names.

transformers' own callbacks do the sending. They are kept from what would mislead (Trainer's arguments, of which one step
here uses few; its rates and epochs) and given what this training is: the stage's settings, the model's, and the rows of its
history, validation apart (`eval/loss`). Weights are never sent. A tracker changes no result: it stands in no key and no
manifest, and one that fails under way is told of once and left, while the training goes on.

What is kept on this machine lies in the run's folder (`tensorboard/`, `wandb/`, `mlflow.db`), unless the tracker's own
environment variables say otherwise.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import integration_utils

from llm2rec_kit import settings as S

PROJECT = "llm2rec"  # what runs are filed under, unless the tracker's own variable says otherwise
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}  # that a tracker can be had from; others have its name
NUMBERS = ("loss", "learning_rate", "grad_norm")


def check(settings: S.Training) -> None:
    """Raise SettingsError where the tracker that the settings name is not installed."""
    tracker = settings.report_to
    packages = PACKAGES.get(tracker, (tracker,))
    if tracker != "none" and not any(importlib.util.find_spec(name) for name in packages):
        raise S.SettingsError(
            f"{settings.prefix}_report_to is {tracker!r}, which is not installed here: pip install {packages[0]}. Or set it to none."
        )


def select_numbers(entry: dict[str, Any]) -> dict[str, float]:
    """Select the numbers of a log entry that repeat from run to run: no seconds, no rates."""
    return {k: v for k, v in entry.items() if k in NUMBERS or k.startswith("validation_")}


@contextlib.contextmanager
def track(trainer: Trainer, settings: S.Training, folder: Path) -> Iterator[None]:
    """Send what the trainer logs to the settings' tracker, within the block, as run `<run>-<artefact>`;
    `folder` is the artefact's.

    Raises SettingsError where the tracker is not installed or cannot begin.
    """
    check(settings)
    if settings.report_to == "none":
        yield
        return
    place, artefact = folder.absolute().parent, folder.name.removeprefix(".").removesuffix(".partial")
    with _variables(
        WANDB_PROJECT=PROJECT,
        WANDB_DIR=str(place),
        WANDB_CONSOLE="off",  # it would send what is printed, and that may quote titles
        MLFLOW_EXPERIMENT_NAME=PROJECT,
        MLFLOW_TRACKING_URI=f"sqlite:///{place / 'mlflow.db'}",
        TENSORBOARD_LOGGING_DIR=str(place / "tensorboard"),
    ):
        tracker = _Tracker(settings, f"{place.name}-{artefact}")
        trainer.add_callback(tracker)
        try:
            yield
        finally:
            tracker.close()


class _Tracker(TrainerCallback):
    """One of transformers' reporting callbacks, told what is true here."""

    def __init__(self, settings: S.Training, name: str) -> None:
        (kind,) = integration_utils.get_reporting_integration_callbacks([settings.report_to])
        self.settings, self.name, self.inner = settings, name, kind()
        self.began = False
        self.last: tuple[Any, ...] = ()  # arguments, state and control that it began with
        if settings.report_to == "tensorboard":
            self.inner.logging_dir = str(Path(self.inner.logging_dir) / name)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the tracker's run, with the settings; where that fails nothing is trained."""
        told = copy.copy(args)
        told.run_name, told.project = self.name, os.environ.get("TRACKIO_PROJECT", PROJECT)
        settings = {f"{self.settings.prefix}_{k}": v for k, v in self.settings.as_dict().items()}
        told.to_dict = lambda: dict(settings)
        self.last = told, state, control
        try:
            self.inner.on_train_begin(told, state, control, **kwargs)
        except Exception as error:
            raise S.SettingsError(
                f"{self.settings.prefix}_report_to {self.settings.report_to} could not begin: {error} Nothing was trained. Log in "
                "to it as its documentation says, or set the setting to none."
            ) from error
        self.began = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Send the numbers of a row; the names say to transformers which are of validation."""
        found = {k.replace("validation_", "eval_", 1): v for k, v in select_numbers(logs or {}).items()}
        if self.began and found:
            self._try(lambda: self.inner.on_log(self.last[0], state, control, logs=found, **kwargs))

    def close(self) -> None:
        """End the tracker's run, also after an error; the next training of this process gets one of its own."""
        if not self.began:
            return
        self._try(lambda: self.inner.on_train_end(*self.last))
        if self.settings.report_to == "wandb" and self.last[1].is_world_process_zero:
            self._try(self.inner._wandb.finish)
        self.began = False

    def _try(self, send: Any) -> None:
        try:
            send()
        except Exception as error:  # whatever a tracker raises, hours of training are worth more
            self.began = False
            print(f"  {self.settings.report_to}: {error!r:.300}; nothing more is sent, the training goes on", flush=True)


@contextlib.contextmanager
def _variables(**defaults: str) -> Iterator[None]:
    """Within: environment variables that are not set have these values."""
    new = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
