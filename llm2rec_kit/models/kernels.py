"""Matrix products by oneDNN on a CPU, in bfloat16 if asked: `multiply`, and for rows `multiply_blocked`, `multiply_outer`.

torch hands a float32 product to MKL, which takes its slower path on processors that are not Intel's: on an AMD EPYC it
reaches 105 GFLOP/s a core where oneDNN, in the same torch, reaches 240. Both are plain float32; the last bits differ,
as they do between any two orders of summation. On other devices and in other dtypes nothing changes.

oneDNN compiles code for every shape that it meets, at over a millisecond and a megabyte a shape, and batches of titles have
a new shape nearly every time. So there rows are cut into blocks of few sizes, and what is left over is filled up with zeros
to one; MKL is kept out of it, because its last bits depend on where in memory a tensor happens to lie.

Mixed precision on a CPU is `use_bfloat16`, not torch's autocast: that does not reach a layer whose forward is ours, and it
takes attention to bfloat16, too, which is slower than float32 on a CPU without AMX (0.2x at length 50).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import platform
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Rounded = dict[tuple[int, ...], tuple[tuple[torch.Tensor, ...], torch.Tensor]]  # weights' ids -> these, and in bfloat16
_LOW: contextvars.ContextVar[Rounded | None] = contextvars.ContextVar("rounded weights", default=None)
EMULATED = (  # what is wrong with mixed precision on a CPU that `has_fast_bfloat16` says no of
    "multiplies in bfloat16, which this CPU has no instructions for (AVX512-BF16): it would be slower than float32. Take "
    "pure, or a GPU."
)
BLOCKS = (1024, 64)  # a product's rows: a multiple of the first, then one of the second that is smaller than the first


@contextlib.contextmanager
def use_fast_linears(model: nn.Module) -> Iterator[None]:
    """Multiply by oneDNN in every `nn.Linear` of `model`, forward and backward, within the block; then all is as before.

    The weights stay where they are, so training, saving and adapters (peft wraps the layer, and calls it) go on as ever.
    """
    layers = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in vars(m)] if is_available() else []
    for layer in layers:
        vars(layer)["forward"] = functools.partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextlib.contextmanager
def use_bfloat16(on: bool = True) -> Iterator[None]:
    """Round the factors of float32 products in `use_fast_linears` to bfloat16, forward and backward, within the block; sums,
    outputs, weights and their accumulated gradients stay float32.

    A weight is rounded once, so the block is one optimiser step, with all its micro-batches. (A weight's `_version` does not
    tell that it was changed: torch's fused AdamW leaves it as it is.)
    """
    before = _LOW.set({} if on else None)
    try:
        yield
    finally:
        _LOW.reset(before)


def choose_product_dtype(x: torch.Tensor) -> torch.dtype:
    """Choose the dtype of products with `x` in layers of `use_fast_linears`: bfloat16 in `use_bfloat16`, else its own."""
    low = _LOW.get() is not None and x.dtype == torch.float32 and x.device.type == "cpu"
    return torch.bfloat16 if low else x.dtype


def has_fast_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16 in hardware; without, it is emulated and slower than float32."""
    return is_available() and torch.cpu._is_avx512_bf16_supported()


@functools.cache
def is_available() -> bool:
    """Tell whether torch carries oneDNN's linear operator (not public, so looked for) on the hardware that it helps."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and platform.machine() in ("x86_64", "AMD64")


@functools.cache
def multiplies_bfloat16() -> bool:
    """Tell whether oneDNN has products of bfloat16 on this CPU, in hardware or emulated; without AVX512 it raises instead."""
    return is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiply(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply a (M, K) by b (N, K) transposed and add `bias` (N,): (M, N), in the dtype of a and b.

    A trap: oneDNN compiles a kernel for every new shape, as long as a thousand small products take. Callers keep to few.
    """
    if not (is_available() and a.device.type == "cpu" and a.dtype in (torch.float32, torch.bfloat16) and a.numel()):
        return F.linear(a, b, bias)
    if a.dtype == torch.bfloat16 and not multiplies_bfloat16():
        # The same factors, summed in float32 and rounded once, as where there are instructions for it.
        return _by_onednn(a.float(), b.float(), None if bias is None else bias.float()).bfloat16()
    return _by_onednn(a, b, bias)


def _by_onednn(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return out


def multiply_blocked(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute float32 `F.linear` by oneDNN whatever the number of rows: x (..., K), weight (N, K), bias (N,) to (..., N)."""
    if not _fits(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    cuts, left = row_cuts(len(rows))
    parts = [multiply(rows[a:b], weight, bias) for a, b in cuts]
    if left < len(rows):
        parts.append(multiply(_filled(rows[left:]), weight, bias)[: len(rows) - left])
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.view(*x.shape[:-1], len(weight))


def multiply_outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply a (rows, M), transposed, by b (rows, N), summing over the rows: float32 (M, N).

    By oneDNN where both are float32 or bfloat16; others, and other devices, take torch's product, in their own dtype.
    """
    if not _fits(a, b):
        return a.T @ b
    cuts, left = row_cuts(len(a))
    parts = [multiply(a[i:j].T, b[i:j].T).float() for i, j in cuts]
    if left < len(a):
        parts.append(multiply(_filled(a[left:]).T, _filled(b[left:]).T).float())
    return sum(parts[1:], parts[0])


def _fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    same = x.dtype == weight.dtype and x.device.type == weight.device.type == "cpu"
    return bool(same and x.dtype in (torch.float32, torch.bfloat16) and x.numel() and is_available())


def _forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight = layer.weight
    if not _fits(x, weight) or x.dtype != torch.float32:
        return F.linear(x, weight, layer.bias)
    low = round_weights(weight) if _LOW.get() is not None else None
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        out: torch.Tensor = _Linear.apply(x, weight, layer.bias, low)
        return out
    return _multiplied(x, weight, layer.bias, low)[0]


def round_weights(*weights: torch.Tensor) -> torch.Tensor:
    """Round weights, one below the other, to bfloat16; made once within `use_bfloat16`, outside of which it is a LookupError."""
    known = _LOW.get()
    if known is None:
        raise LookupError("Weights are rounded within use_bfloat16.")
    key = tuple(map(id, weights))
    if key not in known:
        low = [weight.detach().bfloat16() for weight in weights]
        # The weights themselves are kept, too: an id is a weight's own while that lives.
        known[key] = weights, low[0] if len(low) == 1 else torch.cat(low)
    return known[key][1]


def _multiplied(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, low: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The layer's float32 output, and the factors of the product: x and weight, or both in bfloat16 where there is `low`."""
    if low is None:
        return multiply_blocked(x, weight, bias), x, weight
    x = x.bfloat16()
    out = multiply_blocked(x, low).float()
    return out if bias is None else out.add_(bias), x, low


def _filled(rows: torch.Tensor) -> torch.Tensor:
    """Fewer rows than a small block, with zero rows up to one."""
    return F.pad(rows, (0, 0, 0, BLOCKS[-1] - len(rows)))


def row_cuts(rows: int) -> tuple[list[tuple[int, int]], int]:
    """Say where a product's rows are cut for oneDNN, and where what is left over begins.

    >>> row_cuts(2200)
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
    """`F.linear` of float32 whose three products are oneDNN's, of bfloat16 factors where the weight comes in that, too."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, low: torch.Tensor | None
    ) -> torch.Tensor:
        out, *factors = _multiplied(x, weight, bias, low)
        ctx.save_for_backward(*factors)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        same, of_x, of_weight, of_bias = grad.to(weight.dtype), None, None, None
        if ctx.needs_input_grad[0]:
            of_x = multiply_blocked(same, weight.T).float()
        if ctx.needs_input_grad[1]:
            of_weight = multiply_outer(same.reshape(-1, same.shape[-1]), x.reshape(-1, x.shape[-1]))
        if ctx.needs_input_grad[2]:
            of_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        return of_x, of_weight, of_bias, None
