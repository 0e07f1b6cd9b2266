"""A recommender read back ranks as it did; the panel shows what it recommends; the adapter's numbers on spaces that are known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from conftest import make_corpus
from safetensors.numpy import load_file

from llm2rec_kit import evaluating
from llm2rec_kit.corpus import TEST, TRAIN, mix
from llm2rec_kit.downstream import adapter, evaluation, saved_recommender
from llm2rec_kit.downstream.item_table import ItemTable
from llm2rec_kit.encoding import minilm
from llm2rec_kit.results import evaluations, weights
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Evaluation
from llm2rec_kit.settings.evaluation import list_unread
from llm2rec_kit.widgets import recommender_panel

SETTINGS = Evaluation(hidden=8, inner=12, epochs=2, evaluate_every=1, seeds=[3], cutoffs=[3], device="cpu", normalise="unit")
KEPT = {k: v for k, v in SETTINGS.as_dict().items() if k not in ("recommenders", "embeddings", "seeds", "workers")}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with two recommenders over two tables each, seed 3; and what they ranked."""
    corpus, run = make_corpus(users=20), Run("r", tmp_path_factory.mktemp("outputs"))
    tables = {"raw": np.random.default_rng(0).normal(size=(17, 6)).astype(np.float32)}
    part = corpus.select(["toy"])
    ranks = {}
    for recommender in ("SASRec", "GRU4Rec"):
        for name, kind in (("raw", "text"), ("id", "id")):
            job = evaluation.Job("toy", recommender, name, 3)
            vectors = tables["raw"] if name == "raw" else None
            result = evaluation.train_and_rank(corpus, vectors, SETTINGS, recommender=recommender, seed=3, kind=kind)
            run.make(
                job.name,
                lambda folder, r=result, j=job: (
                    evaluation.write(r, folder, j.name.split("/")[-1], np.ones(16))
                    | {"domain": "toy", "embedding": j.embedding}
                ),
                settings=KEPT,
                quiet=True,
            )
            ranks[recommender, name] = result.ranks
    return run, part, tables, ranks


@pytest.mark.parametrize("row", [("SASRec", "raw"), ("SASRec", "id"), ("GRU4Rec", "raw"), ("GRU4Rec", "id")])
def test_read_back_it_ranks_as_it_did(kept, row):
    run, part, tables, ranks = kept
    model = saved_recommender.load(run, "toy", *row, part, tables)
    for target, rank in zip(part[0].samples("test"), ranks[row], strict=True):
        history, truth = part[0].history(target), part[0].sequence[target]
        scores = model.scores(history)
        close = np.isclose(scores, scores[truth - 1], rtol=1e-5, atol=1e-6)
        assert (scores > scores[truth - 1]).sum() - close.sum() <= rank <= (scores >= scores[truth - 1]).sum() + close.sum()


def test_over_ids_no_title_has_a_place(kept):
    run, part, tables, _ = kept
    model = saved_recommender.load(run, "toy", "SASRec", "id", part, tables)
    assert evaluation.Job("toy", "SASRec", "id", 3).table == ""
    for ask in (lambda: model.adding(["new"], tables["raw"][:1]), lambda: model.far(tables["raw"][:1])):
        with pytest.raises(ValueError, match="nothing says where it belongs"):
            ask()


def test_a_mixed_corpus_is_answered_in_its_own_ids(kept):
    """The toy domain's items come second in the mix: every id is 16 higher, the recommendations are the same items."""
    run, part, tables, _ = kept
    other = make_corpus(users=5)
    first = replace(
        other,
        items=other.items.with_columns(domain=pl.lit("other"), source_id="o" + pl.col("source_id")),
        users=other.users.with_columns(domain=pl.lit("other"), source_id="o" + pl.col("source_id")),
        facts={"source": "hand-made", "train_domains": ["other"]},
    )
    both = mix([first, part[0]])
    table = np.concatenate([np.zeros((17, 6)), tables["raw"][1:]]).astype(np.float32)
    run.make("embeddings/raw", lambda folder: np.save(folder / "raw.npy", table), settings={}, quiet=True)
    recommend = saved_recommender.recommend_across_domains(run, both, "SASRec", "raw", k=4)
    history = part[0].history(part[0].samples("test")[0])
    alone = saved_recommender.load(run, "toy", "SASRec", "raw", part, tables).top(history, 4, exclude_seen=True)
    assert recommend(history + 16).tolist() == (alone["item"] + 16).to_list()
    assert saved_recommender.has_weights(run, part[0], "SASRec", "raw")
    assert not saved_recommender.has_weights(run, both, "SASRec", "raw")
    assert not saved_recommender.has_weights(run, part[0], "SASRec", "csft")


