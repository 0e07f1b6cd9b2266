"""Settings that cannot work together, or on a corpus, are found before the first notebook, or after the first: never hours later."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import make_corpus

from llm2rec_kit import runs
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import VALID
from llm2rec_kit.downstream import cold
from llm2rec_kit.encoding import minilm
from llm2rec_kit.models import kernels
from llm2rec_kit.reproduction.runner import feasibility, notebooks
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import Run

ALL = ["01", "02", "03", "04", "05", "06", "07"]


def across(numbers=ALL, there=(), **values):
    feasibility.check_across_stages(values, numbers, there)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"contrastive_mask_token": "new"}, "is the token that MNTP makes, and mntp_mask_token is 'blank'"),
        ({"evaluation_embeddings": ["csftt"]}, "evaluation_embeddings names 'csftt'.* Did you mean 'csft'"),
        ({"evaluation_embeddings": ["bge_concat_id"]}, "evaluation_embeddings names 'bge'"),
        ({"maps_stages": ["raw", "id"]}, "maps_stages names 'id'"),
        ({"tables_backbones": ["tiny-50"]}, "names 'tiny-50', and the run's backbone has 6 heads .* a multiple of 12"),
        ({"tables_backbones": ["tiny-0"]}, "names 'tiny-0'"),
        (
            {"questions_asked": ["trainings"], "questions_seeds": [1]},
            r"None of the questions_asked can .* \(trainings: .* two seeds .* is \[1\]\)",
        ),
    ],
)
def test_stages_that_do_not_go_together(values, says):
    with pytest.raises(S.SettingsError, match=says):
        across(**values)
    across(["01"], **values)  # nothing of it is asked of this notebook
    with pytest.raises(S.SettingsError, match=says):
        notebooks.prepare("smoke", overrides={"backbone_heads": 6, "backbone_hidden": 96} | values, only=ALL)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"encoding_pooling": "pooler"}, "encoding_pooling pooler is the layer that a BERT has .* Take one of mean, last"),
        ({"encoding_variants": ["cfst-last-causal"]}, "the stage raw, csft, mntp or contrastive.* found 'cfst-last-causal'"),
        ({"encoding_variants": ["raw-pooler-causal"]}, "the pooling mean, last, cls, as_saved.* found 'raw-pooler-causal'"),
        ({"encoding_variants": ["BAAI/bge-large-en-v1.5-cls-as_trained"]}, "encoding_variants: a variant is <stage>"),
    ],
)
def test_a_way_of_encoding_that_no_stage_has_is_refused_before_any_training(values, says):
    with pytest.raises(S.SettingsError, match=says):
        notebooks.prepare("smoke", overrides=values, only=ALL)
    with pytest.raises(S.SettingsError, match=says):
        across(**values)


def test_a_mask_token_that_no_view_takes_may_be_any():
    across(contrastive_mask_token="new", contrastive_views="dropout")


def test_tables_that_notebook_03_makes_or_the_run_has_are_known():
    across(evaluation_embeddings=["raw", "csft_add_id", "minilm", "id", "id_detached"], maps_stages=["csft", "adapted"])
    across(encoding_variants=["csft-last-causal"], evaluation_embeddings=["csft-last-causal_concat_id"])
    across(encoding_baselines=["BAAI/bge-large-en-v1.5"], evaluation_embeddings=["bge-large-en-v1_5"])
    across(there=["older"], evaluation_embeddings=["older"], maps_stages=["older"])
    across(["04"], evaluation_embeddings=["older"])  # made by a notebook 03 of which nothing is known here


def test_a_table_of_what_was_made_anew_since_is_none_that_the_run_has(tmp_path):
    run, table = Run("toy", tmp_path), "csft-last-causal"
    asked = {"run": "toy", "outputs": str(tmp_path), "only": ["03", "04"], "look": False}
    planned = partial(notebooks.prepare, "smoke", overrides={"evaluation_embeddings": ["csft", table]}, **asked)

    def train(steps):
        run.make("csft", lambda f: np.save(f / "it.npy", np.ones(steps)), settings={"steps": steps}, quiet=True)

    train(1)
    run.make(
        f"embeddings/{table}", lambda f: np.save(f / f"{table}.npy", np.ones(2)), settings={}, inputs=["csft"], quiet=True
    )
    planned()
    train(2)
    with pytest.raises(S.SettingsError, match=f"evaluation_embeddings names '{table}'.* encoding_variants"):
        planned()
    planned(only=["04"])  # it says so itself, before it trains


@pytest.mark.parametrize(
    ("only", "made", "says"),
    [
        (["01", "02", "03", "07"], [], "Notebook 07 needs what notebook 04 makes.* take --only 01,02,03,04,07"),
        (["01", "04"], [], "Notebook 04 needs what notebook 03 makes.* take --only 01,02,03,04"),
        (["01", "07"], ["corpus"], "Notebook 07 needs what notebook 04 makes.* take --only 01,02,03,04,07"),
        (["02", "03", "06"], ["corpus"], "Notebook 06 needs what notebook 04 makes.* take --only 02,03,04,06"),
        (
            ["02", "03", "06", "07"],
            ["corpus", "evaluation/games/SASRec-id-seed1"],
            "",
        ),  # of a 04 that was stopped, or long ago
        (["01", "02", "03", "04", "07"], [], ""),
        (["07"], [], ""),  # which says so itself, at once
    ],
)
def test_a_gap_in_the_series_is_named_before_what_comes_before_it_trains(only, made, says, tmp_path):
    run, values = Run("toy", tmp_path), {"run": "toy", "outputs": str(tmp_path)}
    for name in made:
        run.make(name, lambda folder: {}, settings={}, quiet=True)
    if not says:
        feasibility.check_order(values, only, run)
        return
    for begun in (run, None) if not made else (run,):
        with pytest.raises(S.SettingsError, match=says):
            feasibility.check_order(values, only, begun)
    with pytest.raises(S.SettingsError, match=says) as found:
        notebooks.reproduce("smoke", run="toy", outputs=str(tmp_path), only=only)
    assert not (run.path / "notebooks").exists()
    closed = str(found.value).rpartition(" ")[2].rstrip(".").split(",")
    feasibility.check_order(values, closed, None if not made else run)  # what it says to take can be had


def test_ids_alone_need_no_table_of_notebook_03():
    ids = {"evaluation_embeddings": ["id", "minilm_add_id"]}
    feasibility.check_order(ids, ["01", "04"], None)
    with pytest.raises(S.SettingsError, match=r"Notebook 04 needs what notebook 01 makes.* take --only 01,02,04"):
        feasibility.check_order(ids, ["02", "04"], None)
    with pytest.raises(S.SettingsError, match="take --only 01,02,03,04"):
        feasibility.check_order({"evaluation_embeddings": ["csft_add_id"]}, ["01", "04"], None)


def test_tables_to_hold_against_ids_are_known_where_they_are_to_be_made():
    asked = {"questions_asked": ["users"], "questions_user_tables": ["minilm"]}
    across(["03", "04", "07"], **asked, evaluation_embeddings=["id", "minilm"])
    with pytest.raises(S.SettingsError, match="questions_user_tables names 'minilm', and there are no"):
        across(["03", "04", "07"], **asked, evaluation_embeddings=["id", "raw"])
    with pytest.raises(S.SettingsError, match=r"questions_user_tables names 'contrastve'.* 'contrastive'"):
        across(["03", "04", "07"], **asked | {"questions_user_tables": ["contrastve_add_id"]})
    across(["03", "04", "07"], questions_asked=["id"], questions_user_tables=["contrastve"])
    with pytest.raises(S.SettingsError, match=r"questions_user_tables \['id'\] names nothing to hold against ids"):
        S.Questions(user_tables=["id"]).check()
    S.Questions(asked=["views"], user_tables=["id"]).check()


def test_a_share_of_the_users_beside_held_out_items_leaves_samples():
    corpus = make_corpus(users=20, items=16)
    asked = S.Evaluation(cutoffs=[3], metric="mrr", tested="mrr", cold=0.3, user_share=0.1, seeds=[2])
    for alone in (replace(asked, cold=0.0), replace(asked, user_share=1.0)):
        feasibility.check_corpus(corpus, alone)
    with pytest.raises(S.SettingsError, match=r"evaluation_cold 0.3 of evaluation_user_share 0.1 of the users leaves none"):
        feasibility.check_corpus(corpus, asked)
    assert "learn from 0.1 of them" in feasibility.check_corpus(corpus, replace(asked, cold=0.0))[0]


@pytest.mark.parametrize("name", ["recommenders", "embeddings"])
def test_notebook_04_has_something_to_train(name):
    with pytest.raises(S.SettingsError, match=f"evaluation_{name} is empty"):
        across(**{f"evaluation_{name}": []})
    across(["01", "02", "03"], **{f"evaluation_{name}": []})


def test_a_table_whose_package_is_not_installed_is_named_at_the_start_unless_the_run_has_it(monkeypatch):
    monkeypatch.setattr(minilm, "is_available", lambda: False)
    asked = {"evaluation_embeddings": ["minilm_add_id"]}
    with pytest.raises(S.SettingsError, match=r"evaluation_embeddings names 'minilm', which needs optional packages"):
        feasibility.check_machine(asked, ["01", "04"])
    feasibility.check_machine(asked, ["01"])
    feasibility.check_machine(asked, ["04"], ["minilm"])


@pytest.mark.parametrize("name", notebooks.list_profiles())
def test_the_profiles_can_work(name):
    notebooks.prepare(name, only=ALL, look=False)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (S.Evaluation(cutoffs=[10, 17], metric="mrr", tested="mrr"), "evaluation_cutoffs holds 17"),
        (
            S.Evaluation(cutoffs=[3], metric="recall@16"),
            "evaluation_metric recall@16 is 1 for every model over the 16 items",
        ),
        (S.Evaluation(cutoffs=[3], metric="mrr", tested="ndcg@100000"), "evaluation_tested ndcg@100000 cuts beyond"),
        (S.MNTP(held_out=0.97), "leaves none of the 16 titles"),
        (S.MNTP(held_out=0.01, keep="best"), "of 16 titles is none, and mntp_patience and mntp_keep"),
        (S.MNTP(schedule_epochs=1, batch_size=5, warmup_steps=4), r"not be more than the 3 steps .* of 14 titles at 5"),
        (
            S.Contrastive(schedule_epochs=2, batch_size=8, warmup_steps=5),
            "not be more than the 4 steps that contrastive_sch",
        ),
        (S.Questions(domain="toys"), "questions_domain is 'toys'; the corpus has"),
        (S.Evaluation(cutoffs=[3], metric="mrr", user_share=0.05, seeds=[2]), "evaluation_user_share: 0.05 of the 20 users"),
    ],
)
def test_what_cannot_work_on_a_corpus(stage, says):
    corpus = make_corpus(users=20, items=16)
    assert corpus.n_items == 16
    with pytest.raises(S.SettingsError, match=says):
        feasibility.check_corpus(corpus, stage)


def test_held_out_items_leave_samples_to_train_on():
    """Of a corpus whose every validation sample asks for a held item none would be left to validate on."""
    corpus, asked = (
        make_corpus(users=20, items=16),
        S.Evaluation(cutoffs=[3], metric="mrr", tested="mrr", cold=0.3, seeds=[1]),
    )
    assert feasibility.check_corpus(corpus, asked) == []
    held = cold.hold_out(corpus, asked.cold, 1).items
    keep = (corpus.splits != VALID) | np.isin(corpus.sequence[corpus.targets], held)
    few = replace(corpus, targets=corpus.targets[keep], splits=corpus.splits[keep])
    assert cold.hold_out(few, asked.cold, 1).items.tolist() == held.tolist()
    with pytest.raises(
        S.SettingsError, match=r"evaluation_cold 0\.3 leaves none of the \d+ valid samples of 'toy' \(5 of 16 items"
    ):
        feasibility.check_corpus(few, asked)
    assert feasibility.check_corpus(few, replace(asked, cold=0.0)) == []


def test_a_training_without_the_held_items_is_not_stopped_by_a_metric_that_is_1_for_all():
    """Of 16 items 5 are held out: Recall@11 of the 11 that are left is 1 in every epoch, and the first would be kept."""
    corpus = make_corpus(users=20, items=16)
    asked = S.Evaluation(cutoffs=[3], metric="recall@10", tested="recall@15", cold=0.3, seeds=[1])
    assert feasibility.check_corpus(corpus, asked) == []
    assert feasibility.check_corpus(corpus, replace(asked, metric="ndcg@11")) == []
    says = r"evaluation_metric recall@11 is 1 for every model over the 11 items of 'toy' .* \(5 of 16 items held out"
    with pytest.raises(S.SettingsError, match=says):
        feasibility.check_corpus(corpus, replace(asked, metric="recall@11"))
    assert feasibility.check_corpus(corpus, replace(asked, metric="recall@11", cold=0.0)) == []


def test_a_warm_up_is_held_against_the_samples_that_csft_sees():
    corpus = make_corpus(users=20, items=16)
    assert feasibility.check_corpus(corpus, S.CSFT(schedule_epochs=1, warmup_steps=1)) == []
    with pytest.raises(S.SettingsError, match=f"makes of {len(corpus.samples('train'))} samples at 128"):
        feasibility.check_corpus(corpus, S.CSFT(schedule_epochs=1, warmup_steps=200))


def test_what_works_otherwise_than_asked_is_told():
    corpus = make_corpus(users=20, items=16)
    works = [S.Evaluation(cutoffs=[3, 16], metric="recall@15", tested="ndcg@16"), S.MNTP(), S.Maps(), S.Questions()]
    assert feasibility.check_corpus(corpus, *works) == []
    notes = feasibility.check_corpus(corpus, S.Contrastive(batch_size=17), S.Maps(neighbours=16), S.MNTP(held_out=0.01))
    assert [note.split(" ")[0].rstrip(":") for note in notes] == [
        "contrastive_batch_size",
        "maps_neighbours",
        "mntp_held_out",
    ]


@pytest.mark.parametrize(
    ("values", "book", "says"),
    [
        ({"backbone_device": "mps"}, "03", "backbone_device is 'mps', and torch finds no such device here"),
        ({"evaluation_device": "cuda"}, "04", "evaluation_device is 'cuda'"),
        ({"evaluation_precision": "bfloat16", "evaluation_device": "cpu"}, "04", "needs a CPU with AVX512-BF16, or a GPU"),
    ],
)
def test_what_this_machine_has_not_is_named_where_it_is_asked_for(monkeypatch, values, book, says):
    from llm2rec_kit.downstream import fast_ops

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr(fast_ops, "has_fast_bfloat16", lambda: False)
    with pytest.raises(S.SettingsError, match=says):
        notebooks.prepare("smoke", overrides=values, only=["01", book])
    notebooks.prepare("smoke", overrides=values, only=["01"])
    notebooks.prepare("smoke", overrides=values, only=["01", book], look=False)  # a plan may be made anywhere


MIXED = {f"{stage}_precision": "mixed" for stage in ("csft", "mntp", "contrastive")}


def test_mixed_precision_that_this_cpu_emulates_is_refused_once_for_all_trainings_left(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(kernels, "is_available", lambda: True)
    asked = partial(notebooks.prepare, "smoke", run="r", outputs=str(tmp_path))
    on_cpu = MIXED | {"backbone_device": "cpu"}
    every = (
        r"csft_precision, mntp_precision, contrastive_precision: mixed .*--set csft.precision=pure .*--set contrastive.prec"
    )
    with pytest.raises(S.SettingsError, match=every):
        asked(overrides=on_cpu)
    with pytest.raises(S.SettingsError, match=r"^csft_precision: mixed"):
        asked(overrides=on_cpu, only=["02"])
    asked(overrides=on_cpu, only=["01", "04"])
    asked(overrides=on_cpu, look=False)  # a plan may be made anywhere
    Run("r", tmp_path).make("csft", lambda folder: None, settings={})  # on another machine, and reused here
    with pytest.raises(S.SettingsError, match=r"^mntp_precision, contrastive_precision: mixed"):
        asked(overrides=on_cpu)
    with pytest.raises(S.SettingsError, match=r"^csft_precision, mntp"):
        asked(overrides=on_cpu, force=True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **how: True)
    asked(overrides=MIXED | {"backbone_device": "auto"})


def test_what_06_and_07_train_on_is_where_the_run_was_evaluated(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = {"run": "toy", "outputs": str(tmp_path), "only": ["06", "07"]}
    planned = partial(notebooks.prepare, "smoke", **asked, look=False)
    evaluations.note_series(Run("toy", tmp_path), {}, [1], [], place={"device": "cpu", "workers": 2})
    for values, _ in (notebooks.prepare("smoke", overrides={"evaluation_device": "cuda"}, **asked), planned()):
        assert (values["evaluation_device"], values["evaluation_workers"]) == ("cpu", 2)
    evaluations.note_series(Run("toy", tmp_path), {}, [1], [], place={"device": "cuda", "workers": 0})
    with pytest.raises(S.SettingsError, match="evaluation_device is 'cuda'"):
        notebooks.prepare("smoke", overrides={"evaluation_device": "cpu"}, **asked)
    assert planned()[0]["evaluation_device"] == "cuda"


# -- where it is asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"csft_steps": 0}, "csft_steps must be at least 1; found 0"),
        ({"mntp_rate": 1.5}, "mntp_rate must be above 0 and at most 1; found 1.5"),
        ({"contrastive_batch_size": 1}, "contrastive_batch_size must be at least 2"),
        ({"evaluation_metric": "auc"}, "evaluation_metric: 'auc' is none of"),
        ({"evaluation_heads": 3}, "evaluation_hidden 16 is not a multiple of evaluation_heads 3"),
        ({"csft_warmup_steps": 11}, r"csft_warmup_steps \(11\) must not be more than csft_steps \(10\)"),
        ({"maps_neighbours": 1}, "maps_neighbours must be at least 2"),
        ({"tables_share": 0.0}, "tables_share must be above 0"),
        ({"questions_seeds": []}, "questions_seeds takes a list of 1 at least"),
    ],
)
def test_a_series_finds_what_its_last_notebook_would(overrides, says, tmp_path):
    with pytest.raises(S.SettingsError, match=says):
        notebooks.reproduce("smoke", overrides=overrides, outputs=str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_series_looks_at_the_corpus_before_what_takes_long(tmp_path, monkeypatch):
    ran, asked = [], {"evaluation_metric": "recall@100", "evaluation_cutoffs": [10]}

    def run_one(book, values, run, **more):
        ran.append(book.stem)
        run.make("corpus", lambda folder: make_corpus().save(folder), settings={})

    monkeypatch.setattr(notebooks, "run_one", run_one)
    with pytest.raises(S.SettingsError, match="evaluation_metric recall@100 is 1 for every model"):
        notebooks.reproduce("smoke", overrides=asked, outputs=str(tmp_path))
    assert ran == ["01_data_prep"]
    with pytest.raises(S.SettingsError, match="evaluation_metric recall@100 is 1"):
        notebooks.reproduce("smoke", overrides=asked, outputs=str(tmp_path), only=["04"])
    assert ran == ["01_data_prep"]
    notebooks.reproduce("smoke", overrides=asked, outputs=str(tmp_path), only=["02"])
    assert ran == ["01_data_prep", "02_csft"]  # which knows no metric


WRONG = {  # of each notebook one that it would find late
    "01": ("data_max_history", 0),
    "02": ("csft_batch_size", 0),
    "03": ("contrastive_temperature", 0.0),
    "04": ("evaluation_cutoffs", [0]),
    "05": ("maps_clusters", 0),
    "06": ("tables_share", 2.0),
    "07": ("questions_recommenders", []),
}


@pytest.mark.parametrize("book", notebooks.list_series(), ids=lambda book: book.name[:2])
def test_the_first_cell_of_a_notebook_stops_before_a_folder_is_made(book, tmp_path):
    """As papermill runs it: imports, parameters, those that are given, and the cell after them."""
    cells = ["".join(c["source"]) for c in json.loads(book.read_text())["cells"] if c["cell_type"] == "code"]
    plain = ["\n".join(line for line in cell.splitlines() if not line.startswith("%")) for cell in cells[:3]]
    names = {}
    for cell in plain[:2]:
        exec(cell, names)
    name, value = WRONG[book.name[:2]]
    for given, says in (
        ({name: value}, name),
        ({"run": 2024}, "run takes str; found int: 2024"),
        ({"force": "no"}, "force takes bool"),
    ):
        with pytest.raises(S.SettingsError, match=says):
            exec(plain[2], names | {"outputs": str(tmp_path)} | given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "outputs"), [(2024, ""), (True, ""), (None, ""), ("toy", 5)])
def test_a_run_is_named_by_text(name, outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(S.SettingsError, match=r"(run|outputs) takes str; found"):
        runs.Run(name, outputs)
    assert list(tmp_path.iterdir()) == []
