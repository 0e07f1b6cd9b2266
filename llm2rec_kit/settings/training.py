"""The three trainings, CSFT, MNTP and Contrastive, and what they have in common (notebooks 02 and 03)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llm2rec_kit.settings.ranges import SEED, show_value
from llm2rec_kit.settings.stage import Conflicts, Stage, setting

TRACKERS = ("none", "tensorboard", "wandb", "mlflow", "trackio")
ASIDE = (
    *("batch_tokens", "gradient_checkpointing", "gradient_cache", "save_every"),
    *("collapse_loss", "collapse_uniformity", "collapse_rank"),
)


@dataclass(frozen=True, kw_only=True)
class Training(Stage):
    """What the three trainings have in common; CSFT, MNTP and Contrastive restate what differs between them."""

    checks: ClassVar[str] = ""  # the setting that says how much validation reads, where it may be nothing
    follows_draws: ClassVar[tuple[str, ...]] = ("batch_tokens",)  # where dropout is drawn, these settings change its draws

    steps: int = setting(1000, "optimiser steps at which training stops", within="x >= 1")
    schedule_steps: int = setting(0, "steps over which the decay is planned; 0: the same as steps [P]", within="x >= 0")
    schedule_epochs: int = setting(
        0, "epochs over which the decay is planned, instead of schedule_steps; 0: off", within="x >= 0"
    )
    batch_size: int = setting(128, "samples a step, over all processes", within="x >= 1")
    learning_rate: float = setting(1e-4, "peak learning rate of AdamW", within="x > 0")
    warmup_steps: int = setting(0, "steps of linear warm-up [C]", within="x >= 0")
    schedule: str = setting("linear", "decay after the warm-up [C]", ("linear", "cosine", "constant_with_warmup"))
    weight_decay: float = setting(0.0, "AdamW's weight decay [C]", within="x >= 0")
    clip: float = setting(1.0, "largest gradient norm [C]; 0: no clipping", within="x >= 0")
    tuning: str = setting("full", "full: every weight [P, C]; lora: low-rank adapters, merged on saving", ("full", "lora"))
    lora_r: int = setting(16, "LoRA: rank [LLM2Vec]; 8 in the official CSFT's option [C]", within="x >= 1")
    lora_alpha: int = setting(32, "LoRA: the update is scaled by alpha / r [LLM2Vec]; 16 in [C]", within="x >= 1")
    lora_dropout: float = setting(0.05, "LoRA: dropout before the adapters [C, LLM2Vec]", within="0 <= x < 1")
    lora_targets: list[str] = setting([], "LoRA: names of the linear layers that get adapters; empty: all of the blocks [C]")
    precision: str = setting(
        "pure",
        "pure: weights and AdamW in the backbone's dtype [C]; mixed: both float32, products in bfloat16 [O]",
        ("pure", "mixed"),
    )
    gradient_checkpointing: bool = setting(
        False,
        "compute activations anew in the backward pass: less memory, more time, same gradients [C: on in MNTP and contrast]",
    )
    evaluate_every: int = setting(0, "steps between validations; 0: ten times a run [O]", within="x >= 0")
    patience: int = setting(
        0, "validations without a lower loss after which training stops; 0: never [P]; 5 in CSFT's [C]", within="x >= 0"
    )
    keep: str = setting("last", "weights kept: last, or best: of the lowest validation loss", ("last", "best"))
    save_every: int = setting(200, "steps between checkpoints [O]", within="x >= 1")
    seed: int = setting(42, "seed of order, masks, adapters and dropout [C]", within=SEED)
    report_to: str = setting(
        "none",
        "tracker that the losses are sent to while they fall, where it is installed; no result depends on it [O]",
        TRACKERS,
    )

    @property
    def draws_dropout(self) -> bool:
        """Whether training draws dropout by these settings. A backbone's own (GPT-2, OPT) they do not tell."""
        return self.tuning == "lora" and self.lora_dropout > 0

    @property
    def aside(self) -> list[str]:
        """Names of the settings that a result does not depend on (but for rounding): memory, when to save, what stops a training
        that breaks (`ASIDE`), and what nothing reads beside the others."""
        counted = self.follows_draws if self.draws_dropout else ()
        idle = [name for name in ("lora_r", "lora_alpha", "lora_dropout") if self.tuning != "lora"]
        return [name for name in ASIDE if hasattr(self, name) and name not in counted] + idle

    def conflicts(self) -> Conflicts:
        """Find a warm-up that never ends, two plans, and settings that would do nothing."""
        p, watched = self.prefix, "patience" if self.patience else "keep"
        if self.schedule_steps and self.schedule_epochs:
            yield (
                ("schedule_steps", "schedule_epochs"),
                f"The decay is planned over {p}_schedule_steps ({self.schedule_steps}) or over {p}_schedule_epochs "
                f"({self.schedule_epochs}), not both: set one of them to 0.",
            )
        planned = "schedule_steps" if self.schedule_steps else "steps"
        if not self.schedule_epochs and self.warmup_steps > getattr(self, planned):
            yield (
                ("warmup_steps", planned),
                f"{p}_warmup_steps ({self.warmup_steps}) must not be more than {p}_{planned} ({getattr(self, planned)}): the "
                "learning rate would never reach its peak.",
            )
        if self.patience and self.evaluate_every > self.steps:
            yield (
                ("patience", "evaluate_every", "steps"),
                f"{p}_patience ({self.patience}) counts validations, and with {p}_evaluate_every ({self.evaluate_every}) none "
                f"comes before {p}_steps ({self.steps}).",
            )
        if (self.patience or self.keep == "best") and self.checks and not (left := getattr(self, self.checks)):
            yield (
                (watched, self.checks),
                f"{p}_{watched} ({getattr(self, watched)}) watches the validation loss, and {p}_{self.checks} ({left}) leaves "
                "no sample for it.",
            )
        if self.lora_targets and self.tuning != "lora":
            yield (
                ("lora_targets", "tuning"),
                f"{p}_lora_targets names layers for adapters ({show_value(self.lora_targets)}), and {p}_tuning is {self.tuning!r}, "
                "which has none.",
            )