def test_the_top_of_a_history(kept):
    run, part, tables, _ = kept
    model = saved_recommender.load(run, "toy", "SASRec", "raw", part, tables)
    top = model.top([3, 5], 4)
    scores = model.scores([3, 5])
    assert top["item"].to_list() == (np.argsort(-scores)[:4] + 1).tolist()
    assert top["title"][0] == part[0].titles[top["item"][0] - 1]
    left = model.top([3, 5], 16, exclude_seen=True)
    assert left.height == 14
    assert not {3, 5} & set(left["item"])
    assert model.scores([1, 2, 3, 4, 5, 6]).tolist() == model.scores([3, 4, 5, 6]).tolist()  # the window's last four
    for bad in ([], [0], [17]):
        with pytest.raises(ValueError, match="item id"):
            model.scores(bad)


def test_side_by_side_marks_the_truth(kept):
    run, part, tables, _ = kept
    models = {name: saved_recommender.load(run, "toy", "SASRec", name, part, tables) for name in ("raw", "id")}
    target = part[0].samples("test")[0]
    found = saved_recommender.compare_top(models, target, 16)
    truth = part[0].titles[part[0].sequence[target] - 1]
    assert [sum(title.startswith("> ") for title in found[name]) for name in models] == [1, 1]
    assert f"> {truth}" in found["raw"].to_list()


def test_no_weights_is_named(kept, tmp_path):
    _, part, tables, _ = kept
    with pytest.raises(ValueError, match="kept no weights of SASRec over 'raw'"):
        saved_recommender.load(Run("other", tmp_path), "toy", "SASRec", "raw", part, tables)


@pytest.fixture
def again(tmp_path):
    """A run whose notebook 04 can be called again: `again(table, seeds, changes of settings)`."""
    run, corpus = Run("r", tmp_path), make_corpus(users=20)
    run.make("corpus", corpus.save, settings={}, quiet=True)
    part, counts = corpus.select(["toy"]), np.ones(16)

    def call(table, seeds, **changes):
        settings = replace(SETTINGS, seeds=seeds, **changes)
        run.make("embeddings/raw", lambda f: np.save(f / "raw.npy", table), settings={"sum": float(table.sum())}, quiet=True)
        jobs = [evaluation.Job("toy", "SASRec", "raw", seed) for seed in seeds]
        todo = [job for job in jobs if run.stale(job.name, settings=evaluation.list_settings(settings), inputs=job.inputs)]
        for job, result in evaluation.train_many(todo, {"toy": part}, {"raw": table}, replace(settings, workers=1)):
            evaluation.keep_result(run, job, result, settings, counts)
        evaluations.note_series(run, evaluation.list_settings(settings), seeds, [job.name for job in jobs])
        return run, part, {"raw": table}

    return call


def test_another_first_seed_is_trained_again_for_its_weights_and_nothing_else(again, tmp_path, capsys):
    table = np.random.default_rng(0).normal(size=(17, 6)).astype(np.float32)
    run, *_ = again(table, [1, 2])
    capsys.readouterr()

    def call(seeds, into=run, base=None):
        jobs = [evaluation.Job("toy", "SASRec", "raw", seed) for seed in seeds]
        evaluating.evaluate(into, jobs, replace(SETTINGS, seeds=seeds, workers=1), base=base)
        evaluations.note_series(into, evaluation.list_settings(SETTINGS), seeds, [job.name for job in jobs])
        first = weights.find_kept(into, "toy", "SASRec", "raw")
        return capsys.readouterr().out.split(";")[0], first[-1:]

    study = Run("study", tmp_path)
    for name in ("corpus", "embeddings/raw"):
        study.link_from(run, name)
    assert call([2], study, run) == ("evaluation: 0 trainings to do, 1 reused", "")  # a study reads no weights of it
    ranks = (run.path / "evaluation" / "toy" / "SASRec-raw-seed2.npy").read_bytes()
    assert call([2]) == ("evaluation: 1 trainings to do, 0 reused", "2")
    assert (run.path / "evaluation" / "toy" / "SASRec-raw-seed2.npy").read_bytes() == ranks
    assert call([2, 1]) == ("evaluation: 0 trainings to do, 2 reused", "2")
    assert call([1, 2]) == ("evaluation: 0 trainings to do, 2 reused", "1")


