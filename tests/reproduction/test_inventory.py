"""The inventory against what a finished run has made, name by name; what is shared, and what is not to be had."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from conftest import make_corpus

from llm2rec_kit import settings as S
from llm2rec_kit.downstream import cold, evaluation
from llm2rec_kit.downstream.recommenders import MODELS
from llm2rec_kit.reproduction.plan import inventory, sizes
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.reproduction.studies import question_arms
from llm2rec_kit.reproduction.studies.study import FOLDER
from llm2rec_kit.results import evaluations
from llm2rec_kit.runs import Run

ALL = ["01", "02", "03", "04", "05", "06", "07"]


def listed(profile, outputs, numbers=ALL, run="", **overrides):
    values, _ = notebooks.prepare(profile, overrides=overrides, run=run, outputs=str(outputs), look=False)
    return inventory.list_artefacts(values, sizes.find_sizes(values), numbers)


def made_for(found, number, kind=S.Stage):
    """{section: names} of what a notebook is the first to need."""
    sections = {}
    for a in found.artefacts:
        if a.section[0] == number and isinstance(a.settings, kind):
            sections.setdefault(a.section[1], []).append(a.name)
    return sections


def of_finished(toy_run):
    """The inventory of the finished run, and that run and its studies by name."""
    changed = {name.replace(".", "_"): value for name, value in toy_run.changed.items()}
    found = listed("smoke", toy_run.run.path.parent, run=toy_run.run.name, **changed)
    folder = toy_run.run.path / FOLDER
    return found, {name: Run(name, folder) if name else toy_run.run for name in found.studies}


def test_the_studies_and_what_they_hold_are_those_of_the_finished_run(toy_run):
    found, runs = of_finished(toy_run)
    folders = [p.name for p in (toy_run.run.path / FOLDER).glob("[!.]*")]
    assert sorted(name for name in folders if name.startswith(("tables", "questions"))) == sorted(
        filter(None, found.studies)
    )
    for name, study in found.studies.items():
        there = [n for n in runs[name].artefacts() if n != evaluations.SERIES]  # a note, no work
        if not name:  # the run ranks without training, too, and keeps comparisons, maps and an encoder
            there = [n for n in there if n.split("/")[0] in ("embeddings", *study.holds) or is_training(n)]
        assert sorted(study.holds) == sorted(there), name


def is_training(name):
    return name.startswith("evaluation/") and name.split("/")[-1].split("-")[0] in MODELS


def test_settings_and_inputs_are_those_that_the_finished_run_used(toy_run):
    found, runs = of_finished(toy_run)
    for study in found.studies.values():
        for name, artefact in study.holds.items():
            made = runs[study.name].manifest(name)
            for key, value in artefact.settings.as_dict().items():
                if key in made["settings"]:
                    assert made["settings"][key] == value, (study.name, name, key)
            assert made["settings"].get("text", "title") == artefact.text or isinstance(artefact.settings, S.Data)
            assert sorted(made["inputs"]) == sorted(i.name for i in artefact.inputs)
            if not name.startswith("evaluation/"):
                assert tuple(made["settings"].get("domains", ())) == artefact.domains


def test_what_the_finished_run_shared_is_counted_once(toy_run):
    """Distinct artefacts (name, settings, hashes of the inputs) of all studies that the run has not, against the inventory."""
    found, runs = of_finished(toy_run)
    held = {name: distinct(run, found.studies[name].holds) for name, run in runs.items()}
    own = held.pop("")
    there = Counter(name for name, *_ in set().union(*held.values()) - own)
    assert there == Counter(a.name for a in found.artefacts if a.kept and a.section[0] in ("06", "07"))


def distinct(run, names):
    manifests = {name: run.manifest(name) for name in names}
    return {(n, json.dumps(m["settings"], sort_keys=True), json.dumps(m["inputs"])) for n, m in manifests.items()}


def test_a_share_of_csft_that_two_notebooks_need_is_trained_once(tmp_path):
    half = {"tables_backbones": ["tiny-32"], "tables_share": 0.5, "questions_share": 0.5}
    found = listed("smoke", tmp_path, **half)
    first, second = (found.studies[name].holds["csft"] for name in ("tables-tiny-32", "questions_short"))
    assert first is second
    assert (first.section, first.settings.steps) == (("06", "Figure 4"), 5)
    assert listed("smoke", tmp_path, ["07"], **half).studies["questions_short"].holds["csft"].section == ("07", "split")
    whole = listed("smoke", tmp_path, tables_backbones=["tiny-32"])  # the run's own width, all of its steps
    assert "Figure 4" not in made_for(whole, "06")
    assert whole.studies["tables-tiny-32"].holds["csft"] is whole.studies[""].holds["csft"]


def test_table_5_trains_on_one_domain_and_on_all(tmp_path):
    found = listed("smoke", tmp_path, tables_share=0.5)
    single, mixed = (a for a in found.artefacts if a.section == ("06", "Table 5") and isinstance(a.settings, S.CSFT))
    assert (single.name, single.domains) == ("csft_single", ("games",))
    assert (mixed.name, mixed.domains) == ("csft_mixed", ("games", "crafts"))
    # With all of its steps the run's own CSFT, which saw games, is the single one; or, having seen both, the mixed one.
    assert made_for(listed("smoke", tmp_path), "06", S.CSFT)["Table 5"] == ["csft_mixed"]
    both = listed("smoke", tmp_path, data_train_domains=["games", "crafts"])
    assert made_for(both, "06", S.CSFT)["Table 5"] == ["csft_single"]


def test_only_questions_that_are_asked_are_listed(tmp_path):
    asked = {"questions_asked": ["id", "views"], "questions_seeds": [1, 2], "questions_domain": "crafts"}
    found = listed("smoke", tmp_path, **asked)
    assert list(made_for(found, "07")) == ["views", "id"]
    assert made_for(found, "07", S.Training) == {"views": ["views_dropout", "other_seed"]}
    trained = made_for(found, "07", S.Evaluation)
    # The run's own text and ids, too, have these seeds nowhere; the text's are needed first among the views.
    tables = ("id", "id_detached", "contrastive_add_id", "contrastive_concat_id")
    assert trained["id"] == [f"evaluation/crafts/SASRec-{t}-seed{s}" for t in tables for s in (1, 2)]
    assert len(trained["views"]) == 3 * 2


def test_what_the_data_cannot_answer_is_not_listed(tmp_path):
    corpus = make_corpus()  # one domain, no times, nothing but titles
    statistics = corpus.statistics().to_dicts()
    Run("toy", tmp_path).make("corpus", lambda f: corpus.save(f) or {"statistics": statistics}, settings={}, quiet=True)
    found = listed("smoke", tmp_path, run="toy")
    assert set(S.QUESTIONS) - set(made_for(found, "07")) == {"split", "text", "repeats"}  # repeats trains nothing of its own
    assert "llmemb" not in found.studies["tables"].holds
    assert "Table 5" not in made_for(found, "06")
    released = listed("paper", tmp_path, data_source="llm2rec")  # brings its own samples and splits
    assert {"split", "history"}.isdisjoint(made_for(released, "07"))
    assert "text" in made_for(released, "07")


def test_encoders_from_elsewhere_are_read_at_both_lengths_and_once_more_for_figure_5(tmp_path):
    found = listed("smoke", tmp_path, tables_encoders=["BAAI/bge-large-en-v1.5"], tables_models=[])
    bge = [a for a in found.artefacts if a.model.name.startswith("BAAI") and isinstance(a.settings, S.Encoding)]
    assert [a.name for a in bge] == [
        f"{kind}/bge-large-en-v1_5{how}" for kind, how in (("embeddings", ""), ("embeddings", "-unit"), ("reading", ""))
    ]
    assert [a.kept for a in bge] == [True, True, False]
    assert [a.settings.normalise for a in bge[:2]] == ["none", "unit"]


def test_trainings_without_held_out_items_are_one_more_a_table(tmp_path):
    given = {"evaluation_embeddings": ["raw", "id"], "evaluation_seeds": [1, 2], "evaluation_recommenders": ["GRU4Rec"]}
    found = listed("smoke", tmp_path, ["04"], **given, evaluation_cold=0.1)
    listed_too = [n for n in found.studies[""].holds if "/cold-" in n]
    jobs = [evaluation.Job(domain, "GRU4Rec", table, 1) for domain in ("games", "crafts") for table in ("raw", "id")]
    assert listed_too == [cold.name_of(job) for job in jobs]
    assert not any("/cold-" in n for n in listed("smoke", tmp_path, ["04"], **given).studies[""].holds)


def test_variants_and_encoders_of_the_run_are_its_own(tmp_path):
    found = listed("smoke", tmp_path, encoding_variants=["raw-last-causal"], encoding_baselines=["some/encoder"])
    assert made_for(found, "03", S.Encoding)["encoding"][-2:] == ["embeddings/raw-last-causal", "embeddings/encoder"]
    assert "embeddings/raw-last-causal" not in made_for(found, "06")["Table 4"]
    assert "embeddings/raw-last-bidirectional" in made_for(found, "06")["Table 4"]


def test_embeddings_that_nothing_makes_are_named(tmp_path):
    with pytest.raises(ValueError, match="no embeddings 'bert' to be had"):
        listed("smoke", tmp_path, evaluation_embeddings=["raw", "bert_add_id"])


def test_a_question_that_is_added_is_reckoned_with(tmp_path, monkeypatch):
    """One entry: its arms, which plan and notebook call alike."""

    def width(at):
        wide = at.do.embed(at.own, "csft", "csft-wide", max_tokens=7)
        arms = [question_arms.Arm("as in the run", at.own, "csft"), question_arms.Arm("cut", at.own, wide)]
        return [question_arms.Family("width", arms, [("as in the run", "cut")])]

    monkeypatch.setitem(question_arms.ARMS, "width", width)
    monkeypatch.setattr(S.Questions, "__post_init__", lambda self: None)  # which knows the kit's own questions alone
    found = listed("smoke", tmp_path, ["07"], questions_asked=["width"])
    assert made_for(found, "07", S.Encoding) == {"width": ["embeddings/csft-wide"]}
    assert "evaluation/games/SASRec-csft-wide-seed2024" in made_for(found, "07", S.Evaluation)["width"]
