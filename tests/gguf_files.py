"""GGUF files written in a test, as llama.cpp's converter would write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from llm2rec_kit.models import backbone

TITLES = [
    "Star Harbor: Racing, Deluxe (2004)",
    "Chess  Set 12345",
    "it's a  67 game",
    "two  ",
]  # the last teaches that two spaces may be one token
EPSILON = 2.0**-17  # a file holds it as float32, so it should be one


def small_llama(*, tied: bool = True, layers: int = 2, seed: int = 3) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    tokenizer = backbone.train_tokenizer(TITLES * 3, 300)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval(), tokenizer


def write(path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase | None, **other: Any) -> Path:
    """`model` as a GGUF file. `other`: `architecture`, `pre`, `half` (matrices in float16), `leave_out` (a tensor's GGUF name),
    `tokens` (a list instead of the tokenizer's), `values` ({key: number or text} to add)."""
    import gguf

    c, architecture = model.config, other.get("architecture", "llama")
    w = gguf.GGUFWriter(path, architecture)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    for key, value in other.get("values", {}).items():
        (w.add_string if isinstance(value, str) else w.add_uint32)(key, value)
    if tokenizer is not None:
        _add_tokenizer(w, tokenizer, other.get("tokens"), other.get("pre", "smollm"))
    for name, tensor in tensors(model).items():
        if name != other.get("leave_out"):
            w.add_tensor(name, tensor.astype(np.float16) if other.get("half") and tensor.ndim == 2 else tensor)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The model's weights under llama.cpp's names, queries and keys in its order (pairs side by side)."""
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    weights = {k: t.detach().numpy() for k, t in model.state_dict().items()}
    found = {"token_embd.weight": weights["model.embed_tokens.weight"], "output_norm.weight": weights["model.norm.weight"]}
    if not model.config.tie_word_embeddings:
        found["output.weight"] = weights["lm_head.weight"]
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for k in range(model.config.num_hidden_layers):
        for theirs, ours in names.items():
            tensor = weights[f"model.layers.{k}.{theirs}.weight"]
            if ours in heads:
                tensor = tensor.reshape(heads[ours], 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
            found[f"blk.{k}.{ours}.weight"] = np.ascontiguousarray(tensor)
    return found


def _add_tokenizer(w: Any, tokenizer: PreTrainedTokenizerBase, tokens: list[str] | None, pre: str) -> None:
    learned = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokens or [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    end = tokenizer.convert_tokens_to_ids(backbone.END_OF_TEXT)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types([3 if k == end else 1 for k in range(len(tokens))])
    w.add_token_merges([" ".join(m) if not isinstance(m, str) else m for m in learned["merges"]])
    w.add_eos_token_id(end)
    w.add_bos_token_id(end)
    w.add_add_bos_token(False)
