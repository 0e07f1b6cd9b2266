"""CSFT with every decoder family: sharing prefixes costs what the model's own forward says, windows and all."""

from __future__ import annotations

import families
import pytest
import torch
import torch.nn.functional as F
from conftest import make_corpus
from trained import csft_parts

from llm2rec_kit.models import backbone
from llm2rec_kit.settings import CSFT, Backbone
from llm2rec_kit.training import csft

SETTINGS = CSFT(batch_size=16, max_tokens=60, batch_tokens=300)


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
    history = [corpus.titles[i - 1] for i in corpus.history(target)]
    pieces = [history[0], *(SETTINGS.joiner + t for t in history[1:])]
    prefix = [t for piece in pieces for t in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    answer = tokenizer(corpus.titles[corpus.sequence[target] - 1] + SETTINGS.ending, add_special_tokens=False)["input_ids"]
    answer.append(tokenizer.eos_token_id)
    prefix = prefix[-max(1, SETTINGS.max_tokens - len(answer)) :]
    logits = model(input_ids=torch.tensor([prefix + answer]), use_cache=False).logits[0, len(prefix) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(answer), reduction="sum")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_an_epoch_costs_what_the_models_own_forward_says(family, checkpointing, float64_throughout, tmp_path):
    """Loss and gradients against one plain row a sample, float64, with windows far shorter than a history."""
    model, tokenizer = backbone.load(families.write(family, tmp_path), Backbone(device="cpu"))
    model = model.double()
    corpus = make_corpus()
    _, batches, _ = csft_parts(SETTINGS)  # its tokenizer is the families', learned from the same titles
    micros = [micro for step in range(batches.steps_per_epoch) for micro in batches[step]]
    assert max(micro["input_ids"].shape[1] for micro in micros) > 4 * families.WINDOW
    plain = sum(one_row_a_sample(model, tokenizer, corpus, t) for t in corpus.samples("train"))
    expected = torch.autograd.grad(plain, list(model.parameters()))
    if checkpointing:
        backbone.set_recomputing(model)
        model.train()
    shared = sum(csft.compute_loss(model, micro)[0] for micro in micros)
    assert shared.item() == pytest.approx(plain.item(), rel=1e-9)
    for found, wanted in zip(torch.autograd.grad(shared, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-8)
