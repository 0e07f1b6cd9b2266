"""The encoder of a run's table is the one that made it, or is refused; it is loaded where there is no such device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_corpus
from finished_recommenders import CPU

from llm2rec_kit import pipeline
from llm2rec_kit.encoding import table_encoder
from llm2rec_kit.encoding.encoder import AS_SAVED, Encoder
from llm2rec_kit.export import formats, recommend
from llm2rec_kit.models import backbone
from llm2rec_kit.runs import ArtefactError, Run
from llm2rec_kit.settings import Backbone, Encoding

CORPUS = {"source": "table", "split": "leave_one_out", "train_domains": ["toy"], "statistics": []}
PLACE = Backbone(**CPU)


@pytest.fixture
def run(tmp_path, tiny) -> Run:
    """A run with CSFT's table and that of a baseline in the folder `theirs` beside it."""
    run, model_and_tokenizer = Run("toy", tmp_path), tiny
    settings = {"source": "table", "text": "{title}", "text_words": 0}
    run.make("corpus", lambda f: (make_corpus().save(f), CORPUS)[1], settings=settings, quiet=True)
    train(run, model_and_tokenizer, steps=400)
    Encoder(*tiny, Encoding(pooling="last")).save(tmp_path / "theirs")
    pipeline.embed_items(run, "csft", "csft", Encoding(), PLACE).make(run, quiet=True)
    pipeline.embed_items(run, "theirs", str(tmp_path / "theirs"), AS_SAVED, PLACE).make(run, quiet=True)
    return run


def train(run, model_and_tokenizer, *, steps: int) -> None:
    run.make(
        "csft", lambda f: backbone.save(*model_and_tokenizer, f), settings={"steps": steps}, inputs=["corpus"], quiet=True
    )


def test_a_training_made_anew_since_is_not_taken_for_the_table_s(run, tiny, tmp_path):
    tiny[0].model.norm.weight.data.mul_(torch.linspace(0.1, 3, 32))
    train(run, tiny, steps=600)
    said = r"csft is not what it was when its table was made\..*notebooks/03_item_embedding\.ipynb \(run 'toy'\)"
    with pytest.raises(ArtefactError, match=said):
        recommend.make_reader(run, "csft")(["Iron Vale"])
    with pytest.raises(
        ArtefactError, match=r"embeddings/csft of run 'toy' was made from what the run does not hold any more"
    ):
        formats.export(run, "sentence-transformers", tmp_path / "out", "csft")
    assert not (tmp_path / "out").exists()


def test_a_baseline_s_folder_that_changed_is_not_taken_for_the_table_s(run, tiny, tmp_path):
    table = np.load(run.path_of("embeddings/theirs.npy"))
    titles = make_corpus().titles
    np.testing.assert_allclose(recommend.make_reader(run, "theirs")(titles), table[1:], atol=1e-6)
    tiny[0].model.norm.weight.data.mul_(torch.linspace(0.1, 3, 32))
    Encoder(*tiny, Encoding(pooling="last")).save(tmp_path / "theirs")
    with pytest.raises(ArtefactError, match=r"theirs is not what it was when its table was made"):
        recommend.make_reader(run, "theirs")(titles)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_encoder_of_a_device_that_is_not_here_reads_where_it_can(run, tmp_path, device):
    if backbone.has_device(device):
        pytest.skip(f"{device} is there")
    table = np.load(run.path_of("embeddings/csft.npy"))
    for name in ("csft", "theirs"):
        made = run.manifest(f"embeddings/{name}")
        settings, inputs, record = made["settings"] | {"device": device}, list(made["inputs"]), made["record"]
        run.make(f"embeddings/{name}", lambda f, r=record: r, settings=settings, inputs=inputs, quiet=True)
        table_encoder.load_encoder(run, name)
    titles = make_corpus().titles
    np.testing.assert_allclose(table_encoder.load_encoder(run, "csft").encode(titles), table[1:], atol=1e-6)
    assert (formats.export(run, "sentence-transformers", tmp_path / "out", "csft") / "model.safetensors").exists()
