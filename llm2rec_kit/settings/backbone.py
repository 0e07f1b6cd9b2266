"""The language model that everything starts from (notebook 02)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llm2rec_kit.settings.ranges import SEED
from llm2rec_kit.settings.stage import Conflicts, Stage, setting

_NAMED = (r".*\S.*", "{name} is a hub name, a folder, a .gguf file, smollm2 or tiny; found {found}.")


@dataclass(frozen=True, kw_only=True)
class Backbone(Stage):
    """Notebook 02: the language model everything starts from."""

    prefix: ClassVar[str] = "backbone"

    name: str = setting(
        "tiny",
        "hub name (Qwen/Qwen2-0.5B [P]), folder, .gguf file, smollm2 (llm2rec fetch), or tiny (from nothing [O])",
        form=_NAMED,
    )
    hidden: int = setting(192, "tiny: width of the hidden states [O]", within="x >= 1")
    layers: int = setting(4, "tiny: number of layers [O]", within="x >= 1")
    heads: int = setting(6, "tiny: attention heads [O]", within="x >= 1")
    vocabulary: int = setting(4096, "tiny: most tokens that the byte-level BPE may have [O]", within="x >= 257")
    trust_remote_code: bool = setting(False, "run code that comes with a hub model; leave off unless you trust it [O]")
    dtype: str = setting(
        "auto",
        "float32, bfloat16, or auto: bfloat16 on a GPU that has it, else float32 [O]",
        ("auto", "float32", "bfloat16"),
    )
    device: str = setting("auto", "cpu, cuda, mps, or auto [O]", ("auto", "cpu", "cuda", "mps"))
    seed: int = setting(42, "seed of tiny's weights [O]", within=SEED)

    def conflicts(self) -> Conflicts:
        """Find heads that do not divide tiny's width; rotary positions turn pairs, so a head's share of it is even."""
        if self.name == "tiny" and (self.hidden % self.heads or self.hidden // self.heads % 2):
            yield (
                ("hidden", "heads"),
                f"backbone_hidden {self.hidden} must be a multiple of backbone_heads {self.heads}, and an even one.",
            )

    @property
    def aside(self) -> list[str]:
        """Names of the settings that make no other model: the size and seed of `tiny`, where the backbone is another."""
        return [] if self.name == "tiny" else ["hidden", "layers", "heads", "vocabulary", "seed"]

    @property
    def where(self) -> dict[str, str]:
        """Where and in what type it computes: it counts as settings of everything that is made with the model."""
        return {"device": self.device, "dtype": self.dtype}

    @classmethod
    def where_made(cls, made: Mapping[str, Any], *, trust_remote_code: bool = False) -> Backbone:
        """Return the settings under which an artefact with the settings `made` was computed (`where`). Whether a model's own
        code may run is asked anew."""
        return cls(**{name: made[name] for name in cls().where if name in made}, trust_remote_code=trust_remote_code)
