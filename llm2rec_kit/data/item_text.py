"""Item text: what the stages read of an item. The title alone, as in the paper, or a template over further columns.

The budget counts words, not tokens: at data prep no tokenizer is chosen yet. The stages cut at `*_max_tokens` besides.
"""

from __future__ import annotations

import string
from typing import Any

import polars as pl

from llm2rec_kit.data.sources import frames
from llm2rec_kit.settings import name_fields, parse_template

BRACKETS = {"(": ")", "[": "]"}
EDGES = " \t\r\n,;:|/-–"  # what an empty field leaves hanging at either end


def find_fields(template: str, items: pl.DataFrame) -> list[str]:
    """List the names in the template's braces; ValueError where one is no column of `items` with text or numbers."""
    kinds = {c: kind for c, kind in items.schema.items() if c not in ("item", "source_id", "plain_title")}
    columns = [c for c, kind in kinds.items() if kind == pl.String or kind.is_numeric()]
    return name_fields(template, columns, "this source's items")


def render_texts(items: pl.DataFrame, template: str, words: int) -> pl.DataFrame:
    """Put the text of each item into the column `title`, which all stages read, and the title itself into `plain_title`.

    An empty field leaves nothing: the literal text before it goes, too, of that before the first field that is there what
    divides (`{brand}. {title}` -> `Zelda`), and brackets whose fields are all empty. Whole floats are written as whole
    numbers. White space collapses. `words` > 0 keeps so many of the text's first words. With the
    title alone and no budget the items come back as they are.
    """
    find_fields(template, items)
    if template == "{title}" and not words:
        return items
    plain = items.with_columns(frames.as_text(items, name, "the items") for name in dict.fromkeys(parse_template(template)))
    text = plain.select(_join(_nest(template))).to_series().str.replace_all(r"\s+", " ").str.strip_chars(EDGES)
    if words:
        text = text.str.split(" ").list.head(words).list.join(" ")
    return items.with_columns(plain_title=pl.col("title"), title=pl.when(text == "").then("title").otherwise(text))


def _nest(template: str) -> list[Any]:
    """The template's parts: characters, fields as (name,), and brackets around fields as (opening, parts, closing).

    >>> _nest("{title} ({brand})")
    [('title',), ' ', ('(', [('brand',)], ')')]
    """
    open_: list[list[Any]] = [[]]
    for literal, name, *_ in string.Formatter().parse(template):
        for character in literal:
            if character in BRACKETS:
                open_.append([character])
            elif len(open_) > 1 and character == BRACKETS[open_[-1][0]]:
                first, *parts = open_.pop()
                whole = (
                    [(first, parts, character)] if any(isinstance(p, tuple) for p in parts) else [first, *parts, character]
                )
                open_[-1] += whole
            else:
                open_[-1].append(character)
        open_[-1] += [] if name is None else [(name,)]
    return [part for parts in open_ for part in parts]  # what was not closed is text


def _join(parts: list[Any]) -> pl.Expr:
    """The text of the parts; empty where all its fields are."""
    text, there, before = pl.lit(""), pl.lit(False), ""
    for k, part in enumerate(parts):
        if isinstance(part, str):
            before += part
            continue
        own = pl.col(part[0]).fill_null("") if len(part) == 1 else _join(part[1])
        blank = own.str.strip_chars() == ""
        own = own if len(part) == 1 else pl.concat_str(pl.lit(part[0]), own, pl.lit(part[2]))
        first = all(isinstance(p, str) for p in parts[:k])
        lead = pl.lit(before) if first else pl.when(there).then(pl.lit(before)).otherwise(pl.lit(before.lstrip(EDGES + ".")))
        text = pl.when(blank).then(text).otherwise(pl.concat_str(text, lead, own))
        there, before = there | ~blank, ""
    return pl.when(there).then(pl.concat_str(text, pl.lit(before))).otherwise(pl.lit(""))