def test_a_setting_that_a_recommender_does_not_read_trains_only_the_others_again(again, tmp_path, capsys):
    run, *_ = again(tables(0), [1])
    jobs = [evaluation.Job("toy", recommender, "raw", 1) for recommender in ("SASRec", "GRU4Rec")]
    usual = replace(SETTINGS, seeds=[1], workers=1)

    def call(into=run, base=None, **changes) -> str:
        """How many are trained; all count afterwards."""
        settings = replace(usual, **changes)
        capsys.readouterr()
        evaluating.evaluate(into, jobs, settings, base=base)
        evaluations.note_series(into, evaluation.list_settings(settings), [1], [job.name for job in jobs])
        assert [*evaluations.find_evaluations(into).made] == sorted(job.name for job in jobs)
        return capsys.readouterr().out.split(";")[0].removeprefix("evaluation: ")

    assert call() == "1 trainings to do, 1 reused"  # GRU4Rec, which `again` has not
    kept = (run.path / "evaluation" / "toy" / "SASRec-raw-seed1.json").read_bytes()
    assert call(negatives=7, calibration=0.5, sampled_items=9) == "0 trainings to do, 2 reused"
    assert call(learning_rate_gru=0.01) == "1 trainings to do, 1 reused"
    assert (run.path / "evaluation" / "toy" / "SASRec-raw-seed1.json").read_bytes() == kept
    study = Run("study", tmp_path)
    for name in ("corpus", "embeddings/raw"):
        study.link_from(run, name)
    evaluating.evaluate(study, jobs[:1], replace(usual, learning_rate_gru=0.02), base=run)
    assert "0 trainings to do, 1 reused" in capsys.readouterr().out
    assert call(learning_rate_gru=0.01, learning_rate=0.01, heads=4) == "1 trainings to do, 1 reused"
    assert call(loss="bce", negatives=7) == "2 trainings to do, 0 reused"
    assert call(loss="bce", negatives=8) == "2 trainings to do, 0 reused"
    assert call(loss="bce", negatives=8, padding_class=True) == "0 trainings to do, 2 reused"  # a class of softmax alone
    assert call(loss="bce", negatives=8, cutoffs=[2]) == "2 trainings to do, 0 reused"


def test_own_recommenders_may_read_any_setting():
    assert list_unread("Mine", "softmax") == set()
    assert list_unread("GRU4Rec", "gbce") == {"learning_rate", "heads", "inner", "sampled_items", "padding_class"}


def read_back(called) -> dict[str, np.ndarray]:
    model = saved_recommender.load(called[0], "toy", "SASRec", "raw", *called[1:])
    return {name: value.numpy() for name, value in torch.nn.ModuleList([model.model, model.item_table]).state_dict().items()}


def of_seed(called, seed: int) -> bool:
    """Whether what is read back is the file that this seed's evaluation has."""
    kept = load_file(called[0].path / f"evaluation/toy/SASRec-raw-seed{seed}.safetensors")
    found = read_back(called)
    return all((found[name] == value).all() for name, value in kept.items())


def tables(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(17, 6)).astype(np.float32)


def test_weights_of_an_older_table_are_not_read_back(again):
    again(tables(0), [3])
    called = again(tables(1), [4])
    assert of_seed(called, 4)
    assert not of_seed(called, 3)
    run, part, _ = called
    run.make("embeddings/raw", lambda f: np.save(f / "raw.npy", tables(2)), settings={}, quiet=True)
    assert not saved_recommender.has_weights(run, part[0], "SASRec", "raw")
    with pytest.raises(ValueError, match="that are of what it holds now"):
        saved_recommender.load(run, "toy", "SASRec", "raw", part, {"raw": tables(2)})


def test_the_weights_are_the_last_series_first_seed_s(again):
    again(tables(0), [3])
    assert of_seed(again(tables(0), [4, 3]), 4)
    assert of_seed(again(tables(0), [3, 4]), 3)  # nothing is trained, and the latest made are those of 4
    assert of_seed(again(tables(0), [2], dropout=0.1), 2)
    assert of_seed(again(tables(0), [3]), 3)  # the settings of before, the latest made are those of 2


def test_weights_left_beside_an_evaluation_that_has_none_are_no_one_s(again):
    again(tables(0), [3])
    called = again(tables(1), [5, 3])  # 3 is made anew, and its weights are not kept now
    assert (called[0].path / "evaluation/toy/SASRec-raw-seed3.safetensors").is_file()
    assert of_seed(called, 5)
    assert not of_seed(called, 3)
    called[0].forget("evaluation/toy/SASRec-raw-seed5")
    assert not saved_recommender.has_weights(called[0], called[1][0], "SASRec", "raw")


