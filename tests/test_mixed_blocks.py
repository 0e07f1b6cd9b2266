"""Whole parts of a decoder in mixed precision: the values and gradients of the model's own code within rounding, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config, SmolLM3Config

from llm2rec_kit.models import backbone, kernels, mixed_blocks

pytestmark = pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def decoder(config=LlamaConfig, kernel="sdpa", **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**(SIZES | more)), attn_implementation=kernel)
    for name, weight in model.named_parameters():  # norms and biases that tell whether they are used
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, 0.0 if "bias" in name else 1.0, 0.3)
        else:
            torch.nn.init.normal_(weight, 0.0, weight.shape[1] ** -0.5)
    return model.train()


def gradients(model, length=37, rows=3):
    """The body's states under a mask of one's own, and gradients by all weights."""
    made = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 90, (rows, length), generator=made)
    seen = torch.rand(rows, 1, length, length, generator=made).lt(0.6) | torch.eye(length).bool()
    mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(~seen, torch.finfo(model.dtype).min)
    aim = torch.randn(rows, length, model.config.hidden_size, generator=made)
    model.zero_grad()
    states = model.model(
        input_ids=ids, attention_mask=mask, position_ids=torch.arange(length)[None].expand(rows, -1), use_cache=False
    ).last_hidden_state
    (states * aim).sum().backward()
    return [states.detach(), *(p.grad.clone() for n, p in model.named_parameters() if "lm_head" not in n)]


def replaced(model) -> dict[str, int]:
    names = {f: name for name, f in mixed_blocks.FORWARDS.items()}
    found = [names.get(getattr(vars(m).get("forward"), "func", None)) for m in model.modules()]
    return {name: found.count(name) for name in mixed_blocks.FORWARDS}


def off(found, wanted):
    return [float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize(
    ("config", "more"),
    [(LlamaConfig, {}), (LlamaConfig, {"num_key_value_heads": 4, "attention_bias": True}), (Qwen2Config, {})],
)
@pytest.mark.parametrize("length", [5, 37, 400])
def test_values_and_gradients_are_those_of_the_model_within_bfloat16_s_error(config, more, length):
    model = decoder(config, **more)
    wanted = gradients(copy.deepcopy(model).double(), length)
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model):
        assert replaced(model) == {"norm": 5, "gated": 2, "attention": 2}
        exact = gradients(model, length)
        with kernels.use_bfloat16():
            found, again = gradients(model, length), gradients(model, length)
    with kernels.use_fast_linears(model), kernels.use_bfloat16():
        by_layers = gradients(model, length)
    assert max(off(exact, wanted)) < 1e-4  # outside of in_bfloat16 nothing is rounded
    assert 1e-3 < max(off(found, wanted)) < 0.03
    assert sum(off(found, wanted)) < 1.3 * sum(off(by_layers, wanted))  # as near as layer by layer
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert {x.dtype for x in found} == {torch.float32}


def test_nothing_is_changed_outside_and_nothing_is_left_behind():
    model = decoder()
    with kernels.use_fast_linears(model):
        wanted, state = gradients(model), torch.random.get_rng_state()
        with mixed_blocks.use_fused_blocks(model):
            assert torch.equal(state, torch.random.get_rng_state())
            found = gradients(model)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert replaced(model) == {"norm": 0, "gated": 0, "attention": 0}
    with mixed_blocks.use_fused_blocks(model, False):
        assert replaced(model) == {"norm": 0, "gated": 0, "attention": 0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Qwen3Config, {"norm": 9, "gated": 2, "attention": 0}),  # keys and queries are normalised
        (Gemma2Config, {"norm": 0, "gated": 0, "attention": 0}),  # one is added to the norm's weight; another nonlinearity
    ],
)
def test_what_a_family_does_otherwise_stays_its_own(config, expected):
    model = decoder(config, "eager" if config is Gemma2Config else "sdpa")
    wanted = gradients(copy.deepcopy(model).double())
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model), kernels.use_bfloat16():
        assert replaced(model) == expected
        assert max(off(gradients(model), wanted)) < 0.05


@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_each_layer_is_asked_for_itself(spread):
    """SmolLM3 rotates queries and keys in three of four layers; with the small weights of a new model it hardly shows."""
    more = {"num_hidden_layers": 4, "initializer_range": spread, "pad_token_id": 0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SmolLM3Config(**(SIZES | more))).train()
    wanted = gradients(copy.deepcopy(model).double())
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model), kernels.use_bfloat16():
        assert replaced(model) == {"norm": 9, "gated": 4, "attention": 3}
        assert "forward" not in vars(model.model.layers[3].self_attn)
        found = gradients(model)
    with kernels.use_fast_linears(model), kernels.use_bfloat16():
        assert sum(off(found, wanted)) < 1.3 * sum(off(gradients(model), wanted))  # as near as layer by layer


@pytest.mark.parametrize("how", ["dropout", "no mask", "eager"])
def test_calls_that_are_not_served_go_to_the_model_s_own_code(how, monkeypatch):
    model = decoder(attention_dropout=0.5 if how == "dropout" else 0.0)
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model), kernels.use_bfloat16():
        assert replaced(model)["attention"] == 2
        monkeypatch.setattr(mixed_blocks, "attend", None)
        if how == "eager":
            model.set_attn_implementation("eager")
        mask = None if how == "no mask" else torch.zeros(1, 1, 4, 4)
        assert model.model(torch.ones(1, 4, dtype=torch.long), attention_mask=mask).last_hidden_state.isfinite().all()


def test_gradient_checkpointing_changes_no_bit():
    model = decoder()
    with mixed_blocks.use_fused_blocks(model), kernels.use_fast_linears(model), kernels.use_bfloat16():
        wanted = gradients(model)
        backbone.set_recomputing(model, True)
        assert all(torch.equal(a, b) for a, b in zip(gradients(model), wanted, strict=True))


def test_less_than_half_is_kept_for_the_backward_pass():
    model, kept = decoder(hidden_size=64, intermediate_size=176), {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    for name in ("fused", "by layers"):
        held = {}
        with (
            mixed_blocks.use_fused_blocks(model, name == "fused"),
            kernels.use_fast_linears(model),
            kernels.use_bfloat16(),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        ):
            gradients(model, 64, 10)
        kept[name] = sum(size for size, _ in held.values())
    assert kept["fused"] < 0.5 * kept["by layers"]
