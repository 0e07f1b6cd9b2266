"""What a run recommends after titles: of the catalogue, of no item, and of items that are new; the command's words."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus
from finished_recommenders import make_run

from llm2rec_kit import cli
from llm2rec_kit.downstream import saved_recommender
from llm2rec_kit.downstream.saved_recommender import Titles
from llm2rec_kit.export import recommend
from llm2rec_kit.runs import ArtefactError, Run

TITLES = make_corpus().titles


@pytest.fixture(scope="module")
def run(_tiny, tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("outputs"), _tiny, recommenders=("SASRec", "GRU4Rec"))


@pytest.fixture(scope="module")
def model(run):
    return recommend.load(run)


def test_titles_of_the_catalogue_are_the_items_and_are_left_out(run, model):
    found = model.after([TITLES[2], f"  {TITLES[4].upper()} "], 16)
    assert found.history["item"].to_list() == [3, 5]
    assert found.history["known"].all()
    expected = saved_recommender.load_from_run(run, "toy", "SASRec", "mntp").top([3, 5], 16, exclude_seen=True)
    assert found.top["item"].to_list() == expected["item"].to_list()
    assert found.top["source_id"].to_list() == [f"i{item - 1}" for item in expected["item"]]
    assert not found.top["new"].any()
    assert {3, 5} <= set(model.after([TITLES[2], TITLES[4]], 16, seen=True).top["item"])


@pytest.mark.parametrize("normalise", ["none", "unit", "standardised", "whitened"])
def test_a_new_title_stands_where_an_item_of_that_title_does(tmp_path, tiny, normalise):
    run = make_run(tmp_path, tiny, normalise=normalise, embeddings=("mntp",))
    model = recommend.load(run)
    base = model.model
    vectors = np.load(run.path_of("embeddings/mntp.npy"))
    twin = base.adding(["twin of 6"], vectors[6:7])
    scores = twin.scores([3, 5])
    np.testing.assert_allclose(scores[16], scores[5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores[:16], base.scores([3, 5]), rtol=1e-5)
    np.testing.assert_allclose(twin.scores([3, 17]), twin.scores([3, 6]), rtol=1e-4, atol=1e-4)


def test_new_titles_are_ranked_with_the_catalogue_wherever_they_stand(model):
    found = model.after([TITLES[2]], 20, new=["Iron Vale Racing 99", TITLES[7]])
    assert found.top.height == 16  # 16 items and a new one, without the history
    (new,) = found.top.filter("new").to_dicts()
    assert new["title"] == "Iron Vale Racing 99"
    assert new["source_id"] is None
    ranks = dict(found.new.select("title", "rank").iter_rows())
    assert ranks["Iron Vale Racing 99"] == new["rank"]
    assert ranks[TITLES[7]] == found.top.filter(title=TITLES[7])["rank"].item()
    one = model.after([TITLES[2]], 1, new=["Iron Vale Racing 99"])
    assert one.top.height == 1
    assert one.new["rank"].item() == model.after([TITLES[2]], 20, new=["Iron Vale Racing 99"]).new["rank"].item()


def test_a_title_of_no_item_is_read_and_is_nothing_to_recommend(model):
    found = model.after([TITLES[2], "Moss & Fern Racing Deluxe"], 20, seen=True)
    assert found.history["known"].to_list() == [True, False]
    assert found.top.height == 16
    other = model.after([TITLES[2], "Café Lumière, something else"], 20, seen=True)
    assert other.top["score"].to_list() != found.top["score"].to_list()
    asked = model.after(["Moss & Fern Racing Deluxe"], 20, new=["Moss & Fern Racing Deluxe"], seen=True)
    assert asked.top["new"].sum() == 1


def test_the_text_that_a_list_shows_finds_its_item_as_the_plain_title_does():
    items = pl.DataFrame(
        {"plain_title": ["Chess", "Go", "Go. Board."], "title": ["Chess. Board.", "Go. Board.", "Go. Board.. Cards."]}
    )
    titles = Titles(items)
    assert [titles.find(text) for text in ("Chess", "chess.  board.", "Go. Board.", "go. board.. cards.", "Board.")] == [
        [1],
        [1],
        [3],  # the plain title comes first
        [3],
        [],
    ]


def test_a_title_like_none_of_the_catalogue_is_said_to_be_far(run):
    model = recommend.load(run)
    vectors = np.load(run.path_of("embeddings/mntp.npy"))
    away = {"like item 3": vectors[3] + 1e-3, "far": -vectors[1:].mean(0)}
    model = recommend.Recommender(model.model, lambda titles: np.stack([away[title] for title in titles]))
    found = model.after(["far"], 3, new=["like item 3", "far", TITLES[0]])
    assert found.history["far"].to_list() == [True]
    assert dict(found.new.select("title", "far").iter_rows()) == {"like item 3": False, "far": True, TITLES[0]: False}
    assert "(no item: read by the encoder; far from every item" in recommend.as_text(model, found)


def test_ids_cannot_place_a_new_title_and_say_why(run):
    model = recommend.load(run, embedding="id")
    assert model.after([TITLES[2]]).top.height == 10
    for asked in ({"history": ["Iron Vale"]}, {"history": [TITLES[2]], "new": ["Iron Vale"]}):
        with pytest.raises(
            ValueError, match=r"'Iron Vale' is no title of the catalogue\. SASRec over id knows an item by"
        ) as said:
            model.after(**asked)
        assert "Titles that hold its words: Iron Vale Racing" in str(said.value)
    with pytest.raises(ArtefactError, match=r"has no 'embeddings/id' yet"):  # no encoder made it
        model.read(["Iron Vale"])


def test_what_was_not_kept_is_refused_with_what_was(run, tmp_path):
    with pytest.raises(ValueError, match=r"kept no SASRec over raw\. It has GRU4Rec over id, mntp; SASRec over id, mntp"):
        recommend.load(run, recommender="SASRec", embedding="raw")
    with pytest.raises(ValueError, match="trained in toy, not in 'games'"):
        recommend.load(run, domain="games")
    with pytest.raises(ValueError, match="kept no trained recommender"):
        recommend.load(Run("empty", tmp_path))
    model = recommend.load(run)
    for history, k in (([], 3), ([TITLES[0]], 0)):
        with pytest.raises(ValueError, match="one title at least, and a list one item"):
            model.after(history, k)


def test_a_title_is_prepared_as_those_of_the_recommender_s_domain(run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        recommend.new_titles, "find_settings", lambda run, domain: asked.append(domain) or {"text": "a {title}"}
    )
    found = recommend.load(run).read(["Iron Vale"])
    np.testing.assert_array_equal(found, recommend.make_reader(run, "mntp")(["Iron Vale"]))
    monkeypatch.undo()
    np.testing.assert_allclose(found, recommend.make_reader(run, "mntp")(["a Iron Vale"]), atol=1e-6)
    assert asked == ["toy", ""]


def test_the_command_parts_titles_and_prints_a_table_or_json(run, tmp_path, capsys):
    (tmp_path / "new.txt").write_text("Iron Vale Racing 99\nMoss & Fern 5\n")
    words = ["recommend", str(run.path), "--history", f"{TITLES[2]} | nobody's title", "--top", "3"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "SASRec over mntp, toy" in said
    assert "nobody's title  (no item: read by the encoder" in said
    assert cli.main([*words, "--new", str(tmp_path / "new.txt"), "--json", "--recommender", "GRU4Rec"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommender"] == "GRU4Rec over mntp"
    assert len(found["top"]) == 3
    assert len(found["new"]) == 2
    assert [row["known"] for row in found["history"]] == [True, False]


def test_a_title_with_the_sign_that_parts_titles_is_taken_whole():
    known = {"a | b"}.__contains__
    assert recommend.split_histories(["a | b", "c | d|e"], known) == ["a | b", "c", "d|e"]
    with pytest.raises(ValueError, match="one title at least"):
        recommend.split_histories([" "], known)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere", "--history", "a"], "There is no run 'nowhere'"),
        (["RUN", "--history", "a", "--embedding", "csft"], "kept no recommender over csft"),
        (["RUN", "--history", "a", "--embedding", "id"], "is no title of the catalogue"),
        (["RUN", "--history", "a", "--top", "-1"], "a list one item"),
        (["RUN", "--history", "a", "--new", "none.txt"], "There is no file none.txt"),
    ],
)
def test_the_command_s_errors_are_one_paragraph(run, capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        cli.main(["recommend", *(str(run.path) if word == "RUN" else word for word in words)])
    found = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in found
    assert len(found.strip().splitlines()) == 1


def test_readers_are_those_of_tables_on_text(monkeypatch):
    monkeypatch.setattr(recommend, "make_reader", lambda run, name: lambda *asked: (run, name, *asked))
    read = recommend.make_readers("run", ["raw", "csft_add_id", "id"])
    assert read("csft_add_id", ["a"], "toy") == ("run", "csft_add_id", ["a"], "toy")
    with pytest.raises(KeyError):
        read("id", ["a"])  # knows no title
