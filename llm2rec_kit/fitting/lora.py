"""LoRA: train small low-rank updates beside frozen weights (peft), and fold them into the weights at the end.

What is saved is the merged model, never the adapter: an adapter's folder does not hold the config's attention flag, so
base and adapter come back causal, without a word, whatever they were trained as. Nor does it hold the row of a token that
was added to a base read from a GGUF file (peft 0.21.2; findings/peft_resized_rows_lost_over_gguf.sh).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm2rec_kit import settings as S

if TYPE_CHECKING:
    import peft


def attach(model: PreTrainedModel, settings: S.Training, new_tokens: Sequence[int] = ()) -> peft.PeftModel:
    """Put adapters into `model`, in place, and freeze the rest; return peft's wrapper, which saves adapters alone.

    The embeddings of `new_tokens`, ids, are trained beside the adapters: frozen they would stay what they began as. Without
    `lora_targets`, all linear layers but the head get one. Raises SettingsError for targets that the model does not have.
    """
    import peft

    check_targets(model, settings)
    config = peft.LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=settings.lora_targets or "all-linear",
    )
    if new_tokens:
        table = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is table)
        config.trainable_token_indices = {name: list(new_tokens)}
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        adapted = peft.get_peft_model(model, config)
    # With a name here peft would look up the base on the hub at every save, to see whether embeddings were resized.
    config.base_model_name_or_path = None
    return adapted


def check_targets(model: PreTrainedModel, settings: S.Training) -> None:
    """Raise SettingsError where adapters are asked for on layers that `model` does not have."""
    known = find_linear_layers(model)
    strange = [name for name in settings.lora_targets if name not in known]
    if settings.tuning == "lora" and strange:
        raise S.SettingsError(f"{settings.prefix}_lora_targets names {strange}; this model's linear layers are {known}.")


def merge(adapted: peft.PeftModel) -> PreTrainedModel:
    """Fold the adapters into the weights, in place; return the plain model, all of it trainable, with its config."""
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.requires_grad_(True)


def find_linear_layers(model: PreTrainedModel) -> list[str]:
    """Find the linear layers that may get adapters; return the last parts of their names, in order: q_proj, k_proj, ...;
    GPT-2's `Conv1D` is one."""
    head = model.get_output_embeddings()
    found = (n for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not head)
    return list(dict.fromkeys(name.split(".")[-1] for name in found))
