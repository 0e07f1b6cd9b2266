"""Settings: one frozen dataclass a stage, one field a choice.

Every default says where it comes from: [P] printed in the paper, [C] the official code, [O] ours. Where paper and code
disagree both values are named. The `help` text of a field is what `llm2rec params` prints and what the comment in a
notebook's parameters cell says.

A notebook, a profile and `--set` name a field with its stage as prefix: `csft_steps` is `CSFT.steps`. All values are
plain (str, int, float, bool, list of those), because papermill passes nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from llm2rec_kit.settings.backbone import Backbone
from llm2rec_kit.settings.data import Data, name_fields, parse_template
from llm2rec_kit.settings.encoding import Encoding
from llm2rec_kit.settings.evaluation import METRIC, Evaluation
from llm2rec_kit.settings.item_tables import NAMED, name_tables
from llm2rec_kit.settings.maps import Maps
from llm2rec_kit.settings.own_parts import Own
from llm2rec_kit.settings.stage import SettingsError, Stage, describe_unknown
from llm2rec_kit.settings.studies import QUESTIONS, Questions, Tables
from llm2rec_kit.settings.training import CSFT, MNTP, TRACKERS, Contrastive, Training

__all__ = [
    "CSFT",
    "METRIC",
    "MNTP",
    "NAMED",
    "QUESTIONS",
    "STAGES",
    "TRACKERS",
    "Backbone",
    "Contrastive",
    "Data",
    "Encoding",
    "Evaluation",
    "Maps",
    "Own",
    "Questions",
    "SettingsError",
    "Stage",
    "Tables",
    "Training",
    "describe_limits",
    "describe_unknown",
    "name_fields",
    "name_tables",
    "parse_template",
]

STAGES: tuple[type[Stage], ...] = (
    Own,
    Data,
    Backbone,
    CSFT,
    MNTP,
    Contrastive,
    Encoding,
    Evaluation,
    Maps,
    Tables,
    Questions,
)


def describe_limits(name: str) -> str:
    """Describe what a setting, by its flat name (`contrastive_views`), may be: its choices or its range; empty where any
    value of its type will do."""
    settings = {f"{stage.prefix}_{f.name}": f.metadata for stage in STAGES for f in dataclasses.fields(stage)}
    known: Mapping[str, Any] = settings.get(name, {"within": ""})
    if choices := known.get("choices"):
        return f"one of {', '.join(map(str, choices))}" + (", or your own (own_parts)" if known["also"] else "")
    return str(known["within"])
