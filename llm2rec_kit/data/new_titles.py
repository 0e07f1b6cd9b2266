"""New titles: the texts that the stages would read of items known by title alone, prepared as those of a run's corpus were."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import polars as pl

from llm2rec_kit.corpus import read_plain_titles
from llm2rec_kit.data import cleaning, item_text, mixing
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Data, parse_template
from llm2rec_kit.storage import hash_file_once

COUNTED = ("title_rules", "text", "text_words")  # what of a corpus's settings its texts are made by


def as_in_corpus(titles: Sequence[str], made: dict[str, Any]) -> list[str]:
    """Return the texts that the stages would read of items known by title alone, refused or not; `made`: corpus settings."""
    items = pl.DataFrame({"title": list(titles)}).with_row_index("row")
    cleaned = dict(cleaning.clean_titles(items, made.get("title_rules", "gentle")).select("row", "title").iter_rows())
    items = items.with_columns(title=pl.Series([cleaned.get(row, title) for row, title in items.iter_rows()]))
    template = made.get("text", "{title}")
    fields = [name for name in parse_template(template) if name != "title"]
    items = items.with_columns(pl.lit("").alias(name) for name in fields)
    return item_text.render_texts(items, template, made.get("text_words", 0))["title"].to_list()


def find_settings(run: Run, domain: str = "") -> dict[str, Any]:
    """Find what the texts of a run's items were made by (COUNTED); of a mix, by the part that `domain` is of.

    Without `domain` it is what all domains of a mix share, or {}, the title alone, where they differ. Raises ArtefactError
    where texts hold more than titles and the part that says how is not there any more.
    """
    made = run.manifest("corpus")["settings"]
    if made.get("source") != "mix":
        return {name: made[name] for name in COUNTED if name in made}
    items = pl.read_parquet(run.require("corpus") / "items.parquet")
    domains = [domain] if domain else items["domain"].unique(maintain_order=True).to_list()
    found = [_find_of_part(run, made, items.filter(domain=one), one) for one in domains]
    return found[0] if all(one == found[0] for one in found) else {}


def _find_of_part(run: Run, made: dict[str, Any], items: pl.DataFrame, domain: str) -> dict[str, Any]:
    """`find_settings` of the part of a mix, made with the settings `made`, that `items`, all of one domain, are of."""
    for name in made["mix"]:
        with contextlib.suppress(ValueError, ArtefactError):  # gone, or a folder of files without a record
            (folder,) = mixing.find_folders(Data(source="mix", mix=[name]), run.path.parent)
            file = folder / "items.parquet"
            same = hash_file_once(file) == made["files"].get(f"{name}/{file.name}")
            if same and folder.name == "corpus" and domain in pl.read_parquet(file, columns=["domain"])["domain"]:
                return find_settings(Run(folder.parent.name, folder.parent.parent), domain)
    if (read_plain_titles(items) != items["title"]).any():
        raise ArtefactError(
            f"The texts of {domain!r} hold more than titles, and the part of the mix that says how they were made is gone, or "
            f"another than was mixed; it is one of {', '.join(made['mix'])}. Put it back, or take titles of the catalogue alone."
        )
    return {}
