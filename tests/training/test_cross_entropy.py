"""The loss in blocks against torch's own over all logits at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from llm2rec_kit.fitting import cross_entropy


class Model:
    """As much of a language model as has a head."""

    def __init__(self, hidden: int, vocabulary: int, *, cap=None, bias=False, dtype=torch.float64) -> None:
        self.head = nn.Linear(hidden, vocabulary, bias=bias, dtype=dtype)
        self.config = SimpleNamespace(model_type="made_up", final_logit_softcapping=cap)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def dense(model, states, labels):
    logits = model.head(states)
    cap = model.config.final_logit_softcapping
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    return F.cross_entropy(logits.double(), labels, reduction="sum")


def compare(model, states, labels, tolerance, factor=0.37):
    found = []
    for way in (dense, cross_entropy.sum_cross_entropy):
        x = states.detach().clone().requires_grad_(states.requires_grad)
        model.head.zero_grad()
        value = way(model, x, labels)
        if value.requires_grad:
            (value * factor).backward()
        found.append((value.detach().double(), x.grad, *[p.grad for p in model.head.parameters()]))
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(two.double(), one.double(), rtol=tolerance, atol=tolerance)


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 9), rows=st.integers(1, 4), cap=st.sampled_from([None, 0.5, 30.0]), bias=st.booleans(),
    learned=st.sampled_from(["both", "states", "head", "none"]), scale=st.sampled_from([0.01, 1.0, 300.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_loss_and_gradients_are_those_of_all_logits_at_once(n, rows, cap, bias, learned, scale, seed):
    torch.manual_seed(seed)
    model = Model(5, 11, cap=cap, bias=bias)
    model.head.requires_grad_(learned in ("both", "head"))
    states = (torch.randn(n, 5, dtype=torch.float64) * scale).requires_grad_(learned in ("both", "states"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "ROWS", rows)
        compare(model, states, torch.randint(11, (n,)), 1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_narrow_dtypes_are_summed_in_float32(dtype, tolerance):
    torch.manual_seed(0)
    model = Model(16, 50, dtype=dtype)
    states = torch.randn(700, 16, dtype=dtype, requires_grad=True)
    labels = torch.randint(50, (700,))
    value = cross_entropy.sum_cross_entropy(model, states, labels)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(dense(model, states, labels).item(), rel=tolerance)
    value.backward()
    assert states.grad.dtype == model.head.weight.grad.dtype == dtype
    compare(model, states.detach().requires_grad_(), labels, tolerance * 10)


def test_under_autocast_products_are_narrow_and_gradients_wide():
    torch.manual_seed(0)
    model = Model(16, 50, dtype=torch.float32)
    states, labels = torch.randn(40, 16, requires_grad=True), torch.randint(50, (40,))
    exact = cross_entropy.sum_cross_entropy(model, states, labels).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cross_entropy.sum_cross_entropy(model, states.to(torch.bfloat16), labels)
    value.backward()
    assert value.item() != exact
    assert value.item() == pytest.approx(exact, rel=1e-2)
    assert model.head.weight.grad.dtype == torch.float32
    compare(model, states.detach().requires_grad_(), labels, 1e-4)


def test_gradients_are_handed_out_once():
    model, states = Model(4, 6), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    value = cross_entropy.sum_cross_entropy(model, states, torch.tensor([1, 2, 3]))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed out already"):
        value.backward()


def test_without_gradients_none_are_computed(monkeypatch):
    asked = []
    really = cross_entropy._block
    monkeypatch.setattr(cross_entropy, "_block", lambda *a: (asked.append(a[3]), really(*a))[1])
    model, states = Model(4, 6), torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad():
        value = cross_entropy.sum_cross_entropy(model, states, torch.tensor([1, 2, 3]))
    assert value.item() == pytest.approx(dense(model, states, torch.tensor([1, 2, 3])).item())
    assert asked == [False]
