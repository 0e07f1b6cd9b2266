"""An embedding depends on its text alone; the saved folder gives the same vectors in sentence-transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from llm2rec_kit import geometry, pipeline
from llm2rec_kit.encoding import encoder, readings
from llm2rec_kit.encoding.encoder import Encoder, parse_variant
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding, SettingsError

TITLES = [*make_corpus().titles, "x", "Ω", "long " * 30]
CPU = Backbone(device="cpu")


def alone(encoder, title):
    """The slow plain version: one title, no batch, no padding, torch's own products."""
    ids = torch.tensor([encoder.tokenizer(title)["input_ids"]])
    with torch.no_grad():
        states = encoder.model.base_model(input_ids=ids).last_hidden_state[0]
    return {"mean": states.mean(0), "last": states[-1], "cls": states[0]}[encoder.settings.pooling].numpy()


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("padding", [encoder.PADDING, 1.0])  # the first pads no batch as small as these
def test_equal_to_one_title_alone(tiny, monkeypatch, attention, pooling, padding):
    monkeypatch.setattr("llm2rec_kit.encoding.encoder.PADDING", padding)
    encoder = Encoder(*tiny, Encoding(attention=attention, pooling=pooling))
    found = encoder.encode(TITLES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack([alone(encoder, t) for t in TITLES]), atol=1e-5)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TITLES), min_size=0, max_size=30), st.integers(1, 400), st.integers(1, 12))
def test_neither_batch_nor_order_nor_budget_nor_window_matters(tiny, monkeypatch, titles, budget, window):
    known = dict(zip(TITLES, Encoder(*tiny).encode(TITLES), strict=True))
    monkeypatch.setattr(encoder, "WINDOW", window)
    found = Encoder(*tiny, Encoding(batch_tokens=budget)).encode(titles)
    monkeypatch.undo()
    assert found.shape == (len(titles), 32)
    np.testing.assert_allclose(found, np.array([known[t] for t in titles]).reshape(found.shape), atol=1e-5)


def test_a_title_is_computed_once_also_across_windows(tiny, monkeypatch):
    monkeypatch.setattr(encoder, "WINDOW", 4)
    subject, seen = Encoder(*tiny), []
    prepare = subject._prepare
    monkeypatch.setattr(subject, "_prepare", lambda titles: (seen.extend(titles), prepare(titles))[1])
    found = subject.encode(TITLES[:5] * 3)
    assert seen == TITLES[:5]
    np.testing.assert_array_equal(found[:5], found[10:])


def test_unit_length_is_a_setting_and_training_mode_is_put_back(tiny):
    model, tokenizer = tiny
    raw = Encoder(model.train(), tokenizer).encode(TITLES)
    assert model.training
    unit = Encoder(model, tokenizer, Encoding(normalise="unit")).encode(TITLES)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        Encoding(),
        Encoding(attention="causal", pooling="last", normalise="unit", max_tokens=9),
        Encoding(pooling="cls"),
    ],
)
def test_three_libraries_read_the_folder_and_agree(tiny, tmp_path, how):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    first = Encoder(*tiny, how)
    first.save(tmp_path, card="how it was made")
    expected = first.encode(TITLES)
    other = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(other.encode(TITLES), expected, atol=1e-5)
    again = Encoder.load(tmp_path, place=CPU)
    assert type(again) is Encoder
    assert (again.settings.pooling, again.settings.normalise) == (how.pooling, how.normalise)
    np.testing.assert_array_equal(again.encode(TITLES), expected)
    assert (tmp_path / "README.md").read_text() == "how it was made"
    plain = AutoModel.from_pretrained(tmp_path).eval()
    ids = torch.tensor([first.tokenizer(TITLES[0])["input_ids"][: how.max_tokens]])
    with torch.no_grad():
        states = plain(input_ids=ids).last_hidden_state[0]
    vector = {"mean": states.mean(0), "last": states[-1], "cls": states[0]}[how.pooling].numpy()
    if how.normalise == "unit":
        vector = vector / np.linalg.norm(vector)
    np.testing.assert_allclose(vector, expected[0], atol=1e-5)


def test_settings_given_at_load_come_before_those_of_the_folder(tiny, tmp_path):
    Encoder(*tiny, Encoding(attention="causal", pooling="last")).save(tmp_path)
    found = Encoder.load(tmp_path, Encoding(), CPU)
    assert found.settings.pooling == "mean"
    np.testing.assert_allclose(found.encode(TITLES), Encoder(*tiny, Encoding()).encode(TITLES), atol=1e-6)


