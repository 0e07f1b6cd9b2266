"""What notebook 04 was asked last is told from the folder, whatever an earlier call of it left there."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from test_report_faults import evaluated, made

from llm2rec_kit import cli, storage
from llm2rec_kit.reproduction.report import document, expected
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.reproduction.studies.study import open_study, read_settings
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import ArtefactError

OLD = {"epochs": 3, "hidden": 8, "cutoffs": [10, 20]}
NEW = {"epochs": 9, "hidden": 16, "cutoffs": [5]}


@pytest.fixture
def clock(monkeypatch):
    """Every artefact is finished an hour after the one before."""
    hours = iter(range(1, 1000))
    monkeypatch.setattr(
        "llm2rec_kit.runs.run._now", lambda: f"2999-01-{1 + (h := next(hours)) // 24:02}T{h % 24:02}:00:00+00:00"
    )


@pytest.fixture
def run(tmp_path, clock):
    """A run whose first evaluation by name is of an older call, with other settings and another seed."""
    run = made(tmp_path)
    for name in [n for n in run.names("evaluation") if "comparisons" not in n]:
        run.forget(name)
    for stage in ("mntp", "contrastive", "embeddings/contrastive"):
        run.make(stage, lambda folder: (folder / "file").touch(), settings={}, quiet=True)
    evaluated(run, "games", "GRU4Rec", "raw", 1, 0.1, settings=OLD)
    for name in ("csft", "raw"):
        evaluated(run, "games", "SASRec", name, 7, 0.2, settings=NEW)
    return run


def compared(run, domain, names, metric):
    """The tests of notebook 04 over these evaluations."""
    record = {"domain": domain, "rows": []}
    inputs = [f"evaluation/{domain}/{name}" for name in names]
    settings = {"pairs": [], "tested": metric}
    run.make(f"evaluation/{domain}/comparisons", lambda f: record, settings=settings, inputs=inputs, quiet=True)


def test_the_settings_are_those_of_the_latest_training(run):
    assert run.names("evaluation")[0] == "evaluation/games/GRU4Rec-raw-seed1"
    found = read_settings(run)["evaluation"]
    assert (found.epochs, found.hidden, found.cutoffs) == (9, 16, [5])
    assert document.collect(run)["settings"]["evaluation"] == NEW


def test_an_evaluation_of_what_is_gone_does_not_count_however_late(run):
    evaluated(run, "games", "SASRec", "csft_add_id", 7, 0.2, settings=NEW | {"epochs": 99}, inputs=("csft",))
    assert read_settings(run)["evaluation"].epochs == 99
    run.make("csft", lambda folder: (folder / "file").write_text("new") and {}, settings={"steps": 20}, quiet=True)
    assert read_settings(run)["evaluation"].epochs == 9


def test_what_was_reused_and_tested_last_is_what_was_asked_last(run):
    """The last call had the older settings again and made nothing anew but its tests."""
    for names, settings, metric in (
        (["SASRec-csft-seed7", "SASRec-raw-seed7"], NEW, "recall@5"),
        (["GRU4Rec-raw-seed1"], OLD, "mrr"),
    ):
        compared(run, "games", names, metric)
        counted(run, [*names, "comparisons"], settings=settings)
        found = read_settings(run)["evaluation"]
        assert (found.epochs, found.tested) == (settings["epochs"], metric)
    assert "tested" not in document.collect(run)["settings"]["evaluation"]


def test_baselines_have_no_settings_of_a_training(run):
    evaluated(run, "games", "popularity", "none", 0, 0.1, settings={"cutoffs": [5]})
    assert read_settings(run)["evaluation"].epochs == 9
    for name in [n for n in run.names("evaluation") if "popularity" not in n]:
        run.forget(name)
    assert evaluations.find_evaluations(run).settings is None
    with pytest.raises(ArtefactError, match="04_downstream_eval"):
        read_settings(run)


def test_a_table_has_the_metrics_of_the_last_call_alone(run):
    """Of a call that was stopped on its way, what it made anew at other cutoffs has no value in the columns."""
    evaluated(run, "games", "popularity", "none", 0, 0.1, settings={"cutoffs": [5]})
    names = ["SASRec-csft-seed7", "SASRec-raw-seed7"]
    counted(run, names, references=["popularity-none-seed0"])
    assert list(evaluations.find_evaluations(run).made) == [
        f"evaluation/games/{name}" for name in [*names, "popularity-none-seed0"]
    ]
    evaluated(run, "games", "SASRec", "csft", 7, 0.2, settings=NEW | {"cutoffs": [10]})  # the same ranks
    evaluated(run, "games", "popularity", "none", 0, 0.1, settings={"cutoffs": [10]})
    assert list(evaluations.find_evaluations(run).made) == ["evaluation/games/SASRec-raw-seed7"]


def test_an_evaluation_made_anew_since_counts_when_the_notebook_has_ended_again(run):
    counted(run, ["SASRec-csft-seed7", "SASRec-raw-seed7"])
    evaluated(run, "games", "SASRec", "raw", 7, 0.3, settings=NEW | {"dropout": 0.5})
    held = evaluations.find_evaluations(run)
    assert list(held.made) == ["evaluation/games/SASRec-csft-seed7"]
    assert "evaluation/games/SASRec-raw-seed7" in held.left_out
    assert held.missing == []
    assert held.settings == NEW
    counted(run, ["SASRec-raw-seed7"], settings=NEW | {"dropout": 0.5})
    assert list(evaluations.find_evaluations(run).made) == ["evaluation/games/SASRec-raw-seed7"]
    assert evaluations.find_evaluations(run).settings == NEW | {"dropout": 0.5}


def test_in_a_run_of_an_earlier_version_what_trains_nothing_counts_beside_what_was_named(run):
    evaluated(run, "games", "popularity", "none", 0, 0.1, settings={"cutoffs": [5]})
    told = NEW | {"seeds": [7], "evaluations": ["evaluation/games/SASRec-raw-seed7", "evaluation/games/SASRec-raw-seed8"]}
    run.make(evaluations.SERIES, lambda folder: None, settings=told, quiet=True)
    held = evaluations.find_evaluations(run)
    assert list(held.made) == ["evaluation/games/SASRec-raw-seed7", "evaluation/games/popularity-none-seed0"]
    assert held.missing == ["evaluation/games/SASRec-raw-seed8"]
    assert held.settings == NEW


def test_what_counts_is_noted_only_of_what_is_there(run):
    with pytest.raises(ArtefactError, match=r"no 'evaluation/games/SASRec-raw-seed99' yet.*04_downstream_eval"):
        counted(run, ["SASRec-raw-seed99"])


def test_whether_a_models_own_code_may_run_is_not_for_the_run_to_say(run):
    """It may have come from elsewhere: only who opens a study says so."""
    theirs = run.manifest("backbone")["settings"] | {"trust_remote_code": True}
    run.make("backbone", lambda folder: (folder / "file").touch(), settings=theirs, quiet=True)
    assert not read_settings(run)["backbone"].trust_remote_code
    assert not open_study(run, "one").settings["backbone"].trust_remote_code
    assert open_study(run, "one", trust_remote_code=True).settings["backbone"].trust_remote_code


def test_studies_train_where_the_run_did(run):
    names = ["SASRec-csft-seed7", "SASRec-raw-seed7"]
    counted(run, names, device="cpu", workers=2)
    for found in (read_settings(run)["evaluation"], open_study(run, "one").settings["evaluation"]):
        assert (found.epochs, found.device, found.workers) == (9, "cpu", 2)
    assert evaluations.find_evaluations(run).settings == NEW  # as the trainings' manifests have them
    before = {name: run.manifest(name) for name in run.names("evaluation") if name != evaluations.SERIES}
    counted(run, names, device="auto", workers=3)  # nothing is trained anew, and the note is of this call
    assert (read_settings(run)["evaluation"].device, read_settings(run)["evaluation"].workers) == ("auto", 3)
    assert {name: run.manifest(name) for name in before} == before
    assert sorted(evaluations.find_evaluations(run).made) == [f"evaluation/games/{name}" for name in names]


def test_a_run_that_did_not_keep_where_it_trained_has_the_defaults_and_stays_as_it_is(run):
    counted(run, ["SASRec-raw-seed7"])
    earlier = run.manifest(evaluations.SERIES)
    assert (read_settings(run)["evaluation"].device, read_settings(run)["evaluation"].workers) == ("auto", 0)
    counted(run, ["SASRec-raw-seed7"], device="auto", workers=0)
    assert run.manifest(evaluations.SERIES) == earlier
    counted(run, ["SASRec-raw-seed7"], device="auto", workers=1)
    assert read_settings(run)["evaluation"].workers == 1


# -- what is missing, copied, or of something else ---------------------------------------------------------------------


def counted(run, names, seeds=(7,), settings=NEW, references=(), **place):
    """What notebook 04 notes at its end."""
    names, references = ([f"evaluation/games/{name}" for name in some] for some in (names, references))
    evaluations.note_series(run, settings, seeds, names, references, place=place)


def test_what_the_last_call_made_and_is_gone_is_named_everywhere(run):
    names = ["SASRec-csft-seed7", "SASRec-raw-seed7"]
    evaluated(run, "games", "popularity", "none", 0, 0.1, settings={"cutoffs": [5]})
    compared(run, "games", [*names, "popularity-none-seed0"], "ndcg@10")
    counted(run, [*names, "comparisons"], references=["popularity-none-seed0"])
    whole = document.collect(run)
    assert (whole["missing"], set(whole["comparisons"])) == ([], {"games"})
    for name in ("SASRec-raw-seed7", "popularity-none-seed0"):
        run.forget(f"evaluation/games/{name}")
        results = document.write(run)
        assert results["missing"][-1] == f"evaluation/games/{name}"
        assert results["comparisons"] == {}  # made from what is gone
        line = f"missing: evaluation/games/{name}"
        assert line in document.render_table(results).splitlines()
        assert max(map(len, document.render_table(results).splitlines())) <= 110
        for kind in ("md", "html"):
            page = (run.path / f"report.{kind}").read_text()
            assert page.index(line) < page.index("Backbone:")
            assert "04_downstream_eval" in page
        with pytest.raises(ValueError, match="not whole: evaluation/games/"):
            expected.keep(results, {}, run.path / "x.yaml")
    assert results["missing"] == ["evaluation/games/SASRec-raw-seed7", "evaluation/games/popularity-none-seed0"]
    evaluated(run, "games", "SASRec", "raw", 7, 0.2, settings=NEW)
    evaluated(run, "games", "popularity", "none", 0, 0.1, settings={"cutoffs": [5]})
    again = document.collect(run)
    assert (again["missing"], set(again["comparisons"])) == ([], {"games"})  # the same files: the tests are of them


def test_tests_that_are_gone_are_missing(run):
    compared(run, "games", ["SASRec-csft-seed7", "SASRec-raw-seed7"], "ndcg@10")
    counted(run, ["SASRec-csft-seed7", "SASRec-raw-seed7", "comparisons"])
    assert document.collect(run)["missing"] == []
    run.forget("evaluation/games/comparisons")
    assert document.collect(run)["missing"] == ["evaluation/games/comparisons"]
    assert len(evaluations.find_evaluations(run).made) > 1


def test_tests_over_what_was_made_anew_since_are_left_out(run):
    compared(run, "games", ["SASRec-csft-seed7", "SASRec-raw-seed7"], "ndcg@10")
    counted(run, ["SASRec-csft-seed7", "SASRec-raw-seed7", "comparisons"])
    evaluated(run, "games", "SASRec", "raw", 7, 0.3, settings=NEW | {"dropout": 0.5})
    results = document.collect(run)
    assert results["comparisons"] == {}
    assert "evaluation/games/comparisons" in results["left_out"]
    assert results["missing"] == []


def test_a_copy_is_no_further_seed(run):
    folder, copy = run.path / "evaluation" / "games", "SASRec-raw-seed8"
    for ending in (".npy", ".json"):
        shutil.copy(folder / f"SASRec-raw-seed7{ending}", folder / f"{copy}{ending}")
    with pytest.raises(ArtefactError, match=rf"{copy}\.json"):
        document.collect(run)
    made = json.loads((folder / f"{copy}.json").read_text().replace("seed7.npy", "seed8.npy"))
    made["artefact"] = f"evaluation/games/{copy}"
    (folder / f"{copy}.json").write_text(json.dumps(storage.seal(made)))
    with pytest.raises(
        ArtefactError, match=rf"{copy}\.json is not what its name says.*SASRec-raw-seed7.*04_downstream_eval"
    ):
        document.collect(run)


def test_an_input_that_is_gone_is_one_that_changed(run):
    evaluated(run, "games", "SASRec", "extra", 7, 0.2, settings=NEW, inputs=("csft",))
    name = "evaluation/games/SASRec-extra-seed7"
    assert name in evaluations.find_evaluations(run).made
    run.forget("csft")
    assert run.changed_inputs(name) == ["csft"]
    assert name in evaluations.find_evaluations(run).left_out


def chained(run, text="old", **settings):
    """A CSFT whose weights are this text."""
    run.make("csft", lambda f: (f / "file").write_text(text) and {}, settings=settings, inputs=["backbone"], quiet=True)


def test_an_evaluation_over_a_table_of_a_model_that_was_made_anew_since_does_not_count(run):
    """As `reproduce --set csft.steps=600 --only 02` leaves it: the table is there yet, of the training before."""
    chained(run)
    run.make("embeddings/csft", lambda f: (f / "csft.npy").touch() or {}, settings={}, inputs=["corpus", "csft"], quiet=True)
    evaluated(run, "games", "SASRec", "csft", 7, 0.2, settings=NEW, inputs=("corpus", "embeddings/csft"))
    compared(run, "games", ["SASRec-csft-seed7", "SASRec-raw-seed7"], "ndcg@10")
    counted(run, ["SASRec-csft-seed7", "SASRec-raw-seed7", "comparisons"])
    assert len(evaluations.find_evaluations(run).made) == 2
    chained(run, "new", steps=600)
    for held in (evaluations.find_evaluations(run), evaluations.find_evaluations(run, sound=True)):
        assert list(held.made) == ["evaluation/games/SASRec-raw-seed7"]
        assert {"evaluation/games/SASRec-csft-seed7", "evaluation/games/comparisons"} <= {*held.left_out}
        assert held.tests == {}
    run.forget("csft")  # to make room: what is gone tells nothing of what was made of it
    assert len(evaluations.find_evaluations(run).made) == 2
    chained(run)
    assert len(evaluations.find_evaluations(run).made) == 2
    (run.path / "csft" / "manifest.json").write_text("{")
    with pytest.raises(ArtefactError, match="csft/manifest"):
        evaluations.find_evaluations(run)
    assert list(evaluations.find_evaluations(run, sound=True).made) == ["evaluation/games/SASRec-raw-seed7"]


def test_a_study_may_have_the_backbone_of_the_run_around_it(run):
    run.make("backbone", lambda f: (f / "file").touch(), settings={}, inputs=["corpus"], quiet=True)
    chained(run)
    run.make("corpus", lambda f: (f / "file").write_text("own") and {}, settings={}, quiet=True)
    evaluated(run, "games", "SASRec", "raw", 7, 0.2, settings=NEW, inputs=("corpus", "backbone", "csft"))
    counted(run, ["SASRec-raw-seed7"])
    assert run.changed_inputs("backbone") == ["corpus"]
    assert list(evaluations.find_evaluations(run).made) == ["evaluation/games/SASRec-raw-seed7"]


def test_a_series_that_outdates_every_evaluation_ends_without_a_report_and_says_so(run, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "reproduce", lambda *profile, **asked: run)
    assert cli.main(["reproduce", "--profile", "smoke", "--only", "01"]) == 0
    assert (run.path / "results.json").exists()
    (run.path / "results.json").unlink()
    run.make("corpus", lambda folder: (folder / "file").write_text("new") and {}, settings={"users": 1000}, quiet=True)
    capsys.readouterr()
    assert cli.main(["reproduce", "--profile", "smoke", "--only", "01"]) == 0
    assert not (run.path / "results.json").exists()
    assert re.search(
        r"No report is written: none of the \d+ evaluations in run 'toy'.*notebooks up to 04", capsys.readouterr().out
    )


def test_what_the_last_call_did_not_have_does_not_count_however_late(run):
    """Nothing was trained again in the last call, and what was made latest is of the call before it."""
    evaluated(run, "games", "SASRec", "raw", 5, 0.2, settings=NEW | {"hidden": 99})
    assert list(evaluations.find_evaluations(run).made) == [
        "evaluation/games/SASRec-raw-seed5"
    ]  # of a notebook that has not ended yet
    counted(run, ["SASRec-raw-seed7"])
    held = evaluations.find_evaluations(run)
    assert list(held.made) == ["evaluation/games/SASRec-raw-seed7"]
    assert held.settings["hidden"] == NEW["hidden"]
    counted(run, ["SASRec-raw-seed5"], seeds=(5,), settings=NEW | {"hidden": 99})
    assert evaluations.find_evaluations(run).settings["hidden"] == 99


def test_a_damaged_evaluation_is_named_and_passed_over_where_only_sound_ones_are_asked_for(run):
    (run.path / "evaluation/games/SASRec-raw-seed7.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"SASRec-raw-seed7\.json"):
        evaluations.find_evaluations(run)
    held = evaluations.find_evaluations(run, sound=True)
    assert "evaluation/games/SASRec-csft-seed7" in held.made
    assert held.missing == []
