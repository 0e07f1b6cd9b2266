"""Settings: one frozen dataclass a stage, one field a choice.

Every default says where it comes from: [P] printed in the paper, [C] the official code, [O] ours. Where paper and code
disagree both values are named. The `help` text of a field is what `llm2rec params` prints and what the comment in a
notebook's parameters cell says.

A notebook, a profile and `--set` name a field with its stage as prefix: `csft_steps` is `CSFT.steps`. All values are
plain (str, int, float, bool, list of those), because papermill passes nothing else.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from llm2rec_kit.settings import own_parts
from llm2rec_kit.settings.ranges import SEED, shown
from llm2rec_kit.settings.stage import SettingsError, Stage, check_choice, setting
from llm2rec_kit.settings.stage import unknown as unknown

Conflicts = Iterator[tuple[tuple[str, ...], str]]  # of a stage: the fields that do not go together, and why
METRIC = r"(recall|ndcg)@([1-9][0-9]*)|mrr(?:@([1-9][0-9]*))?"
_METRIC = (METRIC, "{name}: {found} is none of recall@k, ndcg@k, mrr@k (k from 1) and mrr.")
_MONTH = r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])"
_START = (f"released|({_MONTH})?", "{name} is a month such as 2014-09 (year, hyphen, month), or released; found {found}.")
_END = (f"({_MONTH})?", "{name} is a month such as 2014-09 (year, hyphen, month); found {found}.")
ROLES = ("user", "item", "time", "title", "domain")  # of the columns of a table
_COLUMN = (
    rf"((interactions\.)?({'|'.join(ROLES)})|items\.(item|title|domain))=.+",
    f"{{name}} takes role=name with a role of {list(ROLES)}, for both files as in item=sku, or for one of them as in "
    "interactions.item=sku and items.item=product_id (items have no user and no time); found {found}.",
)
_NAMED = (r".*\S.*", "{name} is a hub name, a folder, a .gguf file, smollm2 or tiny; found {found}.")
_NAMED_PART = (r".*\S.*", "{name} takes modules such as package.module, or files such as path/to/mine.py; found {found}.")
_OWN = (
    r"[A-Za-z0-9][A-Za-z0-9_-]*=.*\S.*",
    "{name} takes name=file.npy, the name of letters, digits, _ and -; found {found}.",
)
POOLINGS, MASKS = ("mean", "last", "cls", "pooler", "as_saved"), ("bidirectional", "causal", "as_trained")
_VARIANT = (
    rf".+-({'|'.join(POOLINGS)})-({'|'.join(MASKS)})",
    "{name}: a variant is <stage>-<pooling>-<attention>, such as contrastive-last-causal; found {found}.",
)
RECOMMENDERS, BASELINES, SOURCES = (own_parts.OF_THE_KIT[kind] for kind in ("recommender", "baseline", "source"))
TRACKERS = ("none", "tensorboard", "wandb", "mlflow", "trackio")


def template_names(template: str) -> list[str]:
    """The names in the braces of `data_text`; SettingsError where it is no template of plain names.

    >>> template_names("{title}. {brand}")
    ['title', 'brand']
    """
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise SettingsError(
            f"data_text is no template: {error}; found {shown(template)}. Write it as '{{title}}. {{brand}}'."
        ) from None
    if not parts or any(spec or conversion for _, spec, conversion in parts):
        raise SettingsError(
            f"data_text takes plain names in braces, at least one, such as {{title}}; found {shown(template)}."
        )
    return [name for name, _, _ in parts]


def _own_names(kind: str) -> Callable[[], list[str]]:
    """A function that gives the names of the own parts of a kind that are loaded by then."""
    return lambda: own_parts.names(kind)


@dataclass(frozen=True, kw_only=True)
class Own(Stage):
    """Notebooks 01, 04, 06 and 07: code of one's own."""

    prefix: ClassVar[str] = "own"

    parts: list = setting(
        [],
        "your own recommenders, baselines and sources: modules or .py files, which are imported and so run (docs/own_parts.md) [O]",
        form=_NAMED_PART,
    )

    def load(self) -> None:
        """Import them, so that other settings may name what they hold; raises as `own_parts.load`."""
        own_parts.load(self.parts)


