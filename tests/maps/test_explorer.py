"""The explorer's Python side: what it hands to the browser, what it answers, and the page that needs no kernel."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import subprocess
import sys
import zlib

import numpy as np
import polars as pl
import pytest
import small_atlas
import torch
import traitlets

from llm2rec_kit.corpus import TEST
from llm2rec_kit.downstream import saved_recommender
from llm2rec_kit.encoding.encoder import AS_SAVED, Encoder, list_settings, parse_variant
from llm2rec_kit.maps import projection
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding
from llm2rec_kit.widgets import explorer, explorer_page
from llm2rec_kit.widgets import explorer_answers as answers


@pytest.fixture
def atlas():
    return small_atlas.atlas()


@pytest.fixture
def view(atlas):
    return explorer.Explorer(atlas, encode=lambda text: {s: t[len(text)] for s, t in atlas.tables.items()})


def test_positions_titles_and_columns_are_the_atlas_s(atlas):
    data = explorer_page.make_contents(atlas, encodes=False)
    assert data["n"] == 40
    assert zlib.decompress(data["titles"]).decode().split("\n") == atlas.corpus.titles
    corner, side = answers.find_box(atlas)
    for stage in data["stages"]:
        places = np.frombuffer(stage["xy"], np.uint16).reshape(-1, 2) / 65535 * side + corner
        np.testing.assert_allclose(places, atlas.aligned[stage["name"]], atol=side / 60000)
    columns = {c["name"]: c for c in data["columns"]}
    assert list(columns) == ["cluster", "community", "popularity", "domain"]
    numbers = np.frombuffer(columns["popularity"]["values"], np.float32)
    assert numbers.tolist() == atlas.items["popularity"].to_list()
    codes = np.frombuffer(columns["cluster"]["values"], np.int32)
    assert [columns["cluster"]["names"][k] for k in codes] == [atlas.words["cluster"][g] for g in atlas.items["cluster"]]


def test_groups_past_24_keep_their_names(atlas):
    held = pl.Series([*(k % 30 for k in range(37)), -1, -1, -1], dtype=pl.Int32)
    words = atlas.words | {"community": {k: f"group {k}" for k in range(30)}}
    many = dataclasses.replace(atlas, items=atlas.items.with_columns(community=held), words=words)
    columns = {c["name"]: c for c in explorer_page.make_contents(many, encodes=False)["columns"]}
    found = columns["community"]
    assert (found["drawn"], found["names"], found["rest"]) == (24, list(words["community"].values()), "none")
    assert np.frombuffer(found["values"], np.int32).tolist() == held.to_list()


def test_numbers_of_items_are_offered_for_colouring_each_on_its_scale_and_gaps_stay_gaps(atlas):
    year = pl.Series([None, *range(1981, 2020)], dtype=pl.Int64)
    sold = pl.Series([0.5] * 39 + [90.0])
    items = atlas.items.with_columns(year=year, sold=sold, nothing=pl.lit(None, dtype=pl.Float64))
    columns = explorer_page.make_contents(dataclasses.replace(atlas, items=items), encodes=False)["columns"]
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
    data = explorer_page.make_contents(dataclasses.replace(atlas, items=broken), encodes=False)
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
    assert view.placed["nearest"]["raw"][0] == [3, pytest.approx(1, abs=1e-6)]
    others = atlas.nearest(3, 9).filter(stage="csft")
    assert [i for i, _ in view.placed["nearest"]["csft"][1:]] == others["item"].to_list()
    assert [c for _, c in view.placed["nearest"]["csft"][1:]] == pytest.approx(others["cosine"].to_list(), abs=1e-6)
    assert view.placed["far"] == {}
    assert view.placed["near"] == dict.fromkeys(atlas.stages, 3)
    corner, side = answers.find_box(atlas)
    np.testing.assert_allclose(np.array(view.placed["at"]["raw"]) * side + corner, atlas.aligned["raw"][2], atol=1e-4)
    view.text = " "
    assert view.placed == {}


def test_a_text_between_two_items_stands_between_their_places(atlas):
    vector = atlas.tables["raw"][3] + atlas.tables["raw"][9]
    ids, distances = projection.find_nearest(vector[None], 2, among=atlas.tables["raw"][1:])
    gap = distances[0] - distances[0, 0]
    weight = np.exp(-gap / gap.mean())
    expected = sum(w * atlas.aligned["raw"][i] for w, i in zip(weight, ids[0], strict=True)) / weight.sum()
    corner, side = answers.find_box(atlas)
    placed = answers.place(atlas, "t", {"raw": vector}, k=2)
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
    run.make("corpus", corpus.save, settings={"text": "{title}"}, quiet=True)
    run.make("contrastive", lambda f: backbone.save(model, tokenizer, f), settings={}, quiet=True)
    model.model.norm.weight.data.mul_(torch.linspace(0.1, 3, 32))
    Encoder(model, tokenizer, Encoding(pooling="last")).save(tmp_path / "other")

    def embed(name, encoder, how, inputs=(), **settings):
        tables[name] = Encoder.load(run.require(encoder) if inputs else encoder, how).table(corpus.titles)
        settings |= list_settings(how, Backbone(device="cpu"), str(encoder))
        record = {"encoder": str(encoder), "pooling": how.pooling}
        run.make(f"embeddings/{name}", lambda f: record, settings=settings, inputs=inputs, quiet=True)

    embed("contrastive", "contrastive", Encoding(), ["contrastive"])
    embed(name := "contrastive-last-causal", "contrastive", parse_variant(name, Encoding())[1], ["contrastive"])
    embed("other", tmp_path / "other", AS_SAVED, **backbone.hash_contents(tmp_path / "other"))
    run.make("embeddings/minilm", lambda f: {"encoder": "all-MiniLM-L6-v2"}, settings={}, quiet=True)
    tables |= {"minilm": atlas.tables["raw"], "adapted": atlas.tables["csft"]}
    planes = dict.fromkeys(tables, atlas.aligned["raw"])
    quality = {"stages": [{"stage": s, "kept_aligned": 0.5} for s in tables], "clusters_of": "contrastive"}
    return run, dataclasses.replace(atlas, tables=tables, aligned=planes, own=planes, quality=quality)


def test_a_text_is_placed_by_whatever_made_each_table_and_the_rest_is_said(kinds):
    run, atlas = kinds
    tables = list(atlas.tables.values())[:3]
    assert not any(np.allclose(a, b, atol=0.01) for a, b in itertools.combinations(tables, 2))
    encode = explorer.make_encoders(run, atlas.stages)
    title = atlas.corpus.titles[8]
    for stage, vector in list(encode(title).items())[:3]:
        np.testing.assert_allclose(vector, atlas.tables[stage][9], atol=1e-5)
    placed = answers.place(atlas, title, encode(title))
    assert placed["near"] == {"contrastive": 9, "contrastive-last-causal": 9, "other": 9} == dict.fromkeys(placed["at"], 9)
    assert list(placed["without"]) == ["minilm", "adapted"]
    assert placed["without"]["minilm"].startswith("The encoder of embedding 'minilm' is all-MiniLM-L6-v2, which is not")
    assert "adapter" in placed["without"]["adapted"]


def test_a_text_is_prepared_as_the_titles_were(kinds):
    run, atlas = kinds
    expected = explorer.make_encoders(run, ["contrastive"])("Item: Iron & Vale")["contrastive"]
    run.make("corpus", atlas.corpus.save, settings={"text": "Item: {title} {brand}"}, quiet=True)
    found = explorer.make_encoders(run, ["contrastive"])("Iron &amp;  Vale")["contrastive"]
    np.testing.assert_array_equal(found, expected)


def test_a_text_is_encoded_where_and_in_the_type_that_its_table_was(kinds):
    run, atlas = kinds
    place = Backbone(device="cpu", dtype="bfloat16")
    table = Encoder.load(run.require("contrastive"), Encoding(), place).table(atlas.corpus.titles)
    settings = list_settings(Encoding(), place, "contrastive")
    record = {"encoder": "contrastive", "pooling": "mean"}
    run.make("embeddings/low", lambda f: record, settings=settings, inputs=["contrastive"], quiet=True)
    found = explorer.make_encoders(run, ["low"])(atlas.corpus.titles[8])["low"]
    np.testing.assert_array_equal(
        found, Encoder.load(run.require("contrastive"), Encoding(), place).encode(atlas.corpus.titles[8:9])[0]
    )
    assert not np.array_equal(found, atlas.tables["contrastive"][9])
    np.testing.assert_allclose(found, table[9], atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is there")
def test_a_text_is_encoded_here_where_the_device_of_its_table_is_not(kinds):
    run, atlas = kinds
    record = {"encoder": "contrastive", "pooling": "mean"}
    for name, more in (("gpu", {"device": "cuda"}), ("attributes", {"text": "attributes"})):
        settings = list_settings(Encoding(), Backbone(), "contrastive") | more
        run.make(f"embeddings/{name}", lambda f: record, settings=settings, inputs=["contrastive"], quiet=True)
    found = explorer.make_encoders(run, ["gpu", "attributes"])(atlas.corpus.titles[8])
    np.testing.assert_allclose(found["gpu"], atlas.tables["contrastive"][9], atol=1e-5)
    assert "was made of the items' attributes, not of their titles" in found["attributes"]


def test_no_model_is_read_before_a_text_is_placed(kinds):
    run, _ = kinds
    code = (
        "import sys\nfrom pathlib import Path\nfrom llm2rec_kit.runs import Run\nfrom llm2rec_kit.widgets import explorer\n"
        "explorer.make_encoders(Run(sys.argv[1], Path(sys.argv[2])), ['contrastive'])\nprint('transformers' in sys.modules)"
    )
    words = [sys.executable, "-c", code, run.name, str(run.path.parent)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


def test_an_encoder_that_is_gone_or_another_by_now_is_said(kinds, tmp_path, tiny):
    run, atlas = kinds
    (tmp_path / "other" / "llm2rec.json").write_text("{}")
    found = explorer.make_encoders(run, ["other"])("a text")
    assert found["other"].endswith("other is not what it was when its table was made")
    tiny[0].model.norm.weight.data.mul_(2)
    run.make("contrastive", lambda f: backbone.save(*tiny, f), settings={"again": True}, quiet=True)
    assert "not what it was" in explorer.make_encoders(run, ["contrastive"])("a text")["contrastive"]
    run.forget("contrastive")
    view = explorer.Explorer(atlas, encode=explorer.make_encoders(run, atlas.stages))
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


def test_what_came_next_has_a_rank_at_each_stage(view, atlas):
    for user in range(12):
        view.user = user
        history, target = view.path["history"], view.path["target"]
        for stage in atlas.stages:
            order = [i for i in atlas.nearest(history[-1], 39).filter(stage=stage)["item"] if i not in history]
            assert view.path["ranks"][stage] == (order.index(target) + 1 if target in order else 0)


def test_a_user_is_found_by_the_source_s_own_id_and_an_unknown_one_is_said(atlas):
    corpus = dataclasses.replace(
        atlas.corpus, users=atlas.corpus.users.with_columns(source_id=pl.Series([f"u{39 - k}" for k in range(40)]))
    )
    view = explorer.Explorer(dataclasses.replace(atlas, corpus=corpus))
    view.who = "u4"
    assert (view.user, view.path["user"], view.path["id"]) == (35, 35, "u4")
    view.who = "7"  # no id reads so
    assert view.path["id"] == "u32"
    view.who = "u99"
    assert (view.user, view.path) == (-1, {})
    assert view.message == "There is no user “u99” among 40."
    view.who = ""
    assert view.message == ""
    assert answers.find_user(corpus, "40") == answers.find_user(corpus, "-1") == -1
    digits = dataclasses.replace(
        corpus, users=corpus.users.with_columns(source_id=pl.Series([str(k + 1) for k in range(40)]))
    )
    assert answers.find_user(digits, "7") == 6  # the source's own id comes first


def test_users_of_one_id_are_told_apart_by_their_domain(atlas):
    two = pl.Series(["both" if k in (3, 9) else f"u{k}" for k in range(40)])
    domains = pl.Series(["games" if k < 7 else "movies" for k in range(40)])
    corpus = dataclasses.replace(atlas.corpus, users=atlas.corpus.users.with_columns(source_id=two, domain=domains))
    assert [answers.name_user(corpus, user) for user in (3, 9, 10)] == ["both@games", "both@movies", "u10"]
    assert [answers.find_user(corpus, who) for who in ("both@games", "both@movies", "both", "u10")] == [3, 9, 3, 10]
    assert answers.find_path(dataclasses.replace(atlas, corpus=corpus), 9)["id"] == "both@movies"
    own = pl.Series("source_id", ["both@movies" if k == 20 else name for k, name in enumerate(two)])
    corpus = dataclasses.replace(corpus, users=corpus.users.with_columns(own))
    assert answers.find_user(corpus, "both@movies") == 20  # an id of the source's comes first


def test_a_recommender_that_fails_is_said_and_leaves_no_path_of_another_user(atlas):
    def recommend(history):
        if failing:
            raise ValueError("its weights are damaged")
        return [1, 2]

    failing, view = [], explorer.Explorer(atlas, recommend=recommend)
    view.user = 4
    assert view.path["user"] == 4
    failing.append(True)
    view.user = 5
    assert view.path == {}
    assert view.message == "could not recommend: its weights are damaged"


def test_a_text_far_from_everything_is_said_to_be(atlas):
    usual = answers.compute_usual_cosines(atlas)
    nearest = [atlas.nearest(i, 1).filter(stage="raw")["cosine"][0] for i in range(1, 41)]
    assert usual["raw"] == pytest.approx(np.percentile(nearest, 5), abs=1e-5)
    away = {"raw": -atlas.tables["raw"][1:].mean(0), "csft": atlas.tables["csft"][3]}
    placed = answers.place(atlas, "t", away, usual={**usual, "raw": 1.01})
    assert placed["far"] == {"raw": 1.01}
    assert answers.place(atlas, "t", away)["far"] == {}


def test_two_tables_are_compared_item_by_item(view, atlas):
    assert view.changed.is_empty()
    view.compared = ["raw", "contrastive"]
    lost = np.frombuffer(view.difference["changed"], np.uint8)
    for item in (1, 7, 40):
        first, second = (set(atlas.nearest(item, 10).filter(stage=s)["item"]) for s in view.compared)
        assert lost[item - 1] == len(first - second)
    assert view.message == ""
    table = view.changed
    assert table["changed"].is_sorted(descending=True)
    assert table.filter(item=7)["changed"][0] == pytest.approx(lost[6] / 10)
    view.colour = "changed, raw → contrastive"  # a column of the browser's alone
    assert view.figure().axes
    view.compared = []
    assert view.difference == {}


def test_rarer_values_of_a_column_keep_their_names_and_gaps_stay_gaps(atlas):
    kinds = [f"kind {k % 4:02}" for k in range(38)] + ["kind 97", None]
    few = dataclasses.replace(
        atlas, items=atlas.items.with_columns(domain=pl.Series(kinds), price=pl.Series([None, *range(39)]))
    )
    columns = {c["name"]: c for c in explorer_page.make_contents(few, encodes=False)["columns"]}
    prices = np.frombuffer(columns["price"]["values"], np.float32)
    assert np.isnan(prices[0])
    assert (columns["price"]["low"], columns["price"]["high"]) == (0, 38)
    many = dataclasses.replace(
        atlas, items=atlas.items.with_columns(domain=pl.Series([f"d{k:02}" for k in range(39)] + [None]))
    )
    column = next(c for c in explorer_page.make_contents(many, encodes=False)["columns"] if c["name"] == "domain")
    codes = np.frombuffer(column["values"], np.int32)
    assert (column["drawn"], len(column["names"])) == (24, 39)
    assert [column["names"][k] for k in codes[:39]] == many.items["domain"].to_list()[:39]
    assert codes[39] == -1


def test_the_program_is_one_module_without_names_twice():
    program = explorer_page.read_program()
    assert program.count("export ") == 1
    assert not re.search(r"^import ", program, re.M)
    both = program + (explorer_page.STATIC / "page_host.js").read_text()
    declared = re.findall(r"^(?:async )?(?:const|let|class|function\*?) (.*)", both, re.M)
    names = [name for line in declared for name in re.findall(r"^\w+|(?<=, )[A-Z_]+(?= = )", line)]
    assert len(names) == len(set(names)) > 60
    assert {f.stem for f in explorer_page.STATIC.glob("*.js")} == {*explorer_page.MODULES, "page_host"}


def test_a_recommender_may_be_given(atlas):
    view = explorer.Explorer(atlas, recommend=lambda history: [history[0], 9])
    view.user = 0
    assert view.path["starred"] == (
        2 if view.path["target"] == 9 else 1 if view.path["target"] == view.path["history"][0] else 0
    )
    assert view.path["recommended"]["csft"] == [view.path["history"][0], 9]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("item", 41, "1 to 40; found 41"),
        ("shown", ["nope"], "there are"),
        ("user", 40, "0 to 39"),
        ("compared", ["nope"], "there are"),
        ("count", 0, "0"),
    ],
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


def behind(page, name):
    """What stands in the page behind its program, inflated."""
    text = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page)[1]
    return zlib.decompress(base64.b64decode(text))


def test_a_page_carries_all_answers_and_asks_nobody(atlas):
    page = explorer_page.render_page(atlas, "run <b>&")
    assert "<title>run &lt;b&gt;&amp;</title>" in page
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\(", page)
    assert "export default" not in page
    known = known_of(page)
    k, at = known["k"], atlas.stages.index("csft")
    ids = np.frombuffer(behind(page, f"ids-{at}"), np.int32).reshape(40, k)
    cosines = np.frombuffer(behind(page, f"cosines-{at}"), np.uint8).reshape(40, k) / 127.5 - 1
    expected = atlas.nearest(6, k).filter(stage="csft")
    assert ids[5].tolist() == expected["item"].to_list()
    np.testing.assert_allclose(cosines[5], expected["cosine"], atol=0.01)
    view = explorer.Explorer(atlas)
    view.user = 3
    assert list(known["paths"]) == [str(u) for u in range(40)]
    assert known["paths"]["3"] == view.path
    assert known["state"]["data"]["encodes"] is False
    assert page.index('id="explorer"') < page.index('id="ids-0"')  # the maps are drawn before the neighbours are read


def test_a_page_s_users_keep_the_corpus_s_numbers(atlas, monkeypatch):
    monkeypatch.setattr(explorer_page, "PAGE_USERS", 7)
    known = known_of(explorer_page.render_page(atlas, "t"))
    data, carried = known["state"]["data"], known["state"]["data"]["carried"]
    assert (data["users"], len(carried)) == (40, 7)
    assert [own for _, _, own, _ in carried] == [atlas.corpus.users["source_id"][user] for user, *_ in carried]
    carried = [user for user, *_ in carried]
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
    plain = explorer_page.render_page(atlas, "t")
    odd = atlas.items.with_columns(domain=pl.lit(word))
    page = explorer_page.render_page(dataclasses.replace(atlas, items=odd), "t")
    assert known_of(page)["state"]["data"]["columns"][-1]["names"] == [word]
    assert re.findall("<[!a-z/][^>]*>", page) == re.findall("<[!a-z/][^>]*>", plain)  # no tag more, none less
    assert known_of(explorer_page.render_page(atlas, word)) == known_of(plain)


def test_stars_are_what_the_recommender_over_the_last_stage_with_weights_puts_first(atlas, monkeypatch):
    monkeypatch.setattr(saved_recommender, "has_weights", lambda run, corpus, name, stage: stage in ("raw", "csft"))
    monkeypatch.setattr(
        saved_recommender, "recommend_across_domains", lambda run, corpus, name, stage: lambda history: [name, stage]
    )
    recommend, stars = explorer.recommend_with(None, atlas, "GRU4Rec")
    assert recommend([1]) == ["GRU4Rec", "csft"]
    assert stars == "what GRU4Rec over csft puts first"
    monkeypatch.setattr(saved_recommender, "has_weights", lambda *what: False)
    assert explorer.recommend_with(None, atlas) == (None, "the nearest to the last item (notebook 04 kept no SASRec)")
