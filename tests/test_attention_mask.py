"""Attention mask: each family obeys in every layer, so that an embedding depends on its text alone, or is refused."""

from __future__ import annotations

import re
from types import SimpleNamespace

import backbone_families
import families
import numpy as np
import pytest
import torch

from llm2rec_kit import pipeline
from llm2rec_kit.cli import main
from llm2rec_kit.encoding import encoder
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.fitting import cross_entropy
from llm2rec_kit.models import attention_mask, backbone
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import CSFT, Backbone, Encoding
from llm2rec_kit.training import csft, prefix_attention

# By hand, from what the families' code does. A family that leaves these lists has to leave docs/backbones.md, too.
CAUSAL_THROUGHOUT = {"falcon_mamba", "gpt_neo", "mamba", "mamba2", "openai-gpt", "rwkv", "xlstm"}
HYBRID = {
    *(
        "bailing_hybrid",
        "bamba",
        "falcon_h1",
        "granitemoehybrid",
        "inkling_text",
        "jamba",
        "kimi_linear",
        "lara_mini",
        "lfm2",
    ),
    *("lfm2_moe", "lfm3", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
    *("qwen4_exp_text", "recurrent_gemma", "zamba"),
}
FAILS_OR_NO_DECODER = {"cpmant", "llama4_text", "mpt"}
REFUSED = CAUSAL_THROUGHOUT | HYBRID | FAILS_OR_NO_DECODER
MENDED = {"nemotron", "stablelm"}  # by the eager kernel
SAMPLE = ["nemotron", "stablelm", "gpt_neo", "lfm2", "falcon_h1", "mpt", "qwen3", "modernbert-decoder", "bloom", "granite"]


def texts(lengths: list[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(3, 60, n) for n in lengths]


def of_tokens(model, attention: str) -> Encoder:
    return Encoder(model, SimpleNamespace(pad_token_id=0), Encoding(attention=attention))


def assert_depends_on_text_alone(asked: Encoder) -> None:
    """Alone, beside longer and shorter texts, in either order; windows are 6 tokens."""
    read = texts([11, 41, 5, 11, 24])
    with torch.inference_mode():
        alone = np.concatenate([asked._vectors([ids]) for ids in read])
    for order in (np.arange(5), np.arange(5)[::-1]):
        with torch.inference_mode():
            beside = asked._vectors([read[k] for k in order])
        off = np.linalg.norm(beside - alone[order], axis=1) / np.linalg.norm(alone[order], axis=1)
        assert off.max() < 1e-5
    assert np.linalg.norm(alone[0] - alone[3]) > 1e-3  # and it does depend on its text


@pytest.mark.parametrize("family", backbone_families.families())
def test_an_embedding_depends_on_its_text_alone_or_the_family_is_refused(family, monkeypatch):
    monkeypatch.setattr(encoder, "PADDING", 1.0)  # all in one batch, whatever padding that takes
    model = backbone_families.build(family)
    usual = model.config._attn_implementation
    if family in REFUSED:
        with pytest.raises(
            backbone.BackboneError, match=rf"{model.config.model_type} .*causal mask lifted.*(in layer|fails|no layer)"
        ):
            of_tokens(model, "bidirectional")
        assert not backbone.is_bidirectional(model)
        assert model.config._attn_implementation == usual
        return
    asked = of_tokens(model, "bidirectional")
    assert (model.config._attn_implementation != usual) == (family in MENDED)
    assert_depends_on_text_alone(asked)


@pytest.mark.parametrize("family", sorted(REFUSED - {"cpmant"} | MENDED | {"llama", "gpt2"}))
def test_causally_it_depends_on_its_text_alone_in_every_family(family, monkeypatch):
    monkeypatch.setattr(encoder, "PADDING", 1.0)
    assert_depends_on_text_alone(of_tokens(backbone_families.build(family), "causal"))


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa"])
def test_attention_that_chooses_padding_instead_of_a_long_titles_tokens_is_refused(family, monkeypatch):
    monkeypatch.setitem(backbone_families.OWN, family, backbone_families.INDEXED | {"index_topk": 16})
    with pytest.raises(backbone.BackboneError, match=r"a text's states are [\d.]+ off beside other texts"):
        backbone.lift_causal_mask(backbone_families.build(family))


def test_the_lists_are_of_families_that_are_built_and_the_others_become_fewer():
    assert {*REFUSED, *MENDED, *backbone_families.NEWER.values()} <= set(backbone_families.families())
    assert len(backbone_families.UNBUILT) <= 12


@pytest.mark.parametrize("family", SAMPLE)
def test_the_page_of_families_says_what_is_measured_now(family):
    written = backbone_families.PAGE.read_text()
    (line,) = [
        x for x in written.splitlines() if re.match(rf"\|(.*,)? {re.escape(family)}(,.*)? \|", x) and x.count("|") == 7
    ]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [*backbone_families.row(family)]


@pytest.mark.parametrize("fault", ["causal", "beside padding", "sees padding"])
def test_one_layer_of_three_that_does_not_obey_is_found_and_named(fault):
    """The whole model's leak says nothing of it: the layers around it carry the last token to the first."""
    model = backbone_families.build("qwen3")
    model = type(model)(type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": 3, "layer_types": None})).eval()
    backbone.lift_causal_mask(model)
    model.__dict__.pop("_masks_proven")

    def other(_, args, kwargs):
        mask, length = kwargs.get("attention_mask"), kwargs["hidden_states"].shape[1]
        lower = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        if fault == "sees padding":
            return args, kwargs | {"attention_mask": None}
        if mask is None and fault == "beside padding":
            return None
        return args, kwargs | {
            "attention_mask": lower
            if mask is None
            else lower & mask
            if mask.dtype is torch.bool
            else torch.where(lower, mask, -1e30)
        }

    model.model.layers[1].self_attn.register_forward_pre_hook(other, with_kwargs=True)
    assert backbone.measure_leak(model) > 1e-3
    assert backbone.measure_leak(model, padded=True) > 1e-3
    said = {
        "causal": "stay causal without padding",
        "beside padding": "stay causal beside padding",
        "sees padding": "see padding",
    }
    with pytest.raises(backbone.BackboneError, match=rf"Qwen3Attention in layer 1 \(1 of 3 [^)]*\) {said[fault]}"):
        backbone.lift_causal_mask(model)
    backs = [m.back > 0 for m in attention_mask.inspect_mixers(model.model, padded=True)]
    assert backs == [True, fault == "sees padding", True]


@pytest.mark.parametrize("family", ["cohere", "granite", "hyperclovax", "minicpm3"])
def test_a_scaled_head_is_trained_with_the_loss_and_gradient_of_the_models_own(family):
    model = backbone_families.build(family)
    csft.check_model(model)
    ids = torch.from_numpy(texts([12])[0])
    found, wanted = [], []
    for values, loss in (
        (found, lambda s: cross_entropy.sum_cross_entropy(model, s, ids[1:])),
        (wanted, lambda s: model(input_ids=ids[None], labels=ids[None]).loss * 11),
    ):
        states = backbone.last_states(model, ids[None], None)[0, :-1]
        value = loss(states)
        values += [value, *torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad], allow_unused=True)]
    for ours, own in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-4)
    states = backbone.last_states(model, ids[None], None)
    torch.testing.assert_close(backbone.compute_logits(model, states), model(input_ids=ids[None]).logits)