@dataclass(frozen=True, kw_only=True)
class CSFT(Training):
    """Notebook 02: collaborative supervised fine-tuning [P 3.2]."""

    # Under gradient checkpointing the last layer is read at all tokens.
    follows_draws: ClassVar[tuple[str, ...]] = ("batch_tokens", "gradient_checkpointing")

    prefix: ClassVar[str] = "csft"
    checks: ClassVar[str] = "evaluate_samples"

    steps: int = setting(10000, "optimiser steps at which training stops [P 4.1.3]", within="x >= 1")
    schedule_steps: int = setting(
        0,
        "steps over which the decay is planned; 0: the same as steps [P, and C: its max_steps overrules its 10 epochs]",
        within="x >= 0",
    )
    batch_size: int = setting(128, "samples a step, on average [P 4.1.3]", within="x >= 1")
    learning_rate: float = setting(3e-4, "peak learning rate of AdamW [P 4.1.3]", within="x > 0")
    warmup_steps: int = setting(200, "steps of linear warm-up [C]", within="x >= 0")
    max_tokens: int = setting(1024, "tokens of a sample; the oldest history goes first [C]", within="x >= 2")
    joiner: str = setting(", ", "text between titles [P 3.2, C]")
    ending: str = setting("\n", "text between the target and the end-of-text token [C]")
    tokenisation: str = setting(
        "apart",
        "apart: each title by itself [O]; joined: the history's text as a whole, the target's as a whole [C]",
        ("apart", "joined"),
    )
    shared_prefix: bool = setting(True, "one copy of a history that several samples share, equal in loss [O]")
    batch_tokens: int = setting(4096, "padded tokens of a forward pass, a memory limit only [O]", within="x >= 1")
    evaluate_samples: int = setting(2000, "validation samples drawn by seed [C]", within="x >= 0")


