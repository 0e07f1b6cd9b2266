"""Attention of shared-prefix rows: who sees whom, as each device's kernel wants to be told, and which kernel that is.

Every token has two numbers. `branch` is 0 in the history, 1, 2, ... in the samples' branches, -1 in padding. `visible` is
how many history tokens it sees. A history token sees those before it; a branch token sees its sample's part of the
history, and its own branch up to itself. Padding sees itself only, so that no softmax is empty.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from llm2rec_kit.models import backbone, dropout_rates

MicroBatch = dict[str, torch.Tensor]


def make_allowed(visible: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    """Tell whether token i of a row sees token j: bool (B, L, L), from `visible` and `branch` (B, L)."""
    place = torch.arange(visible.shape[1], device=visible.device)
    in_history = (branch == 0)[:, None, :] & (place < visible[:, :, None])
    in_branch = (branch[:, :, None] == branch[:, None, :]) & (branch > 0)[:, :, None] & (place <= place[:, None])
    return in_history | in_branch | (place == place[:, None])


def mask(model: PreTrainedModel, micro: MicroBatch) -> Any:
    """Make the model's `attention_mask`:
    an additive (B, 1, L, L), one for each kind of layer, or flex attention's blocks."""
    if model.config._attn_implementation == "flex_attention":
        return make_blocks(micro["visible"], micro["branch"])
    seen = make_allowed(micro["visible"], micro["branch"])
    # Additive and not bool: the CPU kernel would turn a bool mask into this one in every layer anew.
    added = torch.full(seen.shape, torch.finfo(model.dtype).min, dtype=model.dtype, device=seen.device)
    return backbone.make_layer_masks(model, added.masked_fill_(seen, 0)[:, None], micro["position_ids"])


def make_rule(visible: torch.Tensor, branch: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Make the rule of `make_allowed` a function of one pair of tokens, as flex attention asks for it."""

    def sees(row: torch.Tensor, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        in_history = (branch[row, j] == 0) & (j < visible[row, i])
        in_branch = (branch[row, i] == branch[row, j]) & (branch[row, i] > 0) & (j <= i)
        return in_history | in_branch | (i == j)

    return sees


def make_blocks(visible: torch.Tensor, branch: torch.Tensor) -> Any:
    """Make flex attention's BlockMask: blocks of 128 x 128 that nobody sees are never computed."""
    from torch.nn.attention.flex_attention import create_block_mask

    size, length = branch.shape
    return create_block_mask(make_rule(visible, branch), size, None, length, length, device=branch.device)


def choose_kernel(model: PreTrainedModel, micro: MicroBatch) -> tuple[str, str]:
    """Choose the attention implementation for this model where it stands, and say why as a phrase;
    it is tried on `micro`."""
    if not getattr(model, "_supports_sdpa", False):
        return "eager", f"{model.config.model_type} has no other that takes a mask of one's own"
    if model.device.type != "cuda":
        return "sdpa", f"one fused kernel with an additive mask; flex attention does not train on {model.device.type}"
    if not getattr(model, "_supports_flex_attn", False):
        return "sdpa", f"{model.config.model_type} has no flex attention"
    if dropout_rates.find_largest(model):
        return "sdpa", "the model drops attention weights, which flex attention cannot"
    if getattr(model.config, "sliding_window", None):
        return "sdpa", "the model has a sliding window, which an additive mask expresses"
    if why := _fault(model, micro):
        return "sdpa", f"flex attention was tried and does not serve: {why}"
    return "flex_attention", "compiled, and skips the blocks of the mask that nobody sees"


@contextlib.contextmanager
def use_kernel(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Use the attention implementation `name` within the block."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        model.set_attn_implementation(before)


def _fault(model: PreTrainedModel, micro: MicroBatch) -> str:
    """Why flex attention cannot be used here, or nothing: it has to run, forward and back, and agree with sdpa."""
    found = {}
    try:
        for name in ("sdpa", "flex_attention"):
            with use_kernel(model, name), torch.enable_grad():
                states = compute_states(model, micro)
                states.float().square().mean().backward()
                found[name] = states.detach()[micro["branch"] >= 0].float()
    except Exception as error:  # whatever a compiler, a driver or a shape raises, the other kernel does the work
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    finally:
        model.zero_grad()
    off = (found["sdpa"] - found["flex_attention"]).abs().max() / found["sdpa"].abs().max()
    return f"it is {off:.2g} off" if off > 0.05 else ""


def compute_states(model: PreTrainedModel, micro: MicroBatch) -> torch.Tensor:
    """Compute the body's last hidden states of a micro-batch, (B, L, hidden)."""
    given = {"input_ids": micro["input_ids"], "position_ids": micro["position_ids"], "attention_mask": mask(model, micro)}
    states: torch.Tensor = backbone.find_body(model)(**given, use_cache=False).last_hidden_state
    return states
