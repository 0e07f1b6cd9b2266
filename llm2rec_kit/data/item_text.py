"""Item text: what the stages read of an item. The title alone, as in the paper, or a template over further columns.

The budget counts words, not tokens: at data prep no tokenizer is chosen yet. The stages cut at `*_max_tokens` besides.
"""

from __future__ import annotations

import string

import polars as pl

from llm2rec_kit.settings import parse_template

EDGES = " \t\r\n,;:|/-–"  # what an empty field leaves hanging at either end


def find_fields(template: str, items: pl.DataFrame) -> list[str]:
    """List the names in the template's braces; ValueError where one is no column of `items` with text or numbers."""
    names = parse_template(template)
    kinds = {c: kind for c, kind in items.schema.items() if c not in ("item", "source_id", "plain_title")}
    columns = [c for c, kind in kinds.items() if kind == pl.String or kind.is_numeric()]
    if unknown := [n for n in names if n not in columns]:
        raise ValueError(f"data_text names {unknown}, which this source's items do not have; they have {columns}.")
    return names


def render_texts(items: pl.DataFrame, template: str, words: int) -> pl.DataFrame:
    """Put the text of each item into the column `title`, which all stages read, and the title itself into `plain_title`.

    An empty field leaves nothing; white space collapses. `words` > 0 keeps so many of the text's first words. With the
    title alone and no budget the items come back as they are.
    """
    find_fields(template, items)
    if template == "{title}" and not words:
        return items
    pieces = []
    for literal, name, *_ in string.Formatter().parse(template):
        pieces += [pl.lit(literal)] + ([] if name is None else [pl.col(name).cast(pl.String).fill_null("")])
    text = pl.concat_str(pieces).str.replace_all(r"\s+", " ").str.strip_chars(EDGES)
    if words:
        text = text.str.split(" ").list.head(words).list.join(" ")
    return items.with_columns(plain_title=pl.col("title"), title=pl.when(text == "").then("title").otherwise(text))
