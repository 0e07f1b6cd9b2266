"""Matrix products of linear layers by oneDNN on a CPU.

torch hands a float32 product to MKL, which takes its slower path on processors that are not Intel's: on an AMD EPYC it
reaches 105 GFLOP/s a core where oneDNN, in the same torch, reaches 240. Both are plain float32; the last bits differ,
as they do between any two orders of summation. On other devices and in other dtypes nothing changes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn


@contextlib.contextmanager
def fast_linears(model: nn.Module) -> Iterator[None]:
    """Within: every `nn.Linear` of `model` multiplies by oneDNN, forward and backward; afterwards all is as before.

    The weights stay where they are, so training, saving and adapters (peft wraps the layer, and calls it) go on as ever.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)] if available() else []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def available() -> bool:
    """Whether this torch has oneDNN's linear product."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight = layer.weight
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu" and x.numel()
    if not plain:
        return F.linear(x, weight, layer.bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight, layer.bias)
    return _product(x, weight, layer.bias)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., in) and (out, in) to (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`F.linear` whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, of_x, of_weight, of_bias = grad.reshape(-1, grad.shape[-1]), None, None, None
        if ctx.needs_input_grad[0]:
            of_x = _product(grad, weight.t())
        if ctx.needs_input_grad[1]:
            of_weight = _product(rows.t(), x.reshape(-1, x.shape[-1]).t())
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias
