"""oneDNN's linear layers: the same values and gradients as torch's, and nothing left behind."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llm2rec_kit.models import kernels


class Net(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 40, bias=bias), nn.Linear(40, 8)

    def forward(self, x):
        return self.second(torch.nn.functional.silu(self.first(x)))


def gradients(net, x, run=lambda net, x: net(x)):
    x = x.clone().requires_grad_()
    (run(net, x) ** 3).sum().backward()
    found = [x.grad, *(p.grad for p in net.parameters())]
    net.zero_grad()
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16,), (5, 16), (3, 7, 16), (64, 16), (1024, 16), (2, 600, 16), (1113, 16), (0, 16)])
def test_values_and_gradients_are_those_of_torch(bias, shape):
    torch.manual_seed(0)
    net, x = Net(bias), torch.randn(shape)
    expected = gradients(net, x)
    with kernels.use_fast_linears(net):
        if kernels.is_available():
            assert "forward" in vars(net.first)
        torch.testing.assert_close(net(x), copy.deepcopy(net)(x))
        torch.testing.assert_close(gradients(net, x), expected, rtol=1e-4, atol=1e-5)
        again = gradients(net, x, lambda net, x: checkpoint(net, x, use_reentrant=False))
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(net.first)


def test_other_dtypes_and_frozen_weights_pass_through():
    net = Net(True).double()
    with kernels.use_fast_linears(net), kernels.use_fast_linears(net):
        assert net(torch.randn(3, 16, dtype=torch.float64)).dtype == torch.float64
    assert "forward" not in vars(net.first)
    net = Net(True).requires_grad_(False)
    net.second.weight.requires_grad_(True)
    with kernels.use_fast_linears(net):
        net(torch.randn(3, 16)).sum().backward()
    assert net.second.weight.grad is not None
    assert net.first.weight.grad is None


@pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("shape", [(16,), (3, 7, 16), (1113, 16)])
def test_products_in_bfloat16_round_their_factors_and_nothing_else(shape):
    """Against float64 of the rounded factors: what is left is one rounding of each product and the order of its sum."""
    torch.manual_seed(0)
    layer, x, grad = nn.Linear(16, 40), torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 40)
    with kernels.use_fast_linears(layer), kernels.use_bfloat16():
        out = layer(x)
        out.backward(grad)
    low = {
        k: v.detach().bfloat16().double().view(-1, v.shape[-1]) for k, v in {"x": x, "w": layer.weight, "g": grad}.items()
    }
    wanted = low["x"] @ low["w"].T + layer.bias.double()
    for found, exact in (
        (out, wanted),
        (x.grad, low["g"] @ low["w"]),
        (layer.weight.grad, low["g"].T @ low["x"]),
    ):
        assert found.dtype == torch.float32
        off = (found.detach().double().view(exact.shape) - exact).abs().max() / exact.abs().max()
        assert off < 2**-8
    torch.testing.assert_close(layer.bias.grad.double(), grad.double().view(-1, 40).sum(0), rtol=1e-5, atol=1e-4)
    assert layer.weight.dtype == torch.float32
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert 1e-4 < (out - plain).abs().max() / plain.abs().max() < 2e-2  # float32 alone would be off by 1e-6


@pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
def test_a_weight_that_was_changed_is_rounded_anew_in_the_next_block():
    layer, x = nn.Linear(16, 8, bias=False), torch.randn(4, 16)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1.0, fused=True)
    seen = []
    with kernels.use_fast_linears(layer):
        for _ in range(2):
            with kernels.use_bfloat16():
                seen.append(layer(x))
            layer(x).sum().backward()
            optimizer.step()
    assert (seen[0] - seen[1]).abs().max() > 0.5
    with kernels.use_fast_linears(layer), kernels.use_bfloat16(False):
        torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight))


@pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
def test_the_product_is_onednn_s():
    net, x = Net(True), torch.randn(128, 16)
    with kernels.use_fast_linears(net), torch.profiler.profile() as seen:
        net(x)
    names = {event.key for event in seen.key_averages()}
    assert "mkldnn::_linear_pointwise" in names
    assert "aten::addmm" not in names


@pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
def test_few_shapes_are_compiled_whatever_the_batches(monkeypatch):
    """oneDNN keeps compiled code for every shape: rows of any number must come down to few sizes."""
    sizes, op = set(), torch.ops.mkldnn._linear_pointwise

    class Counted:
        def _linear_pointwise(self, x, *rest):
            sizes.add(len(x))
            return op(x, *rest)

    monkeypatch.setattr(torch.ops, "mkldnn", Counted())
    weight = torch.randn(4, 3)
    for rows in range(1, 4000, 7):
        kernels.multiply_blocked(torch.randn(rows, 3), weight)
    assert len(sizes) <= 15 + 3
    assert all(size % 64 == 0 for size in sizes)


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [
        (9.0, {}, "PASSIVE None"),
        (2.0, {}, "None 3000"),
        (9.0, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        (0.5, {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        (9.0, {"GOMP_SPINCOUNT": "7"}, "None 7"),
        # Chosen by the process that started this one, at another load.
        (9.0, {"GOMP_SPINCOUNT": "3000", "LLM2REC_CHOSE": "GOMP_SPINCOUNT"}, "PASSIVE None"),
        (2.0, {"OMP_WAIT_POLICY": "PASSIVE", "LLM2REC_CHOSE": "OMP_WAIT_POLICY"}, "None 3000"),
    ],
)
def test_threads_spin_a_while_and_sleep_at_once_where_others_are_busy_unless_one_says_otherwise(load, given, expected):
    """OpenMP reads it when torch is loaded: importing the package alone has to set it, and has not to load torch."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    own = {k: v for k, v in os.environ.items() if k not in (*names, "LLM2REC_CHOSE")} | given
    ask = (
        f"import os, sys\nos.getloadavg, os.cpu_count = lambda: ({load}, 0, 0), lambda: 2\nimport llm2rec_kit\n"
        f"print(*map(os.environ.get, {names}), 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", ask], env=own, capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"{expected} False"
