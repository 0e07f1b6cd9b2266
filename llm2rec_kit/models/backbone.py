"""The language model under everything: a decoder by hub name, by local folder, or `tiny`, made here from nothing.

A backbone is a (model, tokenizer) pair of transformers: the model keeps its language-model head until stage 2 is over,
because an untied head that is dropped on saving comes back random. One switch makes it bidirectional,
`config.is_causal` (transformers >= 5.2), which attention_mask turns and proves.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from llm2rec_kit import settings as S
from llm2rec_kit.models import checkpoint, gguf
from llm2rec_kit.models.attention_mask import check_masks as check_masks
from llm2rec_kit.models.attention_mask import find_body as find_body
from llm2rec_kit.models.attention_mask import is_bidirectional as is_bidirectional
from llm2rec_kit.models.attention_mask import last_states as last_states
from llm2rec_kit.models.attention_mask import lift_causal_mask as lift_causal_mask
from llm2rec_kit.models.attention_mask import make_layer_masks as make_layer_masks
from llm2rec_kit.models.attention_mask import measure_leak as measure_leak
from llm2rec_kit.models.attention_mask import restore_causal_mask as restore_causal_mask
from llm2rec_kit.models.attention_mask import token_rows as token_rows
from llm2rec_kit.models.checkpoint import BackboneError as BackboneError  # stands where torch is not needed
from llm2rec_kit.models.checkpoint import hash_contents as hash_contents  # it stands where torch is not needed

END_OF_TEXT = "<|endoftext|>"
MASK = "<|mask|>"
# Buffers that were once saved as weights.
OLD_BUFFER = re.compile(r"rotary_emb\.|(^|\.)(inv_freq|position_ids|(attn|attention)\.(masked_)?bias)$")
POSITIONS = re.compile(r"(^|\.)(wpe|pos\w*_embed\w*|embed_positions)(\.|$)")  # tables of positions by name


def choose_placement(settings: S.Backbone) -> tuple[torch.device, torch.dtype, str]:
    """Choose the device and dtype to work in, and say why as a phrase."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if settings.dtype != "auto":
        return torch.device(device), getattr(torch, settings.dtype), f"{settings.dtype} on {device}, as set"
    # With emulation also a T4, V100 or RTX 20 says yes, and multiplies many times slower than in float32.
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.device(device), torch.bfloat16, "bfloat16: this GPU computes it natively, as the official code does"
    return torch.device(device), torch.float32, f"float32: exact and reproducible on {device}"


def has_device(name: str) -> bool:
    """Tell whether torch finds a device of this name (auto, cpu, cuda, mps) here."""
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(name, True)


