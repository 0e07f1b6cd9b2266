"""The language model under everything: a decoder by hub name, by local folder, or `tiny`, made here from nothing.

A backbone is a (model, tokenizer) pair of transformers: the model keeps its language-model head until stage 2 is over,
because an untied head that is dropped on saving comes back random. One switch makes it bidirectional,
`config.is_causal` (transformers >= 5.2); `leak` proves on which side of the switch a model stands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from llm2rec_kit import attention_mask
from llm2rec_kit import settings as S
from llm2rec_kit.storage import contents as contents  # of a model by folder; it stands where torch is not needed

if TYPE_CHECKING:
    from llm2rec_kit.runs import Run

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"


class BackboneError(ValueError):
    """A backbone that cannot be had; the message says what to download or which setting to change."""


def placement(settings: S.Backbone) -> tuple[torch.device, torch.dtype, str]:
    """Device and dtype to work in, and the reason as a phrase."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if settings.dtype != "auto":
        return torch.device(device), getattr(torch, settings.dtype), f"{settings.dtype} on {device}, as set"
    if device == "cuda" and torch.cuda.is_bf16_supported():
        return torch.device(device), torch.bfloat16, "bfloat16: this GPU computes it natively, as the official code does"
    return torch.device(device), torch.float32, f"float32: exact and reproducible on {device}"


def load(name: str | Path, settings: S.Backbone | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM and tokenizer of a hub name or a local folder, on the device and in the dtype of `settings`.

    Any decoder of transformers will do (Qwen2, Qwen2.5, Qwen3, Llama, Mistral, Gemma 1 to 3 are tested). Raises
    BackboneError for what is neither a folder nor to be had from the hub, has no tokenizer or no safetensors, or is no
    text decoder.
    """
    settings = settings or S.Backbone()
    device, dtype, _ = placement(settings)
    if Path(name).is_dir():
        _check_folder(Path(name))
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=settings.trust_remote_code)
        _check_decoder(config, name, settings.trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=settings.trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=settings.trust_remote_code, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, BackboneError):
            raise
        raise not_found(name, error) from error
    _check_tokenizer(tokenizer, model, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def trusted(run: Run) -> bool:
    """Whether the code of this run's backbone may run: what its user said when notebook 02 made it."""
    return run.has("backbone") and run.manifest("backbone")["settings"].get("trust_remote_code", False)


def _check_folder(folder: Path) -> None:
    """Raise BackboneError naming what a local folder lacks: transformers makes up an empty tokenizer without a word."""
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        what = "a LoRA adapter alone. Merge it into its base and save that (peft: merge_and_unload)" if adapter else ""
        raise BackboneError(
            f"{folder} holds {what or 'no transformers model: config.json is missing'}. Give a folder in the hub's layout."
        )
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"{folder} has no safetensors. Weights in other files (pytorch_model.bin) can run code when they are read, "
            "so they are not: open the model where you trust it and write it anew with save_pretrained."
        )
    if not any(f for kind in ("tokenizer*", "vocab*", "*.model", "*.tiktoken") for f in folder.glob(kind)):
        raise BackboneError(
            f"{folder} has a model but no tokenizer (tokenizer.json). Copy the tokenizer files of the model it was "
            "trained from beside it."
        )


def _check_decoder(config: PreTrainedConfig, name: str | Path, trusted: bool) -> None:
    """Raise BackboneError for a model that does not write text from left to right."""
    kind = config.model_type
    known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (trusted and hasattr(config, "auto_map"))
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if config.get_text_config() is not config:
        what = "is multi-modal; the backbone has to be a text model alone (of Gemma 3: google/gemma-3-1b-pt)"
    elif config.is_encoder_decoder:
        what = "has an encoder and a decoder"
    elif encoder or not known:
        what = "is an encoder" if encoder or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "is no language model"
    else:
        return
    raise BackboneError(
        f"Backbone {str(name)!r} ({kind}) {what}. CSFT needs a decoder, a model that predicts the next token, such as "
        "Qwen2, Llama, Mistral or Gemma."
    )


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str | Path) -> None:
    """Raise BackboneError for a tokenizer that cannot be this model's: an empty one, or with ids that it has no row for."""
    ids = tokenizer("Chess Set", add_special_tokens=False)["input_ids"]
    rows = model.get_input_embeddings().num_embeddings
    if not ids or tokenizer.eos_token_id is None or max(*ids, tokenizer.eos_token_id) >= rows:
        raise BackboneError(
            f"The tokenizer of {str(name)!r} does not fit its model: it writes 'Chess Set' as {ids}, end-of-text as "
            f"{tokenizer.eos_token_id}, and the model has {rows} tokens. Its files are missing or another model's."
        )


