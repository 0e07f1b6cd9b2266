"""Attention mask: causal or lifted by one switch, and what each layer of a decoder does with it, measured and not believed.

One switch of transformers (>= 5.2), `config.is_causal`, asks a decoder to lift its causal mask. Some families do not obey,
some obey in a part of their layers, some only beside padding, and none of them says so. A change of the whole model's
output shows little: one obeying layer hides all that do not. So every layer's mixers (attention, convolution, recurrence:
whatever carries one token's state to another) are tried alone, inside one forward pass: each gets rows that differ in one
token, and what of it arrives at the other tokens is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2rec_kit.models.checkpoint import BackboneError

LENGTH, PADDING = 8, 3  # tokens of a row on which a mixer is tried, and how many of them are padding in a padded row
TITLE = 512  # tokens of the longest titles
Arguments = tuple[Any, ...]
BASE, LAST, FIRST, PADDED, PADS = range(5)  # rows: as it is, last token replaced, first; padded as it is, its pads replaced


def lift_causal_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Lift the causal mask, in place (paper sec. 3.3.1), and prove that every layer obeys, with padding and without.

    Where a family obeys under another attention kernel only, that one is switched on. Mask and kernel are saved with the
    config and honoured on reload, by other libraries too. Raises BackboneError, the model as before, where none obeys.
    """
    before, usual = getattr(model.config, "is_causal", None), model.config._attn_implementation
    faults: dict[str, list[str]] = {}
    kernels = ["sdpa", "eager"] if model._supports_sdpa else ["eager"]
    for kernel in dict.fromkeys([usual, *kernels]):
        if kernel != usual:
            model.set_attn_implementation(kernel)
        fault = _switched(model, lifted=True)
        if not fault:
            if kernel == "eager" and model._supports_sdpa:
                model.config.attn_implementation = kernel  # transformers reads this key of config.json but never writes it
            return model
        faults.setdefault(fault, []).append(kernel)
    _put_back(model, before, usual)
    said = "; ".join(f"under {' and '.join(where)} attention {fault}" for fault, where in faults.items())
    raise BackboneError(
        f"The family {model.config.model_type} cannot have its causal mask lifted: {said}. It would be bidirectional in name "
        "alone. Take it causal and without MNTP (encoding_attention=causal; `llm2rec encode`: --attention causal), or take a "
        "family that obeys, such as Qwen2, Qwen3, Llama, Mistral or Gemma: docs/backbones.md lists them."
    )


