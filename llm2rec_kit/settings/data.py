"""What a corpus is made from: the source, its cleaning, the split (notebook 01)."""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from llm2rec_kit.settings import own_parts
from llm2rec_kit.settings.own_parts import SOURCES
from llm2rec_kit.settings.ranges import SEED, show_value
from llm2rec_kit.settings.stage import Conflicts, SettingsError, Stage, check_choice, setting

_MONTH = r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])"
_START = (f"released|({_MONTH})?", "{name} is a month such as 2014-09 (year, hyphen, month), or released; found {found}.")
_END = (f"({_MONTH})?", "{name} is a month such as 2014-09 (year, hyphen, month); found {found}.")
ROLES = ("user", "item", "time", "title", "domain")  # of the columns of a table
_COLUMN = (
    rf"((interactions\.)?({'|'.join(ROLES)})|items\.(item|title|domain))=.+",
    f"{{name}} takes role=name with a role of {list(ROLES)}, for both files as in item=sku, or for one of them as in "
    "interactions.item=sku and items.item=product_id (items have no user and no time); found {found}.",
)


def parse_template(template: str) -> list[str]:
    """Return the names in the braces of `data_text`; SettingsError where it is no template of plain names.

    >>> parse_template("{title}. {brand}")
    ['title', 'brand']
    """
    try:
        parts = [(name, spec, kind) for _, name, spec, kind in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise SettingsError(
            f"data_text is no template: {error}; found {show_value(template)}. Write it as '{{title}}. {{brand}}'."
        ) from None
    if not parts or any(spec or conversion for _, spec, conversion in parts):
        raise SettingsError(
            f"data_text takes plain names in braces, at least one, such as {{title}}; found {show_value(template)}."
        )
    return [name for name, _, _ in parts]


def name_fields(template: str, known: Iterable[str], whose: str) -> list[str]:
    """Return the names in the braces of `data_text` as `parse_template` does; ValueError for one that is none of the fields
    `known`, which `whose` are, in words."""
    names, known = parse_template(template), [*known]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"data_text names {unknown}, which {whose} do not have; they have {known}.")
    return names


@dataclass(frozen=True, kw_only=True)
class Data(Stage):
    """Notebook 01: where the interactions come from, how they are cleaned and split."""

    prefix: ClassVar[str] = "data"

    source: str = setting(
        "synthetic", "where interactions come from", SOURCES, also=partial(own_parts.list_names, "source"), later=True
    )
    path: str = setting("", "folder or file of the source; empty for synthetic and mix")
    category: str = setting(
        "",
        "amazon: games, arts, movies, home, electronics, tools, sports, baby [P 4.1.1], or a full name; goodreads: poetry ..., "
        "or all; movielens: 100k to 32m",
    )
    download: bool = setting(False, "fetch what path lacks from the source's public address [O]")
    strict: bool = setting(False, "stop where the source holds rows that must be left out, instead of counting them [O]")
    columns: list[str] = setting(
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
    mix: list[str] = setting([], "source mix: runs, or folders (with a slash), whose corpora become one [P Mix-6]")
    domain: str = setting("", "name for the data's domain; empty: the source's own")
    users: int = setting(0, "users kept, drawn by seed; 0 keeps all [O]", within="x >= 0")
    synthetic_users: int = setting(4000, "users of the synthetic store [O]", within="x >= 2")
    synthetic_items: int = setting(2000, "items of the synthetic store, over its domains [O]", within="x >= 1")
    title_rules: str = setting(
        "gentle", "title cleaning: released (at most 20 words, no markup [C]) or gentle [O]", ("released", "gentle")
    )
    text: str = setting(
        "{title}",
        "an item's text, of {title}, {category}, {brand}, {description} [O]; an empty field goes with the text before it and its "
        "brackets; the title alone [P 4.1.1]",
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
    train_domains: list[str] = setting(
        [],
        "domains that trainings see: CSFT their samples, MNTP and contrast their titles; empty: the source's in-domain ones",
    )
    seed: int = setting(2024, "seed of generation and of the user subset [O]", within=SEED)

    def conflicts(self) -> Conflicts:
        """Find a window or a template that is none, a role that two columns have, a store that cannot be made."""
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
            parse_template(self.text)
        except SettingsError as error:
            yield ("text",), str(error)
        roles = [pair.partition("=")[0] for pair in self.columns]
        if twice := next((role for role in roles if roles.count(role) > 1), ""):
            yield ("columns",), f"data_columns gives the role {twice!r} to two columns; found {show_value(self.columns)}."

    @property
    def recipe(self) -> dict[str, Any]:
        """What a corpus is made by: all settings but those that older runs lack, while they stand at their default."""
        return {name: value for name, value in self.as_dict().items() if (name, value) != ("dates", "iso")}

    @property
    def aside(self) -> list[str]:
        """Names of the settings that change no corpus of this source: where its files lie, whose content is told by their
        hashes, whether they are fetched, and what other sources read. None of one's own source, which may read any."""
        if self.source not in SOURCES or self.source == "mix":
            return []
        of_others = tuple({"synthetic_", "goodreads_"} - {f"{self.source}_"})
        return ["download", "path", *(name for name in self.as_dict() if name.startswith(of_others))]
