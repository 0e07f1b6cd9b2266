"""A model's folder, broken in one way at a time: one paragraph names what is wrong, before anything is made of it."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_corpus
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.models import backbone, checkpoint
from llm2rec_kit.models.backbone import BackboneError
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding

CPU = Backbone(device="cpu")
TITLES = make_corpus().titles[:4]


@pytest.fixture
def decoder(tiny, tmp_path) -> Path:
    """The tiny backbone with a head of its own."""
    model, tokenizer = tiny
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() + 1)
    backbone.save(model, tokenizer, tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture(scope="session")
def _bert(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    letters = sorted({c for t in TITLES for c in t.lower() if c != " "})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **small)).save_pretrained(folder)
    BertTokenizer(vocab={w: k for k, w in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(_bert, tmp_path) -> Path:
    return shutil.copytree(_bert, tmp_path / "bert")


def edit(folder: Path, name: str, change) -> None:
    """Change the JSON file `name` in place."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def weights(folder: Path, change) -> None:
    """Change the names and tensors of the weights."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def config(**values):
    return lambda folder: edit(folder, "config.json", lambda c: c.update(values))


def config_of_the_first(**values):
    return lambda folder: config(**values)(folder / "0_Transformer")


def written(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, share: float):
    def way(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return way


def sharded(change):
    """The weights in two shards under an index, which `change` alters: (index, shards) in place."""

    def way(folder: Path) -> None:
        whole = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(whole)
        halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for shard, held in halves.items():
            save_file({n: whole[n] for n in held}, folder / shard, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {n: shard for shard, held in halves.items() for n in held}}
        (folder / checkpoint.INDEX).write_text(json.dumps(index))
        change(folder)

    return way


def token(**how):
    def way(folder: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens(how) if "pad_token" in how else tokenizer.add_tokens(["Harbor"])
        tokenizer.save_pretrained(folder)

    return way


def linked(name: str, to: str = "../blobs/0"):
    """A link in the place of a file, as a copy of the hub's cache has without its blobs."""

    def way(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(to)

    return way


def strange_merges(folder: Path) -> None:
    edit(folder, "tokenizer.json", lambda t: t["model"].update(merges=[1, 2]) if "merges" in t["model"] else t.pop("model"))


LFS = checkpoint.POINTER + b"v1\noid sha256:0\nsize 9\n"
GONE = "model-00002-of-00002.safetensors"
BROKEN = {  # way to break a folder, what is said of it
    "pointer": (written("model.safetensors", LFS), r"model\.safetensors is a Git-LFS pointer.*git lfs pull"),
    "pointer for the tokenizer": (written("tokenizer.json", LFS), r"tokenizer\.json is a Git-LFS pointer"),
    "empty": (written("model.safetensors", b""), r"model\.safetensors is empty"),
    "a page": (written("model.safetensors", b"<html>busy</html>"), r"model\.safetensors is no safetensors file"),
    "half": (cut("model.safetensors", 0.5), r"model\.safetensors is cut off: [\d,]+ bytes"),
    "half a header": (cut("model.safetensors", 0.001), r"model\.safetensors is no safetensors file, or cut off"),
    "shard missing": (sharded(lambda f: (f / GONE).unlink()), rf"{GONE} is missing: model\.safetensors\.index\.json names"),
    "shard cut": (sharded(cut(GONE, 0.9)), rf"{GONE} is cut off"),
    "shard of another": (
        sharded(lambda f: shutil.copy(f / GONE.replace("02-", "01-"), f / GONE)),
        rf"{GONE} lacks what model\.safetensors\.index\.json says is in it",
    ),
    "index": (sharded(written(checkpoint.INDEX, b'{"weight_map": ["../a"]}')), r"index\.json is damaged"),
    "config cut": (cut("config.json", 0.5), r"config\.json is damaged"),
    "config a list": (written("config.json", b"[1]"), r"config\.json is damaged"),
    "config of nothing": (written("config.json", b"{}"), r"config\.json has no model_type"),
    "config of the unknown": (config(model_type="no_such_kind"), r"config\.json of .* cannot be read.*no_such_kind"),
    "more layers": (
        config(num_hidden_layers=4, layer_types=None),
        r"do not fit its config\.json: \d+ that config\.json asks",
    ),
    "fewer layers": (
        config(num_hidden_layers=1, layer_types=None),
        r"do not fit.*\d+ of the weights are none of the model's",
    ),
    "another width": (config(intermediate_size=40), r"do not fit.* is \(\d+, \d+\) in the weights and \(.*40.*\) by config"),
    "wrapped": (
        lambda f: weights(f, lambda w: {f"module.{name}": t for name, t in w.items()}),
        r"do not fit.*the weights carry the prefix 'module\.' of a wrapper",
    ),
    "whole numbers": (
        lambda f: weights(f, lambda w: {n: t.to(torch.int8) if t.ndim == 2 else t for n, t in w.items()}),
        r"model\.safetensors holds \d+ weights as I8 \(.*they are quantised",
    ),
    "link to nowhere": (linked("model.safetensors"), r"model\.safetensors is a link that leads nowhere\. Copy the folder"),
    "link in a circle": (linked("tokenizer.json", "tokenizer.json"), r"tokenizer\.json cannot be read: Too many levels"),
    "bitsandbytes": (config(quantization_config={"quant_method": "bitsandbytes"}), r"quantised weights \(bitsandbytes;"),
    "gptq": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised weights \(gptq;"),
    "awq": (config(quantization_config={"quant_method": "awq"}), r"quantised weights \(awq;"),
    "adapter beside": (written("adapter_config.json", b"{}"), r"holds a LoRA adapter\. Merge it"),
    "tokenizer cut": (cut("tokenizer.json", 0.5), r"tokenizer\.json is damaged"),
    "tokenizer strange": (strange_merges, r"The (tokenizer|model) of .* cannot be read.*The loader said: "),
    "token without a row": (token(), r"1 have no embedding in its model, which has \d+: Harbor"),
    "pad without a row": (token(pad_token="<pad>"), r"no embedding in its model, which has \d+: <pad>"),
}


def refused(load, folder: Path, says: str) -> None:
    with pytest.raises(BackboneError, match=says) as stop:
        load(folder, CPU)
    text = str(stop.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
    assert "hf download" not in text  # it is here, and damaged
    assert str(folder) in text


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_decoder_is_refused_by_every_loader_and_at_the_start(decoder, way):
    change, says = BROKEN[way]
    change(decoder)
    refused(backbone.load, decoder, says)
    refused(lambda folder, place: Encoder.load(folder, place=place), decoder, says)
    refused(lambda folder, place: backbone.check(folder, place, {}), decoder, says)


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_baseline_is_refused_when_loaded_and_at_the_start(bert, way):
    pytest.importorskip("sentence_transformers")
    from llm2rec_kit.encoding import encoder

    change, says = BROKEN[way]
    change(bert)
    refused(lambda folder, place: Encoder.load(folder, place=place), bert, says)
    refused(encoder.check, bert, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut("0_Transformer/model.safetensors", 0.5), r"0_Transformer/model\.safetensors is cut off"),
        (config_of_the_first(num_hidden_layers=3), r"do not fit its config\.json: 16 that config\.json asks for are not"),
        (cut("modules.json", 0.5), r"modules\.json is no list of modules"),
        (written("modules.json", b'[{"path": "../x", "type": "sentence_transformers.models.Transformer"}]'), "leads out of"),
    ],
)
def test_a_baseline_of_several_modules_is_looked_at_in_each(bert, tmp_path, change, says):
    pytest.importorskip("sentence_transformers")
    from llm2rec_kit.encoding import encoder

    folder = tmp_path / "modules"
    shutil.copytree(bert, folder / "0_Transformer")
    kinds = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    kinds += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16, "pooling_mode_mean_tokens": true}')
    assert Encoder.load(folder, place=CPU).encode(TITLES).shape == (4, 16)
    change(folder)
    refused(lambda folder, place: Encoder.load(folder, place=place), folder, says)
    refused(encoder.check, folder, says)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_when_loaded(decoder, bert, value):
    pytest.importorskip("sentence_transformers")
    for folder, part in ((decoder, "layers.1."), (bert, "layer.1.")):
        weights(folder, lambda w, part=part: {n: t * value if part in n and t.ndim == 2 else t for n, t in w.items()})
        says = rf"\d of the weights of .* hold NaN or infinities \(.*{part}"
        refused(lambda folder, place: Encoder.load(folder, place=place), folder, says)
    refused(backbone.load, decoder, says.replace("layer.", "layers."))


