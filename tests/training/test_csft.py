"""CSFT: what the model reads, and that sharing prefixes changes neither loss nor gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llm2rec_kit.settings import CSFT
from llm2rec_kit.training import csft


def plain_loss(model, tokenizer, corpus, target, settings):
    """The official way: one sample alone, labels -100 on the history, dense logits, shifted labels."""
    history = [corpus.titles[i - 1] for i in corpus.history(target)]
    pieces = [history[0], *(settings.joiner + t for t in history[1:])]
    prompt = [t for p in pieces for t in tokenizer(p)["input_ids"]]
    answer = tokenizer(corpus.titles[corpus.sequence[target] - 1] + settings.ending)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    skip = min(max(0, len(prompt) + len(answer) - settings.max_tokens), len(prompt) - 1)
    ids = torch.tensor([prompt[skip:] + answer])
    labels = ids.clone()
    labels[:, : len(prompt) - skip] = -100
    logits = model(input_ids=ids).logits  # transformers' own loss rounds them to float32, too coarse for 1e-9
    return F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum"), len(answer)


def grads(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.fixture
def exact_norm(monkeypatch):
    """RMSNorm in the model's own dtype: transformers' rounds to float32 inside, too coarse to compare to 1e-9."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def forward(self, states):
        return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(Qwen2RMSNorm, "forward", forward)


def check_equal(model, tokenizer, corpus, settings, tolerance=1e-9):
    model = model.double().train()
    texts = csft.tokenise(corpus, tokenizer, settings)
    targets = corpus.samples("train")
    expected, count = 0, 0
    for t in targets:
        value, n = plain_loss(model, tokenizer, corpus, t, settings)
        expected, count = expected + value, count + n
    expected.backward()
    wanted = grads(model)
    model.zero_grad()
    rows = csft.rows(corpus, texts, targets, settings)
    found, seen = 0, 0
    for micro in csft.micro_batches(corpus, texts, rows, np.arange(len(rows.starts)), settings, tokenizer.pad_token_id):
        value, n = csft.loss(model, micro)
        value.backward()
        found, seen = found + value.item(), seen + n
    assert seen == count
    assert found == pytest.approx(expected.item(), rel=tolerance)
    torch.testing.assert_close(grads(model), wanted, rtol=tolerance, atol=tolerance)
    return rows


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("max_tokens", [1024, 45])
def test_loss_and_gradient_equal_one_sample_at_a_time(tiny, exact_norm, shared, max_tokens):
    corpus = make_corpus(users=6)
    rows = check_equal(*tiny, corpus, CSFT(shared_prefix=shared, max_tokens=max_tokens, batch_tokens=700))
    assert rows.samples.sum() == len(corpus.samples("train"))
    if max_tokens == 45:
        assert (rows.skip > 0).any()
    assert (rows.samples.max() > 1) == shared


def test_the_eager_kernel_reads_the_mask_too(tiny, exact_norm):
    model, tokenizer = tiny
    model.set_attn_implementation("eager")  # its softmax is float32 whatever the model's dtype
    check_equal(model, tokenizer, make_corpus(users=3, seed=5), CSFT(), tolerance=1e-5)


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(2, 6), st.integers(20, 200))
def test_rows_hold_every_sample_once_and_tokens_are_counted_right(seed, max_history, max_tokens):
    corpus = make_corpus(users=5, max_history=max_history, seed=seed)
    settings = CSFT(max_tokens=max_tokens)
    texts = csft.tokenise(corpus, FakeTokenizer(), settings)
    rows = csft.rows(corpus, texts, corpus.samples("train"), settings)
    covered = np.concatenate([rows.targets[a:b] for a, b in zip(rows.begins, rows.stops, strict=True)])
    assert sorted(covered) == sorted(corpus.samples("train"))
    for r in range(len(rows.starts)):
        built = csft.row_tokens(corpus, texts, rows, r)
        assert len(built["ids"]) == rows.tokens[r]
        assert (built["sources"] >= 0).all()
        assert (built["sources"] < rows.tokens[r]).all()


class FakeTokenizer:
    """One token a character, for tests that need lengths only."""

    eos_token_id = 1

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[min(ord(c), 999) for c in t] for t in texts]}


def test_the_text_is_the_official_one(tiny):
    corpus = make_corpus(users=1, seed=3)
    _, tokenizer = tiny
    settings = CSFT(shared_prefix=False)
    texts = csft.tokenise(corpus, tokenizer, settings)
    target = corpus.samples("train")[-1]
    rows = csft.rows(corpus, texts, np.array([target]), settings)
    built = csft.row_tokens(corpus, texts, rows, 0)
    titles = corpus.titles
    expected = ", ".join(titles[i - 1] for i in corpus.history(target)) + titles[corpus.sequence[target] - 1] + "\n"
    assert tokenizer.decode(built["ids"]) == expected + tokenizer.eos_token
    assert tokenizer.decode(built["labels"]) == titles[corpus.sequence[target] - 1] + "\n" + tokenizer.eos_token


def test_an_epoch_reads_every_row_once_and_repeats_by_seed(corpus, tiny):
    settings = CSFT(batch_size=5)
    texts = csft.tokenise(corpus, tiny[1], settings)
    rows = csft.rows(corpus, texts, corpus.samples("train"), settings)
    batches = csft.Batches(corpus, texts, rows, settings, 0)
    for epoch in (0, 1):
        plan = batches.plan(epoch)
        assert len(plan) == batches.steps_per_epoch
        assert sorted(np.concatenate(plan)) == list(range(len(rows.starts)))
    assert all((a == b).all() for a, b in zip(batches.plan(1), batches.plan(1), strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(batches.plan(0), batches.plan(1), strict=True))


def test_no_sample_is_an_error(corpus, tiny):
    texts = csft.tokenise(corpus, tiny[1], CSFT())
    rows = csft.rows(corpus, texts, np.array([], dtype=np.int64), CSFT())
    with pytest.raises(ValueError, match="no training sample"):
        csft.Batches(corpus, texts, rows, CSFT(), 0)
