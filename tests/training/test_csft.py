"""CSFT: what the model reads, and that sharing prefixes changes neither loss nor gradient."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from conftest import make_corpus
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, BioGptConfig, GPT2Config, GPT2LMHeadModel

from llm2rec_kit.fitting.ragged import index_spans
from llm2rec_kit.models import backbone
from llm2rec_kit.settings import CSFT, Backbone
from llm2rec_kit.training import csft, prefix_attention, samples

BRACKETED = ["Chess (PC)", "Go [Wii]", "Race!", "Ink, Pen", "A (B), C (D)", "Ludo 3", "Iron Vale (PC), Race!", "Café!"]


def bracketed_corpus(seed: int = 0, **changes):
    """Titles whose ends a tokenizer merges with the comma; short windows, so most users are longer than theirs."""
    corpus = make_corpus(users=8, items=len(BRACKETED), max_history=3, seed=seed, **changes)
    return replace(corpus, items=corpus.items.with_columns(title=np.array(BRACKETED)))


def bracketed_backbone():
    """A tokenizer that knows "),", "!," and "],", and a model for it."""
    seen = [f"{a}, {b}" for a in BRACKETED for b in BRACKETED]
    model, tokenizer = backbone.make_tiny(
        seen, Backbone(hidden=32, layers=2, heads=2, vocabulary=600, device="cpu", dtype="float32")
    )
    assert len(tokenizer("Chess (PC), Race!, Go")["input_ids"]) < sum(
        len(tokenizer(t)["input_ids"]) for t in ("Chess (PC)", ", Race!", ", Go")
    )
    return model, tokenizer


def official(tokenizer, corpus, target, settings) -> tuple[list[int], list[int]]:
    """The official text of a sample as (history, answer), written with nothing but strings and the tokenizer."""
    titles = [corpus.titles[i - 1] for i in corpus.history(target)]
    if settings.tokenisation == "joined":
        history = tokenizer(settings.joiner.join(titles))["input_ids"]
    else:
        pieces = [titles[0], *(settings.joiner + t for t in titles[1:])]
        history = [t for p in pieces for t in tokenizer(p)["input_ids"]]
    answer = tokenizer(corpus.titles[corpus.sequence[target] - 1] + settings.ending)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]
    skip = min(max(0, len(history) + len(answer) - settings.max_tokens), len(history) - 1)
    return history[skip:], answer


def plain_loss(model, tokenizer, corpus, target, settings):
    """The official way: one sample alone, labels -100 on the history, dense logits, shifted labels."""
    history, answer = official(tokenizer, corpus, target, settings)
    ids = torch.tensor([history + answer])
    labels = ids.clone()
    labels[:, : len(history)] = -100
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
    """Loss of every sample, their sum and its gradient, against one sample at a time."""
    model = model.double().train()
    targets = corpus.samples("train")
    expected, count, each = 0, 0, {}
    for t in targets:
        value, n = plain_loss(model, tokenizer, corpus, t, settings)
        each[t] = value.item()
        expected, count = expected + value, count + n
    expected.backward()
    wanted = grads(model)
    model.zero_grad()
    prepared = samples.prepare(corpus, targets, tokenizer, settings)
    found, seen = 0, 0
    for micro in csft.cut_micro_batches(prepared, np.arange(len(prepared.counts)), settings, tokenizer.pad_token_id):
        value, n = csft.compute_loss(model, micro)
        value.backward()
        found, seen = found + value.item(), seen + n
    assert seen == count
    assert found == pytest.approx(expected.item(), rel=tolerance)
    torch.testing.assert_close(grads(model), wanted, rtol=tolerance, atol=tolerance)
    apart = losses_of_samples(model, prepared, tokenizer.pad_token_id)
    assert apart.keys() == each.keys()
    assert apart == pytest.approx(each, rel=tolerance)
    return prepared


@torch.no_grad()
def losses_of_samples(model, prepared, pad_id) -> dict[int, float]:
    """The loss of each sample by its target, all rows read as one padded batch."""
    rows = np.random.default_rng(0).permutation(len(prepared.counts))
    micro = csft.collate(prepared, rows, pad_id)
    states = prefix_attention.compute_states(model, micro).flatten(0, 1)[micro["sources"]]
    losses = F.cross_entropy(model.get_output_embeddings()(states), micro["labels"], reduction="none")
    chosen = index_spans(prepared.first[rows], prepared.counts[rows])
    parts = losses.split(prepared.answers.lengths[prepared.item[chosen]].tolist())
    return {int(prepared.target[s]): part.sum().item() for s, part in zip(chosen, parts, strict=True)}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("max_tokens", [1024, 45])
def test_loss_and_gradient_equal_one_sample_at_a_time(tiny, exact_norm, shared, max_tokens):
    corpus = make_corpus(users=6)
    prepared = check_equal(*tiny, corpus, CSFT(shared_prefix=shared, max_tokens=max_tokens, batch_tokens=700))
    assert prepared.counts.sum() == len(corpus.samples("train"))
    assert (prepared.facts["truncated"] > 0) == (max_tokens == 45)
    assert (prepared.counts.max() > 1) == shared


@pytest.mark.parametrize("max_tokens", [1024, 20])
def test_loss_and_gradient_equal_where_the_joined_text_is_tokenised(exact_norm, max_tokens):
    settings = CSFT(tokenisation="joined", max_tokens=max_tokens, batch_tokens=500)
    prepared = check_equal(*bracketed_backbone(), bracketed_corpus(), settings)
    assert prepared.facts["tokenised_otherwise"] > 0
    assert prepared.facts["whole_prefix"] < len(prepared)
    assert len(prepared.tails.flat) > 0
    assert prepared.counts.max() > 1
    assert (prepared.facts["truncated"] > 0) == (max_tokens == 20)


def test_repeated_items_and_histories_of_one_item(tiny, exact_norm):
    corpus = make_corpus(users=4, items=3, longest=12)
    again = replace(corpus, sequence=np.ones_like(corpus.sequence))  # the same item over and over
    check_equal(*copy.deepcopy(tiny), again, CSFT())
    check_equal(*tiny, make_corpus(users=3, max_history=1), CSFT())


def test_the_eager_kernel_reads_the_mask_too(tiny, exact_norm):
    model, tokenizer = tiny
    model.set_attn_implementation("eager")  # its softmax is float32 whatever the model's dtype
    check_equal(model, tokenizer, make_corpus(users=3, seed=5), CSFT(), tolerance=1e-5)


@pytest.mark.parametrize("way", ["checkpointed", "validation"])
def test_the_last_feed_forward_block_is_spared_where_it_can_be(tiny, exact_norm, way):
    model, tokenizer = tiny
    settings, corpus = CSFT(batch_tokens=10**6), make_corpus(users=5)
    prepared = samples.prepare(corpus, corpus.samples("train"), tokenizer, settings)
    (micro,) = csft.cut_micro_batches(prepared, np.arange(len(prepared.counts)), settings, tokenizer.pad_token_id)
    model = model.double()
    seen = []
    hook = model.model.layers[-1].mlp.down_proj.register_forward_hook(lambda m, i, o: seen.append(i[0].shape[:-1]))
    if way == "validation":
        found = csft.validate(model, prepared, settings, tokenizer.pad_token_id)["loss"] * len(micro["labels"])
        assert seen == [micro["labels"].shape]
    else:
        backbone.set_recomputing(model).train()
        value, _ = csft.compute_loss(model, micro)
        value.backward()
        found, checkpointed = value.item(), grads(model)
        assert set(seen) == {micro["input_ids"].shape}
    hook.remove()
    backbone.set_recomputing(model, False).zero_grad()
    value, _ = csft.compute_loss(model, micro)
    value.backward()
    assert found == pytest.approx(value.item(), rel=1e-12)
    if way == "checkpointed":
        torch.testing.assert_close(grads(model), checkpointed, rtol=1e-9, atol=1e-12)
    assert not model.model.layers[-1].mlp._forward_hooks
    assert not model.model.layers[-1].mlp._forward_pre_hooks


def test_every_label_has_a_source_of_its_own(tiny):
    for settings, corpus, tokenizer in (
        (CSFT(), make_corpus(), tiny[1]),
        (CSFT(tokenisation="joined"), bracketed_corpus(), bracketed_backbone()[1]),
    ):
        prepared = samples.prepare(corpus, corpus.samples("train"), tokenizer, settings)
        for r in range(len(prepared.counts)):
            micro = csft.collate(prepared, np.array([r]), tokenizer.pad_token_id)
            assert micro["input_ids"].shape[1] == prepared.lengths[r]
            assert len(set(micro["sources"].tolist())) == len(micro["sources"])


def test_attention_is_the_same_rule_for_every_kernel(tiny):
    from torch.nn.attention.flex_attention import create_mask

    corpus, settings = bracketed_corpus(), CSFT(tokenisation="joined")
    model, tokenizer = bracketed_backbone()
    prepared = samples.prepare(corpus, corpus.samples("train"), tokenizer, settings)
    micro = csft.collate(prepared, np.arange(len(prepared.counts)), tokenizer.pad_token_id)
    visible, branch = micro["visible"], micro["branch"]
    wanted = prefix_attention.make_allowed(visible, branch)
    found = create_mask(prefix_attention.make_rule(visible, branch), len(branch), None, *wanted.shape[1:], device="cpu")
    assert torch.equal(found[:, 0], wanted)
    assert torch.equal(prefix_attention.mask(model, micro)[:, 0] == 0, wanted)
    for b, i in zip(*np.nonzero(branch.numpy() >= 0), strict=True):  # the rule in words, token by token
        sees = {j for j in range(len(branch[b])) if wanted[b, i, j]}
        own = set(range(visible[b, i])) if branch[b, i] else set(range(i + 1))
        assert sees == own | {j for j in range(i + 1) if branch[b, i] and branch[b, j] == branch[b, i]}
    name, why = prefix_attention.choose_kernel(model, micro)
    assert name == "sdpa"
    assert "cpu" in why


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_what_sdpa_gives():
    """Forward only and uncompiled: on a CPU it has no backward pass, which is why it is not chosen there."""
    corpus, settings = bracketed_corpus(), CSFT(tokenisation="joined")
    model, tokenizer = bracketed_backbone()
    prepared = samples.prepare(corpus, corpus.samples("train"), tokenizer, settings)
    micro = csft.collate(prepared, np.arange(len(prepared.counts)), tokenizer.pad_token_id)
    wanted = prefix_attention.compute_states(model, micro)
    with prefix_attention.use_kernel(model, "flex_attention"), torch.compiler.set_stance("force_eager"):
        found = prefix_attention.compute_states(model, micro)
    real = micro["branch"] >= 0
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-4, atol=1e-5)


class OnCard:
    """A model that says that it is on a GPU."""

    device = torch.device("cuda")
    _supports_sdpa = _supports_flex_attn = True

    def modules(self):
        return iter(())

    def __init__(self, **config):
        self.model = self  # its own body
        self.config = type("Config", (), {"model_type": "qwen2", "sliding_window": None, "attention_dropout": 0.0, **config})


def test_the_kernel_of_a_card_is_chosen_with_a_reason(monkeypatch):
    for fault, name, said in (("", "flex_attention", "skips"), ("RuntimeError: no triton", "sdpa", "no triton")):
        monkeypatch.setattr(prefix_attention, "_fault", lambda model, micro, fault=fault: fault)
        assert (
            prefix_attention.choose_kernel(OnCard(), {})[0],
            said in prefix_attention.choose_kernel(OnCard(), {})[1],
        ) == (name, True)
    for config, said in (({"sliding_window": 512}, "sliding window"), ({"attention_dropout": 0.1}, "drops")):
        name, why = prefix_attention.choose_kernel(OnCard(**config), {})
        assert name == "sdpa"
        assert said in why


def test_dropout_of_attention_is_found_under_any_name(monkeypatch):
    """Flex attention raises on dropout in training alone, so trying it at rest does not show it."""
    monkeypatch.setattr(prefix_attention, "_fault", lambda model, micro: "")
    for rate, name in ((0.1, "sdpa"), (0.0, "flex_attention")):
        config = BioGptConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=48, attention_probs_dropout_prob=rate)
        model = AutoModelForCausalLM.from_config(config)
        monkeypatch.setattr(type(model), "device", torch.device("cuda"))
        assert prefix_attention.choose_kernel(model, {})[0] == name


def test_a_kernel_that_fails_is_not_used_and_said(tiny):
    """Flex attention really fails here: it has no backward pass on a CPU."""
    model, tokenizer = tiny
    prepared = samples.prepare(make_corpus(), make_corpus().samples("train"), tokenizer, CSFT())
    micro = csft.collate(prepared, np.arange(2), tokenizer.pad_token_id)
    with torch.compiler.set_stance("force_eager"):
        why = prefix_attention._fault(model, micro)
    assert "NotImplementedError" in why
    assert all(p.grad is None for p in model.parameters())
    assert model.config._attn_implementation == "sdpa"


def test_a_kernel_is_used_inside_and_not_after(tiny):
    model, _ = tiny
    with prefix_attention.use_kernel(model, "eager"):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(20, 200), st.booleans())
def test_rows_hold_every_sample_once_and_tokens_are_counted_right(seed, max_history, max_tokens, shared):
    corpus = make_corpus(users=5, max_history=max_history, seed=seed)
    settings = CSFT(max_tokens=max_tokens, shared_prefix=shared)
    prepared = samples.prepare(corpus, corpus.samples("train"), FakeTokenizer(), settings)
    assert prepared.target.tolist() == sorted(corpus.samples("train"))
    micro = csft.collate(prepared, np.arange(len(prepared.counts)), 0)
    assert (micro["branch"] >= 0).sum(1).tolist() == prepared.lengths.tolist()
    assert prepared.lengths.sum() == prepared.facts["shared_tokens"]
    own = [prepared.alone(s) for s in range(len(prepared))]
    assert sum(len(h) + len(a) for h, a in own) == prepared.facts["plain_tokens"]
    assert all(len(h) + len(a) <= max(max_tokens, len(a) + 1) for h, a in own)
    assert own_texts(own) == [tuple(map(bytes, official(FakeTokenizer(), corpus, t, settings))) for t in prepared.target]


def own_texts(pairs) -> list[tuple[bytes, bytes]]:
    return [tuple(bytes(p.tolist()) for p in pair) for pair in pairs]


class FakeTokenizer:
    """One token a character, for tests that need lengths only."""

    eos_token_id = 1

    def __call__(self, texts, add_special_tokens=False, verbose=False):
        one = isinstance(texts, str)
        ids = [[min(ord(c), 255) for c in t] for t in ([texts] if one else texts)]
        return {"input_ids": ids[0] if one else ids}


@pytest.mark.parametrize("tokenisation", ["apart", "joined"])
def test_the_text_is_the_official_one(tokenisation):
    _, tokenizer = bracketed_backbone()
    corpus, settings = bracketed_corpus(), CSFT(tokenisation=tokenisation)
    titles = corpus.titles
    prepared = samples.prepare(corpus, corpus.samples("train"), tokenizer, settings)
    for s, target in enumerate(prepared.target):
        history, answer = prepared.alone(s)
        assert (history.tolist(), answer.tolist()) == official(tokenizer, corpus, target, settings)
        assert tokenizer.decode(history) == ", ".join(titles[i - 1] for i in corpus.history(target))
        assert tokenizer.decode(answer) == titles[corpus.sequence[target] - 1] + "\n" + tokenizer.eos_token


def test_an_epoch_reads_every_row_once_and_repeats_by_seed(corpus, tiny):
    settings = CSFT(batch_size=5)
    prepared = samples.prepare(corpus, corpus.samples("train"), tiny[1], settings)
    batches = csft.Batches(prepared, settings, 0)
    for epoch in (0, 1):
        plan = batches.plan(epoch)
        assert len(plan) == batches.steps_per_epoch
        assert sorted(np.concatenate(plan)) == list(range(len(prepared.counts)))
    assert all((a == b).all() for a, b in zip(batches.plan(1), batches.plan(1), strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(batches.plan(0), batches.plan(1), strict=True))


class Counted:
    """Stands for Samples whose rows hold so many samples each; what `Batches.plan` asks for, and no more."""

    def __init__(self, counts):
        self.counts, self.lengths = counts, 3 * counts

    def __len__(self):
        return int(self.counts.sum())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 30))
def test_no_step_is_empty_though_a_row_holds_more_samples_than_a_step(counts, batch_size):
    counts = np.array(counts)
    batches = csft.Batches(Counted(counts), CSFT(batch_size=batch_size), 0)
    plan = batches.plan(0)
    assert len(plan) == batches.steps_per_epoch == max(1, min(round(counts.sum() / batch_size), len(counts)))
    assert min(len(step) for step in plan) >= 1
    assert sorted(np.concatenate(plan)) == list(range(len(counts)))


def test_steps_hold_the_set_number_of_samples_and_pad_little(tiny):
    corpus = make_corpus(users=3000, max_history=8, longest=25)
    settings = CSFT(batch_size=64, batch_tokens=2000)
    prepared = samples.prepare(corpus, corpus.samples("train"), tiny[1], settings)
    batches = csft.Batches(prepared, settings, 0)
    facts = batches.facts()
    steps = [batches[k] for k in range(batches.steps_per_epoch)]
    read = np.array([sum(int((m["branch"] >= 0).sum()) for m in micros) for micros in steps])
    padded = sum(m["input_ids"].numel() for micros in steps for m in micros)
    assert all(m["input_ids"].numel() <= 2000 for micros in steps for m in micros)
    assert facts["padding"] == pytest.approx(1 - read.sum() / padded)
    assert facts["padding"] < 0.05
    assert facts["samples_a_step"] == pytest.approx(64, rel=0.01)
    assert facts["samples_a_step_std"] < 6
    assert facts["tokens_a_step"] == pytest.approx(read.mean())


def test_no_sample_is_an_error(corpus, tiny):
    prepared = samples.prepare(corpus, np.array([], dtype=np.int64), tiny[1], CSFT())
    with pytest.raises(ValueError, match="no training sample"):
        csft.Batches(prepared, CSFT(), 0)


def test_a_title_longer_than_max_tokens_is_told_and_refused_where_there_are_no_positions_for_it(tmp_path, capsys):
    corpus = make_corpus()
    long = pl.when(pl.col("item") == 3).then(pl.lit("Star Harbor " * 30)).otherwise("title")
    corpus = replace(corpus, items=corpus.items.with_columns(title=long))
    settings = CSFT(steps=1, batch_size=4, warmup_steps=0, max_tokens=40)
    tokenizer = backbone.train_tokenizer(corpus.titles, 400)
    few = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(n_positions=40, **few))
    with pytest.raises(
        backbone.BackboneError, match=r"'Star Harbor .*csft_max_tokens is 40: .* embeddings for 40 positions only"
    ):
        csft.train(corpus, model, tokenizer, settings, tmp_path / "short")
    model = GPT2LMHeadModel(GPT2Config(n_positions=400, **few))
    csft.train(corpus, model, tokenizer, settings, tmp_path / "long")
    assert "it cuts histories, no titles; the longest sample has" in capsys.readouterr().out


def test_the_mask_of_a_row_hides_from_each_target_what_came_after_its_history(tiny):
    corpus = make_corpus()
    prepared = samples.prepare(corpus, corpus.samples("train"), tiny[1], CSFT())
    row = int(np.argmax(prepared.counts))
    seen_by, branch = csft.make_row_mask(prepared, row)
    assert seen_by.shape == (len(branch), len(branch)) == (prepared.lengths[row],) * 2
    history = branch == 0
    assert (seen_by[np.ix_(history, history)] == np.tri(history.sum(), dtype=bool)).all()
    for number in range(1, prepared.counts[row] + 1):
        own = np.flatnonzero(branch == number)
        assert (seen_by[np.ix_(own, own)] == np.tri(len(own), dtype=bool)).all()
        assert not seen_by[np.ix_(own, np.flatnonzero((branch != number) & ~history))].any()
        assert (seen_by[own][:, history].sum(1) == prepared.seen[prepared.first[row] + number - 1]).all()


def test_work_is_tokens_times_the_weights_that_they_pass(tiny):
    model, tokenizer = tiny
    corpus = make_corpus()
    prepared = samples.prepare(corpus, corpus.samples("train"), tokenizer, CSFT())
    names = dict(model.named_parameters())
    words = model.get_input_embeddings().weight.numel()
    body = sum(p.numel() for name, p in names.items() if name.startswith("model.")) - words
    plain = sum(len(np.concatenate(prepared.alone(k))) for k in range(len(prepared)))
    labels = sum(len(prepared.alone(k)[1]) for k in range(len(prepared)))
    shared = int(prepared.lengths.sum())
    assert prepared.saved == {"plain_tokens": plain, "shared_tokens": shared, "ratio": plain / shared}
    found = csft.compare_work(model, prepared)
    assert found["tokens read"].to_list() == [plain, plain, shared]
    assert found["logits for"].to_list() == [plain, labels, labels]
    assert found["tokens a sample"][2] == pytest.approx(shared / len(prepared))
    least = shared * body + labels * words  # the head has a row a word, too
    expected = [(plain * body + plain * words) / least, (plain * body + labels * words) / least, 1.0]
    assert found["work"].to_list() == pytest.approx(expected)
