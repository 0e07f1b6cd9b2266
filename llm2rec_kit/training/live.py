"""A figure that grows while a training runs, in a notebook. Without a notebook the lines that `fit` prints say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

Rows = list[dict[str, float]]


class LiveFigure(TrainerCallback):
    """Draws the history so far at each validation with `draw(rows)`, and takes the figure away at the end.

    Rows are those of a training's history: {"step", "loss", ...} and {"step", "validation_loss", ...}.
    """

    def __init__(self, draw: Callable[[Rows], Any]) -> None:
        self.draw, self.rows, self.handle = draw, [], None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with what a training that is resumed has logged already."""
        self.rows = [dict(row) for row in state.log_history]

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep the numbers; draw where they are a validation's."""
        self.rows.append({"step": state.global_step, **(logs or {})})
        if any(name.startswith("validation_") for name in logs or {}):
            self._show(self.draw(self.rows))

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Make room for the final figure, which the next cell draws from the kept history."""
        if self.handle is not None:
            from IPython.display import HTML

            self.handle.update(HTML(""))

    def _show(self, figure: Any) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
