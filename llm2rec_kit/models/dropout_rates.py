"""Attention dropout: where a family keeps its rate, and another rate for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from llm2rec_kit.models import backbone


@contextlib.contextmanager
def use_rate(model: PreTrainedModel, rate: float) -> Iterator[None]:
    """Use this rate of attention dropout within the block; then modules and config are as before."""
    places = list(find_rates(model))
    before = [getattr(*place) for place in places]
    for holder, name in places:
        setattr(holder, name, rate)
    try:
        yield
    finally:
        for (holder, name), value in zip(places, before, strict=True):
            setattr(holder, name, value)


def find_rates(model: PreTrainedModel) -> Iterator[tuple[Any, str]]:
    """Find where the rate of attention dropout stands, as (what holds it, its attribute): a number or an nn.Dropout of the
    modules, and the config, which some families (Persimmon, Falcon) read in each forward pass, whatever the modules hold."""
    for module in model.modules():
        for name in ("attention_dropout", "attn_dropout"):
            if isinstance(held := getattr(module, name, None), nn.Dropout):
                yield held, "p"
            elif hasattr(module, name) and not isinstance(held, nn.Module):
                yield module, name
        # Elsewhere a number of this name is the dropout of hidden states.
        if "Attention" in type(module).__name__ and isinstance(getattr(module, "dropout", None), (int, float)):
            yield module, "dropout"
    if hasattr(config := backbone.find_body(model).config, "attention_dropout"):
        yield config, "attention_dropout"


def find_largest(model: PreTrainedModel) -> float:
    """Find the largest rate of attention dropout in the model; 0 where there is none."""
    return max((getattr(*place) or 0.0 for place in find_rates(model)), default=0.0)
