"""Matrix products by oneDNN on a CPU: `product`, and for rows of ever new numbers `blocked` and `outer`.

torch hands a float32 product to MKL, which takes its slower path on processors that are not Intel's: on an AMD EPYC it
reaches 105 GFLOP/s a core where oneDNN, in the same torch, reaches 240. Both are plain float32; the last bits differ,
as they do between any two orders of summation. On other devices and in other dtypes nothing changes.

oneDNN compiles code for every shape that it meets, at over a millisecond and a megabyte a shape, and batches of titles
have a new shape nearly every time. So there rows are cut into blocks of few sizes, and what is left over is filled up with zeros to
one; MKL is kept out of it, because its last bits depend on where in memory a tensor happens to lie.
"""

from __future__ import annotations

import contextlib
import functools
import platform
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


@functools.cache
def available() -> bool:
    """Whether torch carries oneDNN's linear operator (not public, so looked for) on the hardware that it helps."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and platform.machine() in ("x86_64", "AMD64")


def product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """a (M, K) times b (N, K) transposed, plus `bias` (N,): (M, N), in the dtype of a and b.

    A trap: oneDNN compiles a kernel for every new shape, which takes as long as a thousand small products. Callers keep to few.
    """
    if available() and a.device.type == "cpu" and a.dtype in (torch.float32, torch.bfloat16) and a.numel():
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def blocked(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` of float32 by oneDNN whatever the number of rows: x (..., K), weight (N, K), bias (N,) to (..., N)."""
    if not _fits(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    cuts, left = _cuts(len(rows))
    parts = [product(rows[a:b], weight, bias) for a, b in cuts]
    if left < len(rows):
        parts.append(product(_filled(rows[left:]), weight, bias)[: len(rows) - left])
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.view(*x.shape[:-1], len(weight))


def outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (rows, M) and b (rows, N) to (M, N), summed over the rows, by oneDNN where it is float32."""
    if not _fits(a, b):
        return a.T @ b
    cuts, left = _cuts(len(a))
    parts = [product(a[i:j].T, b[i:j].T) for i, j in cuts]
    if left < len(a):
        parts.append(product(_filled(a[left:]).T, _filled(b[left:]).T))
    return sum(parts[1:], parts[0])


def _fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    same = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return bool(same and x.numel() and available())


def _forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight = layer.weight
    if _fits(x, weight) and torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight, layer.bias)
    return blocked(x, weight, layer.bias)


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
        return blocked(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, of_x, of_weight, of_bias = grad.reshape(-1, grad.shape[-1]), None, None, None
        if ctx.needs_input_grad[0]:
            of_x = blocked(grad, weight.T)
        if ctx.needs_input_grad[1]:
            of_weight = outer(rows, x.reshape(-1, x.shape[-1]))
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_x, of_weight, of_bias
