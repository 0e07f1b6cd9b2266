"""Parts of a decoder in mixed precision on a CPU, each one function with a backward pass of its own: norm, gated block, attention.

Within `kernels.use_bfloat16` the layers' products are bfloat16 one by one: every layer rounds its input anew, hands on float32, and
what lies between layers keeps it for the backward pass. Here a whole part takes float32 states and gives float32 states, and keeps
what its products were made of, in bfloat16; what is cheap (the gate's nonlinearity, rotated queries and keys) is computed again. Layers
that read the same input are one product.

A part takes the place of a module only where the module's own forward, asked on a few states, gives the same within rounding. So nothing is
assumed of a family: a norm that adds one to its weight, or keys that are not rotated, stay with the model's own code.
Outside of `kernels.use_bfloat16` every module is its own, to the last bit.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from llm2rec_kit.models import kernels

QUERY_KEY_VALUE = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")
TOLERANCE = 0.03  # of the length of what a module makes itself; rounding to bfloat16 is up to 0.01
attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@contextlib.contextmanager
def use_fused_blocks(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Use the functions of this module, within and within `kernels.use_bfloat16`, for the model's norms, gated blocks and
    attentions, where they give what the model's own do. Afterwards all is as before."""
    changed: list[nn.Module] = []
    try:
        for module in model.modules() if on and kernels.is_available() else ():
            kind = _kind(module)
            if not kind or "forward" in vars(module):
                continue
            if _agrees(kind, module):  # each by itself: one class may work otherwise in some of its layers
                vars(module)["forward"] = functools.partial(FORWARDS[kind], module, module.forward)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _kind(module: Any) -> str:
    """Which of FORWARDS could do this module's work, by the names of its parts; empty: none."""
    weight, epsilon = (getattr(module, name, None) for name in ("weight", "variance_epsilon"))
    if isinstance(epsilon, float) and isinstance(weight, nn.Parameter):
        return "norm"
    if all(_plain(getattr(module, name, None)) for name in (*GATE_UP, "down_proj")):
        silu = type(getattr(module, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")
        return "gated" if silu and not any(getattr(module, n).bias is not None for n in (*GATE_UP, "down_proj")) else ""
    if all(_plain(getattr(module, name, None)) for name in (*QUERY_KEY_VALUE, "o_proj")):
        known = all(hasattr(module, name) for name in ("head_dim", "scaling", "config"))
        return "attention" if known and len({getattr(module, n).bias is None for n in QUERY_KEY_VALUE}) == 1 else ""
    return ""


def _plain(layer: Any) -> bool:
    """Whether this is a linear layer that nothing (such as an adapter) is wrapped around."""
    return type(layer) is nn.Linear and layer.weight.dtype == torch.float32


def _agrees(kind: str, module: nn.Module) -> bool:
    """Whether our function gives what the module's own forward does, on made-up states."""
    made = torch.Generator().manual_seed(0)
    training = module.training
    try:
        module.eval()  # no dropout
        with torch.no_grad():
            given = _made_up(kind, module, made)
            own = module(*given)
            with kernels.use_bfloat16():
                found = FORWARDS[kind](module, _refused, *given)
    except Exception:  # whatever an unknown module raises, it is not one of ours
        return False
    finally:
        module.train(training)
    own, found = (x[0] if isinstance(x, tuple) else x for x in (own, found))
    return bool(own.shape == found.shape and (own - found).norm() <= TOLERANCE * own.norm())


def _made_up(kind: str, module: Any, made: torch.Generator) -> tuple[Any, ...]:
    """Arguments for one row of five states."""
    length, hidden = 5, module.weight.shape[0] if kind == "norm" else _layers(module)[0].in_features
    states = torch.randn(1, length, hidden, generator=made)
    if kind != "attention":
        return (states,)
    angles = torch.randn(1, length, module.head_dim // 2, generator=made).repeat(1, 1, 2)
    mask = torch.zeros(1, 1, length, length).masked_fill_(torch.ones(length, length).triu(1).bool(), -1e9)
    # With the small weights of a new model all tokens would weigh the same, however queries and keys are made.
    queries, keys = (layer(states).unflatten(-1, (-1, module.head_dim)).norm(dim=-1).mean() for layer in _layers(module)[:2])
    larger = (module.head_dim**0.5 / (queries * keys * module.scaling)).sqrt().clamp(1, 1000)
    return states * larger, (angles.cos(), angles.sin()), mask


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise TypeError("This call is not one that the fused functions serve.")


def _layers(module: Any) -> list[nn.Linear]:
    names = QUERY_KEY_VALUE if hasattr(module, "q_proj") else GATE_UP
    return [getattr(module, name) for name in names]


def _serves(x: Any) -> bool:
    """Whether these states are to be multiplied in bfloat16 here and now."""
    return isinstance(x, torch.Tensor) and kernels.choose_product_dtype(x) != x.dtype and x.numel() > 0


def _norm(module: Any, own: Callable[..., Any], hidden_states: torch.Tensor) -> Any:
    if not _serves(hidden_states) or module.weight.dtype != torch.float32:
        return own(hidden_states)
    out, scale = _Norm.apply(hidden_states, module.weight, module.variance_epsilon)
    if torch.is_grad_enabled():  # what is kept anyway, for whoever reads it next, as long as nobody writes into it
        out.made_of = out._version, (hidden_states.detach(), scale, module.weight.detach())
    return out


def _made_of(x: Any) -> tuple[torch.Tensor, ...] | None:
    """What `_norm` made these states of, where they are as it gave them."""
    version, parts = getattr(x, "made_of", (-1, None))
    return parts if parts is not None and version == x._version else None


def _gated(module: Any, own: Callable[..., Any], x: torch.Tensor) -> Any:
    if not _serves(x):
        return own(x)
    gate, up = _layers(module)
    low = kernels.round_weights(gate.weight, up.weight), kernels.round_weights(module.down_proj.weight)
    return _Gated.apply(x, gate.weight, up.weight, module.down_proj.weight, *low, _made_of(x))


def _attention(
    module: Any,
    own: Callable[..., Any],
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    usual = (
        _serves(hidden_states)
        and module.config._attn_implementation == "sdpa"
        and position_embeddings is not None
        and position_embeddings[0].shape[-1] == module.head_dim
        and isinstance(attention_mask, torch.Tensor)
        and attention_mask.dtype == torch.float32
        and not (module.training and getattr(module, "attention_dropout", 0))
        and all(kwargs.get(name) is None for name in ("cache", "past_key_values", "position_bias", "softcap"))
        and not kwargs.get("output_attentions")
    )
    if not usual or position_embeddings is None:
        return own(hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask, **kwargs)
    layers, out = _layers(module), module.o_proj
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    low = kernels.round_weights(*weights), kernels.round_weights(out.weight)
    how = hidden_states.shape[:-1], module.head_dim, module.scaling
    given = *weights, *biases, out.weight, out.bias, *low, *position_embeddings, attention_mask, how
    return _Attention.apply(hidden_states, *given, _made_of(hidden_states)), None


FORWARDS: dict[str, Callable[..., Any]] = {"norm": _norm, "gated": _gated, "attention": _attention}


def _low(x: torch.Tensor) -> torch.Tensor:
    """States (..., K) as bfloat16 rows, with zero rows up to a whole number of small blocks."""
    x = x.reshape(-1, x.shape[-1])
    whole = -(-len(x) // kernels.BLOCKS[-1]) * kernels.BLOCKS[-1]
    out = torch.empty(whole, x.shape[1], dtype=torch.bfloat16)
    out[: len(x)].copy_(x)
    out[len(x) :].zero_()
    return out


def _kept(rows: torch.Tensor, made_of: tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...]:
    """What to keep of a part's input for the backward pass: its rows, or what the norm before it keeps of them already."""
    return (rows,) if made_of is None else made_of


def _rows(kept: Sequence[torch.Tensor]) -> torch.Tensor:
    """The input's bfloat16 rows again, to the bit, from what `_kept` kept."""
    return kept[0] if len(kept) == 1 else _low((kept[0] * kept[1]).mul_(kept[2]))


def _times(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x (rows, K) times weight (K, N), both bfloat16, rows a whole number of small blocks: (rows, N)."""
    out = torch.empty(len(x), weight.shape[1], dtype=x.dtype)
    for a, b in kernels.row_cuts(len(x))[0]:
        torch.mm(x[a:b], weight, out=out[a:b])
    return out


def _summed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a (rows, M) and b (rows, N), bfloat16, rows a whole number of small blocks: float32 (M, N), summed over the rows."""
    parts = [torch.mm(a[i:j].T, b[i:j]) for i, j in kernels.row_cuts(len(a))[0]]
    total = parts[0].float()
    for part in parts[1:]:
        total += part
    return total


class _Norm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight, in float32; x is kept, and a number a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return (x * scale).mul_(weight), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        of_x = grad * weight
        along = (of_x * x).sum(-1, keepdim=True).mul_(scale.pow(3)).div_(x.shape[-1])
        of_x.mul_(scale).addcmul_(x, along, value=-1)
        of_weight = (grad * x).mul_(scale).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None


class _Gated(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)); what is kept is x and what comes out of gate and up, in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *given: Any) -> torch.Tensor:
        """`given`: gate, up and down in float32, for their gradients; gate with up, and down, in bfloat16; what x is made of."""
        both, down, made_of = given[3:]
        rows = _low(x)
        inner = _times(rows, both.T)
        gate, up = inner.chunk(2, 1)
        out = _times(F.silu(gate).mul_(up), down.T)
        ctx.save_for_backward(inner, both, down, *_kept(rows, made_of))
        return out[: x.numel() // x.shape[-1]].float().view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inner, both, down, *kept = ctx.saved_tensors
        gate, up = inner.chunk(2, 1)
        low = _low(grad)
        passed = F.silu(gate)
        of_down = _summed(low, passed * up)
        of_product = _times(low, down)
        of_inner = torch.empty_like(inner)
        of_gate, of_up = of_inner.chunk(2, 1)
        torch.mul(of_product, passed, out=of_up)
        torch.ops.aten.silu_backward.grad_input(of_product.mul_(up), gate, grad_input=of_gate)
        of_x = _times(of_inner, both)[: grad.numel() // grad.shape[-1]].float().view(*grad.shape[:-1], -1)
        return of_x, *_summed(of_inner, _rows(kept)).chunk(2), of_down, None, None, None


class _Attention(torch.autograd.Function):
    """Attention with rotary positions and an additive mask, in float32 between bfloat16 products.

    What is kept: x, the products for queries, keys and values as they came, before they are rotated (so nothing is lost),
    what attention gave, and a number a head and row.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *given: Any) -> torch.Tensor:
        """`given`: as `_attention` hands them over."""
        biases, out_bias, (low, low_out, cos, sin, mask, how, made_of) = given[3:6], given[7], given[8:]
        bias = None if biases[0] is None else torch.cat(biases)
        rows = _low(x)
        made = _times(rows, low.T)
        seen, weighed = attend(*_rotated(made, bias, cos, sin, how, low_out.shape[1]), attn_mask=mask, scale=how[2])
        seen = _low(seen.transpose(1, 2).flatten(2))
        out = _times(seen, low_out.T)[: x.numel() // x.shape[-1]].float()
        ctx.save_for_backward(made, seen, weighed, low, low_out, cos, sin, mask, bias, *_kept(rows, made_of))
        ctx.how, ctx.sizes = how, [len(weight) for weight in given[:3]]
        return (out if out_bias is None else out.add_(out_bias)).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        made, seen, weighed, low, low_out, cos, sin, mask, bias, *kept = ctx.saved_tensors
        (size, length), width, scale = ctx.how
        back = _low(grad)
        of_out = _summed(back, seen)
        heads = (size, length, -1, width)
        of_seen, whole = (
            part[: size * length].float().view(heads).transpose(1, 2) for part in (_times(back, low_out), seen)
        )
        parts = _rotated(made, bias, cos, sin, ctx.how, low_out.shape[1])
        found = attend_backward(of_seen, *parts, whole, weighed, 0.0, False, attn_mask=mask, scale=scale)
        of_made = _turned_back(found, cos, sin, ctx.sizes, width)
        of_biases = [None] * 3 if bias is None else of_made.sum(0).split(ctx.sizes)
        of_low = _low(of_made)
        of_x = _times(of_low, low)[: size * length].float().view(size, length, -1)
        of_out_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[8] else None
        return of_x, *_summed(of_low, _rows(kept)).split(ctx.sizes), *of_biases, of_out, of_out_bias, *[None] * 7


def _rotated(
    made: torch.Tensor, bias: torch.Tensor | None, cos: torch.Tensor, sin: torch.Tensor, how: Any, wide: int
) -> list[torch.Tensor]:
    """Queries, keys and values (B, heads, L, D) in float32 from the products' rows, rotated; `wide` is all heads' width."""
    (size, length), width, _ = how
    states = made[: size * length].float()
    if bias is not None:
        states += bias
    states = states.view(size, length, -1, width)
    heads = wide // width
    few, half = (states.shape[2] - heads) // 2, width // 2
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned, plain = states[:, :, : heads + few] * cos, states[:, :, : heads + few]
    turned[..., :half].addcmul_(plain[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(plain[..., :half], sin[..., half:])
    found = [turned[:, :, :heads].transpose(1, 2)]
    for shared in (turned[:, :, heads:], states[:, :, heads + few :]):  # several queries' heads read the same keys
        each = shared.unsqueeze(3).expand(-1, -1, -1, heads // few, -1)
        found.append(each.reshape(size, length, heads, width).transpose(1, 2))
    return found


def _turned_back(
    found: tuple[torch.Tensor, ...], cos: torch.Tensor, sin: torch.Tensor, sizes: list[int], width: int
) -> torch.Tensor:
    """Gradients of queries, keys and values (B, heads, L, D) as float32 rows of the products, as `_rotated` got them."""
    half, total = width // 2, sum(sizes)
    size, _, length, _ = found[0].shape
    out = torch.empty(size, length, total // width, width)
    cos, sin, start = cos.unsqueeze(2), sin.unsqueeze(2), 0
    for grad, wide in zip(found, sizes, strict=True):
        to = out[:, :, start : start + wide // width]
        grad = grad.transpose(1, 2)
        if grad.shape[2] != to.shape[2]:
            grad = grad.unflatten(2, (to.shape[2], -1)).sum(3)
        start += wide // width
        if start * width == total:  # values are not rotated
            to.copy_(grad)
            continue
        torch.mul(grad, cos, out=to)
        to[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        to[..., :half].addcmul_(grad[..., half:], sin[..., half:])
    return out.view(-1, total)
