"""The explorer's Python side: what it hands to the browser, what it answers, and the page that needs no kernel."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import zlib

import numpy as np
import polars as pl
import pytest
import small_atlas
import torch
import traitlets

from llm2rec_kit import backbone
from llm2rec_kit.corpus import TEST
from llm2rec_kit.encoder import AS_SAVED, Encoder, key, variant
from llm2rec_kit.maps import explorer
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding


@pytest.fixture
def atlas():
    return small_atlas.atlas()


@pytest.fixture
def view(atlas):
    return explorer.Explorer(atlas, encode=lambda text: {s: t[len(text)] for s, t in atlas.tables.items()})


def test_positions_titles_and_columns_are_the_atlas_s(atlas):
    data = explorer.contents(atlas, encodes=False)
    assert data["n"] == 40
    assert zlib.decompress(data["titles"]).decode().split("\n") == atlas.corpus.titles
    corner, side = explorer._box(atlas)
    for stage in data["stages"]:
        places = np.frombuffer(stage["xy"], np.uint16).reshape(-1, 2) / 65535 * side + corner
        np.testing.assert_allclose(places, atlas.aligned[stage["name"]], atol=side / 60000)
    columns = {c["name"]: c for c in data["columns"]}
    assert list(columns) == ["cluster", "community", "popularity", "domain"]
    numbers = np.frombuffer(columns["popularity"]["values"], np.float32)
    assert numbers.tolist() == atlas.items["popularity"].to_list()
    codes = np.frombuffer(columns["cluster"]["values"], np.int16)
    assert [columns["cluster"]["names"][k] for k in codes] == [atlas.words["cluster"][g] for g in atlas.items["cluster"]]


def test_numbers_of_items_are_offered_for_colouring_each_on_its_scale_and_gaps_stay_gaps(atlas):
    year = pl.Series([None, *range(1981, 2020)], dtype=pl.Int64)
    sold = pl.Series([0.5] * 39 + [90.0])
    items = atlas.items.with_columns(year=year, sold=sold, nothing=pl.lit(None, dtype=pl.Float64))
    columns = explorer.contents(explorer.Atlas(**{**vars(atlas), "items": items}), encodes=False)["columns"]
    found = {c["name"]: c for c in columns}
    assert [(found[name]["scale"], found[name]["low"], found[name]["high"]) for name in ("year", "sold", "nothing")] == [
        ("linear", 1981.0, 2019.0),
        ("log", 0.5, 90.0),
        ("linear", 0.0, 0.0),
    ]
    assert found["popularity"]["scale"] == "log"
    values = np.frombuffer(found["year"]["values"], np.float32)
    assert np.isnan(values[0])
    assert values[1:].tolist() == year[1:].to_list()


def test_a_line_break_in_a_title_does_not_shift_the_others(atlas):
    broken = atlas.items.with_columns(title=pl.lit("two\nlines"))
    data = explorer.contents(explorer.Atlas(**{**vars(atlas), "items": broken}), encodes=False)
    assert zlib.decompress(data["titles"]).decode().split("\n") == ["two lines"] * 40


def test_choosing_an_item_is_answered_with_its_neighbours(view, atlas):
    assert view.nearest.is_empty()
    view.item = 5
    view.count = 3
    near = atlas.nearest(5, 3)
    assert view.nearest.equals(near)
    assert view.neighbours["item"] == 5
    told = view.neighbours["stages"]["csft"]
    assert [row[0] for row in told] == near.filter(stage="csft")["item"].to_list()
    assert [row[2] for row in told] == near.filter(stage="csft")["before"].to_list()
    assert {row[2] for row in view.neighbours["stages"]["raw"]} == {0}


def test_a_lasso_is_a_data_frame(view, atlas):
    view.selected = [7, 2, 40]
    assert view.selection["item"].to_list() == [2, 7, 40]
    assert view.selection.columns == atlas.items.columns


def test_a_text_is_placed_among_its_neighbours_at_each_stage(view, atlas):
    view.text = "abc"  # whose embedding is item 3's
    assert view.placed["near"] == dict.fromkeys(atlas.stages, 3)
    corner, side = explorer._box(atlas)
    np.testing.assert_allclose(np.array(view.placed["at"]["raw"]) * side + corner, atlas.aligned["raw"][2], atol=1e-4)
    view.text = " "
    assert view.placed == {}


def test_a_text_between_two_items_stands_between_their_places(atlas):
    vector = atlas.tables["raw"][3] + atlas.tables["raw"][9]
    ids, distances = explorer.projection.nearest(vector[None], 2, among=atlas.tables["raw"][1:])
    gap = distances[0] - distances[0, 0]
    weight = np.exp(-gap / gap.mean())
    expected = sum(w * atlas.aligned["raw"][i] for w, i in zip(weight, ids[0], strict=True)) / weight.sum()
    corner, side = explorer._box(atlas)
    placed = explorer.place(atlas, "t", {"raw": vector}, k=2)
    np.testing.assert_allclose(np.array(placed["at"]["raw"]) * side + corner, expected, atol=1e-4)
    assert placed["near"] == {"raw": ids[0, 0] + 1}


def test_a_text_that_cannot_be_encoded_is_said_and_not_raised(atlas):
    def fails(text):
        raise ValueError("has no token")

    view = explorer.Explorer(atlas, encode=fails)
    view.text = "?"
    assert view.message == "could not place the text: has no token"


@pytest.fixture
def kinds(tmp_path, tiny, atlas):
    """A run with a table of each kind, as notebooks 03 and 04 leave them, and an atlas over them; `other` is a baseline."""
    run, corpus, tables = Run("r", tmp_path), atlas.corpus, {}
    model, tokenizer = tiny
    run.make("contrastive", lambda f: backbone.save(model, tokenizer, f), settings={}, quiet=True)
    model.model.norm.weight.data.mul_(torch.linspace(0.1, 3, 32))
    Encoder(model, tokenizer, Encoding(pooling="last")).save(tmp_path / "other")

    def embed(name, encoder, how, inputs=(), **settings):
        tables[name] = Encoder.load(run.require(encoder) if inputs else encoder, how).table(corpus.titles)
        settings |= key(how, Backbone(device="cpu"), str(encoder))
        record = {"encoder": str(encoder), "pooling": how.pooling}
        run.make(f"embeddings/{name}", lambda f: record, settings=settings, inputs=inputs, quiet=True)

    embed("contrastive", "contrastive", Encoding(), ["contrastive"])
    embed(name := "contrastive-last-causal", "contrastive", variant(name, Encoding())[1], ["contrastive"])
    embed("other", tmp_path / "other", AS_SAVED, **backbone.contents(tmp_path / "other"))
    run.make("embeddings/minilm", lambda f: {"encoder": "all-MiniLM-L6-v2"}, settings={}, quiet=True)
    tables |= {"minilm": atlas.tables["raw"], "adapted": atlas.tables["csft"]}
    planes = dict.fromkeys(tables, atlas.aligned["raw"])
    quality = {"stages": [{"stage": s, "kept_aligned": 0.5} for s in tables], "clusters_of": "contrastive"}
    return run, dataclasses.replace(atlas, tables=tables, aligned=planes, own=planes, quality=quality)


def test_a_text_is_placed_by_whatever_made_each_table_and_the_rest_is_said(kinds):
    run, atlas = kinds
    tables = list(atlas.tables.values())[:3]
    assert not any(np.allclose(a, b, atol=0.01) for a, b in itertools.combinations(tables, 2))
    encode = explorer.encoders(run, atlas.stages)
    title = atlas.corpus.titles[8]
    for stage, vector in list(encode(title).items())[:3]:
        np.testing.assert_allclose(vector, atlas.tables[stage][9], atol=1e-5)
    placed = explorer.place(atlas, title, encode(title))
    assert placed["near"] == {"contrastive": 9, "contrastive-last-causal": 9, "other": 9} == dict.fromkeys(placed["at"], 9)
    assert list(placed["without"]) == ["minilm", "adapted"]
    assert placed["without"]["minilm"] == "its table does not say how titles were read"
    assert "adapter" in placed["without"]["adapted"]


def test_an_encoder_that_is_gone_or_another_by_now_is_said(kinds, tmp_path, tiny):
    run, atlas = kinds
    (tmp_path / "other" / "llm2rec.json").write_text("{}")
    found = explorer.encoders(run, ["other"])("a text")
    assert found["other"].endswith("other is not what it was when its table was made")
    tiny[0].model.norm.weight.data.mul_(2)
    run.make("contrastive", lambda f: backbone.save(*tiny, f), settings={"again": True}, quiet=True)
    assert "not what it was" in explorer.encoders(run, ["contrastive"])("a text")["contrastive"]
    run.forget("contrastive")
    view = explorer.Explorer(atlas, encode=explorer.encoders(run, atlas.stages))
    view.text = "a text"
    assert "has no 'contrastive' yet" in view.placed["without"]["contrastive"]
    assert (view.message, view.placed["near"]) == ("", {})


def test_a_user_is_a_path_a_target_and_recommendations(view, atlas):
    corpus = atlas.corpus
    view.user = 4
    target = corpus.targets[(corpus.owners(corpus.targets) == 4) & (corpus.splits == TEST)][0]
    history = corpus.history(target).tolist()
    assert view.path["history"] == history
    assert view.path["target"] == corpus.sequence[target]
    order = [i for i in atlas.nearest(history[-1], 39).filter(stage="raw")["item"] if i not in history]
    assert view.path["recommended"]["raw"] == order[:10]
    view.user = -1
    assert view.path == {}


def test_a_recommender_may_be_given(atlas):
    view = explorer.Explorer(atlas, recommend=lambda history: [history[0], 9])
    view.user = 0
    assert view.path["recommended"]["csft"] == [view.path["history"][0], 9]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("item", 41, "1 to 40; found 41"), ("shown", ["nope"], "there are"), ("user", 40, "0 to 39"), ("count", 0, "0")],
)
def test_what_does_not_exist_is_refused(view, name, value, says):
    with pytest.raises(traitlets.TraitError, match=says):
        setattr(view, name, value)


def test_the_static_twin_follows_the_choice(view):
    assert view.figure().axes[0].get_title().startswith("raw, ")
    view.item = 5
    assert "its 8 nearest" in " ".join(view.figure().texts[0].get_text().split())


def known_of(page):
    text = re.search(r'<script type="application/json" id="known">(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def test_a_page_carries_all_answers_and_asks_nobody(atlas):
    page = explorer.page(atlas, "run <b>&")
    assert "<title>run &lt;b&gt;&amp;</title>" in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\(", page)
    assert "export default" not in page
    known = known_of(page)
    near = known["near"]["csft"]
    ids = np.frombuffer(base64.b64decode(near["ids"]["base64"]), np.int32).reshape(40, near["k"])
    cosines = np.frombuffer(base64.b64decode(near["cosines"]["base64"]), np.uint8).reshape(40, near["k"]) / 127.5 - 1
    expected = atlas.nearest(6, near["k"]).filter(stage="csft")
    assert ids[5].tolist() == expected["item"].to_list()
    np.testing.assert_allclose(cosines[5], expected["cosine"], atol=0.01)
    view = explorer.Explorer(atlas)
    view.user = 3
    assert list(known["paths"]) == [str(u) for u in range(40)]
    assert known["paths"]["3"]["history"] == view.path["history"]
    assert known["state"]["data"]["encodes"] is False


def test_a_page_s_users_keep_the_corpus_s_numbers(atlas, monkeypatch):
    monkeypatch.setattr(explorer, "PAGE_USERS", 7)
    known = known_of(explorer.page(atlas, "t"))
    data, carried = known["state"]["data"], known["state"]["data"]["carried"]
    assert (data["users"], len(carried)) == (40, 7)
    assert carried == sorted(set(carried)) != list(range(7))
    assert list(known["paths"]) == [str(u) for u in carried]
    view = explorer.Explorer(atlas)
    assert view.data["carried"] is None
    for user in carried:
        view.user = user
        assert known["paths"][str(user)]["history"] == view.path["history"]
        assert known["paths"][str(user)]["target"] == view.path["target"]


@pytest.mark.parametrize(
    "word",
    ["</script><b>", "<!--", "<!-- <script>", "/*EXPLORER*/", "/*STATE*/", "<!--TITLE-->", "base64,no", "\\1", "\\u003c"],
)
def test_words_of_the_data_are_data_in_the_page(atlas, word):
    plain = explorer.page(atlas, "t")
    odd = atlas.items.with_columns(domain=pl.lit(word))
    page = explorer.page(explorer.Atlas(**{**vars(atlas), "items": odd}), "t")
    assert known_of(page)["state"]["data"]["columns"][-1]["names"] == [word]
    assert re.findall("<[!a-z/][^>]*>", page) == re.findall("<[!a-z/][^>]*>", plain)  # no tag more, none less
    assert known_of(explorer.page(atlas, word)) == known_of(plain)
