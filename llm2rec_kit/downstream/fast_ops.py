"""Where a training step spends its time: matrix products, the softmax over the catalogue, the GRU's steps.

Products go through `kernels.multiply`; shapes are few here, so nothing is cut into blocks.
Each function is an autograd Function of its own because that choice has to hold in the backward pass too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from llm2rec_kit.models.kernels import has_fast_bfloat16 as has_fast_bfloat16
from llm2rec_kit.models.kernels import multiply

Gradients = tuple[torch.Tensor | None, ...]
LOGITS = 2**22  # scores held at once: 16 MiB of float32, what stays in a last-level cache


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute `F.linear` through `kernels.multiply`: x (..., K), weight (N, K), bias (N,) to (..., N)."""
    rows: torch.Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.view(*x.shape[:-1], -1)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            multiply(grad, weight.T) if wants_x else None,
            multiply(grad.T, x.T) if wants_weight else None,
            grad.sum(0) if wants_bias else None,
        )


def low_precision_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply x bfloat16 (N, K), without gradient, by weight float32 (M, K) transposed: float32 (N, M), summed in float32.

    Rounding is relative to x: subtract its mean first, or what all rows share swamps what tells them apart.
    """
    out: torch.Tensor = _LowLinear.apply(x, weight)
    return out


class _LowLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return multiply(x, weight.bfloat16()).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Gradients:
        (x,) = ctx.saved_tensors
        return None, multiply(grad.T.bfloat16(), x.T).float()


def lookup(table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Take rows of `table` (N + 1, d) at ids int (...): (..., d);
    return the table, too, to be used as the classes from here on.

    One node for both uses: the few rows' gradient is added into the classes' own, in whatever layout that has, where
    autograd would make a second dense table of it.
    """
    rows, table = _Lookup.apply(table, ids.reshape(-1))
    return rows.view(*ids.shape, -1), table


class _Lookup(Function):
    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(ids)
        ctx.size = len(table)
        ctx.set_materialize_grads(False)
        return table.index_select(0, ids), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: torch.Tensor | None, of_table: torch.Tensor | None) -> Gradients:
        (ids,) = ctx.saved_tensors
        if of_rows is None:
            return of_table, None
        total = of_rows.new_zeros(ctx.size, of_rows.shape[1]) if of_table is None else of_table.clone()
        return total.index_add_(0, ids, of_rows), None


def softmax_loss(
    states: torch.Tensor,
    classes: torch.Tensor,
    labels: torch.Tensor,
    *,
    padding_class: bool = False,
    low_precision: bool = False,
) -> torch.Tensor:
    """Compute the mean cross-entropy of `labels` int64 (S,) among the rows of `classes` (N + 1, d),
    by states (S, d) @ classes.T.

    Row 0 is a class only where `padding_class`. The gradient is taken in the forward pass, a block of samples at a time, so
    scores are never kept. `low_precision` multiplies in bfloat16.
    """
    loss: torch.Tensor = _SoftmaxLoss.apply(states, classes, labels, padding_class, low_precision)
    return loss


