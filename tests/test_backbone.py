"""Backbones: the tiny one survives saving, the switch is obeyed, what cannot be had is explained."""

from __future__ import annotations

import pytest
import torch

from llm2rec_kit.models import backbone
from llm2rec_kit.settings import Backbone

TEXTS = ["Star Harbor Racing, Deluxe", "  odd   spacing\n", "naïve 日本語 🙂", "2 x 4's (USB-C)", "a" * 300]


def test_round_trip_keeps_ids_and_outputs(tiny, tmp_path):
    model, tokenizer = tiny
    backbone.save(model, tokenizer, tmp_path)
    again, reader = backbone.load(tmp_path, Backbone(device="cpu"))
    ids = [tokenizer(t)["input_ids"] for t in TEXTS]
    assert ids == [reader(t)["input_ids"] for t in TEXTS]
    assert [tokenizer.decode(i) for i in ids[1:]] == TEXTS[1:]
    probe = torch.tensor([ids[0]])
    assert torch.equal(model(input_ids=probe).logits, again(input_ids=probe).logits)


def test_tiny_is_made_the_same_twice_and_leaves_the_random_state_alone():
    settings = Backbone(hidden=32, layers=1, heads=2, vocabulary=300, device="cpu")
    before = torch.random.get_rng_state()
    one, two = (backbone.make_tiny(TEXTS, settings)[0].state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_the_default_tiny_has_two_to_five_million_parameters():
    titles = [f"{a} {b} {c}" for a in "abcdefgh" for b in range(40) for c in ("Racing", "Puzzle")]
    model, _ = backbone.make_tiny(titles, Backbone(device="cpu"))
    body = backbone.count_parameters(model) - model.get_input_embeddings().weight.numel()
    assert 2e6 <= body + 192 * 1500 <= 5e6  # a real catalogue fills the vocabulary to between 1,500 and 4,096 tokens


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_switch_is_obeyed_and_survives_saving(tiny, tmp_path, kernel, padded):
    model, tokenizer = tiny
    model.set_attn_implementation(kernel)
    assert backbone.measure_leak(model, padded=padded) == 0
    assert backbone.measure_leak(backbone.lift_causal_mask(model), padded=padded) > 1e-3
    backbone.save(model, tokenizer, tmp_path)
    again, _ = backbone.load(tmp_path, Backbone(device="cpu"))
    again.set_attn_implementation(kernel)
    assert backbone.is_bidirectional(again)
    assert backbone.measure_leak(again, padded=padded) > 1e-3
    assert backbone.measure_leak(backbone.restore_causal_mask(again), padded=padded) == 0


def test_a_backbone_that_cannot_be_had_says_what_to_do():
    with pytest.raises(backbone.BackboneError, match="hf download"):
        backbone.load("nothing here")  # the hub is not asked for such a name


def saved(tiny, folder):
    backbone.save(*tiny, folder)
    return folder


def test_a_folder_without_its_tokenizer_says_so(tiny, tmp_path):
    """transformers would make up an empty one of the family's class, without a word."""
    folder = saved(tiny, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(backbone.BackboneError, match=r"has a model but no tokenizer \(tokenizer.json\)"):
        backbone.load(folder)


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(backbone.BackboneError, match=r"config.json is missing"):
        backbone.load(tmp_path)


def test_weights_that_are_no_safetensors_are_not_read(tiny, tmp_path):
    folder = saved(tiny, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(tiny[0].state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(backbone.BackboneError, match=r"has no safetensors.*save_pretrained"):
        backbone.load(folder)


def test_an_adapter_alone_is_not_a_backbone(tiny, tmp_path):
    import peft

    peft.get_peft_model(tiny[0], peft.LoraConfig(target_modules="all-linear")).save_pretrained(tmp_path)
    with pytest.raises(backbone.BackboneError, match=r"a LoRA adapter alone\. Merge it"):
        backbone.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("bert", "is an encoder"),
        ("roberta", "is an encoder"),
        ("modernbert", "is an encoder"),
        ("t5", "has an encoder and a decoder"),
        ("gemma3", "is multi-modal"),
        ("vit", "is no language model"),
    ],
)
def test_what_does_not_write_text_is_refused_by_name(tiny, tmp_path, kind, what):
    from transformers import AutoConfig

    folder = saved(tiny, tmp_path)
    AutoConfig.for_model(kind).save_pretrained(folder)
    with pytest.raises(backbone.BackboneError, match=rf"\({kind}\) {what}.*CSFT needs a decoder"):
        backbone.load(folder)


def test_a_decoder_made_of_an_encoder_is_let_through():
    from transformers import BertConfig

    backbone._check_decoder(BertConfig(is_decoder=True), "b", trusted=False)


def test_another_models_tokenizer_is_refused(tiny, tmp_path):
    """One with more tokens than the model has rows would only fail deep inside training."""
    model, _ = tiny
    wide = backbone.train_tokenizer([f"{a}{b} Chess Set" for a in "abcdefghij" for b in "klmnopqrst"] * 3, 600)
    model.resize_token_embeddings(258)
    backbone.save(model, wide, tmp_path)
    with pytest.raises(backbone.BackboneError, match=r"does not fit its model.*258 tokens"):
        backbone.load(tmp_path)


def test_the_blank_is_one_token_and_eos_is_the_other_choice(tiny):
    _, tokenizer = tiny
    assert tokenizer.decode([backbone.mask_token_id(tokenizer, "blank")]) == "_"
    assert backbone.mask_token_id(tokenizer, "eos") == tokenizer.eos_token_id


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_gets_float32(native, dtype, monkeypatch):
    """A T4 says that it supports bfloat16 unless it is asked without emulation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert backbone.choose_placement(Backbone())[1] is dtype
