"""What an artefact of a training is known by: the settings that count, where it computes, and the settings set aside."""

from __future__ import annotations

from typing import Any

from llm2rec_kit import settings as S

UNKEPT = ("report_to",)  # of the one who trains, not of what is trained: in no manifest


def split_settings(settings: S.Training, place: S.Backbone, **other: Any) -> dict[str, Any]:
    """Split a training's settings into what `Run.make`, `stale` and `reuse_from` take: {"settings", "aside"}.

    Where it computes (device, dtype) counts among its settings, and so does what `other` says.
    """
    kept = {k: v for k, v in settings.as_dict().items() if k not in UNKEPT}
    return {"settings": kept | place.where | other, "aside": settings.aside}
