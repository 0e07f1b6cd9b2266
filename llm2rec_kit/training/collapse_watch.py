"""The collapse of contrast, noticed: a reproduction of the released schedule reports that loss and gradient norm jump near
step 1,000 and never come back, and a training that goes on past it only wears the model down.

Watched are the loss of every step, and uniformity and effective rank at every validation. What breaks stops the training;
checkpoints from before the break stay, later ones go.
"""

from __future__ import annotations

import statistics
from collections import deque
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from llm2rec_kit import settings as S
from llm2rec_kit.fitting import checkpoints, distributed
from llm2rec_kit.fitting.trainer import TrainingError

WINDOW = 10  # steps whose mean loss is compared: one hard batch is not a collapse


class Watch(TrainerCallback, ExportableState):
    """Told of every step's loss and of every validation; raises TrainingError at the first sign of a collapse.

    Checkpoints hold what it knows (`state`), so that a resumed training decides as one that was never stopped.
    """

    def __init__(self, settings: S.Contrastive, start: dict[str, float], folder: Path) -> None:
        """`start` is the space before training (`contrastive.probe`); `folder/checkpoints` is where checkpoints are."""
        self.settings, self.start, self.folder = settings, start, Path(folder) / "checkpoints"
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.norms: list[float] = []
        self.lowest, self.step, self.sound = float("inf"), 0, 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside its log: the last losses, and the lowest mean of as many so far."""
        return {"recent": list(self.recent), "lowest": self.lowest}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up what was known where training goes on from: nothing at step 0."""
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # earlier drafts kept none
        self.recent.extend(kept["recent"])
        self.lowest, self.step = kept["lowest"], state.global_step
        self.norms = [row["grad_norm"] for row in state.log_history if "grad_norm" in row]
        # A validation that is not sound raises before it is logged.
        self.sound = max((row["step"] for row in state.log_history if "validation_uniformity" in row), default=0)

    def loss(self, step: int, value: float) -> None:
        """Judge `value`, the mean loss per title of optimiser step `step`, counted from 0."""
        self.step = step + 1
        self.recent.append(value)
        if len(self.recent) < WINDOW or not self.settings.collapse_loss:
            return
        mean = sum(self.recent) / WINDOW
        self.lowest = min(self.lowest, mean)
        if mean > self.lowest + self.settings.collapse_loss:
            self._stop(
                f"the loss of the last {WINDOW} steps is {mean:.3f} nats a title, {mean - self.lowest:.3f} above the lowest "
                f"before ({self.lowest:.3f}; contrastive_collapse_loss is {self.settings.collapse_loss})",
                self.step - WINDOW,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep the gradient norm, before clipping, for the message."""
        if logs and "grad_norm" in logs:
            self.norms.append(float(logs["grad_norm"]))

    def space(self, found: dict[str, float]) -> dict[str, float]:
        """Judge `found`, the numbers of `contrastive.probe`, and return them where they are sound."""
        uniformity, rank = found["uniformity"], found["effective_rank"]
        # A language model's space may start out that narrow; contrast then has to widen it, and does.
        if uniformity > max(self.settings.collapse_uniformity, self.start["uniformity"]):
            self._stop(
                f"uniformity is {uniformity:.4f}, from {self.start['uniformity']:.4f} at the start: all titles point the same "
                f"way (contrastive_collapse_uniformity is {self.settings.collapse_uniformity})",
                self.sound,
            )
        if rank < self.settings.collapse_rank * self.start["effective_rank"]:
            self._stop(
                f"the effective rank is {rank:.1f}, from {self.start['effective_rank']:.1f} at the start "
                f"(contrastive_collapse_rank is {self.settings.collapse_rank})",
                self.sound,
            )
        self.sound = self.step
        return found

    def _ending_at(self, step: int) -> str:
        """The settings that end at `step` of the planned decay, which stays as it is."""
        settings = self.settings
        if settings.schedule_epochs:  # the decay is planned over these, whatever the steps
            return f"contrastive_steps={step} with contrastive_schedule_epochs={settings.schedule_epochs}"
        return f"contrastive_steps={step} with contrastive_schedule_steps={settings.schedule_steps or settings.steps}"

    def _stop(self, why: str, sound: int) -> None:
        """Raise, after removing the checkpoints of steps after `sound`."""
        if distributed.rank() == 0:
            checkpoints.prune(self.folder, range(sound + 1))
        good = checkpoints.find_last(self.folder)
        if good:
            kept = (
                f"The last good checkpoint is {good}; {self._ending_at(checkpoints.step_of(good))} makes that very model, "
                "trained anew from the start (a change of the steps does not keep the checkpoint)"
            )
        else:
            kept = f"It broke before the first checkpoint (contrastive_save_every={self.settings.save_every})"
        norms = ""
        if self.norms:
            norms = f" The gradient norm was {self.norms[-1]:.2f}, with a median of {statistics.median(self.norms):.2f}."
        raise TrainingError(
            f"Item contrast is collapsing, noticed at step {self.step} of {self.settings.steps}: {why}.{norms} Training "
            f"stopped. {kept}. A lower learning rate, a longer warm-up or a larger batch usually helps."
        )