class _SoftmaxLoss(Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor, padding_class: bool, low_precision: bool
    ) -> torch.Tensor:
        s, c = (states.bfloat16(), classes.bfloat16()) if low_precision else (states, classes)
        to_states, to_classes, total = [], classes, states.new_zeros(())
        for at in range(0, len(labels), rows := max(1, LOGITS // len(classes))):
            some, y = s[at : at + rows], labels[at : at + rows, None]
            scores = multiply(some, c)
            if not padding_class:
                scores[:, 0] = -torch.inf
            own, top = scores.gather(1, y)[:, 0], scores.amax(1)
            shares = torch.softmax(scores, 1, out=scores)  # in place: a second such block is memory that malloc fetches anew
            total += _negative_log(shares, y, own, top)
            shares.scatter_add_(1, y, shares.new_full((), -1.0).expand_as(y))
            to_states.append(multiply(shares, c.T).to(states.dtype))
            more = multiply(some.T.contiguous(), shares.T).to(classes.dtype)  # transposed: faster to make, and to use
            to_classes = to_classes.add_(more) if at else more
        ctx.save_for_backward(torch.cat(to_states).div_(len(labels)), to_classes.div_(len(labels)).T)
        return total / len(labels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Gradients:
        to_states, to_classes = ctx.saved_tensors
        if grad == 1:  # as it is in training, where the loss is the root: two passes over (N + 1, d) saved
            return to_states, to_classes, None, None, None
        return to_states * grad, to_classes * grad, None, None, None


def _negative_log(shares: torch.Tensor, y: torch.Tensor, own: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Sum of -log of the labels' shares; from their scores `own` and the largest, `top` (S,), where a share is too small for
    its dtype."""
    full = torch.promote_types(shares.dtype, torch.float32)
    found = shares.gather(1, y)[:, 0].to(full)
    lost = found < 1e-30
    out = -found[~lost].log().sum()
    if lost.any():
        # The largest share is 1 / sum(exp(score - largest score)): no second pass of exponentials.
        out = out + (top[lost].to(full) - shares[lost].amax(1).to(full).log() - own[lost].to(full)).sum()
    return out


def gru(x: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor) -> torch.Tensor:
    """Run one layer of `nn.GRU` without bias, started at zero: x (B, L, K) to (B, L, H); weights (3H, K) and (3H, H).

    torch's own CPU layer takes a weight gradient a step; here it is one product for all steps.
    """
    states: torch.Tensor = _GRU.apply(x.transpose(0, 1).contiguous(), weight_ih, weight_hh)
    return states.transpose(0, 1)


class _GRU(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_ih: torch.Tensor, weight_hh: torch.Tensor) -> torch.Tensor:
        length, batch, k = x.shape
        hidden = weight_hh.shape[1]
        inputs = multiply(x.view(-1, k), weight_ih).view(length, batch, 3 * hidden)
        states = x.new_zeros(length + 1, batch, hidden)
        gates = x.new_empty(length, batch, 2 * hidden)  # reset, update
        new, recurrent = x.new_empty(2, length, batch, hidden).unbind(0)
        for t in range(length):
            from_state = multiply(states[t], weight_hh)
            torch.add(inputs[t, :, : 2 * hidden], from_state[:, : 2 * hidden], out=gates[t]).sigmoid_()
            recurrent[t] = from_state[:, 2 * hidden :]
            reset, update = gates[t].chunk(2, 1)
            torch.addcmul(inputs[t, :, 2 * hidden :], reset, recurrent[t], out=new[t]).tanh_()
            torch.lerp(new[t], states[t], update, out=states[t + 1])
        ctx.save_for_backward(x, weight_ih, weight_hh, states, gates, new, recurrent)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Gradients:
        x, weight_ih, weight_hh, states, gates, new, recurrent = ctx.saved_tensors
        length, batch, hidden = new.shape
        reset, update = gates.chunk(2, 2)
        # What a step's gates pass on, for all steps at once; only the state's own gradient has to run backwards.
        to_new = (1 - update) * (1 - new * new)
        to_update = (states[:-1] - new) * update * (1 - update)
        to_reset = recurrent * reset * (1 - reset)
        to_inputs = x.new_empty(length, batch, 3 * hidden)
        to_recurrent = x.new_empty(length, batch, 3 * hidden)
        carried, back = torch.zeros_like(new[0]), weight_hh.T.contiguous()
        for t in reversed(range(length)):
            carried = carried + grad[t]
            here = to_inputs[t]
            torch.mul(carried, to_new[t], out=here[:, 2 * hidden :])
            torch.mul(here[:, 2 * hidden :], to_reset[t], out=here[:, :hidden])
            torch.mul(carried, to_update[t], out=here[:, hidden : 2 * hidden])
            to_recurrent[t] = here
            to_recurrent[t, :, 2 * hidden :] *= reset[t]
            carried = carried * update[t] + multiply(to_recurrent[t], back)
        a, b = to_inputs.view(-1, 3 * hidden), to_recurrent.view(-1, 3 * hidden)
        return (
            multiply(a, weight_ih.T).view_as(x),
            multiply(a.T, x.view(-1, x.shape[2]).T),
            multiply(b.T, states[:-1].reshape(-1, hidden).T),
        )
