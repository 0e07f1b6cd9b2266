"""A recommender taken away gives the kit's scores without the kit; its vectors, and an index of them, are the kit's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from conftest import held, make_corpus, no_room
from finished_recommenders import CPU, SETTINGS, make_run
from safetensors.torch import load_file

from llm2rec_kit import cli
from llm2rec_kit.downstream import evaluation, item_table, saved_recommender
from llm2rec_kit.export import formats, recommender_files
from llm2rec_kit.runs import ArtefactError

HISTORY = [3, 5]  # what the README's lines begin with


@pytest.fixture(scope="module")
def run(_tiny, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("outputs"), _tiny, recommenders=("SASRec", "GRU4Rec"))


def read_code(readme: str) -> list[str]:
    return [part.split("```")[0] for part in readme.split("```python\n")[1:]]


@pytest.mark.parametrize("row", [("SASRec", "mntp"), ("SASRec", "id"), ("GRU4Rec", "mntp"), ("GRU4Rec", "id")])
def test_the_readme_s_lines_recommend_as_the_kit_does(run, tmp_path, row):
    folder = formats.export(run, "recommender", tmp_path / "out", row[1], recommender=row[0])
    text = (folder / "README.md").read_text()
    lines, *reading = read_code(text)
    assert len(reading) == (row[1] == "mntp")
    assert len(lines.splitlines()) <= 13
    assert "llm2rec" not in lines
    lines += "print(scores[1:].tolist())\n"
    done = subprocess.run([sys.executable, "-I", "-c", lines], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    top, scores = map(json.loads, done.stdout.strip().replace("-inf", "-Infinity").splitlines())
    model = saved_recommender.load_from_run(run, "toy", *row)
    expected = model.scores(HISTORY)
    left = [item for item in range(1, 17) if item not in HISTORY]
    np.testing.assert_allclose(np.array(scores)[np.array(left) - 1], expected[np.array(left) - 1], rtol=1e-4, atol=1e-5)
    assert top == model.top(HISTORY, 10, exclude_seen=True)["item"].to_list()
    assert (folder / "adapter.safetensors").exists() == (row[1] == "mntp")


def test_what_lies_beside_the_weights(run, tmp_path):
    folder = formats.export(run, "recommender", tmp_path / "out", "mntp", recommender="SASRec")
    how = json.loads((folder / "recommender.json").read_text())
    assert (how["recommender"], how["embedding"], how["domain"], how["seed"]) == ("SASRec", "mntp", "toy", 3)
    assert (how["hidden"], how["max_history"], how["items"]) == (8, 4, 16)
    assert how["metrics"] == run.record("evaluation/toy/SASRec-mntp-seed3")["metrics"]
    assert (how["exclude"], how["ties"]) == ("none", "worst")
    assert (
        "20 test targets among all items; of equal scores the target counts as the last:"
        in (folder / "README.md").read_text()
    )
    items = pl.read_csv(folder / "items.csv")
    assert items["title"].to_list() == make_corpus().titles
    adapter, vectors = load_file(folder / "adapter.safetensors"), np.load(run.path_of("embeddings/mntp.npy"))
    rows = vectors @ adapter["weight"].numpy().T + adapter["bias"].numpy()
    np.testing.assert_allclose(rows, load_file(folder / "recommender.safetensors")["items"].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"scale": 2.5, "adapter_widths": [5]}])
@pytest.mark.parametrize("kind", ["mntp", "mntp_add_id", "mntp_concat_id"])
@pytest.mark.parametrize("normalise", ["none", "unit", "standardised", "whitened"])
def test_the_readme_s_row_of_a_new_item_is_the_kit_s(normalise, kind, more, tmp_path):
    corpus, settings = make_corpus(), replace(SETTINGS, normalise=normalise, **more)
    vectors = np.random.default_rng(1).normal(1, 2, (corpus.n_items + 1, 6)).astype(np.float32)
    of = item_table.parse_name(kind)[1]
    both = evaluation.make_model_and_table("SASRec", corpus.n_items, corpus.max_history, vectors.copy(), settings, of)
    model = saved_recommender.Trained(corpus, both[0].eval(), both.table, "SASRec", settings, vectors[1:])
    how = {"embedding": kind, "normalise": normalise, "scale": settings.scale}
    names = recommender_files.write_adapter(model, normalise, tmp_path)
    code = read_code(recommender_files.write_reading(how, names))[0]
    new = np.random.default_rng(2).normal(size=(3, 6)).astype(np.float32)
    for embedding, expected in ((new, 3), (new[0], 1)):
        known = {"torch": torch, "load_file": load_file, "embedding": torch.from_numpy(embedding), "items": model.table}
        exec(code.replace("adapter.safetensors", str(tmp_path / "adapter.safetensors")), known)
        rows = model.adding(["a", "b", "c"][:expected], new[:expected]).rows
        torch.testing.assert_close(known["items"][corpus.n_items + 1 :], rows, rtol=1e-4, atol=1e-5)
    assert (folder_names := load_file(tmp_path / "adapter.safetensors").keys()) >= set(names)
    assert folder_names - set(names) == {"standardised": {"mean", "std"}, "whitened": {"mean", "axes"}}.get(normalise, set())


@pytest.mark.parametrize("stage", ["mntp", "id"])
def test_the_adapted_vectors_are_the_item_table(run, tmp_path, stage):
    folder = formats.export(run, "adapted", tmp_path / "out", stage, recommender="GRU4Rec")
    found = np.load(folder / "adapted.npy")
    np.testing.assert_array_equal(found, saved_recommender.load_from_run(run, "toy", "GRU4Rec", stage).table.numpy())
    assert pl.read_csv(folder / "items.csv")["row"].to_list() == list(range(1, 17))


@pytest.mark.parametrize("recommender", ["", "SASRec"])
def test_an_index_finds_what_comparing_with_all_finds(run, tmp_path, recommender, monkeypatch):
    faiss = pytest.importorskip("faiss")
    folder = formats.export(run, "faiss", tmp_path / "out", "mntp", recommender=recommender)
    index = faiss.read_index(str(folder / "index.faiss"))
    if recommender:
        vectors = saved_recommender.load_from_run(run, "toy", "SASRec", "mntp").table[1:].numpy()
    else:
        vectors = np.load(run.path_of("embeddings/mntp.npy"))[1:]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores, items = index.search(vectors[:3], 16)
    np.testing.assert_allclose(scores, -np.sort(-(vectors[:3] @ vectors.T), axis=1), rtol=1e-4, atol=1e-5)
    assert {*items[0].tolist()} == set(range(1, 17))
    monkeypatch.setattr(recommender_files, "MANY", 10)
    near = faiss.read_index(str(formats.export(run, "faiss", tmp_path / "many", "mntp") / "index.faiss"))
    assert near.search(vectors[:1], 3)[1].min() >= 1 if not recommender else True


def test_without_the_package_an_index_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"pip install 'llm2rec-kit\[faiss\]'"):
        formats.export(run, "faiss", tmp_path / "out", "mntp")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["recommender"], "kept no recommender over contrastive. It has"),
        (["recommender", "--stage", "mntp", "--recommender", "BERT4Rec"], "kept no BERT4Rec over mntp"),
        (["adapted", "--stage", "mntp", "--domain", "games"], "trained in toy, not in 'games'"),
        (["npy", "--stage", "mntp", "--recommender", "SASRec"], "The format npy has no recommender or domain to choose"),
        (["faiss", "--stage", "mntp", "--domain", "toy"], "a domain is of the recommender whose item vectors"),
    ],
)
def test_what_cannot_be_exported_is_one_paragraph(run, tmp_path, capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(run.path), "--to", str(tmp_path / "out"), "--format", *words])
    found = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in found
    assert len(found.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", formats.OF_A_RECOMMENDER)
def test_a_failed_export_leaves_nothing(run, tmp_path, kind):
    if kind == "faiss":
        pytest.importorskip("faiss")
    (tmp_path / "empty").mkdir()
    before = held(tmp_path)
    for to in ("new", "empty"):
        with no_room(), pytest.raises(Exception, match=r"(?i)too large|write|I/O|os error"):
            formats.export(run, kind, tmp_path / to, "mntp", recommender="SASRec")
        assert held(tmp_path) == before


def test_vectors_of_the_user_s_own_have_no_encoder_to_export(run, tmp_path):
    run.make("embeddings/mine", lambda folder: {"stage": "own", "dim": 3}, settings=CPU, quiet=True)
    with pytest.raises(ArtefactError, match="not known, its vectors are your own, which is not the run's to load"):
        formats.export(run, "sentence-transformers", tmp_path / "out", "mine")
