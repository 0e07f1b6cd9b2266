"""Cross-entropy over a large vocabulary without ever holding all its logits.

Logits of some hundred states at a time: made, turned into probabilities in place, and at once into the gradients of the
states and of the head. So the backward pass has nothing left to do, and memory is one block of logits rather than
several copies of all of them. On a CPU the block also stays in cache (benchmarks/csft.py measures what that is worth).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from llm2rec_kit.models import backbone, kernels

ROWS = 256  # states at a time on a CPU; fewer and the products slow down, more and the block leaves the cache
ROWS_GPU = 2048
# In bfloat16 on a CPU, where what each block adds to the head's float32 gradient costs as much as its product.
ROWS_LOW = 512
ROWS_WIDE = 32  # of them as float32 at a time
CLASSES = 4096  # of the head's gradient at a time, there


def sum_cross_entropy(model: PreTrainedModel, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum the cross-entropies of `labels` (n,) given the body's `states` (n, hidden), through the model's head.

    Float32 (float64 where the states are), whatever dtype the model computes in, as transformers' own loss.
    """
    head = model.get_output_embeddings()
    # A head with a bias or with adapters of its own.
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        logits = backbone.compute_logits(model, states)
        return nn.functional.cross_entropy(_wide(logits), labels, reduction="sum")
    cap, scale = getattr(model.config, "final_logit_softcapping", None), backbone.find_logit_scale(model)
    weight = head.weight
    if scale != 1:
        states = states * scale
    if not torch.is_grad_enabled():  # `needs_input_grad` does not know of it
        states, weight = states.detach(), weight.detach()
    total: torch.Tensor = _Summed.apply(states, weight, labels, cap)
    return total


class _Summed(torch.autograd.Function):
    """The loss, and with it its gradients: a second backward pass through the same graph is refused."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, cap: float | None
    ) -> torch.Tensor:
        kind = states.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else kernels.choose_product_dtype(weight)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=states.device)
        own = torch.zeros_like(states, dtype=wide) if ctx.needs_input_grad[0] else None
        heads = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        low = not autocast and dtype != weight.dtype  # mixed precision on a CPU
        rows = ROWS_LOW if low else ROWS if kind == "cpu" else ROWS_GPU
        with torch.autocast(kind, enabled=False):
            head = kernels.round_weights(weight) if low else weight.detach().to(dtype)
            for a in range(0, len(labels), rows):
                x, y = states[a : a + rows].detach().to(dtype), labels[a : a + rows, None]
                logits, gradient = kernels.multiply_blocked(x, head), own is not None or heads is not None
                value, error = (_low_block if low else _block)(logits if low else _wide(logits), y, cap, gradient)
                total += value
                if own is not None:
                    own[a : a + rows] = kernels.multiply_blocked(error.to(dtype), head.T)
                if heads is not None:
                    (_add_low_product if low else _add_product)(heads, error.to(dtype), x)
        ctx.dtypes = states.dtype, weight.dtype
        ctx.gradients = own, heads
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The gradients of this loss have been handed out already; compute the loss again.")
        found = [None if g is None else g.mul_(outer).to(d) for g, d in zip(ctx.gradients, ctx.dtypes, strict=True)]
        ctx.gradients = None
        return (*found, None, None)


def _block(logits: torch.Tensor, labels: torch.Tensor, cap: float | None, gradient: bool) -> tuple[torch.Tensor, Any]:
    """(summed loss, its gradient in the logits) of a block; `logits` is overwritten. `labels` is (n, 1)."""
    squash = None
    if cap is not None:
        logits = logits.div_(cap).tanh_()
        squash = 1 - logits.square() if gradient else None
        logits.mul_(cap)
    top, own = logits.amax(1, keepdim=True), logits.gather(1, labels)
    logits.sub_(top).exp_()
    mass = logits.sum(1, keepdim=True)
    value = (top + mass.log() - own).sum()
    if not gradient:
        return value, None
    logits.div_(mass).scatter_add_(1, labels, torch.full_like(own, -1))
    return value, logits if squash is None else logits.mul_(squash)


def _low_block(logits: torch.Tensor, labels: torch.Tensor, cap: float | None, gradient: bool) -> tuple[torch.Tensor, Any]:
    """As `_block`, of bfloat16 logits: in float32 a few rows at a time, which stay in cache; the gradient is in their place."""
    value = torch.zeros(())
    for a in range(0, len(labels), ROWS_WIDE):
        some = slice(a, a + ROWS_WIDE)
        more, error = _block(logits[some].float(), labels[some], cap, gradient)
        value += more
        if gradient:
            logits[some] = error
    return value, logits if gradient else None


def _add_product(total: torch.Tensor, error: torch.Tensor, states: torch.Tensor) -> None:
    """total += error^T states; on a GPU in one call where the dtypes are the same, without a second head's memory."""
    if error.device.type == "cpu" or error.dtype != total.dtype:
        total += kernels.multiply_outer(error, states)
    else:
        total.addmm_(error.T, states)


def _add_low_product(total: torch.Tensor, error: torch.Tensor, states: torch.Tensor) -> None:
    """As `_add_product`, of bfloat16 factors on a CPU: some classes at a time, so that what is added stays in cache."""
    for first in range(0, len(total), CLASSES):
        part = slice(first, first + CLASSES)
        total[part] += kernels.multiply_outer(error[:, part], states)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
