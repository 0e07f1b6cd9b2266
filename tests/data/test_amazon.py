"""Amazon raw files of both editions, at toy size in the true form and on the real samples; what is wrong is counted or named."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import types
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2rec_kit.data import cleaning, sources
from llm2rec_kit.data.sources import amazon
from llm2rec_kit.settings import Data

REAL = Path(__file__).parents[2].parent / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data folder ../shared/data is not here")


def review(user: str, item: str, time: object, **more) -> dict:
    return {
        "rating": 5.0,
        "title": "Nice 😀",
        "text": "<br />good",
        "images": [{"small_image_url": "x", "attachment_type": "IMAGE"}],
        "asin": f"{item}-red",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    } | more


def meta(item: str, title: object, **more) -> dict:
    return {
        "main_category": "Gift Cards",
        "title": title,
        "price": None,
        "store": "Shop",
        "categories": ["Gifts", "Cards"],
        "description": ["One card.", "For you."],
        "details": {"Colour": "red"},
        "parent_asin": item,
    } | more


def lay(
    folder: Path, reviews: list, items: list, category: str = "Gift_Cards", ending: str = ".jsonl", zipped: bool = True
) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in ((category, reviews), (f"meta_{category}", items)):
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows).encode(errors="surrogatepass")
        (folder / f"{name}{ending}{'.gz' * zipped}").write_bytes(gzip.compress(text) if zipped else text)
    return folder


ITEMS = [meta(c, f"Card {c}") for c in "abcd"]
REVIEWS = [review("u", i, 1_600_000_000_000 + t) for t, i in enumerate("dcba")] + [
    review("v", i, 1_600_000_000_000 - t) for t, i in enumerate("abc")
]


def data(path: Path, **more) -> Data:
    return Data(**({"source": "amazon", "path": str(path), "min_interactions": 0} | more))


def sequences(corpus) -> dict[str, str]:
    ids = corpus.items["source_id"].to_list()
    parts = zip(corpus.users["source_id"], corpus.offsets, corpus.offsets[1:], strict=False)
    return {u: "".join(ids[i - 1] for i in corpus.sequence[a:b]) for u, a, b in parts}


@pytest.mark.parametrize("zipped", [True, False])
def test_2023(tmp_path, zipped):
    found = sources.load(data(lay(tmp_path / "d", REVIEWS, ITEMS, zipped=zipped)))
    assert found.items.rows() == [(c, f"Card {c}", "Gift_Cards") for c in "abcd"]
    assert found.events["user"].cast(pl.String).to_list() == list("uuuuvvv")
    assert found.events["time"].to_list() == [r["timestamp"] for r in REVIEWS]
    assert found.facts["edition"] == "2023"
    assert found.dropped == []
    assert sequences(cleaning.build_corpus(found, data(tmp_path))) == {"u": "dcba", "v": "cba"}


def test_2018_is_in_seconds_under_other_names(tmp_path):
    names = {
        "parent_asin": "asin",
        "user_id": "reviewerID",
        "timestamp": "unixReviewTime",
        "store": "brand",
        "categories": "category",
    }
    older = lambda r: {names.get(k, k): v for k, v in r.items() if k != "asin"}  # noqa: E731
    reviews = [older(r) | {"unixReviewTime": r["timestamp"] // 1000} for r in REVIEWS[:4]]
    folder = lay(tmp_path / "d", reviews, [older(m) for m in ITEMS], "Gift_Cards", ".json")
    (folder / "Gift_Cards.json.gz").rename(folder / "Gift_Cards_5.json.gz")
    found = sources.load(data(folder, text="{title} by {brand}: {category}"))
    assert found.facts["edition"] == "2018"
    assert found.events["time"].to_list() == [1_600_000_000_000] * 4
    assert sequences(cleaning.build_corpus(found, data(folder))) == {"u": "dcba"}  # a tie: the rows' order
    assert found.items.row(0) == ("a", "Card a", "Gift_Cards", "Shop", "Gifts, Cards")


def test_the_earliest_review_of_a_pair_counts_whatever_its_colour(tmp_path):
    late = [review("u", i, 1_700_000_000_000 + t, asin="blue") for t, i in enumerate("abcd")]
    corpus = cleaning.build_corpus(sources.load(data(lay(tmp_path / "d", late + REVIEWS[:4], ITEMS))), data(tmp_path))
    assert sequences(corpus) == {"u": "dcba"}
    assert [(s["step"], s["rows_dropped"]) for s in corpus.facts["cleaning"]][2] == ("later reviews", 4)
    kept = cleaning.build_corpus(sources.load(data(tmp_path / "d")), data(tmp_path, repeats="keep"))
    assert sequences(kept) == {"u": "dcbaabcd"}


def test_the_domain_is_the_papers_short_name_or_the_one_given(tmp_path):
    folder = lay(tmp_path / "d", REVIEWS, ITEMS, "Video_Games")
    lay(folder, REVIEWS, ITEMS, "Baby_Products")
    assert sources.load(data(folder, category="games")).domains_in == ["games"]
    assert sources.load(data(folder, category="Video_Games", domain="mine")).domains_in == ["mine"]
    assert sources.load(data(folder / "Baby_Products.jsonl.gz")).domains_in == ["baby"]
    with pytest.raises(ValueError, match=r"metadata of \['Baby_Products', 'Video_Games'\]\. Say which by data_category"):
        sources.load(data(folder))


def test_only_the_categorys_files_count_as_the_source(tmp_path):
    folder = lay(tmp_path / "d", REVIEWS, ITEMS, "Video_Games")
    lay(folder, REVIEWS, ITEMS, "Baby_Products")
    assert list(sources.hash_files(data(folder, category="games"))) == [
        "d/Video_Games.jsonl.gz",
        "d/meta_Video_Games.jsonl.gz",
    ]
    assert sources.hash_files(data(folder, category="tools")) == {}
    raw = sources.read_raw_lines(data(folder, category="games"), lines=1, longest=20)
    assert raw.rows() == [
        ("Video_Games.jsonl.gz", 1, json.dumps(REVIEWS[0])[:20] + " …"),
        ("meta_Video_Games.jsonl.gz", 1, json.dumps(ITEMS[0])[:20] + " …"),
    ]


def test_with_a_k_core_only_items_with_reviews_are_kept_in_memory(tmp_path):
    folder = lay(tmp_path / "d", REVIEWS, [*ITEMS, meta("never", "Never bought")])
    assert len(sources.load(data(folder)).items) == 5
    found = sources.load(data(folder, min_interactions=1))
    assert found.items["source_id"].to_list() == list("abcd")
    assert found.facts["items_in_metadata"] == 5


def test_what_is_no_review_is_counted_by_reason(tmp_path):
    bad = [
        "oops",
        "",
        "[1, 2]",
        {"user_id": "u", "parent_asin": "a"},
        review("u", "a", "soon"),
        review("u", "a", 0),
        review("u", "a", -5),
    ]
    bad += [review("u", "a", None), review(["u"], "a", 5), review("\ud800", "a", 5)]
    found = sources.load(data(lay(tmp_path / "d", bad[:2] + REVIEWS + bad[2:], ITEMS)))
    assert {(step, n) for step, n, _ in found.dropped} == {
        ("not JSON", 2),
        ("missing field", 2),
        ("wrong type", 3),
        ("time not positive", 2),
    }
    assert len(found.events) == len(REVIEWS)
    steps = cleaning.build_corpus(found, data(tmp_path)).facts["cleaning"]
    assert steps[0]["rows_before"] == len(REVIEWS) + 9
    assert "line 1: oops" in next(s["why"] for s in steps if s["step"] == "not JSON")


def test_metadata_is_read_as_tolerantly(tmp_path):
    items = [*ITEMS[:2], "{", meta("c", "half \ud800 a pair"), meta("d", ["a list"]), meta("a", "again"), meta("e", None)]
    found = sources.load(data(lay(tmp_path / "d", REVIEWS, items)))
    assert found.items.select("source_id", "title").rows() == [
        ("a", "Card a"),
        ("b", "Card b"),
        ("c", "half � a pair"),
        ("d", None),
        ("e", None),
    ]
    assert found.facts["metadata_lines_left_out"] == {"not JSON": 1}
    assert found.facts["titles_with_replaced_characters"] == 1
    assert found.facts["item_rows_dropped"] == (
        "1 rows of meta_Gift_Cards.jsonl.gz: {'not JSON': 1}; 1 rows with no id or an id seen before"
    )


def test_right_to_left_titles_come_through_and_ids_with_breaks_are_counted(tmp_path):
    reviews = [review(u, i, k + 1) for u in ("u", "v\n\t1") for k, i in enumerate("abc")]
    found = sources.load(data(lay(tmp_path / "d", reviews, [meta("a", "שלום  עולם"), *ITEMS[1:]])))
    assert found.dropped == [("odd ids", 3, "a newline, tab or other control character in an id")]
    corpus = cleaning.build_corpus(found, data(tmp_path))
    assert corpus.titles[0] == "שלום עולם"
    assert corpus.users["source_id"].to_list() == ["u"]


def test_a_text_template_brings_its_columns(tmp_path):
    items = [*ITEMS[:3], meta("d", "Card d", store=None, categories=[], description="plain text " * 600)]
    folder = lay(tmp_path / "d", REVIEWS, items)
    template = "{title}, {brand} ({category}). {description}"
    settings = data(folder, text=template)
    found = sources.load(settings)
    assert found.items.columns == ["source_id", "title", "domain", "brand", "category", "description"]
    assert {*amazon.FIELDS} == {*found.items.columns} - {"source_id"}
    assert found.items.row(3)[3:5] == (None, "Gift Cards")
    assert len(found.items.row(3)[5].split()) == amazon.WORDS_KEPT
    corpus = cleaning.build_corpus(found, settings)
    assert corpus.titles[0] == "Card a, Shop (Gifts, Cards). One card. For you."
    assert corpus.items["plain_title"].to_list() == [f"Card {c}" for c in "abcd"]


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"data_path is empty.*raw/review_categories/<Category>\.jsonl\.gz.*data_download"):
        sources.load(Data(source="amazon"))
    with pytest.raises(ValueError, match=r"nowhere does not exist.*review_categories/Video_Games\.jsonl\.gz"):
        sources.load(data(tmp_path / "nowhere", category="games"))
    folder = lay(tmp_path / "d", REVIEWS, ITEMS)
    with pytest.raises(ValueError, match=r"The reviews of Baby_Products are missing.*holds \['Gift_Cards\.jsonl\.gz'"):
        sources.load(data(folder, category="baby"))
    (folder / "meta_Gift_Cards.jsonl.gz").unlink()
    with pytest.raises(ValueError, match=r"metadata of Gift_Cards are missing: none of \['meta_Gift_Cards\.jsonl\.gz'"):
        sources.load(data(folder, category="Gift_Cards"))
    with pytest.raises(ValueError, match=r"Say which by data_category"):
        sources.load(data(folder))


def test_what_is_no_amazon_file_is_named(tmp_path):
    folder = lay(tmp_path / "d", ["user,item", "1,2"], ITEMS)
    with pytest.raises(
        ValueError, match=r"none of its first 2 lines is a review.*user_id, parent_asin, timestamp \(2023\) or"
    ):
        sources.load(data(folder))
    with pytest.raises(ValueError, match=r"Gift_Cards\.jsonl\.gz is empty"):
        sources.load(data(lay(tmp_path / "d", [], ITEMS)))
    with pytest.raises(ValueError, match=r"meta_Gift_Cards\.jsonl\.gz is empty"):
        sources.load(data(lay(tmp_path / "d", REVIEWS, [])))
    with pytest.raises(ValueError, match=r"none of its 1 lines is an item with parent_asin"):
        sources.load(data(lay(tmp_path / "d", REVIEWS, [{"asin": "a"}])))
    whole = (lay(tmp_path / "d", REVIEWS, ITEMS) / "Gift_Cards.jsonl.gz").read_bytes()
    (folder / "Gift_Cards.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"ends in the middle of its gzip stream"):
        sources.load(data(folder))


def test_download_fetches_what_the_paper_used_by_its_short_name(tmp_path, monkeypatch, capsys):
    asked = []

    def fetch(url: str, folder: Path) -> Path:
        asked.append(url)
        folder.mkdir(exist_ok=True)
        return (lay(tmp_path / "server", REVIEWS, ITEMS, "Video_Games") / url.rsplit("/", 1)[1]).rename(
            folder / url.rsplit("/", 1)[1]
        )

    monkeypatch.setitem(sys.modules, "llm2rec_kit.data.sources.downloads", types.SimpleNamespace(fetch=fetch))
    monkeypatch.delattr(sources, "downloads", raising=False)
    found = sources.load(data(tmp_path / "d", category="games", download=True))
    assert [u.split("/raw/")[1] for u in asked] == [
        "review_categories/Video_Games.jsonl.gz",
        "meta_categories/meta_Video_Games.jsonl.gz",
    ]
    assert len(found.events) == len(REVIEWS)
    assert "Video_Games: 4.6M reviews by 2.8M users of 137.2K items" in capsys.readouterr().out
    (tmp_path / "d" / "meta_Video_Games.jsonl.gz").unlink()
    (tmp_path / "d" / "Video_Games.jsonl.gz").rename(tmp_path / "d" / "Video_Games.json.gz")  # what is there stays
    sources.load(data(tmp_path / "d", category="games", download=True))
    assert len(asked) == 3
    with pytest.raises(
        ValueError, match=r"Unknown category of Amazon Reviews 2023 'Video_Game'\. Did you mean 'Video_Games'"
    ):
        sources.load(data(tmp_path / "d", category="Video_Game", download=True))
    with pytest.raises(ValueError, match="data_download needs data_path"):
        sources.load(data(tmp_path / "d", download=True))


def test_the_table_of_what_is_published():
    table = amazon.read_published()
    assert len(table["categories"]) == 34
    assert set(table["short_names"].values()) <= set(table["categories"])
    assert all(len(counts) == 3 for counts in table["categories"].values())
    assert amazon.expand_name("tools") == "Tools_and_Home_Improvement"


users, items_, times = st.sampled_from("uvw"), st.sampled_from("abcdx"), st.sampled_from([-1, 0, 1, 2, 3, None, "x", 5.5])


@given(
    st.lists(st.one_of(st.builds(review, users, items_, times), st.sampled_from(["", "{", "[]"])), max_size=40),
    st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_every_line_ends_in_the_corpus_or_in_the_table_of_steps(tmp_path_factory, rows, k):
    folder = lay(tmp_path_factory.mktemp("fuzz") / "d", [review("u", "a", 1), *rows], ITEMS)
    chosen = data(folder, min_interactions=k)
    try:
        corpus = cleaning.build_corpus(sources.load(chosen), chosen)
    except ValueError as error:
        if "Nothing is left after the cleaning step" not in str(error):
            raise
        return
    steps = corpus.check().facts["cleaning"]
    assert steps[0]["rows_before"] == 1 + sum(1 for r in rows if r)
    assert steps[-1]["rows_before"] - steps[-1]["rows_dropped"] == len(corpus.sequence)
    for before, after in itertools.pairwise(steps):
        assert before["rows_before"] - before["rows_dropped"] == after["rows_before"]


@real
def test_the_real_gift_cards_are_the_same_corpus_in_either_edition(tmp_path):
    for name, target in (("derived_Gift_Cards", "Gift_Cards"), ("derived_meta_Gift_Cards", "meta_Gift_Cards")):
        (tmp_path / f"{target}.jsonl").symlink_to(REAL / "raw_amazon_2023" / f"{name}.jsonl")
    new = data(tmp_path, min_interactions=5, title_rules="released")
    old = data(REAL / "raw_amazon_2018", min_interactions=5, title_rules="released")
    one, two = (cleaning.build_corpus(sources.load(d), d) for d in (new, old))
    assert one.items.equals(two.items)
    assert one.users.equals(two.users)
    assert one.sequence.tolist() == two.sequence.tolist()
    assert one.times.tolist() == two.times.tolist()
    steps = {s["step"]: s for s in one.facts["cleaning"]}
    assert steps["title rules"]["rows_before"] + steps["unknown items"]["rows_dropped"] == 2972


@real
def test_the_real_lines_of_2023_are_all_reviews(tmp_path):
    for name, target in (("reviews_real_sample", "Some"), ("meta_real_sample", "meta_Some")):
        (tmp_path / f"{target}.jsonl").symlink_to(REAL / "raw_amazon_2023" / f"{name}.jsonl")
    found = sources.load(data(tmp_path))
    assert (len(found.events), len(found.items), found.dropped) == (12, 5, [])