def test_damaged_weights_are_named(again):
    run, part, table = again(tables(0), [3])
    file = weights.find_file(run, "evaluation/toy/SASRec-raw-seed3")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"SASRec-raw-seed3\.safetensors is damaged.*04_downstream_eval"):
        saved_recommender.load(run, "toy", "SASRec", "raw", part, table)


def test_a_run_from_before_the_series_was_noted_has_its_latest_weights(again):
    called = again(tables(0), [3])
    called[0].forget(evaluations.SERIES)
    assert of_seed(called, 3)


@pytest.fixture
def shown(kept):
    run, part, tables, _ = kept
    return recommender_panel.Panel(
        lambda r, e: saved_recommender.load(run, "toy", r, e, part, tables), ["SASRec", "GRU4Rec"], ["raw", "id"]
    ), part[0]


def test_the_panel_follows_its_controls(shown):
    view, corpus = shown
    view.user.value = 4
    target = corpus.samples("test")[4]
    assert view.history == corpus.history(target).tolist()
    assert view.truth == corpus.sequence[target]
    assert view.selection.height == 10
    before = view.list.value
    view.embedding.value = "id"
    assert view.list.value != before
    left = view.model.top(view.history, 10, exclude_seen=True)
    assert view.selection["item"].to_list() == left["item"].to_list()
    view.count.value = 3
    assert view.list.value.count("<tr>") == 3
    assert not set(view.selection["item"]) & set(view.history)
    view.unseen.value, view.count.value = False, 16
    assert set(view.history) <= set(view.selection["item"])


def test_a_history_is_composed_from_titles(shown):
    view, _ = shown
    view.source.value = "titles"
    assert view.history == []
    assert view.selection.is_empty()
    assert "empty" in view.list.value
    view.text.value = "iron pen"
    assert all("Iron" in title and "Pen" in title for title, _ in view.found.options)
    view.found.value = view.found.options[0][1]
    view.add.click()
    view.text.value = ""
    view.found.value = 1
    view.add.click()
    assert len(view.history) == 2
    assert view.truth is None
    assert view.selection.height == 10
    view.remove.click()
    assert len(view.history) == 1
    assert view.by_user.layout.display == "none"
    view.source.value = "a test user"
    assert view.by_titles.layout.display == "none"


def test_any_title_of_the_history_can_be_removed_and_one_be_typed(kept):
    run, part, tables, _ = kept
    read = lambda embedding, titles: np.stack([tables["raw"][len(title)] for title in titles])  # noqa: E731
    view = recommender_panel.Panel(
        lambda r, e: saved_recommender.load(run, "toy", r, e, part, tables), ["SASRec"], ["raw", "id"], read
    )
    view.source.value = "titles"
    for item in (1, 2, 3):
        view.found.value = item
        view.add.click()
    view.chosen.value = 1
    view.remove.click()
    assert view.history == [1, 3]
    view.text.value = "<typed>"  # nothing of the catalogue; its embedding is item 7's
    view.add_typed.click()
    assert view.history == [1, 3, 17]
    assert "&lt;typed&gt;" in view.list.value
    view.unseen.value, view.count.value = False, 50
    assert view.selection.height == 16
    like = saved_recommender.load(run, "toy", "SASRec", "raw", part, tables).top([1, 3, 7], 16)
    assert view.selection["item"].to_list() == like["item"].to_list()
    view.embedding.value = "id"
    assert "knows an item by a vector that training learned" in view.list.value
    view.remove.click()
    assert view.selection.height == 16
    view.text.value = part[0].titles[4].lower()
    view.add_typed.click()
    assert view.history == [1, 3, 5]


def test_titles_are_escaped():
    top = pl.DataFrame({"rank": [1], "item": [1], "title": ["<b>x</b>"], "score": [0.5]})
    page = recommender_panel.as_html(["<script>"], top, 1, ["<b>x</b>"])
    assert "<script>" not in page
    assert "<b>x</b>" not in page


def test_the_adapters_numbers_on_spaces_that_are_known():
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((1, 6)), rng.normal(size=(300, 6)) * [5, 4, 3, 0.1, 0.1, 0.1]]).astype(np.float32)
    table = ItemTable(300, 3, rows)
    with torch.no_grad():
        table.adapter.weight.copy_(torch.eye(3, 6))
    numbers, arrays = adapter.inspect(table)
    assert numbers["similarity (CKA)"] > 0.999
    assert numbers["neighbours kept"] > 0.9
    assert numbers["adapter axes"] == pytest.approx(3)
    assert numbers["median angle"] < 5
    assert numbers["axes before"] < 3.2
    assert arrays["space"].sum() == pytest.approx(1)
    with torch.no_grad():
        table.adapter.weight.copy_(torch.eye(6)[3:])  # reads the three axes without variance
    numbers, arrays = adapter.inspect(table)
    assert numbers["similarity (CKA)"] < 0.05
    assert arrays["angles"].min() > 85


