"""Item text: the template's columns, its budget, and what it refuses."""

from __future__ import annotations

import polars as pl
import pytest

from llm2rec_kit.data import item_text

ITEMS = pl.DataFrame(
    {
        "source_id": ["a", "b", "c"],
        "title": ["Red tea", "Mug", "Cup"],
        "domain": "shop",
        "brand": ["Leaf & Co", None, ""],
        "description": ["Two\n\nlines  of text", "Holds tea", None],
        "price": [1.5, None, 3.0],
        "tags": [["a"], ["b"], ["c"]],
    }
)


def test_the_title_alone_changes_nothing():
    assert item_text.render_texts(ITEMS, "{title}", 0).equals(ITEMS)


@pytest.mark.parametrize(
    ("template", "words", "expected"),
    [
        ("{title} ({brand})", 0, ["Red tea (Leaf & Co)", "Mug", "Cup"]),
        ("{title} ({brand}, {price}) :)", 0, ["Red tea (Leaf & Co, 1.5) :)", "Mug :)", "Cup (3) :)"]),
        ("{title}. {brand}. {description}.", 0, ["Red tea. Leaf & Co. Two lines of text.", "Mug. Holds tea.", "Cup."]),
        ("{brand}. {title} [by {brand}]", 0, ["Leaf & Co. Red tea [by Leaf & Co]", "Mug", "Cup"]),
        ("By {brand}: {title} (new", 0, ["By Leaf & Co: Red tea (new", "Mug (new", "Cup (new"]),
        ("{title}, {brand}", 0, ["Red tea, Leaf & Co", "Mug", "Cup"]),
        ("{brand} | {title} | {description}", 0, ["Leaf & Co | Red tea | Two lines of text", "Mug | Holds tea", "Cup"]),
        ("{title}: {description}", 4, ["Red tea: Two lines", "Mug: Holds tea", "Cup"]),
        ("{title}", 1, ["Red", "Mug", "Cup"]),
        ("{{{title}}} {title}", 0, ["{Red tea} Red tea", "{Mug} Mug", "{Cup} Cup"]),
        ("{title}, {price}", 0, ["Red tea, 1.5", "Mug", "Cup, 3"]),
        ("{description}", 0, ["Two lines of text", "Holds tea", "Cup"]),
    ],
)
def test_what_is_read_of_an_item(template, words, expected):
    got = item_text.render_texts(ITEMS, template, words)
    assert got["title"].to_list() == expected
    assert got["plain_title"].to_list() == ITEMS["title"].to_list()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{title} {colour}", r"names \['colour'\].*they have \['title', 'domain', 'brand', 'description', 'price'\]"),
        ("{title.__class__}", r"names \['title.__class__'\]"),
        ("{title[0]}", r"names"),
        ("{}", r"names \[''\]"),
        ("{tags}", r"names \['tags'\]"),
        ("no field", "at least one"),
        ("{title!r}", "plain names in braces"),
        ("{title:>9}", "plain names in braces"),
        ("{title", "no template"),
    ],
)
def test_what_is_no_template(template, message):
    with pytest.raises(ValueError, match=message):
        item_text.find_fields(template, ITEMS)