@pytest.mark.parametrize(
    ("family", "says"),
    [
        ("bloom", r"bloom cannot be trained by CSFT.*under that mask it fails \(ValueError"),
        ("falcon (with alibi)", r"falcon cannot be trained by CSFT.*under that mask it fails \(ValueError"),
        ("zaya", r"Layers of kind \['hybrid'\] \(zaya\)"),
        ("modernbert-decoder", r"head of this model \(modernbert-decoder\)"),
        ("gpt_neo", "gpt_neo cannot have its causal mask lifted"),
    ],
)
def test_a_family_that_csft_or_mntp_cannot_train_is_refused_before_anything_is_prepared(family, says, tmp_path, monkeypatch):
    model, run = backbone_families.build(family).train(), Run("r", tmp_path)
    run.make("corpus", families.make_corpus().save, settings={}, quiet=True)
    run.make("backbone", lambda folder: {}, settings={}, quiet=True)
    monkeypatch.setattr(backbone, "load", lambda name, place: (model, None))
    with pytest.raises(backbone.BackboneError, match=says):
        pipeline.train_stage(run, CSFT(), Backbone(device="cpu")).make(run, quiet=True)
    assert model.training


def test_samples_that_read_more_than_they_should_are_found(monkeypatch):
    """A branch that sees the one before it, as under a mask that the model does not heed."""
    rule = prefix_attention.make_allowed
    monkeypatch.setattr(
        prefix_attention,
        "make_allowed",
        lambda visible, branch: rule(visible, branch) | torch.ones(branch.shape[1:] * 2).tril().bool(),
    )
    with pytest.raises(
        backbone.BackboneError, match=r"qwen3 cannot be trained by CSFT.*their loss is [\d.]+ under that mask, and"
    ):
        csft.check_model(backbone_families.build("qwen3"))


