"""Titles as tokens and batches: nothing lost, within the budget, little padding."""

from __future__ import annotations

import ast
import doctest

import architecture
import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import given
from hypothesis import strategies as st

from llm2rec_kit.encoding import tokenisation
from llm2rec_kit.encoding.tokenisation import cut_by_length, find_first_rows, pad, pool, tokenise_titles


@given(st.lists(st.integers(1, 50), min_size=0, max_size=60), st.integers(1, 200), st.sampled_from([0.0, 1 / 32, 1.0]))
def test_length_batches_cover_all_rows_within_budget_and_padding(lengths, budget, padding):
    lengths = np.array(lengths, dtype=int)
    batches = cut_by_length(lengths, budget, padding)
    assert sorted(np.concatenate([*batches, []]).tolist()) == list(range(len(lengths)))
    for b in batches:
        padded = len(b) * lengths[b].max()
        assert len(b) == 1 or padded <= budget
        assert padded - lengths[b].sum() <= padding * padded


@given(st.lists(st.sampled_from(["a", "b", "cd", "", "a "]), max_size=30))
def test_first_rows_are_those_of_a_dictionary(texts):
    seen = {}
    assert find_first_rows(texts).tolist() == [seen.setdefault(t, k) for k, t in enumerate(texts)]


def test_first_rows_survive_texts_of_one_hash(monkeypatch):
    monkeypatch.setattr(tokenisation, "hash", len, raising=False)
    assert find_first_rows(["ab", "cd", "ab", "cd", "e"]).tolist() == [0, 1, 0, 3, 4]


def test_tokens_are_the_tokenizer_s_own_and_cut(tiny):
    tokenizer = tiny[1]
    texts = [*make_corpus().titles, "Ω é"]
    tokenizer(texts, truncation=True, max_length=2, padding=True)  # leaves its limits behind in the backend
    found = tokenise_titles(tokenizer, texts, 6)
    assert [f.tolist() for f in found] == [i[:6] for i in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def test_pad_and_pool_by_hand():
    ids, mask = pad([np.array([5, 6]), np.array([7])], 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[1, 1], [1, 0]]
    assert pad([np.array([5]), np.array([7])], 0, torch.device("cpu"))[1] is None
    states = torch.tensor([[[1.0], [3.0]], [[4.0], [100.0]]])
    assert pool(states, mask, "mean").tolist() == [[2.0], [4.0]]
    assert pool(states, mask, "last").tolist() == [[3.0], [4.0]]
    assert pool(states, mask, "cls").tolist() == [[1.0], [4.0]]
    assert pool(states, None, "last").tolist() == [[3.0], [100.0]]


@pytest.mark.parametrize("module", ["encoding.tokenisation", "storage.npy_writer", "settings.encoding", "models.kernels"])
def test_the_docstrings_examples_hold(module):
    import importlib

    found = importlib.import_module(f"llm2rec_kit.{module}")
    result = doctest.testmod(found, extraglobs={"np": np})
    assert result.attempted
    assert not result.failed


def padded_arrays(source: str) -> list[int]:
    """Lines where a list with another spread into it becomes an array of no told type: of texts, each the longest's size."""
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "np.array"]
    lists = [n for n in calls if isinstance(n.args[0], ast.List) and not any(k.arg == "dtype" for k in n.keywords)]
    return [n.lineno for n in lists if any(isinstance(one, ast.Starred) for one in n.args[0].elts)]


def test_no_array_gives_every_title_the_room_of_the_longest():
    """A million items with one title of 2,000 characters would be 8 GB."""
    assert padded_arrays('a = np.array(["", *titles])\nb = np.array(["", *titles], dtype=object)') == [1]
    found = {name: padded_arrays(file.read_text()) for name, file in architecture.modules().items()}
    assert {name: lines for name, lines in found.items() if lines} == {}