def not_found(name: str | Path, error: Exception) -> BackboneError:
    """What a reader is told of a model that cannot be had, with what to do."""
    return BackboneError(_not_to_be_had(str(name), str(error)))


def _not_to_be_had(name: str, said: str) -> str:
    first = said.splitlines()[0] if said else "nothing"
    if "trust_remote_code" in said:
        return (
            f"{name!r} comes with code of its own, which is run only where you say so. If you trust it: "
            "backbone_trust_remote_code=true (`llm2rec encode`: --trust-remote-code). "
            f"The loader said: {first}"
        )
    if "safetensors" in first:
        return (
            f"Backbone {name!r} has no safetensors, and weights in other files can run code when they are read. "
            f"Take another revision or convert it. The loader said: {first}"
        )
    return (
        f"Backbone {name!r} is neither a local folder with a transformers model nor to be had from the hub "
        f"now. Without a network, download it elsewhere (`hf download {name}`; Qwen/Qwen2-0.5B is about 1 GB) and "
        f"give the folder as `backbone_name`, or use `tiny`. The loader said: {first}"
    )


def make_tiny(titles: list[str], settings: S.Backbone) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Qwen2 of a few million parameters with random weights, and a byte-level BPE learned from `titles`.

    It knows nothing: "raw" embeddings of it are those of an untrained model. Same titles and settings, same bytes.
    """
    tokenizer = train_tokenizer(titles, settings.vocabulary)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 3,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = Qwen2ForCausalLM(config)
    device, dtype, _ = placement(settings)
    return model.to(device=device, dtype=dtype).eval(), tokenizer


def train_tokenizer(titles: list[str], vocabulary: int) -> Qwen2Tokenizer:
    """A byte-level BPE of at most `vocabulary` tokens, learned from `titles`, in Qwen2's own tokenizer class.

    The class matters: a custom tokenizer saved beside a `qwen2` config is reloaded as this class with this class's
    pre-tokenizer, so one that was trained with another would change its ids without a word.
    """
    backend = Qwen2Tokenizer().backend_tokenizer
    backend.model = models.BPE()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    # The joiner and the ending are part of what the model reads, so the merges should have seen them.
    backend.train_from_iterator([text for t in titles for text in (t, f", {t}", f"{t}\n")], trainer)
    learned = json.loads(backend.to_str())["model"]
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in learned["merges"]]
    return Qwen2Tokenizer(vocab=learned["vocab"], merges=merges)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model (safetensors) and tokenizer to `folder`, in the hub's layout; the attention flag is in config.json."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bidirectional(model: PreTrainedModel) -> PreTrainedModel:
    """Lift the causal mask, in place (paper sec. 3.3.1), and prove that every layer obeys, with padding and without.

    Where a family obeys under another attention kernel only, that one is switched on. Mask and kernel are saved with the
    config and honoured on reload, by other libraries too. Raises BackboneError, the model left as it was, for a family that
    does not obey.
    """
    before, usual = getattr(model.config, "is_causal", None), model.config._attn_implementation
    faults = {}
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


def causal(model: PreTrainedModel) -> PreTrainedModel:
    """Put the causal mask back, in place. Raises BackboneError, the model left as it was, where a layer sees later tokens
    even so."""
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
    """Raise BackboneError where this model could not go through both stages, causal in CSFT and bidirectional after it; its
    mask is causal afterwards."""
    usual = model.config._attn_implementation
    bidirectional(model)
    _put_back(model, True, usual)
    causal(model)


def _switched(model: PreTrainedModel, *, lifted: bool) -> str:
    """Turn the switch and measure, once a kernel: training changes weights, not who sees whom. Returns what is wrong."""
    model.config.is_causal = not lifted
    proven = model.__dict__.setdefault("_masks_proven", set())
    side = (lifted, model.config._attn_implementation)
    fault = "" if side in proven else attention_mask.fault(body(model), lifted=lifted)
    if not fault:
        proven.add(side)
    return fault


def _put_back(model: PreTrainedModel, is_causal: bool | None, kernel: str) -> None:
    if model.config._attn_implementation != kernel:
        model.set_attn_implementation(kernel)
    model.config.is_causal = is_causal
    if is_causal is None:
        del model.config.is_causal


def is_bidirectional(model: PreTrainedModel) -> bool:
    """Which side of the switch the config stands on; `leak` says whether the model obeys."""
    return getattr(model.config, "is_causal", True) is False


def body(model: PreTrainedModel) -> PreTrainedModel:
    """The transformer without its language-model head."""
    whole = getattr(model, "base_model", model)
    return getattr(model, "model", model) if whole is model else whole  # Llama 4 says another name for it than it has


def logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """(..., hidden) states of the body to (..., vocabulary) logits, as the model's own forward makes them.

    The head is more than a matrix in some families: Gemma 2 squashes its logits. `check_head` proves the equality.
    """
    out = model.get_output_embeddings()(states)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return out if cap is None else torch.tanh(out / cap) * cap


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise BackboneError where body and head apart do not give the logits that the whole model gives, or these are not
    finite."""
    was_training = model.training
    model.eval()
    ids = torch.arange(8, device=model.device)[None] % model.config.vocab_size
    whole = model(input_ids=ids, use_cache=False).logits
    parts = logits(model, body(model)(input_ids=ids, use_cache=False).last_hidden_state)
    model.train(was_training)
    if not whole.isfinite().all():
        raise BackboneError("The model's output is not finite before any training: its weights are damaged or overflow.")
    if not torch.allclose(whole, parts.to(whole.dtype), rtol=1e-2, atol=1e-2 * whole.abs().max().item()):
        raise BackboneError(
            f"The head of this model ({model.config.model_type}) is not a matrix applied to the last states: it does "
            "something more that backbone.logits does not know, so the loss would be wrong. Use another family."
        )


