"""Backbones in GGUF files: the weights and ids that were written, and one paragraph for each file that cannot be used."""

from __future__ import annotations

import contextlib
import importlib.util
import json

import numpy as np
import pytest
import torch
from gguf_files import TITLES, small_llama, write
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from llm2rec_kit import settings as S
from llm2rec_kit import storage
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.models import backbone, checkpoint, gguf
from llm2rec_kit.models.backbone import BackboneError
from llm2rec_kit.reproduction.plan import assets
from llm2rec_kit.reproduction.runner import notebooks

CPU = S.Backbone(device="cpu")


@pytest.fixture(scope="module")
def llama():
    return small_llama()


@pytest.fixture(scope="module")
def file(llama, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf", *llama)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_a_file_gives_the_very_weights_that_it_was_written_from(tmp_path, tied, half):
    model, tokenizer = small_llama(tied=tied)
    if half:
        for weight in (p for p in model.parameters() if p.ndim == 2):
            weight.data = weight.data.half().float()
    found, ids = backbone.load(write(tmp_path / "m.gguf", model, tokenizer, half=half), CPU)
    wanted = model.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    assert all(torch.equal(t, wanted[name]) and t.dtype == torch.float32 for name, t in found.state_dict().items())
    text = torch.tensor([ids(TITLES[0])["input_ids"]])
    torch.testing.assert_close(found(input_ids=text).logits, model(input_ids=text).logits, rtol=0, atol=0)
    backbone.save(found, ids, tmp_path / "folder")  # no longer counts as quantised
    again, _ = backbone.load(tmp_path / "folder", CPU)
    assert all(torch.equal(t, wanted[name]) for name, t in again.state_dict().items())
    assert "quantization_config" not in json.loads((tmp_path / "folder" / "config.json").read_text())


def test_ids_are_those_of_the_file_s_own_rule_and_survive_saving(llama, file, tmp_path):
    """Of `smollm`: each digit by itself, so two spaces before one are one token; transformers alone reads it as GPT-2's."""
    model, ids = backbone.load(file, CPU)
    learned = json.loads(llama[1].backend_tokenizer.to_str())["model"]
    merges = [tuple(m) for m in learned["merges"]]
    known = Tokenizer(models.BPE(vocab=learned["vocab"], merges=merges))
    known.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    backbone.save(model, ids, tmp_path)
    _, saved = backbone.load(tmp_path, CPU)
    for text in [*TITLES, *gguf.PROBES]:
        assert ids(text)["input_ids"] == saved(text)["input_ids"] == known.encode(text).ids, text
        assert ids.decode(ids(text)["input_ids"]) == text
    as_gpt2 = Tokenizer(models.BPE(vocab=learned["vocab"], merges=merges))
    as_gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    assert any(as_gpt2.encode(text).ids != known.encode(text).ids for text in TITLES)
    assert ids.pad_token_id is not None


def test_an_unknown_way_to_split_text_is_told(llama, tmp_path, capsys):
    backbone.load(write(tmp_path / "m.gguf", *llama, pre="somebodys-own"), CPU)
    assert "splits text in the way 'somebodys-own'" in capsys.readouterr().out
    backbone.load(write(tmp_path / "n.gguf", *llama, pre="gpt-2"), CPU)
    assert capsys.readouterr() == ("", "")  # nor a bar of somebody's


def test_stretched_positions_that_transformers_leaves_out_are_told(llama, tmp_path, capsys):
    backbone.load(write(tmp_path / "m.gguf", *llama, values={"llama.rope.scaling.type": "yarn"}), CPU)
    assert "stretches its positions (rope.scaling.type yarn)" in capsys.readouterr().out


def test_files_of_other_models_in_the_folder_are_not_looked_at(llama, tmp_path):
    backbone.save(*small_llama(layers=1, seed=4), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    model, ids = backbone.load(write(tmp_path / "m.gguf", *llama), CPU)
    assert model.config.num_hidden_layers == 2
    assert ids.decode(ids(TITLES[0])["input_ids"]) == TITLES[0]


def test_titles_are_encoded_as_by_the_same_model_in_a_folder(llama, file, tmp_path):
    backbone.save(*llama, tmp_path)
    how = S.Encoding(attention="causal")
    ours, theirs = (Encoder.load(str(at), how, CPU).encode(["Racing Deluxe", "Chess"]) for at in (file, tmp_path))
    np.testing.assert_array_equal(ours, theirs)


def edited(file, change):
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)


BAD = {
    "cut in its data": (
        {},
        lambda d: d.__delitem__(slice(-100, None)),
        r"is cut off: [\d,]+ bytes, and its header speaks of",
    ),
    "cut in its header": ({}, lambda d: d.__delitem__(slice(600, None)), "cut off within its header"),
    "another file": ({}, lambda d: d.__setitem__(slice(None), b"PK\3\4 no model"), "is no GGUF file: it begins with b'PK"),
    "a pointer": ({}, lambda d: d.__setitem__(slice(None), checkpoint.POINTER + b"v1\n"), "is a Git-LFS pointer"),
    "empty": ({}, lambda d: d.clear(), "is empty"),
    "version 1": ({}, lambda d: d.__setitem__(4, 1), "of version 1"),
    "big-endian": ({}, lambda d: d.__setitem__(slice(4, 8), b"\0\0\0\3"), "the other order of bytes"),
    "unknown architecture": (
        {"architecture": "martian"},
        None,
        r"'martian', which transformers [\d.]+ does not read .*llama.*qwen2",
    ),
    "encoder and decoder": ({"architecture": "t5"}, None, "has an encoder and a decoder"),
    "multi-modal": ({"architecture": "clip"}, None, "reads pictures or sound"),
    "mmproj": ({"values": {"general.type": "mmproj"}}, None, "reads pictures or sound"),
    "adapter": ({"values": {"general.type": "adapter"}}, None, "holds no model of its own but 'adapter'"),
    "one part of three": ({"values": {"split.count": 3}}, None, "is one of 3 parts"),
    "a layer is missing": ({"values": {"llama.block_count": 3}}, None, "speaks of 3 layers and holds 2"),
    "no embeddings": ({"leave_out": "token_embd.weight"}, None, "without embeddings of tokens"),
    "too many tokens": (
        {"tokens": [f"t{k}" for k in range(400)]},
        None,
        r"of the 400 tokens .* not all have an embedding .* which has \d{3}\.",
    ),
    "another kind of file": ({"name": "m.bin"}, None, "is a file: a model by path is a folder .* or a .gguf file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_cannot_be_used_is_named_at_the_start(llama, tmp_path, case):
    how, change, says = BAD[case]
    how = dict(how)
    file = write(tmp_path / how.pop("name", "m.gguf"), *llama, **how)
    if change:
        edited(file, change)
    refused(file, says)


def refused(file, says):
    with pytest.raises(ValueError, match=f"(?is){says}") as told:
        notebooks.prepare("smoke", overrides={"backbone_name": str(file)}, only=["02"])
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(BackboneError):
        Encoder.load(file, S.Encoding(), CPU)


def test_a_file_without_a_tokenizer_and_none_at_all(llama, tmp_path):
    refused(write(tmp_path / "m.gguf", llama[0], None), "has no tokenizer")
    refused(tmp_path / "none.gguf", "does not exist")


def test_a_tensor_that_is_missing_within_a_layer_is_not_made_up(llama, tmp_path):
    with pytest.raises(BackboneError, match=r"not in the weights \(model\.layers\.1\.mlp\.down_proj\.weight\)"):
        backbone.load(write(tmp_path / "m.gguf", *llama, leave_out="blk.1.ffn_down.weight"), CPU)


@given(data=st.data())
def test_no_file_of_that_is_shorter_or_has_other_bytes_ends_in_another_error(file, tmp_path_factory, data):
    """Read by our own reader alone."""
    whole = file.read_bytes()
    broken = tmp_path_factory.getbasetemp() / "broken.gguf"
    broken.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BackboneError, match=r"broken\.gguf"):
        checkpoint.check(broken)
    at, byte = data.draw(st.integers(0, 8000)), data.draw(st.integers(0, 255))
    broken.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    with contextlib.suppress(BackboneError):  # a name or a number in it may be another, and it is a whole file all the same
        checkpoint.check(broken)


def test_without_the_package_the_way_to_install_it_is_told(file, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else found(name, *a))
    with pytest.raises(BackboneError, match=r"the package gguf is needed: pip install"):
        backbone.load(file, CPU)


def test_a_file_counts_by_its_bytes_and_by_its_place_seen_from_the_caller(llama, tmp_path, monkeypatch):
    file = write(tmp_path / "m.gguf", *llama)
    before = checkpoint.hash_contents(str(file))
    assert before == {"files": storage.hash_file(file)}
    write(file, *small_llama(seed=5))
    assert checkpoint.hash_contents(str(file)) != before
    monkeypatch.chdir(tmp_path)
    values, _ = notebooks.prepare(
        "smoke", overrides={"backbone_name": "m.gguf", "encoding_baselines": ["m.gguf"]}, only=["02"]
    )
    assert (values["backbone_name"], values["encoding_baselines"]) == (str(file), [str(file)])


def test_a_plan_knows_the_shape_and_a_run_the_positions(llama, file, capsys):
    shape = assets.find_shape(S.Backbone(name=str(file)))
    assert (shape.hidden, shape.layers, shape.inner, shape.kv_heads, shape.tied) == (32, 2, 64, 2, True)
    assert shape.parameters == pytest.approx(backbone.count_parameters(llama[0]), rel=0.02)
    assets.check_backbone(str(file), CPU, {"csft_max_tokens": 257})
    assert "csft_max_tokens is 257, and this model was made for 256" in capsys.readouterr().out
