"""LoRA, precision and gradient checkpointing: what they change and what they must not."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from trained import SETTINGS, csft_parts, same, tiny, train, train_contrastive, train_mntp
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, TrainerCallback

from llm2rec_kit.fitting import lora, trainer
from llm2rec_kit.models import backbone, kernels, mixed_blocks
from llm2rec_kit.runs.places import find_notebooks
from llm2rec_kit.settings import CSFT, Backbone, SettingsError
from llm2rec_kit.training import csft

PROBE = torch.tensor([[7, 40, 90, 200, 13, 300]])


class Watch(TrainerCallback):
    """Looks at the model when training has ended, before adapters are merged."""

    def __init__(self, look):
        self.look, self.seen = look, None

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.seen = self.look(model)


def base_weights(model) -> dict[str, torch.Tensor]:
    return {n.replace("base_model.model.", "").replace(".base_layer", ""): p.clone() for n, p in model.named_parameters()}


def test_lora_changes_the_base_only_by_the_merge(tmp_path):
    before, _ = tiny()
    watch = Watch(base_weights)
    after, history = train(tmp_path, tuning="lora", callbacks=[watch], learning_rate=1e-2, steps=20)
    own = dict(before.named_parameters())
    assert all(torch.equal(watch.seen[name], own[name]) for name in own)
    adapters = {n for n in watch.seen if "lora_" in n}
    assert len(adapters) == 2 * 7 * 2  # A and B of the seven linear layers of two blocks, none of the head
    changed = {n for n in own if not torch.equal(after[n], own[n])}
    assert changed == {n for n in own if "proj" in n and n.endswith("weight")}
    assert after.keys() == before.state_dict().keys()
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < losses[0]


def test_merged_weights_give_what_the_adapters_gave(tmp_path):
    states = Watch(lambda model: model.get_base_model().eval().model(PROBE).last_hidden_state.detach())
    model, _ = tiny()
    train(tmp_path, tuning="lora", callbacks=[states], model=model, learning_rate=1e-2)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert not any("lora" in name for name, _ in model.named_modules())
    assert all(p.requires_grad for p in model.parameters())
    found = model.model(PROBE).last_hidden_state
    torch.testing.assert_close(found, states.seen, rtol=0, atol=1e-5)
    start = tiny()[0].model(PROBE).last_hidden_state
    assert (start - found).abs().max() > 1e-2  # the adapters did something


def test_a_merged_model_is_still_bidirectional_after_it_is_loaded_again(tmp_path):
    model, tokenizer = tiny()
    backbone.lift_causal_mask(model)
    train(tmp_path / "t", tuning="lora", model=model)
    backbone.save(model, tokenizer, tmp_path / "saved")
    again, _ = backbone.load(tmp_path / "saved", Backbone(device="cpu"))
    assert backbone.is_bidirectional(again)
    for padded in (False, True):
        assert backbone.measure_leak(again, padded=padded) == pytest.approx(
            backbone.measure_leak(model, padded=padded), abs=1e-6
        )
        assert backbone.measure_leak(again, padded=padded) > 1e-3


def test_stage_two_takes_lora_too(tmp_path):
    for work in (train_mntp, train_contrastive):
        weights, _ = work(tmp_path / work.__name__, tuning="lora", lora_dropout=0.1)
        again, _ = work(tmp_path / f"{work.__name__} again", tuning="lora", lora_dropout=0.1)
        assert same(weights, again)
        assert weights.keys() == tiny()[0].state_dict().keys()


def test_named_targets_alone_get_adapters():
    model, _ = tiny()
    adapted = lora.attach(model, CSFT(lora_targets=["q_proj", "v_proj"], lora_r=4, lora_alpha=8))
    trainable = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert {n.split(".")[-4] for n in trainable} == {"q_proj", "v_proj"}
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.lora_A["default"].weight.shape == (4, 32)
    assert layer.scaling["default"] == 2.0


def test_targets_that_are_not_there_are_named():
    model, _ = tiny()
    with pytest.raises(SettingsError, match=r"csft_lora_targets names \['query'\].*'q_proj'"):
        lora.attach(model, CSFT(tuning="lora", lora_targets=["query"]))
    lora.check_targets(model, CSFT(lora_targets=["query"]))  # without adapters nobody reads them


def test_both_trainings_of_notebook_03_have_their_targets_checked_before_the_first():
    cells = json.loads((find_notebooks() / "03_item_embedding.ipynb").read_text())["cells"]
    source = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    check = "for stage in (masks, contrast):\n    lora.check_targets(model, stage)"
    assert source.index(check) < source.index("pipeline.train_stage(run_, masks")


def test_gpt_2_s_layers_get_adapters_by_name_and_without():
    """They are `Conv1D`, linear layers whose weight stands the other way round."""
    for targets, expected in ((["c_attn"], {"c_attn"}), ([], {"c_attn", "c_proj", "c_fc"})):
        model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2)).eval()
        assert set(lora.find_linear_layers(model)) == {"c_attn", "c_proj", "c_fc"}
        adapted = lora.attach(model, CSFT(lora_targets=targets)).eval()
        trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        assert {n.split(".")[-4] for n in trained} == expected
        for weight in trained.values():
            torch.nn.init.normal_(weight, 0, 0.02)
        wanted = adapted(PROBE).logits
        torch.testing.assert_close(lora.merge(adapted)(PROBE).logits, wanted, rtol=1e-4, atol=1e-5)


def test_adapters_begin_alike_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    one, two = (lora.attach(tiny()[0], CSFT(seed=5)).state_dict() for _ in range(2))
    assert same(one, two)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not same(one, lora.attach(tiny()[0], CSFT(seed=6)).state_dict())


def test_an_untied_head_gets_no_adapter():
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    assert "lm_head" not in lora.find_linear_layers(model)
    adapted = lora.attach(model, CSFT())
    assert not any("lm_head" in n for n, p in adapted.named_parameters() if p.requires_grad)


@pytest.mark.usefixtures("bfloat16_allowed")
def test_mixed_precision_keeps_float32_weights_under_bfloat16_products(tmp_path):
    """A bfloat16 backbone: updates too small for bfloat16 are lost in a pure training and kept in a mixed one."""
    seen = {}
    for precision in ("pure", "mixed"):
        model, batches, validate = csft_parts(SETTINGS)
        model.bfloat16()
        watch = Watch(lambda m: (m.dtype, m.model.norm.weight.detach().float().clone()))
        settings = CSFT(steps=4, batch_size=8, learning_rate=1e-4, warmup_steps=0, precision=precision)
        history = trainer.fit(
            "csft", model, batches, csft.compute_loss, settings, tmp_path / precision, validate=validate, callbacks=[watch]
        )
        assert model.dtype is torch.bfloat16
        seen[precision] = (*watch.seen, [row["loss"] for row in history if "loss" in row])
    assert seen["pure"][0] is torch.bfloat16
    assert seen["mixed"][0] is torch.float32
    assert (seen["pure"][1] == 1).all()  # 1 + 1e-4 is 1 in bfloat16
    assert (seen["mixed"][1] != 1).all()
    assert seen["mixed"][2][0] == pytest.approx(seen["pure"][2][0], rel=2e-2)


@pytest.mark.usefixtures("bfloat16_allowed")
def test_mixed_precision_is_close_to_float32(tmp_path):
    _, history = train(tmp_path / "exact")
    mixed, rounded = train(tmp_path / "mixed", precision="mixed")
    pairs = [(a["loss"], b["loss"]) for a, b in zip(history, rounded, strict=True) if "loss" in a]
    assert all(b == pytest.approx(a, rel=2e-2) for a, b in pairs)
    assert any(a != b for a, b in pairs)
    assert {v.dtype for v in mixed.values()} == {torch.float32}


@pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
@pytest.mark.usefixtures("bfloat16_allowed")
@pytest.mark.parametrize("work", [train, train_mntp, train_contrastive])
def test_mixed_precision_multiplies_in_bfloat16_and_attends_in_float32(tmp_path, monkeypatch, work):
    """`mixed` once did float32 throughout: our layers' forward was out of autocast's reach."""
    seen, attended, heads = set(), set(), set()
    rows = tiny()[0].config.vocab_size
    product, blocked, attend = kernels.multiply, kernels.multiply_blocked, F.scaled_dot_product_attention

    def watched(x, weight, *bias):
        heads.update({x.dtype} if len(weight) == rows else ())
        return blocked(x, weight, *bias)

    fused, times = mixed_blocks.attend, mixed_blocks._times
    monkeypatch.setattr(mixed_blocks, "attend", lambda q, *a, **k: attended.add(q.dtype) or fused(q, *a, **k))
    monkeypatch.setattr(mixed_blocks, "_times", lambda x, *rest: seen.add(x.dtype) or times(x, *rest))
    monkeypatch.setattr(kernels, "multiply", lambda a, *rest: seen.add(a.dtype) or product(a, *rest))
    monkeypatch.setattr(kernels, "multiply_blocked", watched)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *a, **k: attended.add(q.dtype) or attend(q, *a, **k))
    weights, _ = work(tmp_path, precision="mixed", steps=2)
    assert seen == {torch.bfloat16}
    assert attended == {torch.float32}
    assert heads == (set() if work is train_contrastive else {torch.bfloat16})  # contrast has no use for the head
    assert {v.dtype for v in weights.values()} == {torch.float32}


@pytest.mark.skipif(not kernels.is_available(), reason="this torch has no oneDNN")
def test_mixed_precision_is_refused_where_it_would_be_slower(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "has_fast_bfloat16", lambda: False)
    with pytest.raises(SettingsError, match="csft_precision: mixed multiplies in bfloat16, which this CPU has no"):
        train(tmp_path, precision="mixed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("work", [train_mntp, train_contrastive])
def test_gradient_checkpointing_changes_no_bit(tmp_path, work):
    whole, history = work(tmp_path / "whole")
    again, repeated = work(tmp_path / "again", gradient_checkpointing=True)
    if work is train:  # CSFT then computes the last feed-forward block whole, which rounds otherwise
        for one, two in zip(history, repeated, strict=True):
            assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-3)
        return
    assert same(whole, again)
    assert history == repeated


def test_gradient_checkpointing_changes_nothing_but_rounding_in_csft(tmp_path):
    """CSFT may leave out work that checkpointing has it do."""
    _, history = train(tmp_path / "whole")
    _, repeated = train(tmp_path / "again", gradient_checkpointing=True)
    assert repeated[0]["grad_norm"] == pytest.approx(history[0]["grad_norm"], rel=1e-5)
    for one, two in zip(history, repeated, strict=True):
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)


def test_gradient_checkpointing_computes_activations_anew_and_is_off_afterwards(tmp_path):
    model, batches, _ = csft_parts(SETTINGS)
    passes = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    settings = CSFT(steps=2, batch_size=8, gradient_checkpointing=True)
    trainer.fit("csft", model, batches, csft.compute_loss, settings, tmp_path)
    passes_in_training = len(passes) - 2  # two of them when the head is checked
    assert passes_in_training == 2 * 2
    passes.clear()
    csft.compute_loss(model.train(), batches[0][0])[0].backward()
    assert len(passes) == 1


def test_a_head_that_is_more_than_a_matrix_is_refused(tmp_path):
    model, batches, _ = csft_parts(SETTINGS)
    own = model.forward
    model.forward = lambda *a, **k: type("Out", (), {"logits": own(*a, **k).logits * 2})
    with pytest.raises(backbone.BackboneError, match="head of this model"):
        trainer.fit("csft", model, batches, csft.compute_loss, SETTINGS, tmp_path)
