"""A user's own vectors: which rows are whose, and what is refused before anything is written."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_corpus
from hypothesis import given
from hypothesis import strategies as st

from llm2rec_kit import pipeline
from llm2rec_kit.encoding import own_tables
from llm2rec_kit.encoding.encoder import list_settings
from llm2rec_kit.reproduction.runner import feasibility
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding, SettingsError

CORPUS = make_corpus(items=6)
VECTORS = np.arange(18.0).reshape(6, 3) + 1


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    return tmp_path / "vectors.npy"


def name_rows(file, ids):
    file.with_suffix(".ids.txt").write_text("".join(f"{one}\n" for one in ids))


def test_rows_in_the_order_of_the_corpus_with_or_without_padding(file):
    found, more = own_tables.read("mine", str(file), CORPUS)
    assert (found == np.concatenate([np.zeros((1, 3)), VECTORS])).all()
    assert (found.dtype, more) == (np.float32, 0)
    np.save(file, found)
    assert (own_tables.read("mine", str(file), CORPUS)[0] == found).all()


@given(st.permutations(range(9)))
def test_rows_are_found_by_their_ids(tmp_path_factory, order):
    """Whatever their order, and with rows of other items between."""
    file = tmp_path_factory.mktemp("own") / "vectors.npy"
    np.save(file, np.array([[float(k)] for k in order]))
    name_rows(file, [f"i{k}" for k in order])
    found, more = own_tables.read("mine", str(file), CORPUS)
    assert found[:, 0].tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert more == 3


@pytest.mark.parametrize(
    ("rows", "ids", "words"),
    [
        (VECTORS[:5], None, "it has 5 rows, and the corpus has 6 items"),
        (
            np.concatenate([VECTORS, VECTORS[:1]]),
            None,
            "it has 7 rows, and the corpus has 6 items",
        ),  # none of zeros in front
        (VECTORS[0], None, r"it holds float64 of shape \(3,\)"),
        (VECTORS.astype(str), None, "it holds <U32 of shape"),
        (VECTORS[:, :0], None, r"it holds float64 of shape \(6, 0\)"),
        (np.where(VECTORS == 5, np.nan, VECTORS), None, "1 items have NaN or infinity, first item 2"),
        (np.where(VECTORS == 5, 1e300, VECTORS), None, "1 items have NaN or infinity, first item 2"),
        (VECTORS, ["i0", "i1"], "it has 6 rows and 2 ids"),
        (VECTORS, ["i0", "i1", "i2", "i3", "i4", "i4"], "of its ids 1 stand more than once, such as 'i4'"),
        (VECTORS, ["i0", "i1", "i2", "i3", "i4", "x"], "1 of 6 items have no row, such as 'i5'"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_made(file, rows, ids, words):
    np.save(file, rows)
    if ids:
        name_rows(file, ids)
    run = Run("r", file.parent)
    run.make("corpus", lambda folder: CORPUS.save(folder), settings={})
    with pytest.raises(SettingsError, match=words):
        feasibility.check_corpus(CORPUS, Encoding(own=[f"mine={file}"]))
    with pytest.raises(SettingsError, match=words):
        pipeline.read_own_table(run, "mine", str(file)).make(run)
    assert run.names("embeddings") == []
    assert not [path for path in run.path.rglob("*mine*") if path.is_file() and not path.name.startswith(".")]


def test_a_file_that_is_none_is_said(tmp_path):
    with pytest.raises(SettingsError, match=r"encoding_own, mine: .*nowhere\.npy is missing"):
        own_tables.read("mine", str(tmp_path / "nowhere.npy"), CORPUS)
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(SettingsError, match=r"it is no \.npy file of numbers"):
        own_tables.read("mine", str(tmp_path / "text.npy"), CORPUS)


def test_a_table_is_reused_until_its_file_changes(file):
    run = Run("r", file.parent)
    run.make("corpus", lambda folder: CORPUS.save(folder), settings={})
    path = pipeline.read_own_table(run, "mine", str(file)).make(run)
    assert (np.load(f"{path}.npy")[1:] == VECTORS).all()
    made = run.manifest("embeddings/mine")["finished"]
    pipeline.read_own_table(run, "mine", str(file)).make(run)
    assert run.manifest("embeddings/mine")["finished"] == made
    name_rows(file, [f"i{k}" for k in (1, 0, 2, 3, 4, 5)])
    pipeline.read_own_table(run, "mine", str(file)).make(run)
    assert (np.load(f"{path}.npy")[1:3] == VECTORS[[1, 0]]).all()


@pytest.mark.parametrize("own", [["raw=x.npy"], ["mine=x.npy", "mine=y.npy"], ["bert=x.npy"]])
def test_a_name_that_is_taken_is_refused(own):
    with pytest.raises(SettingsError, match="there is one of this name already"):
        Encoding(own=own, baselines=["models/bert"])


@pytest.mark.parametrize("own", ["vectors.npy", "my name=x.npy", "../x=y.npy", "mine="])
def test_a_form_that_is_none_is_refused(own):
    with pytest.raises(SettingsError, match=r"encoding_own takes name=file\.npy"):
        Encoding(own=[own])


def test_own_vectors_make_no_other_table_stale():
    """Which tables stand beside it says nothing of an embedding."""
    plain, beside = (list_settings(Encoding(own=own), Backbone(), "csft") for own in ([], ["mine=x.npy"]))
    assert plain == beside
