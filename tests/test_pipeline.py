"""An artefact is the same whoever makes it: a notebook, `llm2rec train`, a study."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from conftest import make_corpus

from llm2rec_kit import evaluating, pipeline
from llm2rec_kit import settings as S
from llm2rec_kit.corpus import Corpus
from llm2rec_kit.data.sources import synthetic
from llm2rec_kit.downstream import baselines
from llm2rec_kit.downstream.evaluation import Job
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.encoding.table_encoder import load_encoder
from llm2rec_kit.fitting import distributed
from llm2rec_kit.models import backbone
from llm2rec_kit.reproduction.runner import launch
from llm2rec_kit.reproduction.studies import experiments
from llm2rec_kit.results import kept
from llm2rec_kit.runs import ArtefactError, Run

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
def launched(toy_run, tmp_path_factory):
    """The notebooks' corpus, and what `llm2rec train` makes of it."""
    outputs = tmp_path_factory.mktemp("launched")
    run = Run("launched", outputs)
    run.link_from(toy_run.run, "corpus")
    profile = outputs / "as_there.yaml"
    profile.write_text(json.dumps(parameters_of(toy_run.run)))
    where = ["--profile", str(profile), "--outputs", str(outputs)]
    for stage in launch.STAGES:
        run_python("-m", "llm2rec_kit.cli", "train", stage, "launched", *where)
    return run


@pytest.mark.parametrize("name", ["backbone", *pipeline.STARTS])
def test_train_makes_what_the_notebooks_make(toy_run, launched, name):
    assert told(launched, name) == told(toy_run.run, name)


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
def study(toy_run):
    """A study that takes nothing of the run's trainings: what its own calls make has to be the same."""
    run_python("-c", ALONE, str(toy_run.run.path))
    return experiments.open_study(toy_run.run, "again")


@pytest.mark.parametrize("name", [*pipeline.STARTS, *TABLES])
def test_a_study_makes_what_the_notebooks_make(toy_run, study, name):
    assert told(study.run, name) == told(toy_run.run, name)


def test_a_study_ranks_as_notebook_04_does(toy_run, study):
    asked = study.settings["evaluation"]
    (name, *_) = (n for n in study.run.names("evaluation") if f"{asked.recommenders[0]}-raw-" in n)
    assert told(study.run, name)["files"] == told(toy_run.run, name)["files"]
    assert told(study.run, name)["record"] == told(toy_run.run, name)["record"]


@pytest.fixture
def begun(tiny, tmp_path):
    """A run with a corpus and a model that CSFT could have left."""
    run = Run("begun", tmp_path)
    run.make("corpus", make_corpus().save, settings={}, quiet=True)
    run.make("csft", lambda folder: backbone.save(*tiny, folder), settings={}, inputs=["corpus"], quiet=True)
    return run


def test_a_new_mask_token_is_saved_with_a_model_that_was_trained_in_pieces(begun, monkeypatch):
    """FSDP leaves the weights in the checkpoint alone; they are read into the model that training began with."""
    monkeypatch.setattr(distributed, "is_sharded", lambda: True)
    settings, place = S.MNTP(steps=2, batch_size=4, mask_token="new"), S.Backbone(device="cpu")
    pipeline.train_stage(begun, settings, place).make(begun, quiet=True)
    before, (after, tokenizer) = (backbone.load(begun.require(name), place) for name in ("csft", "mntp"))
    assert tokenizer.mask_token_id == len(tokenizer) - 1 == backbone.token_rows(before[0])
    assert backbone.token_rows(after) == len(tokenizer)
    assert backbone.is_bidirectional(after)


def test_items_contrasted_by_attributes_stay_causal_also_when_trained_in_pieces(begun, monkeypatch):
    corpus = make_corpus()
    corpus = dataclasses.replace(corpus, items=corpus.items.with_columns(brand=pl.col("title").str.slice(0, 9)))
    begun.make("corpus", corpus.save, settings={"brand": True}, quiet=True)
    monkeypatch.setattr(distributed, "is_sharded", lambda: True)
    settings, place = S.Contrastive(steps=2, batch_size=4), S.Backbone(device="cpu")
    pipeline.train_stage(begun, settings, place, start="csft", text="attributes").make(begun, quiet=True)
    assert not backbone.is_bidirectional(backbone.load(begun.require("contrastive"), place)[0])
    assert begun.record("contrastive")["leak"] == 0


def test_a_stage_that_is_not_there_is_asked_of_its_notebook_not_of_the_hub(begun):
    with pytest.raises(ArtefactError, match=r"notebooks/03_item_embedding\.ipynb"):
        pipeline.embed_items(begun, "mntp", "mntp", S.Encoding(), S.Backbone(device="cpu")).make(begun)


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "as_trained"])
def test_a_table_of_a_decoder_from_elsewhere_is_loaded_as_it_was_made(begun, tiny, tmp_path, attention):
    backbone.save(*tiny, tmp_path / "decoder")
    how, place = S.Encoding(attention=attention), S.Backbone(device="cpu")
    pipeline.embed_items(begun, "mine", str(tmp_path / "decoder"), how, place).make(begun, quiet=True)
    table = np.load(begun.require("embeddings/mine").with_suffix(".npy"))
    titles = Corpus.load(begun.require("corpus")).titles
    np.testing.assert_array_equal(load_encoder(begun, "mine").table(titles), table)


def test_the_record_tells_the_steps_of_the_weights_that_are_kept(begun):
    """At this rate the first validation is the best."""
    settings = S.MNTP(steps=6, batch_size=4, held_out=0.3, learning_rate=1.0, evaluate_every=1, patience=2, keep="best")
    pipeline.train_stage(begun, settings, S.Backbone(device="cpu")).make(begun, quiet=True)
    record = begun.record("mntp")
    assert record["steps"] == record["kept_step"] < 6


def test_what_is_measured_after_the_work_loses_none_of_it_when_interrupted(begun, monkeypatch, capsys):
    def interrupt(*given):
        raise KeyboardInterrupt

    settings, place = S.MNTP(steps=4, batch_size=4, save_every=4), S.Backbone(device="cpu")
    train = pipeline.train_stage(begun, settings, place)
    embed = pipeline.embed_items(begun, "csft", "csft", S.Encoding(), place)
    for recipe, measured in ((train, (backbone, "measure_leak")), (embed, (pipeline, "_shape"))):
        with monkeypatch.context() as patch:
            patch.setattr(*measured, interrupt)
            with pytest.raises(KeyboardInterrupt):
                recipe.make(begun)
    monkeypatch.delattr(Encoder, "table")
    capsys.readouterr()
    train.make(begun)
    embed.make(begun)
    assert "resuming from checkpoint-4" in capsys.readouterr().out
    assert not (begun.path / "mntp" / "checkpoints").exists()
    monkeypatch.undo()
    kept = np.load(begun.require("embeddings/csft").with_suffix(".npy"))
    whole = Encoder.load(begun.require("csft"), S.Encoding(), place).table(Corpus.load(begun.require("corpus")).titles)
    assert np.array_equal(kept, whole)


def test_a_corpus_made_anew_is_the_notebooks(toy_run, tmp_path):
    data = S.Data.from_parameters(
        {f"data_{k}": v for k, v in toy_run.run.manifest("corpus")["settings"].items() if k != "files"}
    )
    run = Run("again", tmp_path)
    pipeline.make_corpus(data).make(run)
    assert told(run, "corpus") == told(toy_run.run, "corpus")


def test_what_the_base_has_is_taken_but_not_when_forced(toy_run, tmp_path, capsys):
    run = Run("other", tmp_path)
    run.link_from(toy_run.run, "corpus")
    place = experiments.open_study(toy_run.run, "again").settings["backbone"]
    recipe = pipeline.make_backbone(run, place)
    recipe.make(run, base=toy_run.run)
    assert "backbone: making" not in capsys.readouterr().out
    recipe.make(run, base=toy_run.run, force=True)
    assert "backbone: redoing, forced" in capsys.readouterr().out
    assert told(run, "backbone") == told(toy_run.run, "backbone")


def test_recommenders_that_are_there_are_not_trained_again(toy_run, monkeypatch, capsys):
    corpus = Corpus.load(toy_run.run.require("corpus"))
    settings = experiments.open_study(toy_run.run, "again").settings["evaluation"]
    jobs = [Job(corpus.domains[0], settings.recommenders[0], "raw", settings.seeds[0])]
    evaluating.evaluate(toy_run.run, jobs, settings)
    assert "0 trainings to do, 1 reused" in capsys.readouterr().out


def test_baselines_are_ranked_once_each_and_over_each_table(tmp_path, capsys):
    corpus, run, rng = make_corpus(users=30), Run("r", tmp_path), np.random.default_rng(0)
    run.make("corpus", corpus.save, settings={}, quiet=True)
    tables = {name: rng.normal(size=(17, 5)).astype(np.float32) for name in ("raw", "csft")}
    for name, table in tables.items():
        run.make(f"embeddings/{name}", lambda f, n=name, t=table: np.save(f / f"{n}.npy", t), settings={}, quiet=True)
    asked = S.Evaluation(baselines=["recent", "popularity", "nearest"], cutoffs=[3], exclude="last")
    parts = {"toy": corpus.select(["toy"])}
    names = evaluating.rank_baselines(run, parts, tables, asked)
    rows = ("popularity-none", "nearest-raw", "nearest-csft")
    assert names == [f"evaluation/toy/{row}-seed0" for row in rows]
    assert "toy: no recent popularity" in capsys.readouterr().out
    expected = baselines.rank("nearest", corpus, tables["csft"], exclude="last", cutoffs=[3])
    assert kept.read(run, names[2])[1].tolist() == expected.ranks.tolist()
    assert list(run.manifest(names[2])["inputs"]) == ["corpus", "embeddings/csft"]
    assert run.manifest(names[2])["settings"] == {"cutoffs": [3], "exclude": "last"}
    before = [run.manifest_path(name).stat().st_mtime_ns for name in names]
    assert evaluating.rank_baselines(run, parts, tables, asked) == names
    assert [run.manifest_path(name).stat().st_mtime_ns for name in names] == before  # reused
    assert evaluating.rank_baselines(run, parts, tables, asked, force=True) == names
    assert run.manifest_path(names[0]).stat().st_mtime_ns != before[0]


def test_the_oracle_ranks_by_the_store_that_the_corpus_was_made_from(tmp_path):
    data, run = S.Data(synthetic_users=200, synthetic_items=100, min_interactions=3, seed=7), Run("r", tmp_path)
    pipeline.make_corpus(data).make(run, quiet=True)
    corpus = Corpus.load(run.require("corpus"))
    parts = {domain: corpus.select([domain]) for domain in corpus.domains}
    names = evaluating.rank_oracle(run, parts, S.Evaluation(cutoffs=[3]))
    assert names == [f"evaluation/{domain}/oracle-none-seed0" for domain in corpus.domains]
    for name, (part, _) in zip(names, parts.values(), strict=True):
        assert kept.read(run, name)[1].tolist() == synthetic.oracle_ranks(part, data).tolist()