def test_a_begin_of_text_token_is_not_put_into_the_saved_folder(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:,()é"]
    vocabulary = {t: k for k, t in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)
    tokenizer.pad_token = "</s>"
    assert tokenizer("ab")["input_ids"][0] == 1
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    subject = Encoder(LlamaForCausalLM(config).eval(), tokenizer, Encoding())
    expected = subject.encode(["Star Harbor", "Iron"])
    subject.save(tmp_path)
    assert tokenizer("ab")["input_ids"][0] == 1
    other = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(other.encode(["Star Harbor", "Iron"]), expected, atol=1e-5)


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
def test_a_tokenizer_that_cuts_or_pads_on_the_left_is_saved_as_the_kit_reads(tmp_path, side):
    """GPT-2, whose table of positions tells where padding stands."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    tokenizer = backbone.train_tokenizer(TITLES, 400)
    setattr(tokenizer, side, "left")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)
    subject = Encoder(GPT2LMHeadModel(config).eval(), tokenizer, Encoding(attention="causal", max_tokens=5))
    subject.save(tmp_path)
    assert getattr(tokenizer, side) == "left"
    other = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(other.encode(TITLES), subject.encode(TITLES), atol=1e-5)


def test_a_mask_token_of_its_own_survives_the_folder(tiny, tmp_path):
    model, tokenizer = tiny
    rows, known = model.get_input_embeddings().num_embeddings, len(tokenizer)
    expected = Encoder(model, tokenizer).encode(TITLES)
    backbone.add_mask_token(model, tokenizer)
    backbone.add_mask_token(model, tokenizer)
    assert len(tokenizer) == known + 1 == model.get_input_embeddings().num_embeddings == rows + 1
    weight = model.get_input_embeddings().weight
    torch.testing.assert_close(weight[known], weight[:known].mean(0))
    Encoder(model, tokenizer).save(tmp_path)
    again = Encoder.load(tmp_path, place=CPU)
    assert backbone.mask_token_id(again.tokenizer, "new") == known
    np.testing.assert_array_equal(again.encode(TITLES), expected)
    torch.testing.assert_close(again.model.get_output_embeddings().weight[known], weight[known])


def test_there_is_no_new_mask_token_without_mntp(tiny):
    with pytest.raises(backbone.BackboneError, match="mntp_mask_token=new"):
        backbone.mask_token_id(tiny[1], "new")


def test_the_table_has_a_zero_row_for_padding(tiny):
    encoder = Encoder(*tiny)
    table = encoder.table(TITLES)
    assert table.shape == (len(TITLES) + 1, encoder.dim)
    assert not table[0].any()
    np.testing.assert_array_equal(table[1:], encoder.encode(TITLES))


def test_an_empty_title_is_named(tiny):
    with pytest.raises(ValueError, match="'' has no token"):
        Encoder(*tiny).encode(["fine", ""])


@pytest.mark.parametrize("cell", ["mean-bidirectional", "mean-causal", "last-bidirectional", "last-causal"])
def test_a_variant_names_one_of_the_four_cells(cell):
    stage, how = parse_variant(f"my-stage-{cell}", Encoding(max_tokens=7))
    assert (stage, f"{how.pooling}-{how.attention}", how.max_tokens) == ("my-stage", cell, 7)


@pytest.mark.parametrize("name", ["csft", "csft-last", "csft-first-causal", "-last-causal"])
def test_another_name_is_no_variant(name):
    with pytest.raises(SettingsError, match=r"variant|pooling"):
        parse_variant(name, Encoding())


def test_what_is_no_model_is_said(tmp_path):
    with pytest.raises(backbone.BackboneError, match="neither a local folder"):
        Encoder.load("nothing here")  # the hub is not asked for such a name
    with pytest.raises(backbone.BackboneError, match=r"config\.json is missing"):
        Encoder.load(tmp_path)


def test_the_key_of_a_table_stays_what_finished_runs_hold():
    """Written down from a run: another key would make every table, and all evaluations after it, anew."""
    how = Encoding(variants=["csft-last-causal"], baselines=["BAAI/bge"], batch_tokens=7)
    assert encoder.list_settings(how, CPU, "raw", files="x") == {
        "attention": "bidirectional",
        "pooling": "mean",
        "normalise": "none",
        "max_tokens": 512,
        "device": "cpu",
        "dtype": "auto",
        "encoder": "raw",
        "files": "x",
    }


def test_one_model_read_in_several_ways_is_measured_as_its_embeddings_are(tiny, tmp_path):
    backbone.save(*tiny, tmp_path / "model")
    ways = [parse_variant(f"csft-{cell}", Encoding())[1] for cell in ("mean-bidirectional", "last-causal")]
    found = readings.compare(tmp_path / "model", TITLES, ways, CPU)
    assert found.select("pooling", "attention").rows() == [("mean", "bidirectional"), ("last", "causal")]
    for how, row in zip(ways, found.to_dicts(), strict=True):
        vectors = Encoder(*tiny, how).encode(TITLES)
        assert row["mean norm"] == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-5)
        assert row["uniformity"] == pytest.approx(geometry.uniformity(vectors), rel=1e-5)
        assert row["effective rank"] == pytest.approx(geometry.effective_rank(vectors), rel=1e-5)


def test_records_of_tables_are_shown_also_where_one_says_less(tmp_path):
    run, full = Run("r", tmp_path), {"attention": "causal", "pooling": "last", "items": 3, "mean_norm": 1.5}
    for name, record in (("raw", full | {"effective_rank": 2.0, "leak": 0.0}), ("mine", {"items": 3})):
        run.make(f"embeddings/{name}", lambda folder, r=record: r, settings={}, quiet=True)
    raw, mine = readings.of_tables(run, ["raw", "mine"]).to_dicts()
    assert raw == {"table": "raw", **full, "effective_rank": 2.0, "leak": 0.0}
    assert mine == dict.fromkeys(raw) | {"table": "mine", "items": 3}


def test_the_tables_asked_for_are_the_stages_variants_and_baselines():
    how = Encoding(variants=["raw-last-causal", "csft-mean-causal"], baselines=["BAAI/bge-large-en-v1.5"])
    asked = pipeline.list_tables(how)
    assert list(asked) == ["raw", "csft", "mntp", "contrastive", *how.variants, "bge-large-en-v1_5"]
    assert asked["raw"] == ("backbone", how)
    assert asked["raw-last-causal"] == ("backbone", replace(how, pooling="last", attention="causal"))
    assert asked["csft-mean-causal"][0] == "csft"
    assert asked["bge-large-en-v1_5"] == ("BAAI/bge-large-en-v1.5", replace(encoder.AS_SAVED, normalise="unit"))