def restore_causal_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Put the causal mask back, in place. Raises BackboneError, the model as before, where a layer sees later tokens."""
    before, kernel = getattr(model.config, "is_causal", None), model.config._attn_implementation
    vars(model.config).pop("attn_implementation", None)
    if fault := _switched(model, lifted=False):
        _put_back(model, before, kernel)
        raise BackboneError(
            f"The family {model.config.model_type} is not causal: {fault}. CSFT and encoding_attention=causal need a decoder, "
            "which predicts the next token from those before it, such as Qwen2, Llama, Mistral or Gemma."
        )
    return model


def check_masks(model: PreTrainedModel) -> None:
    """Raise BackboneError where this model could not be causal in CSFT, bidirectional later; it is causal afterwards."""
    usual = model.config._attn_implementation
    lift_causal_mask(model)
    _put_back(model, True, usual)
    restore_causal_mask(model)


def is_bidirectional(model: PreTrainedModel) -> bool:
    """Tell whether the config asks for a lifted mask; `measure_leak` says whether the model obeys."""
    return getattr(model.config, "is_causal", True) is False


@torch.no_grad()
def measure_leak(model: PreTrainedModel, *, padded: bool = False) -> float:
    """Measure how much the first token's state changes when the last does: 0 for a causal model, more for a bidirectional.

    Largest absolute change over the hidden width. With `padded` a shorter row takes another path through most kernels.
    """
    ids = torch.randint(1, model.config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[1] = ids[0]
    ids[1, -1] = (ids[0, -1] % (model.config.vocab_size - 1)) + 1
    mask = None
    if padded:
        ids = torch.cat([ids, ids[:1]])
        mask = torch.ones_like(ids)
        mask[2, LENGTH // 2 :] = 0
        mask = mask.to(model.device)
    with _evaluated(model):
        states = last_states(model, ids.to(model.device), mask)
    return (states[0, 0] - states[1, 0]).abs().max().item()


def compare_leaks(model: PreTrainedModel) -> pl.DataFrame:
    """Measure the leak under both masks; the mask is lifted afterwards.

    A row a mask: attention, leak, `leak, padded`, `least of a layer` (the leak of the tightest layer, padded) and kernel.
    """
    rows = []
    for name, switch in (("causal", restore_causal_mask), ("bidirectional", lift_causal_mask)):
        switch(model)
        least = min(mixer.back for mixer in inspect_mixers(find_body(model), padded=True))
        leaks = {"leak": measure_leak(model), "leak, padded": measure_leak(model, padded=True), "least of a layer": least}
        rows.append({"attention": name, **leaks, "kernel": model.config._attn_implementation})
    return pl.DataFrame(rows)


@torch.no_grad()
def weights_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """Read where the tokens of a text look, under the model's mask: float (tokens, tokens), a row a token that looks.

    The last layer's attention weights, mean over its heads. Only the eager kernel tells them; the model's own is put back.
    """
    usual = model.config._attn_implementation
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]] * 2, device=model.device)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0  # some families have no eager attention without any padding beside it
    model.set_attn_implementation("eager")
    try:
        seen = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(usual)
    weights: np.ndarray = seen[-1][0].mean(0).float().cpu().numpy()
    return weights


def find_body(model: PreTrainedModel) -> PreTrainedModel:
    """Return the transformer without its language-model head."""
    whole = getattr(model, "base_model", model)
    return getattr(model, "model", model) if whole is model else whole  # Llama 4 says another name for it than it has


def last_states(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Compute the last hidden states (B, L, hidden) of token ids (B, L) under their mask (B, L), or without one."""
    states: torch.Tensor = find_body(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return states


def token_rows(model: PreTrainedModel) -> int:
    """Count the tokens that have an embedding."""
    table: Any = model.get_input_embeddings()  # an nn.Embedding, or what a family has in its place
    return int(table.num_embeddings)


def make_layer_masks(
    model: PreTrainedModel, mask: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Turn the additive `mask` (B, 1, L, L), with position ids `positions` (B, L), into what this model's layers need.

    A 4-D mask takes the place of the one that transformers would make, sliding window and all, so in families that have
    a window (Mistral, Gemma 2 and 3, Qwen2 with it on) it is put back here: a token sees those fewer than `window`
    positions before it. Two kinds of layers need a mask each. Raises BackboneError for other kinds of layers.
    """
    window = getattr(model.config, "sliding_window", None)
    kinds = set(getattr(model.config, "layer_types", None) or [])
    if strange := kinds - {"full_attention", "sliding_attention"}:
        raise BackboneError(
            f"Layers of kind {sorted(strange)} ({model.config.model_type}) do not take a mask of one's own, which the "
            "samples of a user need to share a prefix. Use a family with plain attention."
        )
    if not window or mask.shape[-1] <= window or (kinds and "sliding_attention" not in kinds):
        return mask
    far = positions[:, None, :, None] - positions[:, None, None, :] >= window
    near = mask.masked_fill(far, torch.finfo(mask.dtype).min)
    return {"full_attention": mask, "sliding_attention": near} if kinds else near


@dataclass
class Mixer:
    """A part of a layer that carries states between tokens, and the largest change that arrives, over the output's RMS."""

    layer: int
    kind: str  # the class of the part
    ahead: float = 0.0  # at later tokens, when the first token is replaced
    back: float = 0.0  # at earlier tokens, when the last one is: 0 is causal
    pads: float = 0.0  # at real tokens, when the padding is: anything but 0 is a fault


def inspect_mixers(body: PreTrainedModel, *, padded: bool) -> list[Mixer]:
    """Try the mixer of every layer of `body` (`find_body`) by itself, under the mask and on the kernel that the body has.
    With `padded` two rows have padding. A layer without a mixer (a feed-forward block) is not listed."""
    layers = list(_layers(body))
    inside = [{part: Mixer(k, type(part).__name__) for part in _parts(layer)} for k, layer in enumerate(layers)]
    whole = {layer: Mixer(k, type(layer).__name__) for k, layer in enumerate(layers)}
    _try(body, {part: mixer for parts in inside for part, mixer in parts.items()}, padded)
    _try(body, whole, padded)
    found = []
    for layer, parts in zip(layers, inside, strict=True):
        mixing = [m for m in parts.values() if _counts(body, m.ahead, m.back)]
        found += mixing or [whole[layer]] * _counts(body, whole[layer].ahead, whole[layer].back)
    return found


def find_fault(body: PreTrainedModel, *, lifted: bool) -> str:
    """Say in a phrase why `body` (`find_body`) does not go by its mask; "" where it does. Every mixer has to carry states
    from later tokens to earlier ones where the mask is `lifted`, none may where it is not, and none may read padding. In
    float32 a text's states must not depend on the texts beside it; bfloat16 alone puts them a tenth apart in 30 layers."""
    try:
        for padded in (False, True):
            tried = inspect_mixers(body, padded=padded)
            if not tried:
                return "no layer was found that carries states from token to token"
            if off := [m for m in tried if _counts(body, m.back) is not lifted]:
                what = "stay causal" if lifted else "see later tokens"
                return f"{_named(off, len(tried))} {what} {'beside' if padded else 'without'} padding"
            if seen := [m for m in tried if _counts(body, m.pads)]:
                return f"{_named(seen, len(tried))} see padding"
        apart = max(measure_batch_effect(body, length) for length in _lengths(body)) if _exact(body) else 0.0
    except Exception as error:  # families fail in many ways over a mask that they do not expect
        return f"its forward pass fails ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})"
    return f"a text's states are {apart:.2g} off beside other texts" if not apart <= 1e-3 else ""


@torch.no_grad()
def measure_batch_effect(body: PreTrainedModel, length: int = LENGTH) -> float:
    """Measure how far a text's states are from those that it has alone, the largest relative difference: under a mask that
    hides nothing, beside a shorter text, and beside a longer one."""
    ids = _tokens(body, 2, 2 * length)
    text, real = ids[:, :length], torch.ones_like(ids)
    shorter, longer = real[:, :length].clone(), real.clone()
    shorter[1, -PADDING:] = 0
    longer[0, length:] = 0
    with _evaluated(body):
        alone = _states(body, text[:1], None)
        among = [(text[:1], real[:1, :length]), (text, shorter), (ids, longer)]
        states = [_states(body, batch, mask)[:1, :length] for batch, mask in among]
    return max(float((found - alone).norm() / alone.norm()) for found in states)


def _switched(model: PreTrainedModel, *, lifted: bool) -> str:
    """Turn the switch and measure, once a kernel: training changes weights, not who sees whom. Returns what is wrong."""
    model.config.is_causal = not lifted
    proven = model.__dict__.setdefault("_masks_proven", set())
    side = (lifted, model.config._attn_implementation)
    fault = "" if side in proven else find_fault(find_body(model), lifted=lifted)
    if not fault:
        proven.add(side)
    return fault


def _put_back(model: PreTrainedModel, is_causal: bool | None, kernel: str) -> None:
    if model.config._attn_implementation != kernel:
        model.set_attn_implementation(kernel)
    model.config.is_causal = is_causal
    if is_causal is None:
        del model.config.is_causal


@torch.no_grad()
def _try(body: PreTrainedModel, tried: dict[nn.Module, Mixer], padded: bool) -> None:
    """One forward pass in which each of `tried` meets its own replaced tokens; writes what arrives into its Mixer."""
    mask = torch.ones(len((BASE, LAST, FIRST, PADDED, PADS)), LENGTH, dtype=torch.int64, device=body.device)
    if padded:
        mask[[PADDED, PADS], -PADDING:] = 0
    with _evaluated(body), ExitStack() as hooks:
        for part, mixer in tried.items():
            hooks.enter_context(_hooked(part, mixer, padded))
        _states(body, _tokens(body, 1, LENGTH).expand(len(mask), -1), mask if padded else None)


@contextmanager
def _hooked(part: nn.Module, mixer: Mixer, padded: bool) -> Iterator[None]:
    """Rows of one text, but for one token each, go into `part`; what comes out is read, and goes on as equal rows again."""

    def before(_: nn.Module, args: Arguments, kwargs: dict[str, Any]) -> tuple[Arguments, dict[str, Any]] | None:
        if args and _is_states(args[0]):
            return (_replaced(args[0], padded), *args[1:]), kwargs
        if _is_states(kwargs.get("hidden_states")):
            return args, kwargs | {"hidden_states": _replaced(kwargs["hidden_states"], padded)}
        return None

    def after(_: nn.Module, args: Arguments, kwargs: dict[str, Any], out: Any) -> Any:
        states, *others = out if isinstance(out, (tuple, list)) else (out,)
        given = args[0] if args else kwargs.get("hidden_states")
        if not (_is_states(states) and _is_states(given)):
            return None
        real = LENGTH - PADDING
        for name, row, base, at in (
            ("ahead", FIRST, BASE, slice(1, None)),
            ("back", LAST, BASE, slice(-1)),
            ("pads", PADS, PADDED, slice(real)),
        ):
            change = (states[row, at] - states[base, at]).abs().max() / states[base].square().mean().sqrt()
            if padded or name != "pads":
                setattr(mixer, name, max(getattr(mixer, name), change.item()))
        return type(out)((_equal(states), *others)) if isinstance(out, (tuple, list)) else _equal(states)

    with part.register_forward_pre_hook(before, with_kwargs=True), part.register_forward_hook(after, with_kwargs=True):
        yield


def _is_states(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 2 and value.shape[:2] == (PADS + 1, LENGTH)


def _equal(states: torch.Tensor) -> torch.Tensor:
    """The rows of one text as they were before tokens were replaced."""
    return states[[BASE, BASE, BASE, PADDED, PADDED]]


def _replaced(states: torch.Tensor, padded: bool) -> torch.Tensor:
    """Equal rows with each row's token, or its padding, replaced by noise of the states' own size."""
    out = _equal(states)
    noise = torch.randn(out[0].shape, generator=torch.Generator().manual_seed(1)).to(out)
    noise = noise * states[BASE].float().square().mean().sqrt().to(out.dtype)
    out[LAST, -1], out[FIRST, 0] = noise[-1], noise[0]
    if padded:
        out[PADS, -PADDING:] = noise[-PADDING:]
    return out


def _lengths(body: PreTrainedModel) -> list[int]:
    """Lengths at which a batch is tried: also where attention begins to choose among tokens, if titles become that long."""
    chosen = getattr(body.config, "index_topk", None) or TITLE
    return [LENGTH, chosen + LENGTH] if chosen < TITLE else [LENGTH]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost module lists, in order."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _parts(layer: nn.Module) -> Iterator[nn.Module]:
    """What a layer is made of, as far as it is called by itself: containers are opened."""
    for child in layer.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child)
        else:
            yield child


@contextmanager
def _evaluated(body: PreTrainedModel) -> Iterator[None]:
    was_training = body.training
    body.eval()
    try:
        yield
    finally:
        body.train(was_training)


def _tokens(body: PreTrainedModel, rows: int, length: int) -> torch.Tensor:
    """Random token ids, int64 (rows, length); not the first three, which are special in many vocabularies."""
    known = token_rows(body)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(min(3, known - 1), known, (rows, length), generator=generator).to(body.device)


def _states(body: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    states: torch.Tensor = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return states.float()


def _exact(body: PreTrainedModel) -> bool:
    return body.dtype in (torch.float32, torch.float64)


def _counts(body: PreTrainedModel, *changes: float) -> bool:
    """Whether one of these is more than the kernels' rounding."""
    return any(change > (1e-5 if _exact(body) else 2e-2) for change in changes)


def _named(off: list[Mixer], tried: int) -> str:
    """`Lfm2ShortConv in layers 0, 1, 3 (3 of 5 parts that carry states between tokens)`; long lists are cut."""
    kinds: dict[str, dict[str, None]] = {}
    for mixer in off:
        kinds.setdefault(mixer.kind, {})[str(mixer.layer)] = None
    named = (
        f"{k} in layer{'s' * (len(at) > 1)} {', '.join([*at][:12])}{', ...' * (len(at) > 12)}" for k, at in kinds.items()
    )
    return f"{' and '.join(named)} ({len(off)} of {tried} parts that carry states between tokens)"