def layer_masks(
    model: PreTrainedModel, mask: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """An additive 4-D mask (B, 1, L, L) as the layers of this model need it; `positions` (B, L) are its position ids.

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


def recompute(model: PreTrainedModel, on: bool = True) -> PreTrainedModel:
    """Gradient checkpointing: while training, activations are computed anew in the backward pass. In place."""
    # Renamed in transformers 5.24; the older name warns there and is all that there is before.
    new = hasattr(model, "activation_checkpointing_enable")
    way = "activation_checkpointing" if new else "gradient_checkpointing"
    if on:
        getattr(model, f"{way}_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{way}_disable")()
    return model


@torch.no_grad()
def leak(model: PreTrainedModel, *, length: int = 8, padded: bool = False, seed: int = 0) -> float:
    """How much the first token's state changes when the last token does: 0 for a causal model, more for a bidirectional.

    Largest absolute change over the hidden width. `padded` puts a shorter row into the batch, which takes another
    path through most attention kernels.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, model.config.vocab_size, (2, length), generator=generator)
    ids[1] = ids[0]
    ids[1, length - 1] = (ids[0, length - 1] % (model.config.vocab_size - 1)) + 1
    mask = None
    if padded:
        ids = torch.cat([ids, ids[:1]])
        mask = torch.ones_like(ids)
        mask[2, length // 2 :] = 0
        mask = mask.to(model.device)
    was_training = model.training
    states = body(model.eval())(input_ids=ids.to(model.device), attention_mask=mask, use_cache=False).last_hidden_state
    model.train(was_training)
    return (states[0, 0] - states[1, 0]).abs().max().item()


def mask_token_id(tokenizer: PreTrainedTokenizerBase, kind: str) -> int:
    """Id of the token that stands for a masked one: `blank` is "_" as in the official code, `eos` the end-of-text, `new` the
    one that `add_mask_token` made."""
    if kind == "eos":
        return tokenizer.eos_token_id
    if kind == "new":
        if tokenizer.mask_token_id is None:
            raise BackboneError("This tokenizer has no mask token: `new` needs a model whose MNTP had mntp_mask_token=new.")
        return tokenizer.mask_token_id
    ids = tokenizer("_", add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise BackboneError(f"This tokenizer writes '_' as {len(ids)} tokens; set the mask token to 'eos' or 'new'.")
    return ids[0]


def add_mask_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give tokenizer and model a mask token of their own, in place; both are saved with it. One that is there is kept.

    Its embedding begins as the mean of all others. A vocabulary that is padded (Qwen2's is) has room for it already.
    """
    if tokenizer.mask_token_id is not None:
        return
    known = len(tokenizer)
    tokenizer.add_special_tokens({"mask_token": MASK})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[tokenizer.mask_token_id] = layer.weight[:known].mean(0)


def parameters(model: PreTrainedModel) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())
