"""Any sentence-transformers model as a baseline: the library's own vectors, behind the same interface."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_corpus
from transformers import BertConfig, BertModel, BertTokenizer

from llm2rec_kit import pipeline
from llm2rec_kit.encoding import encoder, table_encoder
from llm2rec_kit.encoding.encoder import AS_SAVED, Encoder
from llm2rec_kit.encoding.sentence_transformer import LibraryEncoder
from llm2rec_kit.export import formats
from llm2rec_kit.models.backbone import BackboneError
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding, SettingsError

sentence_transformers = pytest.importorskip("sentence_transformers")
TITLES = [*make_corpus().titles, *make_corpus().titles[:3]]
CPU = Backbone(device="cpu")
CORPUS = {"source": "table", "split": "leave_one_out", "train_domains": ["toy"], "statistics": [{"domain": "toy"}]}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Folders of a BERT of one layer: as transformers saves it, and with CLS pooling and unit length as BGE has them."""
    base = tmp_path_factory.mktemp("bert")
    letters = sorted({c for t in TITLES for c in t.lower() if c != " "})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    tokenizer = BertTokenizer(vocab={w: k for k, w in enumerate(words)})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(base / "plain")
    tokenizer.save_pretrained(base / "plain")
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = sentence_transformers.SentenceTransformer(str(base / "plain"), device="cpu")[0]
    modules = [inner, Pooling(16, pooling_mode="cls"), Normalize()]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(str(base / "bge"))
    return base


def library(folder) -> np.ndarray:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(TITLES)


@pytest.mark.parametrize("name", ["plain", "bge"])
def test_as_saved_it_gives_the_library_s_vectors(bert, name, tmp_path):
    subject = Encoder.load(bert / name, place=CPU)
    assert type(subject) is LibraryEncoder
    assert subject.dim == 16
    expected = library(bert / name)
    found = subject.encode(TITLES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(subject.encode(TITLES, out=tmp_path / "e.npy"), expected, atol=1e-5)
    np.testing.assert_allclose(subject.table(TITLES)[1:], expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5) == (name == "bge")


def test_it_depends_on_the_title_alone(bert, monkeypatch):
    subject = Encoder.load(bert / "bge", place=CPU)
    known = subject.encode(TITLES)
    monkeypatch.setattr(encoder, "WINDOW", 3)
    order = np.random.default_rng(0).permutation(len(TITLES))
    np.testing.assert_allclose(subject.encode([TITLES[i] for i in order]), known[order], atol=1e-5)
    np.testing.assert_allclose(subject.encode(TITLES[4:5]), known[4:5], atol=1e-5)


def test_unit_length_and_pooling_are_settings(bert):
    def vectors(name, **how):
        return Encoder.load(bert / name, replace(AS_SAVED, **how), CPU).encode(TITLES)

    raw = vectors("bge", normalise="none")
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-2)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), library(bert / "bge"), atol=1e-5)
    np.testing.assert_allclose(vectors("plain", pooling="cls"), raw, atol=1e-5)
    np.testing.assert_allclose(vectors("plain", pooling="cls", normalise="unit"), library(bert / "bge"), atol=1e-5)
    np.testing.assert_allclose(vectors("bge", pooling="mean", normalise="none"), library(bert / "plain"), atol=1e-5)
    assert not np.allclose(vectors("plain", pooling="last"), vectors("plain", pooling="mean"), atol=1e-2)


def test_the_pooler_is_the_model_s_own_layer(bert, tmp_path):
    model = BertModel.from_pretrained(bert / "plain").eval()
    tokenizer = BertTokenizer.from_pretrained(bert / "plain")
    with torch.no_grad():
        expected = [model(**tokenizer(t, return_tensors="pt")).pooler_output[0].numpy() for t in TITLES]
    how = replace(AS_SAVED, pooling="pooler")
    for name in ("plain", "bge"):
        subject = Encoder.load(bert / name, replace(how, normalise="none"), CPU)
        np.testing.assert_allclose(subject.encode(TITLES), np.stack(expected), atol=1e-5)
    subject = Encoder.load(bert / "bge", how, CPU)
    assert np.allclose(np.linalg.norm(subject.encode(TITLES), axis=1), 1, atol=1e-5)
    subject.save(tmp_path / "saved")
    np.testing.assert_allclose(library(tmp_path / "saved"), subject.encode(TITLES), atol=1e-5)


