"""The language model under everything: a decoder by hub name, by local folder, or `tiny`, made here from nothing.

A backbone is a (model, tokenizer) pair of transformers: the model keeps its language-model head until stage 2 is over,
because an untied head that is dropped on saving comes back random. One switch makes it bidirectional,
`config.is_causal` (transformers >= 5.2); `leak` proves on which side of the switch a model stands.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)
from transformers.utils import logging as transformers_logging

from llm2rec_kit import settings as S

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

    Raises BackboneError where the name is neither a folder nor to be had from the hub.
    """
    settings = settings or S.Backbone()
    device, dtype, _ = placement(settings)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=settings.trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, trust_remote_code=settings.trust_remote_code, use_safetensors=True
        )
    except OSError as error:
        raise not_found(name, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def not_found(name: str | Path, error: Exception) -> BackboneError:
    """What a reader is told of a model that cannot be had, with what to do."""
    return BackboneError(
        f"Backbone {str(name)!r} is neither a local folder with a transformers model nor to be had from the hub "
        f"now. Without a network, download it elsewhere (`hf download {name}`; Qwen/Qwen2-0.5B is about 1 GB) and "
        f"give the folder as `backbone_name`, or use `tiny`. The loader said: {str(error).splitlines()[0]}"
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
    """Lift the causal mask, in place (paper sec. 3.3.1). Saved with the config and honoured on reload."""
    model.config.is_causal = False
    return model


def causal(model: PreTrainedModel) -> PreTrainedModel:
    """Put the causal mask back, in place."""
    model.config.is_causal = True
    return model


def is_bidirectional(model: PreTrainedModel) -> bool:
    """Which side of the switch the config stands on; `leak` says whether the model obeys."""
    return getattr(model.config, "is_causal", True) is False


def body(model: PreTrainedModel) -> PreTrainedModel:
    """The transformer without its language-model head."""
    return model.base_model if hasattr(model, "base_model") else model


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