def test_sound_ones_are_not(decoder, bert):
    """A vocabulary that is padded, shards, old buffers, a head beside the model's and a pooler that nobody asks for included."""
    from llm2rec_kit.encoding import encoder

    sharded(lambda folder: None)(decoder)
    model, _ = backbone.load(decoder, CPU)
    model.resize_token_embeddings(model.config.vocab_size + 60, mean_resizing=False)
    model.save_pretrained(decoder)
    (decoder / checkpoint.INDEX).unlink()
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "v_head.weight": torch.ones(3)}
    weights(decoder, lambda w: w | more)
    backbone.check(decoder, CPU, {})
    assert Encoder.load(decoder, place=CPU).encode(TITLES).shape == (4, 32)
    sound = Encoder.load(bert, place=CPU).encode(TITLES)
    weights(bert, lambda w: {n: t for n, t in w.items() if not n.startswith("pooler")})
    weights(bert, lambda w: {f"bert.{n}": t for n, t in w.items()} | {"cls.predictions.bias": torch.ones(3)})
    encoder.check(bert, CPU)
    np.testing.assert_array_equal(Encoder.load(bert, place=CPU).encode(TITLES), sound)


def test_a_model_saved_without_its_head_encodes_and_is_no_backbone(decoder, tmp_path):
    sound = Encoder.load(decoder, place=CPU)
    weights(decoder, lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"})
    refused(backbone.load, decoder, r"has no language-model head \(lm_head\.weight\)")
    subject = Encoder.load(decoder, place=CPU)
    np.testing.assert_array_equal(subject.encode(TITLES), sound.encode(TITLES))
    subject.save(tmp_path / "again")  # as it came: no head is made up
    np.testing.assert_array_equal(Encoder.load(tmp_path / "again", place=CPU).encode(TITLES), sound.encode(TITLES))
    refused(backbone.load, tmp_path / "again", r"has no language-model head")


def test_a_token_of_another_kind_of_input_needs_no_row(decoder):
    """Gemma 3's smallest model reads text alone, and its tokenizer has the larger ones' place for an image."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(decoder)
    refused(backbone.load, decoder, "no embedding in its model")
    named = {"image_token": "<image>", "extra_special_tokens": {"image_token": "<image>"}}
    edit(decoder, "tokenizer_config.json", lambda c: c.update(named))
    assert len(backbone.load(decoder, CPU)[1]) == len(tokenizer)


def test_what_is_no_folder_says_so(decoder, tmp_path):
    for load in (backbone.load, lambda folder, place: Encoder.load(folder, place=place)):
        refused(load, decoder / "config.json", "is a file: a model by path is a folder")
        refused(load, tmp_path / "nothing", "does not exist")


def test_what_may_not_be_read_says_so(decoder, monkeypatch):
    def closed(self, *how, **more):
        if self.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *how, **more)

    opened = Path.open
    monkeypatch.setattr(Path, "open", closed)
    refused(backbone.load, decoder, r"model\.safetensors cannot be read: Permission denied")


@given(st.data())
def test_a_header_is_read_as_safetensors_reads_it(tmp_path_factory, data):
    """Cut anywhere, or with another length or offset: refused where the library refuses."""
    file = tmp_path_factory.mktemp("cut") / "m.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2, 2)}, file)
    content = file.read_bytes()
    changed = data.draw(
        st.one_of(
            st.integers(0, len(content)).map(lambda n: content[:n]),
            st.binary(max_size=9).map(lambda more: content + more),
            st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n) + content[8:]),
            st.binary(max_size=40),
        )
    )
    file.write_bytes(changed)
    try:
        safe_open(file, "pt")
    except SafetensorError:
        with pytest.raises(BackboneError, match=r"m\.safetensors is"):
            checkpoint.read_header(file)
    else:
        assert checkpoint.read_header(file).keys() == {"a", "b"}


@pytest.fixture
def stage(tiny, tmp_path) -> Path:
    """The folder of an artefact of a run."""
    run = Run("r", tmp_path)
    return run.make("encoder", lambda folder: Encoder(*tiny, Encoding()).save(folder, "a card"), settings={}, quiet=True)


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip, r"model\.safetensors is damaged: its hash is not the one in manifest\.json"),
        (
            lambda f: edit(f, "tokenizer.json", lambda t: t["added_tokens"].clear()),
            r"tokenizer\.json is damaged: its hash",
        ),
        (written("vocab.json", b"{}"), r"vocab\.json was not made by the run"),
        (lambda f: (f / "tokenizer_config.json").unlink(), r"tokenizer_config\.json is missing; manifest\.json"),
        (cut("manifest.json", 0.5), r"manifest\.json is damaged"),
    ],
)
def test_an_artefact_that_is_not_what_its_run_made_is_refused(stage, change, says):
    Encoder.load(stage, place=CPU)
    change(stage)
    refused(lambda folder, place: Encoder.load(folder, place=place), stage, says)
    refused(backbone.load, stage, says)


def test_cards_hidden_files_and_the_manifests_of_other_tools_are_no_fault(stage, decoder):
    (stage / "README.local.md").write_text("a note")
    (stage / ".note").write_text("a note")
    Encoder.load(stage, place=CPU)
    (decoder / "manifest.json").write_text('{"files": {"a": "b"}}')
    backbone.load(decoder, CPU)


def gpt2(folder: Path, **more) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

    tokenizer = backbone.train_tokenizer(make_corpus().titles, 400)
    ends = {"vocab_size": len(tokenizer), "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0}
    if more:
        model = OPTForCausalLM(
            OPTConfig(**ends, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=2, **more)
        )
    else:
        model = GPT2LMHeadModel(GPT2Config(**ends, n_embd=32, n_head=2, n_layer=1, n_positions=16))
    backbone.save(model, tokenizer, folder)
    return folder


def test_a_decoder_of_another_name_is_a_decoder(tmp_path):
    """Of the class GPT2LMHeadModel: it was called a baseline, after all trainings."""
    subject = Encoder.load(gpt2(tmp_path), Encoding(), CPU)
    assert type(subject) is Encoder
    assert subject.settings.max_tokens == 16  # it has no more positions
    assert subject.encode(["long " * 60]).shape == (1, 32)


def test_states_may_be_narrower_than_the_layers(tmp_path):
    """As in OPT-350m."""
    subject = Encoder.load(gpt2(tmp_path, word_embed_proj_dim=16), Encoding(), CPU)
    assert subject.dim == 16
    assert subject.encode(TITLES).shape == subject.table(TITLES)[1:].shape == (4, 16)


@pytest.mark.parametrize("more", [{}, {"max_position_embeddings": 16}])
def test_a_table_of_positions_bounds_the_text(tmp_path, more):
    folder = gpt2(tmp_path, **more)
    backbone.check(folder, CPU, {"csft_max_tokens": 16})
    with pytest.raises(BackboneError, match=r"csft_max_tokens is 17, and this model .* 16 positions only"):
        backbone.check(folder, CPU, {"csft_max_tokens": 17})


def test_without_a_table_it_is_a_warning(tiny, capsys):
    model, _ = tiny
    backbone.check_length(model, model.config.max_position_embeddings, "csft_max_tokens")
    assert capsys.readouterr().out == ""
    backbone.check_length(model, model.config.max_position_embeddings + 1, "csft_max_tokens")
    assert "Warning: csft_max_tokens is 2049" in capsys.readouterr().out