def test_similarity_of_spaces_does_not_see_a_rotation_or_scale():
    rng = np.random.default_rng(0)
    rows, turn = rng.normal(size=(50, 5)), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert adapter.compare_spaces(rows, 7 * rows @ turn + 3) == pytest.approx(1)
    assert adapter.measure_neighbours_kept(rows, 7 * rows @ turn + 3) == pytest.approx(1)


def test_a_deeper_adapter_has_no_matrix():
    rows = np.random.default_rng(0).normal(size=(31, 6)).astype(np.float32)
    numbers, arrays = adapter.inspect(ItemTable(30, 4, rows, widths=[5]))
    assert not arrays
    assert "median angle" not in numbers


def test_the_pretrained_row():
    titles = ["Star Harbor Racing", "Iron Vale Puzzle"]
    if minilm.is_available():
        table = minilm.encode_titles(titles)
        assert table.shape == (3, 384)
        assert not table[0].any()
        np.testing.assert_allclose(np.linalg.norm(table[1:], axis=1), 1, atol=1e-5)
        return
    with pytest.raises(ValueError, match=r"llm2rec-kit\[pretrained\]"):
        minilm.encode_titles(titles)


def test_settings_of_a_run_are_enough_to_read_it_back():
    assert Evaluation(**KEPT) == replace(SETTINGS, seeds=Evaluation().seeds)


@pytest.mark.parametrize("users", [1, 11, 12, 30])
def test_as_many_users_are_shown_as_are_asked_for_each_once(users):
    """By a split by time: some users are tested twice, some never."""
    corpus = make_corpus(users=14)
    ends = corpus.offsets[1:] - 1
    twice = np.isin(corpus.targets, np.concatenate([ends[:12], ends[:5] - 1]))
    corpus = replace(corpus, splits=np.where(twice, TEST, TRAIN).astype(np.uint8))

    one = SimpleNamespace(corpus=corpus, top=lambda history, k: pl.DataFrame({"item": [1], "title": ["t"]}))
    shown = [title.split("\n")[0] for title in saved_recommender.show_users({"one": one}, users=users, k=1)]
    assert len(set(shown)) == len(shown) == min(users, 12)


def test_users_are_shown_with_their_history_and_truth(kept):
    run, part, tables, _ = kept
    models = {name: saved_recommender.load(run, "toy", "SASRec", name, part, tables) for name in ("raw", "id")}
    found = saved_recommender.show_users(models, users=3, k=4)
    tests, titles = part[0].samples("test"), ["", *part[0].titles]
    assert len(tests) == 20
    middle = [tests[4], tests[9], tests[14]]  # of 20, at a quarter, a half and three quarters
    for target, (title, frame) in zip(middle, found.items(), strict=True):
        user, history, truth = title.split("\n")
        assert user == f"user u{part[0].owners(np.array([target]))[0]}"
        assert history == "history: " + " / ".join(titles[i] for i in part[0].history(target))
        assert truth == "truth:   " + titles[part[0].sequence[target]]
        assert frame.equals(saved_recommender.compare_top(models, target, 4))


def test_adapters_are_inspected_where_a_table_stands_on_text_alone():
    vectors = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    tables = {"raw": ItemTable(8, 4, vectors), "both": ItemTable(8, 4, vectors, kind="add"), "id": ItemTable(8, 4)}
    tables["deep"] = ItemTable(8, 4, vectors, widths=[5])
    numbers, arrays = adapter.inspect_each(tables)
    assert numbers["embedding"].to_list() == ["raw", "deep"]
    assert list(arrays) == ["raw"]  # of a deeper adapter there is no spectrum
    assert numbers["axes before"][0] == adapter.inspect(tables["raw"])[0]["axes before"]
    assert len(adapter.inspect_each({"id": tables["id"]})[0]) == 0


def test_a_run_is_shown_a_panel_a_domain(kept):
    run, part, _, _ = kept
    (tabs,) = recommender_panel.show_domains(run, part[0], ["SASRec", "GRU4Rec"], ["id"]).children
    assert tabs.titles == ("toy",)
    (panel,) = tabs.children
    panel.recommender.value = "GRU4Rec"
    target = panel.targets[0]
    expected = saved_recommender.load(run, "toy", "GRU4Rec", "id", part, {}).top(panel.history, exclude_seen=True)
    assert panel.selection.equals(expected)
    assert panel.truth == part[0].sequence[target]
