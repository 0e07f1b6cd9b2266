"""Weights and data: their sizes by arithmetic known elsewhere, and what a user is told who has neither."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from conftest import make_corpus
from safetensors.torch import load_file, save_file

from llm2rec_kit import cli
from llm2rec_kit import settings as S
from llm2rec_kit.data import mixing, sources
from llm2rec_kit.models import backbone as backbones
from llm2rec_kit.paper_statistics import read_paper
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("Qwen/Qwen2-0.5B", 494.0),  # as their model cards and papers give them
        ("Qwen/Qwen2-1.5B", 1543.7),
        ("Qwen/Qwen2.5-3B", 3085.9),
        ("google/gemma-2b", 2506.2),
    ],
)
def test_known_shapes_have_the_published_number_of_parameters(name, millions):
    assert assets.find_shape(S.Backbone(name=name)).parameters / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("google-bert/bert-base-uncased", 109.5),  # with positions, norms and pooler, which are left out here
        ("BAAI/bge-large-en-v1.5", 335.1),
        ("hyp1231/blair-roberta-base", 124.6),
        ("hkuds/easyrec-roberta-large", 355.4),
        ("all-MiniLM-L6-v2", 22.7),
    ],
)
def test_known_encoders_have_the_published_number_of_parameters(name, millions):
    assert assets.find_shape(S.Backbone(name=name)).parameters / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_local_encoders_feed_forward_has_two_matrices_and_another_kind_of_config_is_not_known(tmp_path):
    bert = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    bert |= {"intermediate_size": 3072, "vocab_size": 30522}
    (tmp_path / "config.json").write_text(json.dumps(bert))
    assert assets.find_shape(S.Backbone(name=str(tmp_path))) == assets.find_shape(
        S.Backbone(name="google-bert/bert-base-uncased")
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 768}))
    assert assets.find_shape(S.Backbone(name=str(tmp_path))) is None


def test_tinys_shape_is_that_of_the_model_that_is_made(tiny):
    model, tokenizer = tiny
    found = assets.find_shape(S.Backbone(hidden=32, layers=2, heads=2, vocabulary=len(tokenizer)))
    assert found.parameters == pytest.approx(backbones.count_parameters(model), rel=0.02)
    assert found.head == model.config.vocab_size * 32


def test_a_local_folder_s_shape_comes_from_its_config(tiny, tmp_path):
    model, tokenizer = tiny
    backbones.save(model, tokenizer, tmp_path / "mine")
    found = assets.find_shape(S.Backbone(name=str(tmp_path / "mine")))
    assert (found.hidden, found.layers, found.inner, found.tied) == (32, 2, 96, True)
    assert assets.find_shape(S.Backbone(name="someone/unknown")) is None


def test_local_folders_are_looked_at_not_the_hub(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked the hub"))
    assets.check_backbone("tiny")
    backbones.save(*tiny, tmp_path)
    assets.check_backbone(str(tmp_path))
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), "/no/such/folder", "./nothing"):
        with pytest.raises(ValueError, match=r"config\.json is missing|does not exist"):
            assets.check_backbone(name)


@pytest.mark.parametrize("name", assets.MODELS)
def test_a_damaged_folder_stops_before_the_first_notebook(tmp_path, tiny, name):
    """As a backbone, a baseline, an encoder or one of Figure 4's; without a tensor it would be random numbers there."""
    folder = tmp_path / "mine"
    backbones.save(*tiny, folder)
    asked = {name: str(folder) if name == "backbone_name" else [str(folder)]}
    notebooks.prepare("smoke", overrides=asked, only=["02", "03", "06"])
    weights = load_file(folder / "model.safetensors")
    save_file({k: t for k, t in weights.items() if k != "model.norm.weight"}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"not in the weights \(model\.norm\.weight\)"):
        notebooks.prepare("smoke", overrides=asked, only=["02", "03", "06"])
    notebooks.prepare("smoke", overrides=asked, only=["01"])  # which needs no model


def test_the_longest_text_of_a_stage_is_compared_with_the_positions(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = backbones.train_tokenizer(["Star Harbor Racing"], 300)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_head=2, n_layer=1, n_positions=600, eos_token_id=0)
    backbones.save(GPT2LMHeadModel(config), tokenizer, tmp_path)
    asked = {"backbone_name": str(tmp_path)}
    with pytest.raises(ValueError, match=r"csft_max_tokens is 1024, .* 600 positions only"):
        notebooks.prepare("smoke", overrides=asked)
    notebooks.prepare("smoke", overrides=asked | {"csft_max_tokens": 600})
    assert assets.find_shape(S.Backbone(name=str(tmp_path))).hidden == 8


@pytest.fixture
def nothing_cached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def hub_that(monkeypatch, error):
    def model_info(self, name, **kwargs):
        if error:
            raise error

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)


