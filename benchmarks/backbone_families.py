"""Which decoder families obey a lifted causal mask, and can be trained: a tiny random model of each, measured layer by layer.

    python benchmarks/backbone_families.py        # writes docs/backbones.md for the transformers that is installed

Where attention chooses its tokens (`index_topk`), it takes all of a title, as in the real ones. The tests build the same models. A family is a `model_type` that transformers maps to a causal language model and that is
no encoder, no encoder-decoder and not multi-modal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from llm2rec_kit.models import attention_mask, backbone
from llm2rec_kit.training import csft

PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
MOST = 2_000_000  # parameters; what stays larger under SMALL is not built
SMALL: dict[
    str, Any
] = {  # of these a family takes what it knows; vocabularies too small for its special tokens are no harm here
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # ten times the usual: attention that is nearly uniform would hide a wrong mask
    "sliding_window": 6,  # far shorter than the tests' texts
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "n_inner": 48,
    "logit_scale": 0.5,
    "logits_scaling": 4.0,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
INDEXED = LATENT | {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 512}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
MAMBA_2 = {"n_groups": 1, "chunk_size": 8}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLVED = {"layer_types": ["conv", "full_attention"]}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
OWN: dict[str, dict[str, Any]] = {  # of hybrids one layer a kind; None: the family's own value, not the small one
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash"), LATENT),
    **dict.fromkeys(("sarvam_mla", "youtu"), LATENT),
    "minicpm3": LATENT | {"logits_scaling": None},
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "hy_v4"), INDEXED),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"), LINEAR | DELTA),
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), CONVOLVED),
    "codegen": {"rotary_dim": 4},
    "bailing_hybrid": LATENT | LINEAR,
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "cohere_compass_text": WINDOWED | {"rope_parameters": dict.fromkeys(WINDOWED["layer_types"], PLAIN_ROPE)},
    "cpmant": {"dim_head": 8, "dim_ff": 48},
    "dots1": {"sliding_window": 64, "first_k_dense_replace": 1, "n_shared_experts": 1},
    "falcon": {"head_dim": None},
    "falcon (with alibi)": {"head_dim": None, "alibi": True},
    "falcon_h1": MAMBA | {"mamba_d_ssm": 64},
    "gemma3n_text": WINDOWED
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "laurel_rank": 8, "num_kv_shared_layers": 0}
    | {"activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": WINDOWED | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "head_dim": None},
    "gemma4_unified_text": WINDOWED | {"head_dim": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"]},
    "granitemoehybrid (attention layers alone)": MAMBA | {"layer_types": ["attention", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": LATENT | LINEAR | {"linear_num_heads": 2, "linear_head_dim": 8},
    "mamba2": MAMBA_2 | {"num_heads": 4, "head_dim": 16, "state_size": 8},
    "minimax": LINEAR,
    "nemotron_h": MAMBA_2
    | {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "layers_block_type": ["mamba", "attention"]},
    "qwen4_exp_text": LINEAR
    | DELTA
    | {"ple_embed_dim": 16, "heads_per_ngram": 2, "ngram_vocab_size_base": 64, "split_ngram_parts": 1}
    | {"make_ngram_vocab_size_divisible_by": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8}
    | {"indexer_budget": 16, "indexer_compress_ratio": 1},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "zamba": {"layer_types": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4, "head_dim": None}
    | {"n_mamba_heads": 2, "mamba_d_state": 8},
    "zaya": {"num_experts_per_tok": 1},
}
UNBUILT = {  # and why; the list may only shrink
    "blt": "four models in one, of 4.6 billion parameters as the config has it",
    "dbrx": "its default config fails in transformers itself",
    "dots3_note_text": "its default config fails its own check at few heads",
    "gemma4_assistant": "its default config fails its own check",
    "git": "a picture's captions: a vision model is part of it",
    "inkling2_loop_text": "7 million parameters at least",
    "inkling2_text": "7 million parameters at least",
    "moshi": "speech: an audio model is part of it",
    "phi4_multimodal": "multi-modal: 870 million parameters of vision and speech",
    "trocr": "a picture's text: a decoder without token embeddings of its own",
    "xlnet": "has no length limit and reads in permuted orders",
    "zamba2": "fails in its forward pass as built small (KeyError)",
}
NEWER = {  # small decoders of late that a reader will try first
    "Qwen3": "qwen3",
    "Qwen3.5 (the text model)": "qwen3_5_text",
    "SmolLM3": "smollm3",
    "Gemma 3 (the text model)": "gemma3_text",
    "Granite 4 with Mamba layers (-h-)": "granitemoehybrid",
    "Granite 4 without": "granitemoehybrid (attention layers alone)",
    "LFM2": "lfm2",
}


def families() -> list[str]:
    """Every family that is built, by model type, and variants of some."""
    return [name for name in sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *OWN}) if name not in UNBUILT and _decodes(name)]


def build(name: str) -> PreTrainedModel:
    """A model of the family with random weights, always the same ones."""
    config = _config(name)
    with torch.device("meta"):
        size = backbone.count_parameters(AutoModelForCausalLM.from_config(config))
    if size > MOST:
        raise ValueError(f"{name} has {size:,} parameters under SMALL, more than {MOST:,}; give it smaller values in OWN")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def row(name: str) -> tuple[str, str, str, str, str]:
    """(under sdpa, under eager, what stays causal, what the kit does with the mask, and in CSFT and MNTP) of a family, as the
    page shows it."""
    model = build(name)
    usual, causal_parts, cells = model.config._attn_implementation, {}, []
    model.config.is_causal = False
    for kernel in ("sdpa", "eager"):
        if kernel == "sdpa" and not model._supports_sdpa:
            cells.append("not there")
            continue
        if kernel != model.config._attn_implementation:
            model.set_attn_implementation(kernel)
        said = [_obeying(backbone.find_body(model), padded, causal_parts) for padded in (False, True)]
        cells.append(said[0] if said[0] == said[1] else f"{said[0]}; beside padding {said[1]}")
    if model.config._attn_implementation != usual:
        model.set_attn_implementation(usual)
    try:
        backbone.lift_causal_mask(model)
        kernel = model.config._attn_implementation
        kit = "works" if kernel == usual else f"works, mended: {kernel} in place of {usual}"
        backbone.restore_causal_mask(model)
    except backbone.BackboneError as error:
        kit = "refused, as not causal in CSFT" if "not causal" in str(error) else "refused"
    trained = _trained(model) if kit.startswith("works") else "refused"
    return *cells, ", ".join(causal_parts) if kit == "refused" else "", kit, trained


def _trained(model: PreTrainedModel) -> str:
    """Whether a model whose mask can be lifted is trained, or why not."""
    try:
        csft.check_model(model)
    except backbone.BackboneError as error:
        return "refused: its head" if "head of this model" in str(error) else "refused: its samples' mask"
    return "works"


def page() -> str:
    """docs/backbones.md."""
    rows = {name: row(name) for name in families()}
    alike: dict[tuple, list[str]] = {}
    for name, cells in rows.items():
        alike.setdefault(cells, []).append(name)
    order = sorted(
        alike, key=lambda cells: (*(c.split(",")[0] != "works" for c in cells[-2:]), -len(alike[cells]), alike[cells])
    )
    return TEXT.format(
        version=transformers.__version__,
        newer="\n".join(f"| {name} | `{kind}` | {rows[kind][-1]} |" for name, kind in NEWER.items()),
        rows="\n".join(f"| {', '.join(alike[c])} | {' | '.join(c)} |" for c in order),
        unbuilt="\n".join(f"- {name}: {why}." for name, why in sorted(UNBUILT.items())),
    )


TEXT = """# Which decoders can be a backbone