@dataclass(frozen=True, kw_only=True)
class Data(Stage):
    """Notebook 01: where the interactions come from, how they are cleaned and split."""

    prefix: ClassVar[str] = "data"

    source: str = setting("synthetic", "where interactions come from", SOURCES, also=_own_names("source"), later=True)
    path: str = setting("", "folder or file of the source; empty for synthetic and mix")
    category: str = setting(
        "",
        "amazon: games, arts, movies, home, electronics, tools, sports, baby [P 4.1.1], or a full name; goodreads: poetry ..., "
        "or all; movielens: 100k to 32m",
    )
    download: bool = setting(False, "fetch what path lacks from the source's public address [O]")
    strict: bool = setting(False, "stop where the source holds rows that must be left out, instead of counting them [O]")
    columns: list = setting(
        [],
        "table: column names, each a role (user, item, time, title, domain), an equals sign, the name; with interactions. or items. "
        "before the role in that file alone",
        form=_COLUMN,
    )
    dates: str = setting(
        "iso",
        "dates in text whose year comes last: day_first, month_first, or iso: only where they prove one order [O]",
        ("iso", "day_first", "month_first"),
    )
    goodreads_events: str = setting(
        "read", "goodreads rows that count: shelved, read or rated books [O]", ("read", "rated", "shelved")
    )
    goodreads_time: str = setting(
        "date_added", "goodreads time: date_added, or read_at where it is given [O]", ("date_added", "read_at")
    )
    mix: list = setting([], "source mix: runs, or folders (with a slash), whose corpora become one [P Mix-6]")
    domain: str = setting("", "name for the data's domain; empty: the source's own")
    users: int = setting(0, "users kept, drawn by seed; 0 keeps all [O]", within="x >= 0")
    synthetic_users: int = setting(4000, "users of the synthetic store [O]", within="x >= 2")
    synthetic_items: int = setting(2000, "items of the synthetic store, over its domains [O]", within="x >= 1")
    title_rules: str = setting(
        "gentle", "title cleaning: released (at most 20 words, no markup [C]) or gentle [O]", ("released", "gentle")
    )
    text: str = setting(
        "{title}", "an item's text, of {title}, {category}, {brand}, {description} [O]; the title alone [P 4.1.1]"
    )
    text_words: int = setting(
        0, "most words of an item's text [O]; 0: all; later stages cut at tokens, too", within="x >= 0"
    )
    start: str = setting(
        "", "first month kept, as 2014-09, or released: the window of the released files [C]; empty: all", form=_START
    )
    end: str = setting("", "month before which events are kept, as 2023-10 [C]; empty: all", form=_END)
    min_items: int = setting(
        0,
        "fewest items: start a year earlier, back to 1996, until the k-core has so many; 10,000 in [C], 0: off",
        within="x >= 0",
    )
    repeats: str = setting(
        "auto",
        "a user's further events with an item: keep [C], first (drop them), or auto: first for reviews, else keep [O]",
        ("auto", "keep", "first"),
    )
    min_interactions: int = setting(5, "k of the k-core on users and items [P 4.1.1]; 0 keeps all", within="x >= 0")
    max_history: int = setting(10, "items of history in a sample [P 4.1.1]", within="x >= 1")
    split: str = setting(
        "leave_one_out",
        "leave_one_out [P 4.1.1], global_time (80/10/10 by target time), or released: by time, Goodreads leave-one-out [C]; each "
        "domain by itself",
        ("leave_one_out", "global_time", "released"),
    )
    given_splits: bool = setting(
        True, "keep samples and splits that the source brings (llm2rec); False: clean and split anew"
    )
    train_domains: list = setting(
        [],
        "domains that trainings see: CSFT their samples, MNTP and contrast their titles; empty: the source's in-domain ones",
    )
    seed: int = setting(2024, "seed of generation and of the user subset [O]", within=SEED)

    def conflicts(self) -> Conflicts:
        """A window or a template that is none, a role that two columns have, a store that cannot be made."""
        try:
            check_choice(type(self).__dataclass_fields__["source"].metadata, self.source, "data_source")
        except SettingsError as error:
            yield ("source",), str(error)
        if self.source == "synthetic" and not 23 <= self.synthetic_items <= 25920:
            yield (
                ("source", "synthetic_items"),
                f"data_synthetic_items must be at least 23 and at most 25920, so that each domain has 8 items or more, of distinct "
                f"titles; found {self.synthetic_items}.",
            )
        if self.end and self.start not in ("", "released") and self.start >= self.end:
            yield ("start", "end"), f"data_start {self.start} must be before data_end {self.end}."
        if self.min_items and not self.start:
            yield (
                ("start", "min_items"),
                "data_min_items moves data_start back, and data_start is empty: give a month, such as 2017-10.",
            )
        try:
            template_names(self.text)
        except SettingsError as error:
            yield ("text",), str(error)
        roles = [pair.partition("=")[0] for pair in self.columns]
        if twice := next((role for role in roles if roles.count(role) > 1), ""):
            yield ("columns",), f"data_columns gives the role {twice!r} to two columns; found {shown(self.columns)}."

    @property
    def recipe(self) -> dict[str, Any]:
        """What a corpus is made by: all settings but those that older runs lack, while they stand at their default."""
        return {name: value for name, value in self.as_dict().items() if (name, value) != ("dates", "iso")}


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
        """Heads that do not divide tiny's width; rotary positions turn pairs, so a head's share of it is even."""
        if self.name == "tiny" and (self.hidden % self.heads or self.hidden // self.heads % 2):
            yield (
                ("hidden", "heads"),
                f"backbone_hidden {self.hidden} must be a multiple of backbone_heads {self.heads}, and an even one.",
            )

    @property
    def where(self) -> dict[str, str]:
        """Where and in what type it computes: it counts as settings of everything that is made with the model."""
        return {"device": self.device, "dtype": self.dtype}


@dataclass(frozen=True, kw_only=True)
class Training(Stage):
    """What the three trainings have in common; CSFT, MNTP and Contrastive restate what differs between them."""

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
    lora_targets: list = setting([], "LoRA: names of the linear layers that get adapters; empty: all of the blocks [C]")
    precision: str = setting(
        "pure",
        "pure: weights and AdamW in the backbone's dtype [C]; mixed: both float32, products in bfloat16 [O]",
        ("pure", "mixed"),
    )
    gradient_checkpointing: bool = setting(
        False, "compute activations anew in the backward pass: less memory, more time, same gradients [C: on in MNTP]"
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
    def unchecked(self) -> str:
        """The setting that leaves no validation sample, as it is; empty where there are some."""
        return ""

    def conflicts(self) -> Conflicts:
        """A warm-up that never ends, two plans, and settings that would do nothing."""
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
        if self.unchecked and (self.patience or self.keep == "best"):
            yield (
                (watched, self.unchecked),
                f"{p}_{watched} ({getattr(self, watched)}) watches the validation loss, and {p}_{self.unchecked} "
                f"({getattr(self, self.unchecked)}) leaves no sample for it.",
            )
        if self.lora_targets and self.tuning != "lora":
            yield (
                ("lora_targets", "tuning"),
                f"{p}_lora_targets names layers for adapters ({shown(self.lora_targets)}), and {p}_tuning is {self.tuning!r}, "
                "which has none.",
            )


@dataclass(frozen=True, kw_only=True)
class CSFT(Training):
    """Notebook 02: collaborative supervised fine-tuning [P 3.2]."""

    prefix: ClassVar[str] = "csft"

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

    @property
    def unchecked(self) -> str:
        """As Training's."""
        return "" if self.evaluate_samples else "evaluate_samples"


@dataclass(frozen=True, kw_only=True)
class MNTP(Training):
    """Notebook 03: masked next-token prediction with the causal mask lifted [P 3.3.1]."""

    prefix: ClassVar[str] = "mntp"

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

    @property
    def unchecked(self) -> str:
        """As Training's."""
        return "" if self.held_out else "held_out"


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


NAMED = ("raw", "csft", "mntp", "contrastive", "minilm", "id", "id_detached", "adapted")  # tables that have a name already


def table_names(encoders: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """{encoder: name of its table}, of encoders by hub name or folder: the last part, with `_` for dots, which would begin a
    file's suffix. With the folder or organisation before it where that name is in `taken` or several would have it.

    >>> table_names(["BAAI/bge-large-en-v1.5", "models/a/last", "models/b/last"])
    {'BAAI/bge-large-en-v1.5': 'bge-large-en-v1_5', 'models/a/last': 'a-last', 'models/b/last': 'b-last'}

    Raises SettingsError for two of one name even so.
    """
    taken, encoders = set(taken), list(dict.fromkeys(encoders))
    short, names = {e: _last_parts(e, 1) for e in encoders}, {}
    for encoder, name in short.items():
        alone = name not in taken and list(short.values()).count(name) == 1
        names[encoder] = name if alone else _last_parts(encoder, 2)
    for encoder, name in names.items():
        others = [shown(e) for e in encoders if e != encoder and names[e] == name]
        if others or name in taken:
            whose = f"so would {' and '.join(others)}" if others else "there is one of this name already"
            raise SettingsError(
                f"The encoder {shown(encoder)} would have the table {shown(name)}, and {whose}. Give its folder another name."
            )
    return names


def _last_parts(encoder: str, count: int) -> str:
    parts = [part for part in encoder.split("/") if part not in ("", ".", "..", "~")]
    if not parts:
        raise SettingsError(f"An encoder is a hub name or a folder with a name; found {shown(encoder)}.")
    return "-".join(parts[-count:]).replace(".", "_")


@dataclass(frozen=True, kw_only=True)
class Encoding(Stage):
    """Notebook 03: titles to item embeddings."""

    prefix: ClassVar[str] = "encoding"

    attention: str = setting(
        "bidirectional",
        "mask at extraction: bidirectional [P 3.3], causal [C, in effect], or as_trained [O]",
        MASKS,
    )
    pooling: str = setting(
        "mean",
        "mean over the title's tokens [P], last token, cls (the first), pooler (a baseline's own layer over it), or as_saved "
        "with the model",
        POOLINGS,
    )
    normalise: str = setting(
        "none",
        "length of an embedding: none, as it comes [C], unit [C, baselines], or as_saved",
        ("none", "unit", "as_saved"),
    )
    batch_tokens: int = setting(
        0,
        "padded tokens of a forward pass, changes no embedding; 0: 2,048 on a CPU (its cache), 65,536 on a GPU [O]",
        within="x >= 0",
    )
    max_tokens: int = setting(512, "tokens of a title [C]; 0: as saved with the model", within="x >= 0")
    variants: list = setting(
        [], "further tables, <stage>-<pooling>-<attention>, such as csft-last-causal [O]", form=_VARIANT
    )
    baselines: list = setting([], "other encoders by hub name or folder, as saved but at unit length [C], a table each")
    own: list = setting(
        [],
        "your own vectors, each a name, an equals sign and an .npy file: a row an item in the corpus's order, or with ids beside it [O]",
        form=_OWN,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.tables  # before a first training, not after it
        taken = [*NAMED, *self.variants, *self.tables.values()]
        for name in (names := [pair.partition("=")[0] for pair in self.own]):
            if name in taken or names.count(name) > 1:
                raise SettingsError(f"encoding_own names a table {shown(name)}, and there is one of this name already.")

    @property
    def own_files(self) -> dict[str, str]:
        """{name of the table: file of the user's own vectors}."""
        return dict(pair.split("=", 1) for pair in self.own)

    @property
    def tables(self) -> dict[str, str]:
        """{baseline: the name of its table}."""
        return table_names(self.baselines, [*NAMED, *self.variants])


@dataclass(frozen=True, kw_only=True)
class Evaluation(Stage):
    """Notebook 04: recommenders over frozen embeddings [P 4.1.3]."""

    prefix: ClassVar[str] = "evaluation"

    recommenders: list = setting(["SASRec", "GRU4Rec"], "which to train [P]", RECOMMENDERS, also=_own_names("recommender"))
    embeddings: list = setting(
        ["raw", "csft", "mntp", "contrastive", "id"],
        "item tables to compare: stages, minilm, id, csft_add_id, csft_concat_id, id_detached, any other that notebook 03 names [O]",
    )
    baselines: list = setting(
        list(BASELINES),
        "what is ranked without training a recommender [O]",
        BASELINES,
        also=_own_names("baseline"),
    )
    seeds: list = setting([2024, 2025, 2026], "one training a seed [C]", within=SEED, least=1)
    hidden: int = setting(128, "width of the recommender and of the adapter's output [P 4.1.3]", within="x >= 1")
    adapter_widths: list = setting(
        [],
        "widths of adapter layers before the last; none: one linear layer [P 4.1.3]",
        of=int,
        within="x >= 1",
        repeats=True,
    )
    layers: int = setting(2, "layers [C]", within="x >= 1")
    heads: int = setting(2, "attention heads of SASRec [C]", within="x >= 1")
    inner: int = setting(256, "width of SASRec's feed-forward layers [C]", within="x >= 1")
    dropout: float = setting(0.3, "dropout [P 4.1.3]", within="0 <= x < 1")
    initialisation: str = setting(
        "scaled",
        "weights' start: official, torch's own with layers alike [C], or scaled: std 0.02, orthogonal GRU [O, RecBole's SASRec]",
        ("scaled", "official"),
    )
    loss: str = setting(
        "softmax",
        "softmax over the catalogue [P 4.1.3], bce (SASRec's) or gbce (gSASRec's) with sampled negatives [O]",
        ("softmax", "bce", "gbce"),
    )
    negatives: int = setting(256, "bce, gbce: negatives a sample, as gSASRec [O]; SASRec takes 1", within="x >= 1")
    calibration: float = setting(0.75, "gbce: t from 0 (plain bce) to 1 (calibrated), as gSASRec [O]", within="0 <= x <= 1")
    padding_class: bool = setting(False, "padding row 0 is a class of the training softmax: on in [C], off [O]")
    batch_size: int = setting(256, "samples a step [C]", within="x >= 1")
    learning_rate: float = setting(1e-3, "AdamW, SASRec [P 4.1.3] and recommenders of your own", within="x > 0")
    learning_rate_gru: float = setting(1e-4, "AdamW, GRU4Rec [P 4.1.3]", within="x > 0")
    weight_decay: float = setting(1e-4, "AdamW's weight decay [P 4.1.3]", within="x >= 0")
    epochs: int = setting(500, "most epochs: 500 [P], 1,000 [C]", within="x >= 1")
    evaluate_every: int = setting(5, "epochs between validations [C]", within="x >= 1")
    patience: int = setting(20, "epochs without a gain before training stops [P]", within="x >= 0")
    metric: str = setting(
        "recall@20", "what early stopping watches on the validation split [C]; or ndcg@k, mrr, mrr@k", form=_METRIC
    )
    normalise: str = setting(
        "none",
        "item embeddings: none [C for LLM2Rec], unit [C for baselines], standardised or whitened [O]",
        ("none", "unit", "standardised", "whitened"),
    )
    scale: float = setting(1.0, "factor on the item embeddings, once normalised [O]", within="x > 0")
    exclude: str = setting(
        "none",
        "items left out of the ranking: none [C], last (of the history) or seen (all that the user had) [O]",
        ("none", "last", "seen"),
    )
    ties: str = setting(
        "worst",
        "place of the target among equal scores: worst, best, or mean, the metrics' expectation over their order [O]; any one in [C]",
        ("worst", "mean", "best"),
    )
    cutoffs: list = setting([10, 20], "k of Recall@k and NDCG@k [P]", within="x >= 1", least=1)
    tested: str = setting("ndcg@10", "metric that the paired tests compare [O]", form=_METRIC)
    cold: float = setting(
        0.0,
        "share of items held out of one more training a table, to rank them as cold items; 0: none, 0.05 is enough to see [O]",
        within="0 <= x <= 0.5",
    )
    shared_prefix: bool = setting(True, "samples of a user that share a prefix share its computation [O]")
    precision: str = setting(
        "float32",
        "of the adapter pass and the softmax in training: float32 [C] or bfloat16 [O]; ranking is always float32",
        ("float32", "bfloat16"),
    )
    device: str = setting("auto", "cpu, cuda, or auto: a GPU where there is one [O]", ("auto", "cpu", "cuda"))
    workers: int = setting(
        0,
        "trainings at a time on a CPU, one thread each; 0: one a core, or one for what takes seconds; changes no result [O]",
        within="x >= 0",
    )

    def conflicts(self) -> Conflicts:
        """A width that cannot be divided as asked, and nothing to rank."""
        if "SASRec" in self.recommenders and self.hidden % self.heads:
            yield (
                ("hidden", "heads"),
                f"evaluation_hidden {self.hidden} is not a multiple of evaluation_heads {self.heads}.",
            )
        halved = [name for name in self.embeddings if name.endswith("_concat_id")]
        if halved and self.hidden % 2:
            yield (
                ("hidden", "embeddings"),
                f"evaluation_hidden must be even to put text and id side by side ({shown(halved[0])}); found {self.hidden}.",
            )
        if not self.baselines and not (self.recommenders and self.embeddings):
            empty = "embeddings" if self.recommenders else "recommenders"
            yield (
                (empty, "baselines"),
                f"evaluation_{empty} and evaluation_baselines are both empty: nothing would be ranked.",
            )


@dataclass(frozen=True, kw_only=True)
class Maps(Stage):
    """Notebook 05: two-dimensional maps of the embeddings."""

    prefix: ClassVar[str] = "maps"

    stages: list = setting(
        ["raw", "csft", "mntp", "contrastive", "adapted"],
        "embeddings to map, and adapted: behind SASRec's adapter, where notebook 04 kept its weights",
        least=1,
    )
    neighbours: int = setting(15, "UMAP's n_neighbors [O, the library's default]", within="x >= 2")
    min_dist: float = setting(0.1, "UMAP's min_dist [O, the library's default]", within="0 <= x <= 1")
    metric: str = setting("cosine", "distance between embeddings [O]", ("cosine", "euclidean"))
    max_items: int = setting(
        20000, "most items that UMAP is fitted to, drawn by seed; the rest are placed among them [O]", within="x >= 4"
    )
    clusters: int = setting(8, "clusters and communities to colour by [O]", within="x >= 1")
    seed: int = setting(42, "UMAP's random_state: same seed, same map [O]", within=SEED)


@dataclass(frozen=True, kw_only=True)
class Tables(Stage):
    """Notebook 06: what is trained for the paper's tables besides what the run has."""

    prefix: ClassVar[str] = "tables"

    recommenders: list = setting(
        ["SASRec", "GRU4Rec"],
        "Table 3's; the other tables take the first, SASRec [P]",
        RECOMMENDERS,
        also=_own_names("recommender"),
        least=1,
    )
    seeds: list = setting(
        [2024, 2025, 2026], "one training a seed; those of the run are not trained again [C]", within=SEED, least=1
    )
    models: list = setting(
        ["LLM2Vec", "LLMEmb"],
        "Table 3: rivals that are trained here, with the run's steps of stage 2",
        ("LLM2Vec", "LLMEmb"),
    )
    encoders: list = setting([], "Table 3: further encoders by hub name or folder, as BAAI/bge-large-en-v1.5 [O]")
    normalised: bool = setting(True, "Table 3: every row a second time over embeddings of unit length [C, baselines]")
    cells: list = setting(
        ["raw", "contrastive"],
        "Table 4: stages read under both masks and both poolings [O]",
        choices=("raw", "csft", "mntp", "contrastive"),
    )
    attribute_drop: float = setting(
        0.4, "LLMEmb: share of an item's attributes that a view lacks [its released script]", within="0 <= x <= 1"
    )
    backbones: list = setting(
        ["tiny-96", "tiny-192"], "Figure 4: tiny of a width [O], or a hub name or folder, as Qwen/Qwen2-1.5B"
    )
    share: float = setting(
        1.0, "Table 5 and Figure 4: share of the run's CSFT steps that each of their arms gets [O]", within="0 < x <= 1"
    )
    starts: list = setting(
        ["contrastive"], "start and length: item tables asked, of those the run has; [] leaves it out [O]"
    )
    lengths: list = setting(
        [1.0, 100.0],
        "start and length: lengths that their vectors get, besides as they come and whitened [O]",
        within="x > 0",
        least=1,
    )
    start_epochs: int = setting(500, "start and length: most epochs; 20 without a gain end a training [P]", within="x >= 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.tables

    @property
    def tables(self) -> dict[str, str]:
        """{encoder: the name of its table}."""
        own = (*NAMED, "llm2vec", "llmemb")
        return table_names(self.encoders, [*own, *(f"{name}-unit" for name in own)])


QUESTIONS = {  # of notebook 07
    "temperature": "Temperature 0.2 (the paper) or 0.1 (its code)?",
    "views": "Two views of a title by masking (the paper) or by dropout (its code)?",
    "normalise": "Embeddings as they come, or normalised?",
    "mntp": "Does MNTP need CSFT?",
    "id": "What does a sound ID baseline reach, and what text and ID together?",
    "repeats": "How much of recall comes from repeats, and what of novel targets?",
    "split": "Leave-one-out (the paper) or a split by time (its data): do both say the same?",
    "text": "Does richer item text help?",
    "history": "Does a history longer than 10 help?",
}


@dataclass(frozen=True, kw_only=True)
class Questions(Stage):
    """Notebook 07: questions that the paper leaves open, each a small experiment inside the run."""

    prefix: ClassVar[str] = "questions"

    asked: list = setting(list(QUESTIONS), "questions to ask [O]", tuple(QUESTIONS))
    domain: str = setting("", "domain whose users answer; empty: the first that training sees [O]")
    recommenders: list = setting(
        ["SASRec"], "recommenders that answer [O]", RECOMMENDERS, least=1, also=_own_names("recommender")
    )
    seeds: list = setting(
        [2024, 2025, 2026], "recommenders an arm, one a seed; the run's own are reused [O]", within=SEED, least=1
    )
    share: float = setting(
        0.1,
        "split, text, history: share of the run's CSFT steps, for the arm and its control alike [O]",
        within="0 < x <= 1",
    )
    histories: list = setting([10, 20, 50], "history: items of history in a sample; 10 in [P 4.1.1]", within="x >= 1")
    text_fields: list = setting(
        ["category", "brand", "description"], "text: fields added to the title, those that the source has [O]"
    )
    text_words: int = setting(
        40, "text: most words of an item's text, about as many as a budget of 60 tokens [O]", within="x >= 0"
    )


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


def limits_of(name: str) -> str:
    """What the flat name may be, as in `contrastive_views`, for a reader: its choices or its range; empty where any of its type
    will do."""
    known = {f"{stage.prefix}_{f.name}": f.metadata for stage in STAGES for f in dataclasses.fields(stage)}.get(name, {})
    if choices := known.get("choices"):
        return f"one of {', '.join(map(str, choices))}" + (", or your own (own_parts)" if known["also"] else "")
    return known.get("within", "")