@dataclass(frozen=True, kw_only=True)
class MNTP(Training):
    """Notebook 03: masked next-token prediction with the causal mask lifted [P 3.3.1]."""

    prefix: ClassVar[str] = "mntp"
    checks: ClassVar[str] = "held_out"

    steps: int = setting(1000, "optimiser steps [P 4.1.3]", within="x >= 1")
    schedule_epochs: int = setting(
        0, "epochs over which the decay is planned: 3, about 9,177 steps in [C]; 0: off", within="x >= 0"
    )
    batch_size: int = setting(32, "titles a step [P 4.1.3]", within="x >= 1")
    learning_rate: float = setting(5e-5, "peak learning rate of AdamW [C, by default]", within="x > 0")
    tuning: str = setting(
        "full", "full: every weight [C]; lora: low-rank adapters, merged on saving [P 4.1.3, as LLM2Vec]", ("full", "lora")
    )
    rate: float = setting(0.2, "share of tokens to predict [P 3.3.1]", within="0 < x <= 1")
    replacement: str = setting(
        "80_10_10", "80_10_10 (mask, random, kept) [C] or mask: always the mask token", ("80_10_10", "mask")
    )
    mask_token: str = setting(
        "blank",
        "what stands for a masked token: blank is '_' [C], eos, or new, a token of its own [O]",
        ("blank", "eos", "new"),
    )
    max_tokens: int = setting(512, "tokens of a title [C]", within="x >= 2")
    held_out: float = setting(0.1, "share of titles kept for validation [C]", within="0 <= x < 1")
    batch_tokens: int = setting(8192, "padded tokens of a forward pass, a memory limit only [O]", within="x >= 1")


@dataclass(frozen=True, kw_only=True)
class Contrastive(Training):
    """Notebook 03: item-level contrastive learning [P 3.3.2]."""

    prefix: ClassVar[str] = "contrastive"

    steps: int = setting(1000, "optimiser steps [P 4.1.3]", within="x >= 1")
    schedule_epochs: int = setting(
        0, "epochs over which the decay is planned: 5, about 2,125 steps in [C]; 0: off", within="x >= 0"
    )
    batch_size: int = setting(256, "titles a step, each the others' negative [P 4.1.3]", within="x >= 2")
    learning_rate: float = setting(2e-4, "peak learning rate of AdamW [P 4.1.3]", within="x > 0")
    warmup_steps: int = setting(300, "steps of linear warm-up [C]", within="x >= 0")
    temperature: float = setting(0.2, "InfoNCE's temperature: 0.2 [P 4.1.3], 0.1 [C]", within="x > 0")
    views: str = setting(
        "mask", "how two views of a title differ: mask [P 3.3.2], dropout [C], or both", ("mask", "dropout", "both")
    )
    mask_rate: float = setting(
        0.2, "share of tokens masked in a view (views mask, both) [O, as MNTP's rate]", within="0 <= x <= 1"
    )
    mask_token: str = setting(
        "blank", "what stands for one: blank is '_', eos, or new, where MNTP made it [O, as MNTP's]", ("blank", "eos", "new")
    )
    dropout: float = setting(0.2, "attention dropout (views dropout, both) [P 4.1.3, C]", within="0 <= x < 1")
    symmetric: bool = setting(False, "also rank the first views from the second [O]; off in [P] and [C]")
    max_tokens: int = setting(512, "tokens of a title [C]", within="x >= 1")
    batch_tokens: int = setting(16384, "padded tokens of a forward pass [O]", within="x >= 1")
    gradient_cache: bool = setting(
        False, "keep one pass's activations at a time: any batch size in its memory, equal gradients, a third more time [O]"
    )
    collapse_loss: float = setting(
        0.5,
        "nats a title that the mean loss of 10 steps may rise above its lowest before training stops; 0: any [O]",
        within="x >= 0",
    )
    collapse_uniformity: float = setting(
        -0.05,
        "uniformity nearer to 0 than this, and than at the start, stops training; 0: none does [O]",
        within="x <= 0",
    )
    collapse_rank: float = setting(
        0.1, "share of its first effective rank below which training stops; 0: none does [O]", within="0 <= x <= 1"
    )

    @property
    def draws_dropout(self) -> bool:
        """Whether training draws dropout: LoRA's, or that of the views."""
        return super().draws_dropout or (self.views != "mask" and self.dropout > 0)

    @property
    def aside(self) -> list[str]:
        """Names of the settings that a result does not depend on; those of the other kind of views among them."""
        return super().aside + {"mask": ["dropout"], "dropout": ["mask_rate", "mask_token"]}.get(self.views, [])

    @property
    def hides_tokens(self) -> bool:
        """Whether views hide tokens, so that the tokenizer needs a mask token."""
        return self.views != "dropout"