def test_a_pooler_without_trained_weights_is_refused(bert, tmp_path, tiny):
    how = replace(AS_SAVED, pooling="pooler")
    model = BertModel.from_pretrained(bert / "plain", add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    BertTokenizer.from_pretrained(bert / "plain").save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="no pooler with trained weights"):
        Encoder.load(tmp_path, how, CPU)
    with pytest.raises(SettingsError, match="which has none"):
        Encoder(*tiny, how)


def test_its_attention_cannot_be_set(bert):
    with pytest.raises(SettingsError, match="encoding_attention to as_trained"):
        Encoder.load(bert / "bge", Encoding(), CPU)


def test_it_is_saved_as_the_library_does(bert, tmp_path):
    Encoder.load(bert / "bge", place=CPU).save(tmp_path / "again", card="a baseline")
    np.testing.assert_allclose(library(tmp_path / "again"), library(bert / "bge"), atol=1e-6)
    assert (tmp_path / "again" / "README.md").read_text() == "a baseline"


CHANGES = {
    "1_Pooling/config.json": {"pooling_mode": "mean"},
    "modules.json": None,  # without its last, which makes lengths one
    "config_sentence_transformers.json": {"prompts": {"title": "c a r d "}, "default_prompt_name": "title"},
    "sentence_bert_config.json": {"max_seq_length": 4},
    "tokenizer_config.json": {"do_lower_case": False},
    "config.json": {"layer_norm_eps": 0.5},
}


@pytest.mark.parametrize("file", CHANGES)
def test_what_another_model_of_the_same_weights_left_is_not_gone_on_with(bert, tmp_path, monkeypatch, file):
    shutil.copytree(bert / "bge", tmp_path / "model")
    subject, out = Encoder.load(tmp_path / "model", place=CPU), tmp_path / "e.npy"
    assert subject._key(TITLES) == Encoder.load(bert / "bge", place=CPU)._key(TITLES)  # wherever it lies
    subject.encode(TITLES)
    assert subject._key(TITLES) == Encoder.load(bert / "bge", place=CPU)._key(TITLES)  # whatever it read before
    monkeypatch.setattr(encoder, "WINDOW", 4)
    vectors, calls = subject._vectors, []

    def interrupted(titles):
        calls.append(titles)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return vectors(titles)

    monkeypatch.setattr(subject, "_vectors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        subject.encode(TITLES, out=out)
    known = json.loads((tmp_path / "model" / file).read_text())
    changed = known[:-1] if CHANGES[file] is None else known | CHANGES[file]
    (tmp_path / "model" / file).write_text(json.dumps(changed))
    other = Encoder.load(tmp_path / "model", place=CPU)
    np.testing.assert_array_equal(other.encode(TITLES, out=out), other.encode(TITLES))


@pytest.mark.parametrize("name", ["plain", "bge"])
def test_saved_at_unit_length_it_gives_the_library_vectors_of_unit_length(bert, name, tmp_path):
    subject = Encoder.load(bert / name, replace(AS_SAVED, normalise="unit"), CPU)
    modules = len(subject.model)
    subject.save(tmp_path / "again")
    assert len(subject.model) == modules
    np.testing.assert_allclose(np.linalg.norm(library(tmp_path / "again"), axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(library(tmp_path / "again"), subject.encode(TITLES), atol=1e-5)


def test_without_the_library_it_says_what_to_install(bert, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BackboneError, match="pip install sentence-transformers"):
        Encoder.load(bert / "bge", place=CPU)


@pytest.mark.parametrize("how", [{"pooling": "cls"}, {"pooling": "pooler"}, {"max_tokens": 6}, {"normalise": "none"}])
def test_a_baseline_s_table_is_exported_with_the_encoder_that_made_it(bert, tmp_path, how):
    """As notebook 06 reads encoders: with another pooling, length or number of tokens than they were saved with."""
    name = "bge" if "normalise" in how else "plain"
    run, how = Run("r", tmp_path), replace(AS_SAVED, **{"normalise": "unit", **how})
    run.make(
        "corpus", lambda f: (make_corpus().save(f), CORPUS)[1], settings={"source": "table", "text": "{title}"}, quiet=True
    )
    pipeline.embed_items(run, "theirs", str(bert / name), how, CPU).make(run, quiet=True)
    table = np.load(run.path_of("embeddings/theirs.npy"))[1:]
    titles = make_corpus().titles
    np.testing.assert_allclose(table_encoder.load_encoder(run, "theirs").encode(titles), table, atol=1e-6)
    card = formats.write_card(run, "theirs")
    said = (
        "pooling and attention as the model came with them"
        if how.pooling == "as_saved"
        else f"{how.pooling} pooling, attention as"
    )
    assert said in card