def test_a_family_that_is_not_causal_is_refused_before_csft_prepares_anything(tmp_path):
    model = backbone_families.build("bert-generation")  # an encoder unless its config says is_decoder
    with pytest.raises(
        backbone.BackboneError, match=r"bert-generation is not causal: BertGenerationAttention in layers 0, 1"
    ):
        csft.train(families.make_corpus(), model, None, CSFT(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert not hasattr(model.config, "is_causal")


@pytest.mark.parametrize("family", ["qwen3", "gpt_neo"])
def test_proving_leaves_modes_random_numbers_and_a_good_familys_config_alone(family):
    model = backbone_families.build(family).train()
    before, config = torch.get_rng_state(), model.config.to_dict()
    for switch in (backbone.check_masks, csft.check_model, backbone.lift_causal_mask):
        if family == "gpt_neo":
            with pytest.raises(backbone.BackboneError):
                switch(model)
        else:
            switch(model)
            config["is_causal"] = switch is not backbone.lift_causal_mask
        assert model.config.to_dict() == config
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.fixture
def mended(tmp_path):
    """A folder with a Nemotron whose mask was lifted."""
    tokenizer = backbone.train_tokenizer(families.make_corpus().titles, 400)
    model = backbone_families.build("nemotron")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.eos_token_id = tokenizer.eos_token_id
    backbone.save(backbone.lift_causal_mask(model), tokenizer, tmp_path / "stage")
    return tmp_path / "stage"


def test_what_was_mended_survives_saving_in_every_reader(mended, tmp_path):
    """A stage's folder, an encoder's, and sentence-transformers on it: the same title, alone and beside a longer one."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    titles = ["Star Chess", "Star Chess Puzzle, Deluxe Café Edition"]
    first = Encoder.load(mended, place=Backbone(device="cpu"))
    first.save(tmp_path / "encoder")
    again = Encoder.load(tmp_path / "encoder", place=Backbone(device="cpu"))
    other = sentence_transformers.SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    backbone.lift_causal_mask(again.model)
    again.save(tmp_path / "twice")
    twice = Encoder.load(tmp_path / "twice", place=Backbone(device="cpu"))
    wanted = first.encode(titles)
    for found in (
        again.encode(titles),
        twice.encode(titles),
        other.encode(titles),
        np.stack([other.encode(t) for t in titles]),
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert backbone.measure_leak(first.model) > 1e-3
    assert "attn_implementation" not in backbone.restore_causal_mask(first.model).config.to_dict()


def test_encode_refuses_a_causal_family_with_one_paragraph_and_takes_it_causally(tmp_path, capsys):
    tokenizer = backbone.train_tokenizer(families.make_corpus().titles, 400)
    model = backbone_families.build("gpt_neo")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.eos_token_id = tokenizer.eos_token_id
    backbone.save(model, tokenizer, tmp_path / "model")
    (tmp_path / "titles.txt").write_text("Star Chess\nPuzzle\n")
    asked = [
        "encode",
        str(tmp_path / "model"),
        str(tmp_path / "titles.txt"),
        "--to",
        str(tmp_path / "out.npy"),
        "--attention",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "bidirectional"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "gpt_neo" in said
    assert "GPTNeoAttention in layers 0, 1" in said
    assert not (tmp_path / "out.npy").exists()
    main([*asked, "causal"])
    assert np.load(tmp_path / "out.npy").shape == (2, 32)


def test_both_masks_are_measured_and_the_lifted_one_stays(tiny):
    model, _ = tiny
    found = attention_mask.compare_leaks(model)
    assert attention_mask.is_bidirectional(model)
    causal, lifted = found.to_dicts()
    assert causal["leak"] == causal["leak, padded"] == causal["least of a layer"] == 0
    assert lifted["leak"] == attention_mask.measure_leak(model) > 0
    assert lifted["leak, padded"] == attention_mask.measure_leak(model, padded=True) > 0
    assert lifted["least of a layer"] == min(
        m.back for m in attention_mask.inspect_mixers(attention_mask.find_body(model), padded=True)
    )


def test_where_a_text_looks_is_told_under_either_mask_and_the_kernel_is_put_back(tiny):
    model, tokenizer = tiny
    kernel = model.config._attn_implementation
    text = "Iron Vale, for PC 3"
    length = len(tokenizer(text)["input_ids"])
    causal = attention_mask.weights_of(attention_mask.restore_causal_mask(model), tokenizer, text)
    lifted = attention_mask.weights_of(attention_mask.lift_causal_mask(model), tokenizer, text)
    for weights in (causal, lifted):
        assert weights.shape == (length, length)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    assert not np.triu(causal, 1).any()
    assert (np.triu(lifted, 1)[:-1].sum(1) > 0).all()
    assert model.config._attn_implementation == kernel
