"""What is trained for the paper's tables and for the questions that it leaves open (notebooks 06 and 07)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from llm2rec_kit.settings import own_parts
from llm2rec_kit.settings.item_tables import NAMED, name_tables
from llm2rec_kit.settings.own_parts import RECOMMENDERS
from llm2rec_kit.settings.ranges import SEED
from llm2rec_kit.settings.stage import Conflicts, Stage, setting


@dataclass(frozen=True, kw_only=True)
class Tables(Stage):
    """Notebook 06: what is trained for the paper's tables besides what the run has."""

    prefix: ClassVar[str] = "tables"

    recommenders: list[str] = setting(
        ["SASRec", "GRU4Rec"],
        "Table 3's; the other tables take the first, SASRec [P]",
        RECOMMENDERS,
        also=partial(own_parts.list_names, "recommender"),
        least=1,
    )
    seeds: list[int] = setting(
        [2024, 2025, 2026], "one training a seed; those of the run are not trained again [C]", within=SEED, least=1
    )
    models: list[str] = setting(
        ["LLM2Vec", "LLMEmb"],
        "Table 3: rivals that are trained here, with the run's steps of stage 2",
        ("LLM2Vec", "LLMEmb"),
    )
    encoders: list[str] = setting([], "Table 3: further encoders by hub name or folder, as BAAI/bge-large-en-v1.5 [O]")
    normalised: bool = setting(True, "Table 3: every row a second time over embeddings of unit length [C, baselines]")
    cells: list[str] = setting(
        ["raw", "contrastive"],
        "Table 4: stages read under both masks and both poolings [O]",
        choices=("raw", "csft", "mntp", "contrastive"),
    )
    attribute_drop: float = setting(
        0.4, "LLMEmb: share of an item's attributes that a view lacks [its released script]", within="0 <= x <= 1"
    )
    backbones: list[str] = setting(
        ["tiny-96", "tiny-192"], "Figure 4: tiny of a width [O], or a hub name or folder, as Qwen/Qwen2-1.5B"
    )
    share: float = setting(
        1.0, "Table 5 and Figure 4: share of the run's CSFT steps that each of their arms gets [O]", within="0 < x <= 1"
    )
    starts: list[str] = setting(
        ["contrastive"], "start and length: item tables asked, of those the run has; [] leaves it out [O]"
    )
    lengths: list[float] = setting(
        [1.0, 100.0],
        "start and length: lengths that their vectors get, besides as they come and whitened [O]",
        within="x > 0",
        least=1,
    )
    start_epochs: int = setting(500, "start and length: most epochs; 20 without a gain end a training [P]", within="x >= 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.tables, self.labels

    @property
    def tables(self) -> dict[str, str]:
        """{encoder: the name of its table}."""
        own = (*NAMED, "llm2vec", "llmemb")
        return name_tables(self.encoders, [*own, *(f"{name}-unit" for name in own)])

    @property
    def labels(self) -> dict[str, str]:
        """{backbone: what its study and its place in Figure 4 are called}."""
        return name_tables(self.backbones, kind="backbone of tables_backbones")


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
    "users": "What is text worth to a recommender that has few users to learn from?",
    "trainings": "Would another training of the language model say the same?",
}


@dataclass(frozen=True, kw_only=True)
class Questions(Stage):
    """Notebook 07: questions that the paper leaves open, each a small experiment inside the run."""

    prefix: ClassVar[str] = "questions"

    asked: list[str] = setting(list(QUESTIONS), "questions to ask [O]", tuple(QUESTIONS))
    domain: str = setting("", "domain whose users answer; empty: the first that training sees [O]")
    recommenders: list[str] = setting(
        ["SASRec"], "recommenders that answer [O]", RECOMMENDERS, least=1, also=partial(own_parts.list_names, "recommender")
    )
    seeds: list[int] = setting(
        [2024, 2025, 2026], "recommenders an arm, one a seed; the run's own are reused [O]", within=SEED, least=1
    )
    trainings: int = setting(
        3, "trainings: whole chains at the run's steps, its own and others of further seeds [O]", within="x >= 3"
    )
    share: float = setting(
        0.1,
        "split, text, history: share of the run's CSFT steps, for the arm and its control alike [O]",
        within="0 < x <= 1",
    )
    histories: list[int] = setting([10, 20, 50], "history: items of history in a sample; 10 in [P 4.1.1]", within="x >= 1")
    user_shares: list[float] = setting(
        [0.05, 0.2],
        "users: shares of the users that recommenders learn from, beside all of them [O]",
        within="0 < x < 1",
        least=1,
    )
    user_tables: list[str] = setting(
        ["raw", "contrastive", "contrastive_add_id"],
        "users: item tables to hold against ids, of those the run has or with _add_id, _concat_id [O]",
        least=1,
    )
    text_fields: list[str] = setting(
        ["category", "brand", "description"], "text: fields added to the title, those that the source has [O]"
    )
    text_words: int = setting(
        40, "text: most words of an item's text, about as many as a budget of 60 tokens [O]", within="x >= 0"
    )

    def conflicts(self) -> Conflicts:
        """Find that nothing is held against ids."""
        if "users" in self.asked and not set(self.user_tables) - {"id"}:
            yield (
                ("user_tables", "asked"),
                f"questions_user_tables {self.user_tables} names nothing to hold against ids, and questions_asked has 'users': name "
                "a table of text, or leave the question out.",
            )
