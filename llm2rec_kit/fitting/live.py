"""A bar and a figure that grow while a training runs, in a notebook.
Without a notebook the lines that `fit` prints say the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback

from llm2rec_kit.runs import SERIES

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

Rows = list[dict[str, float]]
BETWEEN_SECONDS = 0.5  # a browser need not follow every step


def is_watched() -> bool:
    """Tell whether this process is a notebook's kernel, and not one that a series runs headless."""
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel") and SERIES not in os.environ


class _Live(TrainerCallback):
    """What is shown in one place of a notebook, anew and anew, and gone at the end: others show what was learned."""

    handle: DisplayHandle | None = None

    def show(self, what: Any) -> None:
        """Show `what` where it was shown before, or here."""
        from IPython.display import display

        if self.handle is None:
            self.handle = display(what, display_id=True)
        else:
            self.handle.update(what)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Take away what is shown."""
        if self.handle is not None:
            from IPython.display import HTML

            self.handle.update(HTML(""))


class LiveBar(_Live):
    """Shows, in a notebook that somebody looks at, the steps done, tokens a second and the time left.

    `tokens()` is how many tokens the step just made has read, padding included.
    """

    def __init__(self, name: str, tokens: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.tokens, self.clock = name, tokens, clock
        self.first, self.read, self.began, self.shown = 0, 0, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the count at the step where training begins; a resumed one does not begin at 0."""
        self.first, self.read, self.began = state.global_step, 0, self.clock()
        if is_watched():
            self.show(self._bar(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step's tokens; show where it is, twice a second at most."""
        if self.handle is None:
            return
        self.read += self.tokens()
        if (now := self.clock()) - self.shown >= BETWEEN_SECONDS:
            self.shown = now
            self.show(self._bar(state))

    def _bar(self, state: Any) -> Any:
        from IPython.display import HTML

        done, seconds = state.global_step - self.first, self.clock() - self.began
        pace = ""
        if done and seconds > 0:
            left = tqdm.format_interval((state.max_steps - state.global_step) * seconds / done)
            pace = f", {self.read / seconds:,.0f} tokens a second, about {left} left"
        where = f"{self.name} step {state.global_step:,} of {state.max_steps:,}{pace}"
        bar = f'<progress value="{state.global_step}" max="{state.max_steps}" style="width: 20em"></progress>'
        return HTML(f"{bar} {where}")


class LiveFigure(_Live):
    """Draws the history so far at each validation with `draw(rows)`.

    Rows are those of a training's history: {"step", "loss", ...} and {"step", "validation_loss", ...}.
    """

    def __init__(self, draw: Callable[[Rows], Any]) -> None:
        self.draw = draw
        self.rows: Rows = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start with what a training that is resumed has logged already."""
        self.rows = [dict(row) for row in state.log_history]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep the numbers; draw where they are a validation's."""
        self.rows.append({"step": state.global_step, **(logs or {})})
        if any(name.startswith("validation_") for name in logs or {}):
            self.show(self.draw(self.rows))
