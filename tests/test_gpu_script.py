"""benchmarks/gpu.py at a very small size, on a CPU: a model in parts, stopped and gone on with, and what it writes down."""

from __future__ import annotations

import json

import gpu
import pytest
from conftest import make_corpus
from gguf_files import small_llama, write

PROFILE = {
    "data_source": "recbole",
    "backbone_device": "cpu",
    "csft_steps": 3,
    "csft_batch_size": 16,
    "csft_warmup_steps": 1,
    "csft_evaluate_samples": 4,
    "mntp_steps": 2,
    "mntp_batch_size": 4,
    "contrastive_steps": 2,
    "contrastive_batch_size": 8,
    "contrastive_warmup_steps": 1,
    "evaluation_recommenders": ["SASRec"],
    "evaluation_embeddings": ["raw", "csft", "id"],
    "evaluation_seeds": [2024],
    "evaluation_hidden": 8,
    "evaluation_epochs": 2,
    "evaluation_evaluate_every": 1,
    "evaluation_device": "cpu",
    "evaluation_cutoffs": [5, 10],
    "evaluation_metric": "recall@5",
}
ORDER = ["corpus", "csft", "speed", "mntp", "contrastive", "encoding", "evaluation"]


def data(folder):
    """A store of 16 items and 60 users as the two files of games_2018 hold it."""
    corpus = make_corpus(users=60)
    folder.mkdir()
    lines = [f"{row['item']}\t{row['title']}" for row in corpus.items.iter_rows(named=True)]
    (folder / "games.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n")
    rows = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
    for user, (start, stop) in enumerate(zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)):
        *history, last = corpus.sequence[start:stop].tolist()
        rows.append(f"u{user}\t{' '.join(map(str, history))}\t{last}")
    (folder / "games.test.inter").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def words(tmp_path):
    """The arguments of a call that measures on a tiny Llama, which lies there as a .gguf file in two parts."""
    pytest.importorskip("gguf")
    model, tokenizer = small_llama()
    whole = write(tmp_path / "small.gguf", model, tokenizer)
    gpu.split(whole, tmp_path / "model")
    (tmp_path / "gpu.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in PROFILE.items()))
    given = {"model": tmp_path / "model", "data": data(tmp_path / "data"), "out": tmp_path / "out", "compared": 2}
    given |= {"profile": tmp_path / "gpu.yaml", "micro": 4}
    return [f"--{name}={value}" for name, value in given.items()]


def measured(tmp_path):
    (file,) = (tmp_path / "out").glob("gpu_*.json")
    return json.loads(file.read_text())


def test_it_goes_on_where_it_was_stopped_and_tells_what_every_stage_took(words, tmp_path, capsys):
    for made in range(3):  # of each call the first stage that is not there yet
        gpu.main([*words, "--seconds=0"])
        first = measured(tmp_path)
        assert list(first["stages"]) == ORDER[: made + 1]
    assert "stopped before mntp" in capsys.readouterr().out
    gpu.main(words)
    found = measured(tmp_path)
    assert list(found["stages"]) == ORDER
    assert {name: found["stages"][name] for name in first["stages"]} == first["stages"]
    assert found["begun"] == dict.fromkeys(ORDER, 1)
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"].values()), abs=0.02)
    assert {"backbone", "csft", "mntp", "contrastive", "embeddings/raw"} <= found["artefacts"].keys()
    assert 40 <= found["stages"]["csft"]["samples"] <= 56
    assert [row["embedding"] for row in found["stages"]["evaluation"]["results"]] == ["raw", "csft", "id"]
    assert "the plain way takes" in capsys.readouterr().out
    _look_at_the_ways(found["stages"]["speed"])
    gpu.main(words)
    assert measured(tmp_path) == found


def _look_at_the_ways(speed):
    """Same samples; the plain way reads more tokens and has logits at all of them."""
    kit, plain = speed["kit"], speed["plain"]
    assert plain["tokens"] > kit["tokens"] > kit["logits"]
    assert plain["logits"] == plain["tokens"]
    for way in (kit, plain):
        assert way["tokens_a_second"] == pytest.approx(way["tokens"] / way["seconds"])
        assert way["share_of_peak"] == pytest.approx(way["operations"] / way["seconds"] / speed["peak_flops"])


def test_without_a_gpu_its_own_settings_are_refused_before_anything_is_made(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([word for word in words if "profile" not in word])
    assert "backbone_device is 'cuda', and torch finds no such device here" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.gguf"]


def test_other_settings_do_not_join_what_was_measured(words, tmp_path, capsys):
    gpu.main([*words, "--seconds=0"])
    profile = tmp_path / "gpu.yaml"
    profile.write_text(profile.read_text().replace("csft_steps: 3", "csft_steps: 4"))
    with pytest.raises(SystemExit):
        gpu.main(words)
    assert "other settings: take another --out" in capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 10, 99, 100, 101, 250])
def test_parts_join_to_the_file_and_stay_below_the_limit(tmp_path, size):
    whole = tmp_path / "m.gguf"
    whole.write_bytes(bytes(k % 251 for k in range(size)))
    parts = gpu.split(whole, tmp_path / "parts", below=100)
    assert len(parts) >= 2
    assert all(part.stat().st_size < 100 for part in parts)
    (tmp_path / "out").mkdir()
    assert gpu.model_in(tmp_path / "parts", tmp_path / "out").read_bytes() == whole.read_bytes()


def test_a_model_that_is_not_all_there_is_named(tmp_path):
    whole = tmp_path / "m.gguf"
    whole.write_bytes(b"x" * 250)
    parts = gpu.split(whole, tmp_path / "parts", below=100)
    parts[1].unlink()
    with pytest.raises(ValueError, match=rf"lacks m.gguf.2of{len(parts)} of the {len(parts)} parts of m.gguf"):
        gpu.model_in(tmp_path / "parts", tmp_path)
    parts[0].unlink()
    with pytest.raises(ValueError, match=r"folder with config.json, with one .gguf file, or with its parts"):
        gpu.model_in(tmp_path / "parts", tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        gpu.model_in(tmp_path / "none", tmp_path)


def test_its_settings_are_those_of_a_profile(tmp_path):
    """Every line of gpu.yaml is known, explained, and fits the others."""
    from llm2rec_kit.reproduction.runner import notebooks

    file = gpu.Path(gpu.__file__).with_suffix(".yaml")
    values = notebooks.load_profile(str(file))
    notebooks.check(values, sorted({name for book in notebooks.list_series() for name in notebooks.read_parameters(book)}))
    assert (values["csft_steps"], values["csft_batch_size"]) == (1000, 128)
    assert all(line.startswith("#") or "  # " in line for line in file.read_text().splitlines())
