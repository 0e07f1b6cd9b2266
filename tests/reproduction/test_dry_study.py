"""A dry study: what is one thing and what is two."""

from __future__ import annotations

import pytest

from llm2rec_kit import settings as S
from llm2rec_kit.reproduction.plan import dry_study
from llm2rec_kit.reproduction.plan.dry_study import embed, open_study, train
from llm2rec_kit.reproduction.studies.experiments import scale_steps
from llm2rec_kit.reproduction.studies.study import CHANGEABLE


@pytest.fixture
def run():
    run = dry_study.begin({s.prefix: s() for s in S.STAGES if s.prefix in CHANGEABLE}, ["games", "crafts"])
    train(run, "csft", "backbone")
    return run


def test_the_same_training_in_a_study_is_the_runs(run):
    study = open_study(run, "one")
    before = len(run.made.artefacts)
    train(study, "csft", "backbone")
    assert study.holds["csft"] is run.holds["csft"]
    assert len(run.made.artefacts) == before


@pytest.mark.parametrize(
    "changed",
    [{"share": 0.5}, {"domains": ["crafts"]}, {"text": "attributes"}, {"learning_rate": 1.0}, {"name": "other"}, {}],
)
def test_another_name_setting_domain_or_text_makes_another(run, changed):
    study = open_study(run, "one")
    name = train(study, "csft", "backbone", **changed)
    assert (study.holds[name] is run.holds["csft"]) == (not changed)


@pytest.mark.parametrize("changed", [{"data_max_history": 20}, {"backbone_hidden": 96}])
def test_another_corpus_or_backbone_makes_all_after_it_anew(run, changed):
    study = open_study(run, "one", **changed)
    train(study, "csft", "backbone")
    for name in ("corpus", "backbone"):
        assert (study.holds[name] is run.holds[name]) == (not next(iter(changed)).startswith(name.replace("corpus", "data")))
    assert study.holds["csft"] is not run.holds["csft"]
    assert study.holds["csft"].data.max_history == changed.get("data_max_history", 10)


def test_tables_are_told_by_their_encoder_and_how_it_is_used(run):
    study = open_study(run, "one")
    train(study, "csft", "backbone", share=0.5)
    for start in ("csft", "backbone"):
        for where in (run, study):
            embed(where, start, "table")
        assert (run.holds["embeddings/table"] is study.holds["embeddings/table"]) == (start == "backbone")
    plain = study.holds["embeddings/table"]
    embed(study, "backbone", "table", pooling="last")
    assert study.holds["embeddings/table"] is not plain


@pytest.mark.parametrize(
    ("planned", "scaled"),
    [
        ({}, {}),  # as it was before more than steps and warm-up was scaled: arms of finished runs keep their key
        ({"evaluate_every": 2000}, {"evaluate_every": 2000}),
        ({"schedule_steps": 10000}, {"schedule_steps": 1000}),
        ({"schedule_steps": 20003}, {"schedule_steps": 2000}),
        ({"schedule_epochs": 10}, {"schedule_epochs": 1}),
        ({"schedule_epochs": 3}, {"schedule_epochs": 1}),
        ({"evaluate_every": 2000, "patience": 5}, {"evaluate_every": 200, "patience": 5}),
        ({"evaluate_every": 4, "keep": "best"}, {"evaluate_every": 1, "keep": "best"}),
        ({"patience": 5}, {"patience": 5}),
    ],
)
def test_a_share_of_the_steps_is_the_same_training_in_small(planned, scaled):
    found = scale_steps(S.CSFT(steps=10000, warmup_steps=200, **planned).check(), 0.1).check()
    assert found == S.CSFT(steps=1000, warmup_steps=20, **scaled)
