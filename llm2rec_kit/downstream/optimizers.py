"""What takes the steps: AdamW, and of a large matrix that a step reaches few rows of, AdamW of those rows alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llm2rec_kit import settings as S


class RowwiseAdamW:
    """AdamW of a matrix whose gradient is sparse: a row that a step does not reach is neither moved nor decayed by it.

    So a step costs what its rows cost. torch's SparseAdam with AdamW's decay; unlike in AdamW, an item that is not reached
    keeps its moments as they are, too.
    """

    def __init__(self, weight: nn.Parameter, rate: float, weight_decay: float) -> None:
        self.adam = torch.optim.SparseAdam([weight], lr=rate)
        self.weight, self.kept = weight, 1 - rate * weight_decay

    def zero_grad(self) -> None:
        """Drop the gradient."""
        self.adam.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with the weight's gradient; where there is none, nothing."""
        if self.weight.grad is None:
            return
        self.weight.grad = self.weight.grad.coalesce()
        reached = self.weight.grad.indices()[0]
        self.weight.index_copy_(0, reached, self.weight.index_select(0, reached) * self.kept)
        self.adam.step()


class Together:
    """Several optimizers as one."""

    def __init__(self, *each: torch.optim.Optimizer | RowwiseAdamW) -> None:
        self.each = each

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for one in self.each:
            one.zero_grad()

    def step(self) -> None:
        """Take a step with each."""
        for one in self.each:
            one.step()


Optimizer = torch.optim.Optimizer | Together


def make_optimizer(both: nn.ModuleList, settings: S.Evaluation, recommender: str) -> Optimizer:
    """Make AdamW of all that (model, item table) train; of free vectors under a sampled softmax row by row (`RowwiseAdamW`)."""
    rate = settings.learning_rate_gru if recommender == "GRU4Rec" else settings.learning_rate
    table: Any = both[1]
    rowwise = settings.loss == "sampled_softmax" and table.kind != "text"
    trained = [p for p in both.parameters() if p.requires_grad and not (rowwise and p is table.ids.weight)]
    adamw = torch.optim.AdamW(trained, lr=rate, weight_decay=settings.weight_decay, fused=True)
    return Together(adamw, RowwiseAdamW(table.ids.weight, rate, settings.weight_decay)) if rowwise else adamw
