"""Every decoder family: loaded from a folder, bidirectional where asked, whatever else is done to it."""

from __future__ import annotations

import families
import peft
import pytest
import torch

from llm2rec_kit.models import backbone
from llm2rec_kit.settings import Backbone


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {f: families.write(f, tmp_path_factory.mktemp(f.replace(".", ""))) for f in families.FAMILIES}


@pytest.fixture(params=families.FAMILIES)
def loaded(request, folders):
    return backbone.load(folders[request.param], Backbone(device="cpu"))


def test_the_folder_is_loaded_and_keeps_ids_and_outputs(loaded, tmp_path):
    model, tokenizer = loaded
    backbone.check_head(model)
    backbone.save(model, tokenizer, tmp_path)
    again, reader = backbone.load(tmp_path, Backbone(device="cpu"))
    text = "Café Lumière Puzzle, Deluxe\n"
    ids = tokenizer(text)["input_ids"]
    assert reader(text)["input_ids"] == ids
    assert tokenizer.decode(ids) == text
    assert torch.equal(model(torch.tensor([ids])).logits, again(torch.tensor([ids])).logits)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_leak_is_there_when_bidirectional_and_only_then(loaded, tmp_path, kernel, padded):
    model, tokenizer = loaded
    if kernel == "sdpa" and model.config.model_type == "gemma2":
        pytest.skip("transformers has no sdpa for Gemma 2: its attention scores are squashed")
    model.set_attn_implementation(kernel)
    assert backbone.measure_leak(backbone.restore_causal_mask(model), padded=padded) == 0
    assert backbone.measure_leak(backbone.lift_causal_mask(model), padded=padded) > 1e-3
    backbone.save(model, tokenizer, tmp_path)
    again, _ = backbone.load(tmp_path, Backbone(device="cpu"))
    again.set_attn_implementation(kernel)
    assert backbone.is_bidirectional(again)
    assert backbone.measure_leak(again, padded=padded) > 1e-3
    backbone.set_recomputing(again)
    assert trained_leak(again, padded) > 1e-3
    assert trained_leak(backbone.restore_causal_mask(again), padded) == 0


def trained_leak(model, padded: bool) -> float:
    """As backbone.leak, but in training mode with gradients, where activations are computed anew: how much the first
    token's gradient, on the input of the last token, is."""
    model.train()
    embeddings = model.get_input_embeddings()(torch.randint(1, 300, (2, 8), generator=torch.Generator().manual_seed(0)))
    embeddings = embeddings.detach().requires_grad_()
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3]) if padded else None
    states = backbone.find_body(model)(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
    (gradient,) = torch.autograd.grad(states[0, 0].sum(), embeddings)
    return gradient[0, -1].abs().max().item()


@pytest.mark.parametrize("padded", [False, True])
def test_the_leak_outlives_an_adapter_loaded_and_merged(loaded, folders, tmp_path, padded):
    model, tokenizer = loaded
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(backbone.lift_causal_mask(model), config)
    assert backbone.measure_leak(model, padded=padded) > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    backbone.save(merged, tokenizer, tmp_path / "merged")
    again, _ = backbone.load(tmp_path / "merged", Backbone(device="cpu"))
    assert backbone.is_bidirectional(again)
    assert backbone.measure_leak(again, padded=padded) == pytest.approx(
        backbone.measure_leak(merged, padded=padded), abs=1e-6
    )
    # The trap: an adapter's folder does not hold the flag, so the base has to be switched again.
    base, _ = backbone.load(next(f for f in folders.values() if same_family(f, model)), Backbone(device="cpu"))
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert backbone.measure_leak(reloaded.get_base_model(), padded=padded) == 0
    assert backbone.measure_leak(backbone.lift_causal_mask(reloaded.get_base_model()), padded=padded) > 1e-3


def same_family(folder, model) -> bool:
    import json

    about = json.loads((folder / "config.json").read_text())
    return about["model_type"] == model.config.model_type and about.get("sliding_window") == getattr(
        model.config, "sliding_window", None
    )
