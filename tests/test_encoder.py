"""An embedding depends on its text alone; the saved folder gives the same vectors in sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm2rec_kit.encoder import Encoder, length_batches
from llm2rec_kit.settings import Backbone, Encoding

TITLES = [*make_corpus().titles, "x", "Ω", "long " * 30]


def alone(encoder, title):
    """The slow plain version: one title, no batch, no padding."""
    ids = torch.tensor([encoder.tokenizer(title)["input_ids"]])
    with torch.no_grad():
        states = encoder.model.base_model(input_ids=ids).last_hidden_state[0]
    return (states.mean(0) if encoder.settings.pooling == "mean" else states[-1]).numpy()


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_equal_to_one_title_alone(tiny, attention, pooling):
    encoder = Encoder(*tiny, Encoding(attention=attention, pooling=pooling))
    found = encoder.encode(TITLES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack([alone(encoder, t) for t in TITLES]), atol=1e-5)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TITLES), min_size=1, max_size=20), st.integers(1, 400))
def test_neither_batch_nor_order_nor_budget_matters(tiny, titles, budget):
    encoder = Encoder(*tiny, Encoding(batch_tokens=budget))
    known = dict(zip(TITLES, Encoder(*tiny).encode(TITLES), strict=True))
    np.testing.assert_allclose(encoder.encode(titles), np.stack([known[t] for t in titles]), atol=1e-5)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_sentence_transformers_reads_the_folder_and_agrees(tiny, tmp_path, attention):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = Encoder(*tiny, Encoding(attention=attention))
    encoder.save(tmp_path, card="how it was made")
    other = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_allclose(other.encode(TITLES), encoder.encode(TITLES), atol=1e-5)
    again = Encoder.load(tmp_path, Encoding(attention="as_trained"), Backbone(device="cpu"))
    np.testing.assert_array_equal(again.encode(TITLES), encoder.encode(TITLES))
    assert (tmp_path / "README.md").read_text() == "how it was made"


def test_the_table_has_a_zero_row_for_padding(tiny):
    encoder = Encoder(*tiny)
    table = encoder.table(TITLES)
    assert table.shape == (len(TITLES) + 1, encoder.dim)
    assert not table[0].any()
    np.testing.assert_array_equal(table[1:], encoder.encode(TITLES))


def test_an_empty_title_is_named(tiny):
    with pytest.raises(ValueError, match="'' has no token"):
        Encoder(*tiny).encode(["fine", ""])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200))
def test_length_batches_cover_all_rows_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    batches = length_batches(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= budget for b in batches)
