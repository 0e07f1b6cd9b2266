"""What an artefact of a training is known by: the settings that count, where it computes, and the settings set aside."""

from __future__ import annotations

from typing import Any

from llm2rec_kit import settings as S

# Settings that a result does not depend on (but for rounding): memory, when to save, what stops a training that breaks.
ASIDE = (
    "batch_tokens",
    "gradient_checkpointing",
    "gradient_cache",
    "save_every",
    "collapse_loss",
    "collapse_uniformity",
    "collapse_rank",
)
UNKEPT = ("report_to",)  # of the one who trains, not of what is trained: in no manifest


def split_settings(settings: S.Training, place: S.Backbone, **other: Any) -> dict[str, Any]:
    """Split a training's settings into what `Run.make`, `stale` and `reuse_from` take: {"settings", "aside"}.

    Where it computes (device, dtype) counts among its settings, and so does what `other` says. Where dropout is drawn, its
    draws follow the micro-batches, so there `batch_tokens` counts, too, and in CSFT `gradient_checkpointing`, under which the
    last layer is read at all tokens. Not so of a backbone with dropout of its own (GPT-2, OPT): settings do not tell it, and
    finished runs would age. What cannot act beside the other settings is set aside.
    """
    dropout = settings.tuning == "lora" and settings.lora_dropout > 0
    dropout |= isinstance(settings, S.Contrastive) and settings.views != "mask" and settings.dropout > 0
    drawn_by = {"batch_tokens"} | ({"gradient_checkpointing"} if isinstance(settings, S.CSFT) else set())
    aside = [name for name in ASIDE if hasattr(settings, name) and not (dropout and name in drawn_by)]
    aside += _list_idle(settings)
    kept = {k: v for k, v in settings.as_dict().items() if k not in UNKEPT}
    return {"settings": kept | place.where | other, "aside": aside}


def _list_idle(settings: S.Training) -> list[str]:
    """The settings that nothing reads beside these others."""
    idle = [name for name in ("lora_r", "lora_alpha", "lora_dropout") if settings.tuning != "lora"]
    if isinstance(settings, S.Contrastive):
        idle += {"mask": ["dropout"], "dropout": ["mask_rate", "mask_token"]}.get(settings.views, [])
    return idle