def load(
    name: str | Path, settings: S.Backbone | None = None, *, head: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the causal LM and tokenizer of a hub name, a local folder or a GGUF file, where and as `settings` say.

    Any decoder of transformers will do (Qwen2, Qwen2.5, Qwen3, Llama, Mistral, Gemma 1 to 3 are tested). Without `head`, for
    encoding, weights that have no language-model head give the transformer alone. Raises BackboneError for what is neither
    on this machine nor to be had from the hub, is damaged, has weights that do not fill the model, or is no text decoder.
    """
    settings = settings or S.Backbone()
    device, dtype, _ = choose_placement(settings)
    model, tokenizer = _read(name, settings, head, dtype=dtype)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return moved(model, device).eval(), tokenizer


def check(name: str | Path, settings: S.Backbone, lengths: dict[str, int], *, head: bool = True) -> None:
    """Raise BackboneError where `load` would, or `check_length` for one of `lengths`; no weights are read."""
    if gguf.is_gguf_name(name):  # unpacking all to know its shape would take as long as to load it
        checkpoint.check(Path(name))
        found = gguf.read_header(Path(name))
        reach, kind = gguf.count_positions(found), found.architecture
    else:
        model, _ = _read(name, settings, head, device_map="meta")
        reach, kind = count_positions(model), model.config.model_type
    for setting, tokens in lengths.items():
        _check_length(*reach, kind, tokens, setting)


def _read(name: str | Path, settings: S.Backbone, head: bool, **how: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    name = checkpoint.locate(name)
    if checkpoint.is_path(name):
        checkpoint.check(Path(name))
    with gguf.prepare_reading(name) as (place, part, weights):
        own_code = {"trust_remote_code": settings.trust_remote_code, **part}
        with explain_errors(name, "config.json"):
            config = AutoConfig.from_pretrained(place, **own_code)
        checkpoint.check_quantisation(config.to_dict(), name)
        _check_decoder(config, name, settings.trust_remote_code)
        with explain_errors(name, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(place, **own_code)
        with explain_errors(name, "model"):
            read = read_telling(AutoModelForCausalLM, place, use_safetensors=True, **own_code, **weights, **how)
    model = require_all_weights(*read, name, head=head)
    if gguf.is_gguf_name(name):
        with explain_errors(name, "tokenizer"):
            if why := gguf.fit(model, tokenizer, Path(name)):
                raise BackboneError(why)
    _check_tokenizer(tokenizer, model, name)
    check_finite(model, name)
    return model, tokenizer


@contextlib.contextmanager
def explain_errors(name: str | Path, part: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads a part of a model into one paragraph that says what to do."""
    before = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what it would tell of the weights is checked, and raised, here
    try:
        yield
    except (BackboneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers and safetensors raise plain ones
        raise checkpoint.explain_not_found(name, error, part) from error
    finally:
        transformers_logging.set_verbosity(before)


def read_telling(kind: Any, place: str | Path, **how: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Read the class `kind` of transformers from `place`; return it with what it says, unprinted, of weights it made up."""
    model, told = kind.from_pretrained(place, output_loading_info=True, ignore_mismatched_sizes=True, **how)
    return model, told


def require_all_weights(
    model: PreTrainedModel, told: dict[str, Any], name: str | Path, *, head: bool = True
) -> PreTrainedModel:
    """Return `model` where every weight of it came from its files (`told` by `read_telling`); else raise BackboneError.

    A pooler may be missing: what uses one has to ask for it. The head may be without `head`, then it is the body alone.
    Of what the files hold besides, other heads and old buffers are no fault, but more of the body is.
    """
    parts, prefix = dict(find_body(model).named_children()), f"{model.base_model_prefix}."
    missing = {key for key in told["missing_keys"] if "pooler" not in key.split(".")}
    more = {key for key in told["unexpected_keys"] if not OLD_BUFFER.search(key)}
    if not missing:
        more = {key for key in more if key.removeprefix(prefix).split(".")[0] in parts}
    own_head = model.get_output_embeddings()
    names = tuple(f"{at}." for at, module in model.named_modules() if module is own_head)
    without = missing and all(key.startswith(names) for key in missing) and not told["mismatched_keys"]
    if without and not head:
        return find_body(model)
    if without:
        raise BackboneError(
            f"{name} has no language-model head ({', '.join(sorted(missing))}), and its config.json does not tie it to the "
            "embeddings: it was saved without it, as an encoder is. CSFT needs the head. Take the model as it was with its head "
            "(AutoModelForCausalLM); for embeddings alone (`llm2rec encode`, encoding_baselines) it will do as it is."
        )
    if why := checkpoint.describe_misfit(missing, more, told["mismatched_keys"]) or "; ".join(told["error_msgs"][:3]):
        raise BackboneError(
            f"The weights of {name} do not fit its config.json: {why}. What is missing would be random numbers, others at each "
            "load. Take config.json and weights of one and the same model."
        )
    return model


def check_finite(model: torch.nn.Module, name: str | Path) -> None:
    """Raise BackboneError naming weights that hold NaN or infinities: a kernel may well turn them into plain numbers."""
    bad = [n for n, t in model.named_parameters() if not t.is_meta and t.is_floating_point() and not t.isfinite().all()]
    if bad:
        raise BackboneError(
            f"{len(bad)} of the weights of {name} hold NaN or infinities ({', '.join(bad[:3])}): they are of a training that "
            "failed, or damaged. Take an earlier checkpoint, or download or copy the model again."
        )


def check_length(model: PreTrainedModel, tokens: int, setting: str) -> None:
    """Raise BackboneError where texts of `tokens` tokens, as `setting` allows, have more positions than the model has a
    table for; print a warning where it has no table but was not trained on so many."""
    _check_length(*count_positions(model), model.config.model_type, tokens, setting)


def _check_length(most: int, table: bool, kind: str, tokens: int, setting: str) -> None:
    if not most or tokens <= most:
        return
    if table:
        raise BackboneError(
            f"{setting} is {tokens}, and this model ({kind}) has embeddings for {most} positions only. Set "
            f"{setting} to {most} or less."
        )
    print(
        f"Warning: {setting} is {tokens}, and this model was made for {most} positions; of longer texts it knows nothing.",
        flush=True,
    )


def count_positions(model: PreTrainedModel) -> tuple[int, bool]:
    """Count the positions that a text may have (0: not known), and tell whether a table of them ends there."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    named = [*model.named_parameters(), *model.named_buffers()]
    return most, any(POSITIONS.search(name) and most <= len(t) <= most + 2 for name, t in named if t.ndim == 2)


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
    rows = token_rows(model)
    if not ids or tokenizer.eos_token_id is None or max(*ids, tokenizer.eos_token_id) >= rows:
        raise BackboneError(
            f"The tokenizer of {str(name)!r} does not fit its model: it writes 'Chess Set' as {ids}, end-of-text as "
            f"{tokenizer.eos_token_id}, and the model has {rows} tokens. Its files are missing or another model's."
        )
    check_rows(tokenizer, model, name)


def check_rows(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str | Path) -> None:
    """Raise BackboneError naming tokens that the model has no embedding for; more embeddings than tokens are fine.

    Named tokens of other kinds of input may have none (`image_token` of Gemma 3, whose smallest model reads text alone).
    """
    rows = token_rows(model)
    roles = PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES  # the class's: an instance adds the names of its own
    other = {str(token) for role, token in tokenizer.special_tokens_map.items() if role not in roles}
    beyond = sorted(token for token, i in tokenizer.get_vocab().items() if i >= rows and token not in other)
    if beyond:
        raise BackboneError(
            f"Of the tokens of {name}, {len(beyond)} have no embedding in its model, which has {rows}: "
            f"{', '.join(beyond[:3])}. They were added to the tokenizer alone: call model.resize_token_embeddings(len(tokenizer)), "
            "train and save both; or take the tokenizer without them."
        )


def make_tiny(titles: list[str], settings: S.Backbone) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Build a Qwen2 of a few million parameters with random weights, and a byte-level BPE learned from `titles`.

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
    device, dtype, _ = choose_placement(settings)
    return moved(model, device, dtype).eval(), tokenizer


def train_tokenizer(titles: list[str], vocabulary: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE of at most `vocabulary` tokens on `titles`, in Qwen2's own tokenizer class.

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
    return Qwen2Tokenizer(vocab=learned["vocab"], merges=merges)  # type: ignore[arg-type]  # takes pairs, says texts


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model (safetensors) and tokenizer to `folder`, in the hub's layout; the attention flag is in config.json."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compute_logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Compute logits (..., vocabulary) from the body's states (..., hidden), as the model's own forward makes them.

    The head is more than a matrix in some families: Gemma 2 squashes its logits, Granite and Cohere scale theirs.
    `check_head` proves the equality.
    """
    out: torch.Tensor = model.get_output_embeddings()(states)
    if (scale := find_logit_scale(model)) != 1:
        out = out * scale
    cap = getattr(model.config, "final_logit_softcapping", None)
    return out if cap is None else torch.tanh(out / cap) * cap


def find_logit_scale(model: PreTrainedModel) -> float:
    """Find the number that this family multiplies its head's products by; 1 for most."""
    config = model.config
    if isinstance(scale := getattr(config, "logit_scale", None), (int, float)):  # Cohere
        return scale
    scaling: float = getattr(config, "logits_scaling", 1)
    return scaling if config.model_type == "hyperclovax" else 1 / scaling  # the others (Granite, MiniCPM3) divide by it


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise BackboneError where body and head apart do not give the whole model's logits, or these are not finite."""
    was_training = model.training
    model.eval()
    ids = torch.arange(8, device=model.device)[None] % model.config.vocab_size
    whole = model(input_ids=ids, use_cache=False).logits
    parts = compute_logits(model, find_body(model)(input_ids=ids, use_cache=False).last_hidden_state)
    model.train(was_training)
    if not whole.isfinite().all():
        raise BackboneError("The model's output is not finite before any training: its weights are damaged or overflow.")
    if not torch.allclose(whole, parts.to(whole.dtype), rtol=1e-2, atol=1e-2 * whole.abs().max().item()):
        raise BackboneError(
            f"The head of this model ({model.config.model_type}) is not a matrix applied to the last states: it does "
            "something more that backbone.compute_logits does not know, so the loss would be wrong. Use another family."
        )


def moved(model: PreTrainedModel, *where: torch.device | torch.dtype) -> PreTrainedModel:
    """Move `model` to a device, to a dtype, or both, in place, and return it."""
    to: Callable[..., PreTrainedModel] = model.to  # transformers' decorator hides its type
    return to(*where)


def set_recomputing(model: PreTrainedModel, on: bool = True) -> PreTrainedModel:
    """Switch gradient checkpointing on or off, in place: training then computes activations anew in the backward pass."""
    # Renamed in transformers 5.24; the older name warns there and is all that there is before.
    new = hasattr(model, "activation_checkpointing_enable")
    way = "activation_checkpointing" if new else "gradient_checkpointing"
    if on:
        getattr(model, f"{way}_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{way}_disable")()
    return model


def mask_token_id(tokenizer: PreTrainedTokenizerBase, kind: str) -> int:
    """Return the id of the token that stands for a masked one: `blank` is "_" as in the official code, `eos` the
    end-of-text, `new` the one that `add_mask_token` made."""
    if kind == "eos":
        return int(tokenizer.eos_token_id)
    if kind == "new":
        if tokenizer.mask_token_id is None:
            raise BackboneError("This tokenizer has no mask token: `new` needs a model whose MNTP had mntp_mask_token=new.")
        return int(tokenizer.mask_token_id)
    ids: list[int] = tokenizer("_", add_special_tokens=False)["input_ids"]
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
    fit_rows(model, len(tokenizer))
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight = layer.get_parameter("weight")
            weight[tokenizer.mask_token_id] = weight[:known].mean(0)


def fit_rows(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """Give the model's embeddings `count` rows, a token each, in place, where they have fewer; return it."""
    if count > token_rows(model):
        with torch.random.fork_rng():
            model.resize_token_embeddings(count, mean_resizing=False)
    return model


def count_parameters(model: PreTrainedModel) -> int:
    """Count the parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())
