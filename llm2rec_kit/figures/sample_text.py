"""What the model reads, as a page shows it: the tokens of a training sample, each in a box, those it predicts filled."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from IPython.display import HTML

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOX = "border: 1px solid #8888; border-radius: 3px; padding: 0 2px; margin: 1px; white-space: pre"
READ, PREDICTED = "opacity: 0.75", "background: #0072B2; color: white; font-weight: bold"


def boxes(
    tokenizer: PreTrainedTokenizerBase, history: Sequence[int] | np.ndarray, answer: Sequence[int] | np.ndarray
) -> HTML:
    """Show the token ids of one sample: the history's pale, the answer's filled; line breaks and the like are escaped."""
    looks = [READ] * len(history) + [PREDICTED] * len(answer)
    tokens = [repr(tokenizer.decode([token]))[1:-1] for token in [*history, *answer]]
    spans = [f'<span style="{BOX}; {look}">{html.escape(token)}</span>' for token, look in zip(tokens, looks, strict=True)]
    return HTML(f'<div style="line-height: 2; font-family: monospace">{" ".join(spans)}</div>')
