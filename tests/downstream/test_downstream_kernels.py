"""Every kernel against the plain torch it replaces: values and gradients, in float64 by gradcheck, in float32 to rounding."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llm2rec_kit.downstream import fast_ops
from llm2rec_kit.models.kernels import is_available


def rand(*shape, dtype=torch.float32, grad=True, seed=0):
    found = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return found.requires_grad_(grad)


def test_torch_still_has_the_operator_that_product_counts_on():
    """It is not public: the day a torch comes without, products fall back to plain ones, slower. The pin is to be thought over."""
    if platform.machine() == "x86_64" and torch.backends.mkldnn.is_available():
        assert is_available()
    assert torch.__version__.startswith("2.13")


@pytest.mark.parametrize(("m", "k", "n"), [(1, 3, 2), (5, 7, 4), (64, 128, 33), (300, 896, 128), (0, 4, 3)])
@pytest.mark.parametrize("how", ["plain", "transposed a", "transposed b"])
def test_product(m, k, n, how):
    a = rand(k, m, grad=False).T if how == "transposed a" else rand(m, k, grad=False)
    b = rand(k, n, grad=False, seed=1).T if how == "transposed b" else rand(n, k, grad=False, seed=1)
    bias = rand(n, grad=False, seed=2)
    wanted = (a.double() @ b.double().T + bias.double()).float()
    torch.testing.assert_close(fast_ops.multiply(a, b, bias), wanted, atol=1e-4, rtol=1e-4)
    assert fast_ops.multiply(a, b).shape == (m, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_and_its_gradient(dtype):
    x, w, b = rand(3, 4, 6, dtype=dtype), rand(5, 6, dtype=dtype, seed=1), rand(5, dtype=dtype, seed=2)
    weight = rand(3, 4, 5, dtype=dtype, grad=False, seed=3)
    found = torch.autograd.grad((fast_ops.linear(x, w, b) * weight).sum(), [x, w, b])
    wanted = torch.autograd.grad((F.linear(x, w, b) * weight).sum(), [x, w, b])
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(
        lambda x, w: fast_ops.linear(x, w), [rand(2, 3, dtype=torch.float64), rand(4, 3, dtype=torch.float64)]
    )


def test_low_precision_linear_is_close():
    x, w = rand(200, 64, grad=False), rand(16, 64, seed=1)
    found = fast_ops.low_precision_linear(x.bfloat16(), w)
    wanted = x @ w.T
    assert found.dtype == torch.float32
    assert (found - wanted).norm() < 0.01 * wanted.norm()
    weight = rand(200, 16, grad=False, seed=2)
    g, h = (torch.autograd.grad((y * weight).sum(), w)[0] for y in (found, wanted))
    assert (g - h).norm() < 0.01 * h.norm()


def plain_loss(states, classes, labels, padding_class):
    if padding_class:
        return F.cross_entropy(states @ classes.T, labels)
    return F.cross_entropy(states @ classes[1:].T, labels - 1)


@pytest.mark.parametrize("padding_class", [False, True])
@pytest.mark.parametrize("block", [1, 7, 2**22])
def test_softmax_loss_and_its_gradient_whatever_the_block(padding_class, block, monkeypatch):
    monkeypatch.setattr(fast_ops, "LOGITS", block * 12)
    states, classes = rand(9, 5, dtype=torch.float64), rand(12, 5, dtype=torch.float64, seed=1)
    labels = torch.from_numpy(np.random.default_rng(0).integers(1, 12, 9))
    found = fast_ops.softmax_loss(states, classes, labels, padding_class=padding_class)
    wanted = plain_loss(states, classes, labels, padding_class)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    both = [torch.autograd.grad(3 * v, [states, classes]) for v in (found, wanted)]
    torch.testing.assert_close(*both, rtol=1e-10, atol=1e-12)


def test_softmax_loss_of_a_label_whose_share_is_too_small_for_its_dtype():
    states, classes = torch.full((2, 1), 30.0, requires_grad=True), torch.tensor([[0.0], [9.0], [-9.0], [0.0]])
    labels = torch.tensor([2, 1])
    torch.testing.assert_close(fast_ops.softmax_loss(states, classes, labels), plain_loss(states, classes, labels, False))
    assert fast_ops.softmax_loss(states, classes, labels).item() == pytest.approx(270)


def test_low_precision_softmax_is_close():
    states, classes, labels = rand(64, 16), rand(200, 16, seed=1), torch.arange(1, 65)
    low, full = (fast_ops.softmax_loss(states, classes, labels, low_precision=low) for low in (True, False))
    assert low.item() == pytest.approx(full.item(), rel=0.01)
    for g, h in zip(*(torch.autograd.grad(v, [states, classes]) for v in (low, full)), strict=True):
        assert (g - h).norm() < 0.05 * h.norm()


def test_lookup_passes_on_the_gradient_of_both_uses():
    table, ids = rand(6, 3, dtype=torch.float64), torch.tensor([[1, 4], [4, 0]], dtype=torch.int32)
    weight = rand(2, 2, 3, dtype=torch.float64, grad=False, seed=1)

    def value(rows, classes):
        return (rows * weight).sum() + (classes**2).sum()

    found = torch.autograd.grad(value(*fast_ops.lookup(table, ids)), table)
    wanted = torch.autograd.grad(value(F.embedding(ids, table), table), table)
    torch.testing.assert_close(found, wanted)
    rows, classes = fast_ops.lookup(table, ids)
    torch.testing.assert_close(
        torch.autograd.grad((rows * weight).sum(), table, retain_graph=True),
        torch.autograd.grad((F.embedding(ids, table) * weight).sum(), table),
    )
    torch.testing.assert_close(torch.autograd.grad((classes**2).sum(), table)[0], 2 * table.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gru_is_torchs_own(dtype):
    layer = torch.nn.GRU(4, 4, bias=False, batch_first=True, dtype=dtype)
    x, weight = rand(3, 6, 4, dtype=dtype), rand(3, 6, 4, dtype=dtype, grad=False, seed=1)
    parts = [x, layer.weight_ih_l0, layer.weight_hh_l0]
    both = []
    for states in (fast_ops.gru(*parts), layer(x)[0]):
        both.append((states, torch.autograd.grad((states * weight).sum(), parts)))
    torch.testing.assert_close(
        *both, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-5 if dtype == torch.float32 else 1e-12
    )