MNTP and bidirectional encoding need a decoder that obeys when its causal mask is lifted (`config.is_causal = False`, transformers 5.2 or newer). Not every family does, none says so, and
one layer that obeys hides others that do not. So the kit tries each layer's mixers (whatever carries one token's state to another) alone, on the model at hand: a token is replaced at the end, what arrives before it is
measured, with padding in the batch and without. A family that stays causal in a layer, sees padding, or (measured in float32) gives a text other states beside other texts is refused with the layers' names, at the start of notebook 02 and
again wherever the mask is lifted. Where another attention kernel obeys, the kit switches to it, and `attn_implementation` in the saved `config.json` has transformers and sentence-transformers do the same.

A refused family still serves causally: `llm2rec encode FOLDER titles.txt --to out.npy --attention causal`. One that is refused in training alone, at the start of notebook 02 as well, encodes with its mask lifted, too.

Layers with a sliding window (Mistral, Gemma 2 and 3, Phi-3, ...) keep it when the mask is lifted, as many tokens to the right as to the left: a token sees all that are at most a window away, and titles are seldom longer than that.

Titles are read without a begin-of-text token in every stage. Gemma, Llama and Mistral were pretrained with one, and llm2vec keeps it before a title as context, left out of the mean; Qwen2 has none. What it makes has not been measured.

