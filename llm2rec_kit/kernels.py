"""Matrix products of linear layers by oneDNN on a CPU.

torch hands a float32 product to MKL, which takes its slower path on processors that are not Intel's: on an AMD EPYC it
reaches 105 GFLOP/s a core where oneDNN, in the same torch, reaches 240. Both are plain float32; the last bits differ,
as they do between any two orders of summation. On other devices and in other dtypes nothing changes.

oneDNN compiles code for every shape that it meets, at over a millisecond and a megabyte a shape, and batches of titles
have a new shape nearly every time. So rows are cut into blocks of few sizes, and what is left over is filled up with zeros to
one; MKL is kept out of it, because its last bits depend on where in memory a tensor happens to lie.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = (1024, 64)  # a product's rows: a multiple of the first, then one of the second that is smaller than the first


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
    rows = x.reshape(-1, x.shape[-1])
    cuts, left = _cuts(len(rows))
    parts = [torch.ops.mkldnn._linear_pointwise(rows[a:b], weight, bias, "none", [], "") for a, b in cuts]
    if left < len(rows):
        filled = torch.ops.mkldnn._linear_pointwise(_filled(rows[left:]), weight, bias, "none", [], "")
        parts.append(filled[: len(rows) - left])
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.view(*x.shape[:-1], len(weight))


def _outer(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(rows, out) and (rows, in) to (out, in), summed over the rows."""
    cuts, left = _cuts(len(x))
    parts = [torch.ops.mkldnn._linear_pointwise(grad[a:b].t(), x[a:b].t(), None, "none", [], "") for a, b in cuts]
    if left < len(x):
        ends = _filled(grad[left:]).t(), _filled(x[left:]).t()
        parts.append(torch.ops.mkldnn._linear_pointwise(*ends, None, "none", [], ""))
    return sum(parts[1:], parts[0])


def _filled(rows: torch.Tensor) -> torch.Tensor:
    """Fewer rows than a small block, with zero rows up to one."""
    return F.pad(rows, (0, 0, 0, BLOCKS[-1] - len(rows)))


def _cuts(rows: int) -> tuple[list[tuple[int, int]], int]:
    """Where a product's rows are cut for oneDNN, and where what is left over begins.

    >>> _cuts(2200)
    ([(0, 2048), (2048, 2176)], 2176)
    """
    cuts, start = [], 0
    for block in BLOCKS:
        stop = start + (rows - start) // block * block
        if stop > start:
            cuts.append((start, stop))
        start = stop
    return cuts, start


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
            of_weight = _outer(rows, x.reshape(-1, x.shape[-1]))
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias
