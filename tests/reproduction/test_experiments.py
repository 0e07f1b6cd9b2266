"""Studies: a run inside a finished run, where one thing at a time is changed."""

from __future__ import annotations

import numpy as np
import pytest

from llm2rec_kit import pipeline
from llm2rec_kit.models import backbone
from llm2rec_kit.reproduction.studies import experiments, paper_arms
from llm2rec_kit.reproduction.studies.study import choose_backbone_settings
from llm2rec_kit.results import significance
from llm2rec_kit.settings import SettingsError


@pytest.fixture(scope="module")
def study(toy_run):
    return experiments.open_study(toy_run.run, "one")


def digests(run, *names):
    return [run.digest(name) for name in names]


def test_a_study_begins_with_the_runs_corpus_backbone_and_settings(toy_run, study):
    assert digests(study.run, "corpus", "backbone") == digests(toy_run.run, "corpus", "backbone")
    assert study.settings["csft"].save_every == toy_run.changed["csft.save_every"]
    assert study.settings["evaluation"].epochs == toy_run.changed["evaluation.epochs"]


def test_what_the_run_has_is_taken_and_not_trained_again(toy_run, study, monkeypatch):
    monkeypatch.setattr(backbone, "load", None)  # what a training begins with
    for stage, start in pipeline.STARTS.items():
        assert experiments.train(study, stage, start) == stage
    assert digests(study.run, *pipeline.STARTS) == digests(toy_run.run, *pipeline.STARTS)


def test_arms_differ_in_what_they_change_alone(study):
    experiments.train(study, "csft", "backbone")
    experiments.train(study, "mntp", "csft")
    warm = experiments.train(study, "contrastive", "mntp", "warm", temperature=0.1)
    same = experiments.train(study, "contrastive", "mntp", "same", temperature=0.1)
    other = experiments.train(study, "contrastive", "mntp", "other", temperature=0.2)
    made = [study.run.manifest(name)["files"]["model.safetensors"] for name in (warm, same, other)]
    assert made[0] == made[1] != made[2]
    assert study.run.manifest(warm)["inputs"] == study.run.manifest(other)["inputs"]


def test_a_training_may_skip_a_stage(study):
    """LLM2Vec is MNTP and contrast from the backbone as it came."""
    name = experiments.train(study, "mntp", "backbone", "llm2vec_mntp")
    assert study.run.manifest(name)["inputs"]["backbone"] == study.run.digest("backbone")


@pytest.mark.parametrize("once", ["llm2vec_mntp", "mntp_alone"])
def test_a_training_that_an_earlier_version_named_otherwise_is_taken_as_it_is(toy_run, once):
    study = experiments.open_study(toy_run.run, f"has_{once}")
    assert experiments.train(study, "mntp", "backbone", once) == once
    assert experiments.train(study, "mntp", "backbone", "mntp_from_backbone") == once
    other = experiments.train(study, "mntp", "backbone", "mntp_from_backbone", rate=0.5)
    assert other == "mntp_from_backbone"


def test_two_studies_share_a_training_of_one_name(toy_run, capsys):
    studies = [experiments.open_study(toy_run.run, name) for name in ("this_one", "another")]
    assert [paper_arms.mntp_from_backbone(experiments, study) for study in studies] == ["mntp_from_backbone"] * 2
    assert "mntp_from_backbone: taken from the store" in capsys.readouterr().out


def test_a_share_of_the_steps_scales_the_warm_up_too(study):
    found = experiments.scale_steps(study.settings["csft"], 0.5)
    assert (found.steps, found.warmup_steps) == (5, 1)
    assert experiments.scale_steps(study.settings["csft"], 0.01).steps == 1
    with pytest.raises(ValueError, match=r"found 1\.5"):
        experiments.scale_steps(study.settings["csft"], 1.5)


def test_evaluations_are_compared_as_a_runs_own(study):
    for name in ("backbone", "csft"):
        experiments.embed(study, name)
    domain = study.corpus.domains[0]
    names = experiments.evaluate(study, ["backbone", "csft", "id"], recommenders=["SASRec"], seeds=[1], domains=[domain])
    assert sorted(significance.tabulate(study.run, names)["embedding"]) == ["backbone", "csft", "id"]
    found = significance.compare(study.run, domain, [(("SASRec", "backbone"), ("SASRec", "csft"))], seeds=[1])
    assert found["verdict"][0] in ("better", "worse", significance.NOTHING)


def test_a_second_call_trains_nothing(study, capsys):
    experiments.embed(study, "csft")
    domain = study.corpus.domains[0]
    for _ in range(2):
        capsys.readouterr()
        experiments.evaluate(study, ["csft"], recommenders=["SASRec"], seeds=[1], domains=[domain])
    assert "0 recommenders to train, 1 reused" in capsys.readouterr().out


def test_a_change_of_data_makes_a_corpus_anew(toy_run):
    longer = experiments.open_study(toy_run.run, "longer", data_max_history=20)
    assert longer.corpus.max_history == 20
    assert longer.run.digest("backbone") == toy_run.run.digest("backbone")
    assert np.array_equal(longer.corpus.sequence, experiments.open_study(toy_run.run, "one").corpus.sequence)


def test_unknown_changes_are_named(toy_run):
    with pytest.raises(SettingsError, match="Did you mean 'data_split'"):
        experiments.open_study(toy_run.run, "wrong", data_splt="global_time")


def test_the_runs_tables_and_evaluations_are_taken_and_not_made_again(toy_run, study, monkeypatch, capsys):
    for stage, start in (("csft", "backbone"), ("mntp", "csft"), ("contrastive", "mntp")):
        experiments.train(study, stage, start)
    monkeypatch.setattr(experiments, "load_encoder", None)
    for start, name in (("backbone", "raw"), ("csft", "csft"), ("mntp", "mntp"), ("contrastive", "contrastive")):
        assert experiments.embed(study, start, name) == name
        assert study.run.digest(f"embeddings/{name}") == toy_run.run.digest(f"embeddings/{name}")
    seeds = [2024]
    names = experiments.evaluate(study, ["raw", "contrastive", "id"], recommenders=["SASRec", "GRU4Rec"], seeds=seeds)
    assert "0 recommenders to train, 12 reused" in capsys.readouterr().out
    assert [study.run.record(n) for n in names] == [toy_run.run.record(n) for n in names]


def test_a_table_of_another_length_is_not_the_runs(toy_run, study):
    experiments.embed(study, "backbone", "raw")
    unit = experiments.embed(study, "backbone", "raw-unit", normalise="unit")
    plain, other = (np.load(study.run.path_of(f"embeddings/{n}.npy")) for n in ("raw", unit))
    assert np.allclose(other[1:], plain[1:] / np.linalg.norm(plain[1:], axis=1, keepdims=True), atol=1e-6)


def test_csft_may_see_other_domains_with_all_else_equal(toy_run, study):
    corpus = study.corpus
    one = experiments.train(study, "csft", "backbone", "one", domains=corpus.train_domains)
    both = experiments.train(study, "csft", "backbone", "both", domains=corpus.domains)
    own = experiments.train(study, "csft", "backbone", "own")  # here too: the run's had another number of threads
    weights = [study.run.manifest(name)["files"]["model.safetensors"] for name in (own, one, both)]
    assert weights[0] == weights[1] != weights[2]
    assert study.run.manifest(both)["inputs"] == study.run.manifest(own)["inputs"]


def test_llmemb_is_contrasted_and_encoded_by_its_attributes(study):
    name = experiments.train(study, "contrastive", "backbone", "llmemb", text="attributes", mask_rate=0.4)
    prompts = pipeline.read_texts(study.corpus, "attributes")
    assert "category is" in prompts[0]
    table = experiments.embed(study, name, text="attributes", attention="causal")
    vectors = np.load(study.run.path_of(f"embeddings/{table}.npy"))
    expected = experiments.load_encoder(study, name, attention="causal").encode(prompts[:3])
    assert np.allclose(vectors[1:4], expected, atol=1e-5)


def test_another_backbone_is_made_and_the_runs_own_is_taken(toy_run):
    wide = toy_run.run.manifest("backbone")["settings"]["hidden"]
    same = experiments.open_study(toy_run.run, "same_width", **choose_backbone_settings(f"tiny-{wide}"))
    other = experiments.open_study(toy_run.run, "narrow", **choose_backbone_settings("tiny-16"))
    assert same.run.digest("backbone") == toy_run.run.digest("backbone")
    assert 0 < other.run.record("backbone")["parameters"] < toy_run.run.record("backbone")["parameters"]
    assert experiments.embed(other, "backbone", "raw") == "raw"
    assert np.load(other.run.path_of("embeddings/raw.npy")).shape[1] == 16


def test_forced_a_study_begins_anew(toy_run, capsys):
    changed = {"backbone_hidden": 24}
    study = experiments.open_study(toy_run.run, "again", **changed)
    experiments.embed(study, "backbone", "raw")
    made = study.run.manifest("backbone")["finished"]
    capsys.readouterr()
    experiments.open_study(toy_run.run, "again", **changed)
    assert "backbone: reused" in capsys.readouterr().out
    anew = experiments.open_study(toy_run.run, "again", force=True, **changed)
    assert "backbone: making" in capsys.readouterr().out
    assert anew.run.manifest("backbone")["finished"] >= made
    assert not anew.run.has("embeddings/raw")
    assert not anew.run.path_of("embeddings/raw").with_suffix(".npy").exists()