Views by dropout (`contrastive_views: dropout` or `both`) need attention dropout, at whatever place a family keeps its rate; its other dropouts stay as they are. A model without any, such as CTRL or Falcon-7B, is refused with those
views, at the start of notebook 03; with `contrastive_views: mask` it works.

## Newer small decoders

| model | `model_type` | the kit |
|---|---|---|
{newer}

What counts is the model itself, not its family's name: Granite 4 has one `model_type` for both kinds.

## All families

Tiny models with random weights on transformers {version}, made by `python benchmarks/backbone_families.py`; of hybrids one layer a kind. A cell says which of the parts that carry states between tokens look back once the
mask is lifted: all, some, or none. `trained` says whether CSFT and MNTP take the family, too: what the samples of a user lose in the row that they share has to be what each loses read by itself (`csft.check_model`), and the head
has to be a matrix, scaled (Granite, Cohere) or squashed (Gemma 2) at most.

| families | sdpa | eager | stays causal | the mask lifted | trained |
|---|---|---|---|---|---|
{rows}

Not built at this size, and so not known before a real one is tried:

{unbuilt}
"""


def _obeying(body: PreTrainedModel, padded: bool, causal_parts: dict[str, None]) -> str:
    try:
        tried = attention_mask.inspect_mixers(body, padded=padded)
    except Exception as error:  # what a family does over a mask that it does not expect is its own
        return f"fails ({type(error).__name__})"
    if not tried:
        return "not found"
    off = [m for m in tried if m.back < 1e-5]
    causal_parts |= dict.fromkeys(m.kind for m in off)
    return "all" if not off else "none" if len(off) == len(tried) else f"{len(tried) - len(off)} of {len(tried)}"


def _decodes(name: str) -> bool:
    """Whether the kit takes this type for a text decoder."""
    config = CONFIG_MAPPING[_type(name)]()
    try:
        composed = config.get_text_config() is not config
    except ValueError:  # several texts in one
        composed = True
    encoder = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return not (composed or encoder or config.is_encoder_decoder)


def _config(name: str) -> PreTrainedConfig:
    kind = CONFIG_MAPPING[_type(name)]
    usual = kind()
    return kind(
        **{
            k: v
            for k, v in ({k: v for k, v in SMALL.items() if _has(usual, k)} | OWN.get(name, {})).items()
            if v is not None
        }
    )


def _type(name: str) -> str:
    return name.split(" ")[0]


def _has(config: PreTrainedConfig, key: str) -> bool:
    try:
        return hasattr(config, key)
    except Exception:  # a value a layer, in an error class of their own
        return False


if __name__ == "__main__":
    PAGE.write_text(page())
