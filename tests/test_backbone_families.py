"""Every decoder family: loaded from a folder, exact in CSFT, bidirectional where asked, whatever else is done to it."""

from __future__ import annotations

import families
import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from conftest import make_corpus

from llm2rec_kit import backbone
from llm2rec_kit.settings import CSFT, Backbone
from llm2rec_kit.training import csft, samples

SETTINGS = CSFT(max_tokens=60, batch_tokens=300)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {f: families.write(f, tmp_path_factory.mktemp(f.replace(".", ""))) for f in families.FAMILIES}


@pytest.fixture(params=families.FAMILIES)
def loaded(request, folders):
    return backbone.load(folders[request.param], Backbone(device="cpu"))


@pytest.fixture
def float64_throughout(monkeypatch):
    """Norms and softmaxes in the model's own float64: transformers rounds to float32 inside, too coarse for 1e-9."""
    to, softmax = torch.Tensor.to, F.softmax

    def kept(self, *args, **kwargs):
        coarser = self.dtype is torch.float64 and (torch.float32 in args or kwargs.get("dtype") is torch.float32)
        return self if coarser else to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", kept)
    monkeypatch.setattr(torch.Tensor, "float", lambda self: kept(self, torch.float32))
    monkeypatch.setattr(F, "softmax", lambda x, dim, dtype=None: softmax(x, dim))


def one_row_a_sample(model, tokenizer, corpus, target: int) -> torch.Tensor:
    """Summed loss of one sample by the model's own forward, with the mask and the window that transformers makes."""
    first, *later = (corpus.titles[i - 1] for i in corpus.history(target))
    prefix = [i for text in (first, *(f", {t}" for t in later)) for i in tokens(tokenizer, text)]
    answer = [*tokens(tokenizer, corpus.titles[corpus.sequence[target] - 1] + "\n"), tokenizer.eos_token_id]
    prefix = prefix[-max(1, SETTINGS.max_tokens - len(answer)) :]
    logits = model(input_ids=torch.tensor([prefix + answer]), use_cache=False).logits[0, len(prefix) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(answer, dtype=torch.long), reduction="sum")


def tokens(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_prefixes_cost_what_the_models_own_forward_says(loaded, checkpointing, float64_throughout):
    """Loss and gradients against one plain row a sample, float64, with windows far shorter than a history."""
    model, tokenizer = loaded
    model = model.double()
    corpus = make_corpus(users=4)
    targets = corpus.samples("train")
    prepared = samples.prepare(corpus, targets, tokenizer, SETTINGS)
    assert prepared.counts.max() > 1
    assert prepared.lengths.max() > 4 * families.WINDOW
    plain = sum(one_row_a_sample(model, tokenizer, corpus, t) for t in targets)
    expected = torch.autograd.grad(plain, list(model.parameters()))
    if checkpointing:
        backbone.recompute(model)
        model.train()
    micros = csft.micro_batches(prepared, np.arange(len(prepared.counts)), SETTINGS, 0)
    shared = sum(csft.loss(model, micro)[0] for micro in micros)
    assert shared.item() == pytest.approx(plain.item(), rel=1e-9)
    for found, wanted in zip(torch.autograd.grad(shared, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_leak_is_there_when_bidirectional_and_only_then(loaded, tmp_path, kernel, padded):
    model, tokenizer = loaded
    if kernel == "sdpa" and model.config.model_type == "gemma2":
        pytest.skip("transformers has no sdpa for Gemma 2: its attention scores are squashed")
    model.set_attn_implementation(kernel)
    assert backbone.leak(backbone.causal(model), padded=padded) == 0
    assert backbone.leak(backbone.bidirectional(model), padded=padded) > 1e-3
    backbone.save(model, tokenizer, tmp_path)
    again, _ = backbone.load(tmp_path, Backbone(device="cpu"))
    again.set_attn_implementation(kernel)
    assert backbone.is_bidirectional(again)
    assert backbone.leak(again, padded=padded) > 1e-3
    backbone.recompute(again)
    assert trained_leak(again, padded) > 1e-3
    assert trained_leak(backbone.causal(again), padded) == 0


def trained_leak(model, padded: bool) -> float:
    """As backbone.leak, but in training mode with gradients, where activations are computed anew: how much the first
    token's gradient, on the input of the last token, is."""
    model.train()
    embeddings = model.get_input_embeddings()(torch.randint(1, 300, (2, 8), generator=torch.Generator().manual_seed(0)))
    embeddings = embeddings.detach().requires_grad_()
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3]) if padded else None
    states = backbone.body(model)(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
    (gradient,) = torch.autograd.grad(states[0, 0].sum(), embeddings)
    return gradient[0, -1].abs().max().item()


@pytest.mark.parametrize("padded", [False, True])
def test_the_leak_outlives_an_adapter_loaded_and_merged(loaded, folders, tmp_path, padded):
    model, tokenizer = loaded
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(backbone.bidirectional(model), config)
    assert backbone.leak(model, padded=padded) > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    backbone.save(merged, tokenizer, tmp_path / "merged")
    again, _ = backbone.load(tmp_path / "merged", Backbone(device="cpu"))
    assert backbone.is_bidirectional(again)
    assert backbone.leak(again, padded=padded) == pytest.approx(backbone.leak(merged, padded=padded), abs=1e-6)
    # The trap: an adapter's folder does not hold the flag, so the base has to be switched again.
    base, _ = backbone.load(next(f for f in folders.values() if same_family(f, model)), Backbone(device="cpu"))
    reloaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert backbone.leak(reloaded.get_base_model(), padded=padded) == 0
    assert backbone.leak(backbone.bidirectional(reloaded.get_base_model()), padded=padded) > 1e-3


def same_family(folder, model) -> bool:
    import json

    about = json.loads((folder / "config.json").read_text())
    return about["model_type"] == model.config.model_type and about.get("sliding_window") == getattr(
        model.config, "sliding_window", None
    )