def test_what_cannot_be_had_says_what_to_download_to_where_and_how_large(nothing_cached, monkeypatch):
    hub_that(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(ValueError, match="hub cannot be reached") as stop:
        assets.check_backbone("Qwen/Qwen2-0.5B")
    text = str(stop.value)
    for part in (
        "no route to host",
        "hf download Qwen/Qwen2-0.5B --local-dir Qwen2-0.5B",
        "about 0.99 GB",
        "--set backbone.name=",
        "`tiny`",
    ):
        assert part in text
    assert str(assets.find_hub_cache()) in text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        assets.check_backbone("some/model")


def test_names_that_the_hub_does_not_know_or_show(nothing_cached, monkeypatch):
    from types import SimpleNamespace

    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    answer = SimpleNamespace(headers={}, status_code=404, request=None)
    for kind, says in ((RepositoryNotFoundError, "no model of this name"), (GatedRepoError, "accept its licence")):
        error = kind.__new__(kind)
        Exception.__init__(error, "refused")
        error.response = answer
        hub_that(monkeypatch, error)
        with pytest.raises(ValueError, match=says):
            assets.check_backbone("someone/unknown")


def test_what_the_hub_has_or_the_cache_holds_is_fine(nothing_cached, monkeypatch):
    hub_that(monkeypatch, None)
    assets.check_backbone("Qwen/Qwen2-0.5B")
    hub_that(monkeypatch, ConnectionError("no network"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: "/cache/" + file)
    assets.check_backbone("Qwen/Qwen2-0.5B")


def test_a_name_that_is_neither_folder_nor_repository(monkeypatch):
    with pytest.raises(ValueError, match="neither a folder nor a name"):
        assets.check_backbone("not//a name")


def test_the_runner_looks_before_the_first_notebook(nothing_cached, monkeypatch, tmp_path):
    hub_that(monkeypatch, ConnectionError("no network"))
    with pytest.raises(ValueError, match="hf download some/model"):
        notebooks.reproduce("smoke", overrides={"backbone_name": "some/model"}, outputs=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    values, _ = notebooks.prepare("smoke", overrides={"backbone_name": "some/model"}, only=["01"])  # 01 needs no weights
    assert values["backbone_name"] == "some/model"


def test_a_baseline_that_cannot_be_had_is_named_before_the_first_notebook(nothing_cached, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = {"overrides": {"encoding_baselines": ["some/encoder"]}, "run": "r", "outputs": str(tmp_path / "out")}
    says = r"Encoder 'some/encoder' .*HF_HUB_OFFLINE is set.*encoding\.baselines=\[path/to/encoder\]; or leave it out"
    with pytest.raises(ValueError, match=says):
        notebooks.reproduce("smoke", **asked)
    assert not (tmp_path / "out").exists()
    notebooks.prepare("smoke", **asked, only=["01", "02", "04"])  # 03 alone encodes
    notebooks.prepare("smoke", **asked, look=False)
    table = tmp_path / "out" / "r" / "embeddings" / "encoder.npy"
    table.parent.mkdir(parents=True)
    table.touch()
    notebooks.prepare("smoke", **asked)  # it is there, and reused
    with pytest.raises(ValueError, match=says):
        notebooks.prepare("smoke", **asked, force=True)


@pytest.mark.parametrize("kept", ["pytorch_model.bin", "modules.json"])
def test_an_encoder_in_the_cache_may_be_pytorchs_own_or_in_parts(monkeypatch, kept):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: file if file == kept else None)
    assets.check_encoder("some/encoder")
    with pytest.raises(ValueError, match="Backbone 'some/encoder'"):
        assets.check_backbone("some/encoder")


def test_without_data_the_papers_profiles_say_where_it_is():
    with pytest.raises(ValueError, match=r"406 MB, Google Drive.*sha256 79e2123.*docs/data\.md, \"The paper's nine sets\""):
        notebooks.reproduce("paper")


def test_training_domains_that_a_source_cannot_have_are_named_before_it_is_read(tmp_path):
    asked = {"data_source": "amazon", "data_category": "games"}
    go = partial(notebooks.prepare, "paper", data=str(tmp_path), only=["01"])
    with pytest.raises(
        ValueError, match=r"data_train_domains names \['Arts', .*; the source 'amazon' has \['games'\].*or to \[\]"
    ):
        go(overrides=asked)
    go(overrides=asked | {"data_train_domains": []})
    go(overrides=asked | {"data_train_domains": ["Games"]})


def test_the_pages_commands_make_the_papers_nine_sets_and_mix_them(tmp_path, monkeypatch):
    """Dry: what the shell calls, with settings that hold and parts of the names that the mix takes."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text().split("## The paper's nine sets")[1]
    stub = 'llm2rec() { printf "%s\\n" "$@" ""; }\n' + page.split("```")[1]
    said = subprocess.run(["bash", "-euc", stub], capture_output=True, text=True, check=True).stdout
    asked = []
    monkeypatch.setattr(notebooks, "reproduce", lambda profile, **how: asked.append((profile, how)) or Run("x", tmp_path))
    for words in said.strip().split("\n\n"):
        assert cli.main(words.split("\n")) == 0
    sets = list(read_paper()["datasets"])
    assert [how["run"] for _, how in asked[:-1]] == [f"paper-{short}" for short in sets]
    for (profile, how), short in zip(asked[:-1], sets, strict=True):
        values, books = notebooks.prepare(profile, **how, look=False)
        assert [book.name[:2] for book in books] == ["01"]
        one = S.Data.from_parameters(values)
        assert sources.tell_domains(one) == ([short] if one.source == "amazon" else [])
        corpus, name = make_corpus(max_history=10), pl.lit(short).alias("domain")
        named = {"items": corpus.items.with_columns(name), "users": corpus.users.with_columns(name)}
        replace(corpus, **named).save(tmp_path / how["run"] / "corpus")
    profile, how = asked[-1]
    values, books = notebooks.prepare(profile, **how | {"outputs": str(tmp_path)}, look=False)
    assert len(books) == 7
    assert mixing.mix_corpora(S.Data.from_parameters(values), tmp_path).train_domains == read_paper()["mix"]


def test_every_known_thing_is_whole():
    known = json.loads(json.dumps(assets.read_assets()))
    assert all(a["tflops"] > 0 and a["gib"] > 0 for a in known["accelerators"].values())
    assert known["data"]["released"]["bytes"] == 406_437_924
