"""Tiny models with random weights of every decoder family that the kit is tested with, as folders in the hub's layout."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import make_corpus
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from llm2rec_kit.models import backbone

WINDOW = 6  # tokens; far shorter than a sample, so that a mask without it gives another loss

# Qwen2.5 is the qwen2 architecture; what it has of its own is the window that some of its configs switch on.
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict]] = {
    "qwen2": (Qwen2Config, {}),
    "qwen2.5": (Qwen2Config, {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "llama": (LlamaConfig, {"tie_word_embeddings": False}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW, "head_dim": 8}),
    "gemma": (GemmaConfig, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "sliding_window": WINDOW, "final_logit_softcapping": 0.5}),
    "gemma3": (
        Gemma3TextConfig,
        {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}

# Not of those: a layer of convolutions obeys no mask.
HYBRIDS: dict[str, tuple[type[PreTrainedConfig], dict]] = {"lfm2": (Lfm2Config, {"layer_types": ["conv", "full_attention"]})}


def write(family: str, folder: Path) -> Path:
    """A model of `family` with random weights and a tokenizer, written to `folder`."""
    kind, own = (FAMILIES | HYBRIDS)[family]
    tokenizer = backbone.train_tokenizer(make_corpus().titles, 400)
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.2,  # ten times the usual: attention that is nearly uniform would hide a wrong mask
        **own,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone.save(AutoModelForCausalLM.from_config(config), tokenizer, folder)
    return folder
