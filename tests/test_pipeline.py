"""An artefact is the same whoever makes it: a notebook, `llm2rec train`, a study."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from llm2rec_kit import pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.downstream.evaluation import Job
from llm2rec_kit.reproduction.runner import launch
from llm2rec_kit.reproduction.studies import experiments
from llm2rec_kit.runs import Run

TABLES = [f"embeddings/{table}" for table in pipeline.TABLES]


def told(run: Run, name: str) -> dict:
    """All that a manifest says but for when it was made."""
    return {part: value for part, value in run.manifest(name).items() if part in ("settings", "inputs", "files", "record")}


def parameters_of(run: Run) -> dict:
    """Flat names of what the run's stages were made with, as `launch` takes them."""
    found = {}
    for stage in ("backbone", *pipeline.STARTS):
        kind = next(s for s in S.STAGES if s.prefix == stage)
        known = {f.name for f in dataclasses.fields(kind)}
        found |= {
            f"{stage}_{k}": v
            for k, v in run.manifest(stage)["settings"].items()
            if k in known and k != "dtype" and k != "device"
        }
    place = run.manifest("backbone")["settings"]
    return found | {"backbone_device": place["device"], "backbone_dtype": place["dtype"]}


def run_python(*words: str) -> None:
    """In a process of its own, as a user's: what other tests left in this one may change the last bits."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def launched(finished, tmp_path_factory):
    """The notebooks' corpus, and what `llm2rec train` makes of it."""
    outputs = tmp_path_factory.mktemp("launched")
    run = Run("launched", outputs)
    run.link_from(finished.run, "corpus")
    profile = outputs / "as_there.yaml"
    profile.write_text(json.dumps(parameters_of(finished.run)))
    where = ["--profile", str(profile), "--outputs", str(outputs)]
    for stage in launch.STAGES:
        run_python("-m", "llm2rec_kit.cli", "train", stage, "launched", *where)
    return run


@pytest.mark.parametrize("name", ["backbone", *pipeline.STARTS])
def test_train_makes_what_the_notebooks_make(finished, launched, name):
    assert told(launched, name) == told(finished.run, name)


ALONE = """
import dataclasses, sys
from llm2rec_kit import pipeline, runs
from llm2rec_kit.reproduction.studies import experiments
run = runs.find(sys.argv[1])
study = experiments.open_study(run, "again")
alone = dataclasses.replace(study, base=runs.Run("nothing", run.path / "experiments" / "none"))
for stage, start in pipeline.STARTS.items():
    experiments.train(alone, stage, start)
for table, start in pipeline.TABLES.items():
    experiments.embed(alone, start, table)
asked = study.settings["evaluation"]
experiments.evaluate(alone, ["raw"], recommenders=asked.recommenders[:1], seeds=asked.seeds[:1])
"""


@pytest.fixture(scope="module")
def study(finished):
    """A study that takes nothing of the run's trainings: what its own calls make has to be the same."""
    run_python("-c", ALONE, str(finished.run.path))
    return experiments.open_study(finished.run, "again")


@pytest.mark.parametrize("name", [*pipeline.STARTS, *TABLES])
def test_a_study_makes_what_the_notebooks_make(finished, study, name):
    assert told(study.run, name) == told(finished.run, name)


def test_a_study_ranks_as_notebook_04_does(finished, study):
    asked = study.settings["evaluation"]
    (name, *_) = (n for n in study.run.names("evaluation") if f"{asked.recommenders[0]}-raw-" in n)
    assert told(study.run, name)["files"] == told(finished.run, name)["files"]
    assert told(study.run, name)["record"] == told(finished.run, name)["record"]


def test_a_corpus_made_anew_is_the_notebooks(finished, tmp_path):
    data = S.Data.from_parameters(
        {f"data_{k}": v for k, v in finished.run.manifest("corpus")["settings"].items() if k != "files"}
    )
    run = Run("again", tmp_path)
    pipeline.make_corpus(data).make(run)
    assert told(run, "corpus") == told(finished.run, "corpus")


def test_what_the_base_has_is_taken_but_not_when_forced(finished, tmp_path, capsys):
    run = Run("other", tmp_path)
    run.link_from(finished.run, "corpus")
    place = experiments.open_study(finished.run, "again").settings["backbone"]
    recipe = pipeline.make_backbone(run, place)
    recipe.make(run, base=finished.run)
    assert "backbone: making" not in capsys.readouterr().out
    recipe.make(run, base=finished.run, force=True)
    assert "backbone: redoing, forced" in capsys.readouterr().out
    assert told(run, "backbone") == told(finished.run, "backbone")


def test_recommenders_that_are_there_are_not_trained_again(finished, monkeypatch, capsys):
    corpus = Corpus.load(finished.run.require("corpus"))
    settings = experiments.open_study(finished.run, "again").settings["evaluation"]
    jobs = [Job(corpus.domains[0], settings.recommenders[0], "raw", settings.seeds[0])]
    pipeline.evaluate(finished.run, jobs, settings)
    assert "0 trainings to do, 1 reused" in capsys.readouterr().out
