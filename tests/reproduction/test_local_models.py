"""Models by folder: named from the caller's place, and told apart by what they hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import make_corpus

from llm2rec_kit import pipeline, storage
from llm2rec_kit import settings as S
from llm2rec_kit.models import backbone
from llm2rec_kit.reproduction.grid import graph
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.reproduction.studies import experiments
from llm2rec_kit.reproduction.studies.study import Study
from llm2rec_kit.runs import Run
from llm2rec_kit.storage import hash_file


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder of the caller with models in it, one of a misleading name; they are not looked into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, "check_models", lambda *a, **k: None)
    for name in ("models/mine", "models/bge", "tiny"):
        Path(name).mkdir(parents=True)
        Path(name, "config.json").write_text("{}")
    return tmp_path / "models"


def test_folders_are_the_callers_and_other_names_stay(models):
    asked = {
        "backbone_name": "models/mine",
        "encoding_baselines": ["BAAI/bge-large-en-v1.5", "models/bge"],
        "tables_encoders": ["./models/bge"],
        "tables_backbones": ["tiny", "tiny-96", "models/mine"],
    }
    values, _ = notebooks.prepare("demo", overrides=asked)
    mine, bge = str(models / "mine"), str(models / "bge")
    assert values["backbone_name"] == mine
    assert values["encoding_baselines"] == ["BAAI/bge-large-en-v1.5", bge]
    assert values["tables_encoders"] == [bge]
    assert values["tables_backbones"] == ["tiny", "tiny-96", mine]
    assert notebooks.prepare("demo")[0]["backbone_name"] == "tiny"


def test_a_grid_s_folders_are_those_beside_its_file(models, monkeypatch):
    file = models / "grid.yaml"
    file.write_text(json.dumps({"notebooks": 2, "axes": {"backbones": {"a": {"backbone.name": "mine"}, "b": {}}}}))
    monkeypatch.chdir(models.parent.parent)
    made = graph.load(file, str(models / "out"))
    names = {node.values["backbone_name"] for node in made.nodes.values() if node.book.startswith("02")}
    assert names == {str(models / "mine"), "tiny"}


def test_contents(models):
    first = backbone.hash_contents(str(models / "mine"))
    assert set(first) == {"files"}
    (models / "mine" / "README.md").write_text("a card")
    (models / "mine" / "manifest.json").write_text("{}")
    assert backbone.hash_contents(str(models / "mine")) == first
    (models / "mine" / "model.safetensors").write_bytes(b"other weights")
    assert backbone.hash_contents(str(models / "mine")) != first
    assert backbone.hash_contents("tiny") == backbone.hash_contents("Qwen/Qwen2-0.5B") == {}


@pytest.fixture
def saved(tmp_path, tiny) -> Path:
    folder = tmp_path / "encoder"
    backbone.save(*tiny, folder)
    return folder


def retrain(folder: Path, tiny) -> None:
    model, tokenizer = tiny
    model.model.norm.weight.data.mul_(2)
    backbone.save(model, tokenizer, folder)


def with_corpus(outputs: Path) -> Run:
    run = Run("r", outputs)
    run.make("corpus", lambda folder: make_corpus().save(folder), settings={}, quiet=True)
    return run


def test_a_backbone_whose_folder_has_changed_is_made_anew(tmp_path, saved, tiny, capsys):
    run, place = with_corpus(tmp_path), S.Backbone(name=str(saved), device="cpu")
    pipeline.make_backbone(run, place).make(run)
    first = run.digest("backbone")
    pipeline.make_backbone(run, place).make(run)
    assert "backbone: reused" in capsys.readouterr().out
    retrain(saved, tiny)
    pipeline.make_backbone(run, place).make(run)
    assert "backbone: redoing, changed: settings.files" in capsys.readouterr().out
    assert run.digest("backbone") != first


def test_the_table_of_an_encoder_whose_folder_has_changed_is_made_anew(tmp_path, saved, tiny):
    settings = {"encoding": S.Encoding(), "backbone": S.Backbone(device="cpu")}
    study = Study(with_corpus(tmp_path), Run("base", tmp_path), settings)
    name = experiments.embed(study, str(saved), "mine")
    first = study.run.digest(f"embeddings/{name}")
    assert experiments.embed(study, str(saved), "mine") == name
    assert study.run.digest(f"embeddings/{name}") == first
    retrain(saved, tiny)
    experiments.embed(study, str(saved), "mine")
    assert study.run.digest(f"embeddings/{name}") != first


def test_encoders_of_one_name_have_a_table_each_and_a_folder_is_hashed_once(tmp_path, saved, tiny, monkeypatch):
    settings = {"encoding": S.Encoding(), "backbone": S.Backbone(device="cpu")}
    study = Study(with_corpus(tmp_path), Run("base", tmp_path), settings)
    folders = [tmp_path / owner / "model.v1" for owner in "ab"]
    for folder in folders:
        shutil.copytree(saved, folder)
    retrain(folders[1], tiny)
    read, time_ns = [], storage.time.time_ns
    monkeypatch.setattr(storage, "hash_file", lambda path: (read.append(path), hash_file(path))[1])
    monkeypatch.setattr(storage.time, "time_ns", lambda: time_ns() + 2_000_000_000)  # as of files that lie there for a while
    names = [experiments.embed(study, str(folder)) for folder in folders]
    assert names == ["model_v1", "b-model_v1"]
    assert study.run.digest(f"embeddings/{names[0]}") != study.run.digest(f"embeddings/{names[1]}")
    assert [experiments.embed(study, str(folder)) for folder in folders] == names
    experiments.embed(study, str(folders[0]), "unit", normalise="unit")
    weights = [path for path in read if path.suffix == ".safetensors"]
    assert weights == [folder / "model.safetensors" for folder in folders]
