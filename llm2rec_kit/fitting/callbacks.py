"""What is said while a training runs, how often it saves, and how an interrupt ends it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.import_utils import is_in_notebook

from llm2rec_kit.fitting import distributed
from llm2rec_kit.fitting.distributed import print_once

QUIET_SECONDS = 30  # a log without a word for longer looks like a hang


class Progress(TrainerCallback):
    """A bar in a terminal, elsewhere a line at least every QUIET_SECONDS; and one printed line at each validation."""

    def __init__(self, name: str, steps: int) -> None:
        self.name = name
        self.last: dict[str, float] = {}
        self.began, self.spoke = (0, time.monotonic()), time.monotonic()
        quiet = distributed.rank() > 0 or not sys.stderr.isatty()
        self.bar = tqdm(total=steps, desc=name, unit="step", leave=False, disable=quiet)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count from here."""
        self.began = state.global_step, time.monotonic()  # a resumed training does not begin at 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar, or print the pace where nothing was said for QUIET_SECONDS."""
        self.bar.update(state.global_step - self.bar.n)
        now = time.monotonic()
        if self.bar.disable and now - self.spoke >= QUIET_SECONDS:
            self.spoke = now
            done, before = state.global_step - self.began[0], now - self.began[1]
            left = (state.max_steps - state.global_step) * before / max(1, done)
            pace = f"{before / max(1, done):.1f} s a step, about {tqdm.format_interval(left)} left"
            print_once(f"  {self.name} step {state.global_step}/{state.max_steps}: {pace}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Print the loss and the validation's numbers, at a validation."""
        self.last |= logs or {}
        if any(k.startswith("validation_") for k in logs or {}):
            self.spoke = time.monotonic()
            shown = [
                f"{k.replace('_', ' ')} {self.last[k]:.3f}" for k in self.last if k == "loss" or k.startswith("validation_")
            ]
            print_once(f"  {self.name} step {state.global_step}/{state.max_steps}: {', '.join(shown)}")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the bar away."""
        self.bar.close()


class SaveAsSet(TrainerCallback):
    """Saves as often as it is set now: a checkpoint brings along how often it was when it was written."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set it anew."""
        state.save_steps = args.save_steps


class Stop(TrainerCallback):
    """Turns an interrupt into the end of the step: an update cut in half could not be resumed from."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self, name: str) -> Iterator[None]:
        """Note the first interrupt, and stop at the second. Only where signals can be had (one process, main thread)
        and are wanted: a job in the background ignores them."""
        before = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        if distributed.world_size() > 1 or not main or before is signal.SIG_IGN:
            yield
            return

        def note(*_: Any) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before)
            print(f"\n  {name}: finishing the step and saving it; interrupt again to stop at once", flush=True)

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop where an interrupt was noted."""
        if self.asked:
            control.should_save = control.should_training_stop = True


def exchange_callbacks(trainer: Trainer, ours: Sequence[TrainerCallback]) -> None:
    """Put `ours` in the place of what Trainer tells of a training: in a kernel a table that cannot show our validation's numbers."""
    unwanted: list[type] = [PrinterCallback, ProgressCallback]
    if is_in_notebook():
        from transformers.utils.notebook import NotebookProgressCallback

        unwanted.append(NotebookProgressCallback)
    for kind in unwanted:
        trainer.remove_callback(kind)
    for callback in ours:
        trainer.add_callback(callback)
