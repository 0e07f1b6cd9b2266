"""A model that comes with code of its own: through the encoder where its user trusts it, and a clear error where not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_corpus

from llm2rec_kit import cli
from llm2rec_kit.encoding import table_encoder
from llm2rec_kit.encoding.encoder import Encoder
from llm2rec_kit.models import backbone
from llm2rec_kit.models.backbone import BackboneError
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding
from llm2rec_kit.widgets import explorer

TITLES = make_corpus().titles[:4]
TRUSTED = Backbone(device="cpu", trust_remote_code=True)
CODE = """from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM

Path({ran!r}).touch()

class OwnConfig(Qwen2Config):
    model_type = "of_its_own"

class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own(tmp_path, tiny, monkeypatch) -> Path:
    """The tiny backbone as a model with code of its own."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    backbone.save(*tiny, folder)
    (folder / "own_code.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "of_its_own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_trusted_it_is_a_stage_like_another(own, tiny, tmp_path):
    stage = tmp_path / "stage"
    backbone.save(*backbone.load(own, TRUSTED), stage)  # as notebook 02 does
    subject = Encoder.load(stage, Encoding(), TRUSTED)
    assert type(subject) is Encoder
    np.testing.assert_allclose(subject.encode(TITLES), Encoder(*tiny, Encoding()).encode(TITLES), atol=1e-6)
    subject.save(tmp_path / "encoder")
    again = Encoder.load(tmp_path / "encoder", place=TRUSTED)
    np.testing.assert_allclose(again.encode(TITLES), subject.encode(TITLES), atol=1e-6)


def test_not_trusted_the_error_says_what_to_set(own):
    for load in (backbone.load, lambda path, place: Encoder.load(path, Encoding(), place)):
        with pytest.raises(BackboneError, match="backbone_trust_remote_code=true"):
            load(own, Backbone(device="cpu"))


@pytest.fixture
def received(own, tmp_path) -> Run:
    """A run that was made elsewhere, by someone who trusted the code and says so in its manifest; none of it ran here yet."""
    run = Run("r", tmp_path)

    def build(folder):
        backbone.save(*backbone.load(own, TRUSTED), folder)

    run.make("corpus", lambda folder: None, settings={})
    run.make("backbone", build, settings={"trust_remote_code": True})
    how = {"stage": "raw", "encoder": "backbone", "attention": "causal", "pooling": "mean"}
    how |= {"normalise": "none", "max_tokens": 64}
    run.make("embeddings/raw", lambda folder: how, settings={"device": "cpu", **how}, inputs=["backbone"])
    (own.parent / "ran").unlink()
    return run


def test_code_of_a_received_run_runs_only_where_this_user_says_so(own, received, tmp_path):
    ran = own.parent / "ran"
    with pytest.raises(BackboneError, match="trust_remote_code"):
        table_encoder.load_encoder(received, "raw")
    why = explorer.make_encoders(received, ["raw"])(TITLES[0])[
        "raw"
    ]  # the explorer goes on without this stage, and says why
    assert isinstance(why, str)
    assert "code of its own" in why
    for words in (
        ["encode", str(received.path / "backbone"), str(titles_file(tmp_path)), "--to", str(tmp_path / "e.npy")],
        [
            "export",
            "r",
            "--format",
            "sentence-transformers",
            "--stage",
            "raw",
            "--to",
            str(tmp_path / "x"),
            "--outputs",
            str(tmp_path),
        ],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2
    assert not ran.exists()
    expected = table_encoder.load_encoder(received, "raw", trust_remote_code=True).encode(TITLES[:1])[0]
    found = explorer.make_encoders(received, ["raw"], trust_remote_code=True)(TITLES[0])["raw"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ran.exists()


def titles_file(folder: Path) -> Path:
    file = folder / "titles.txt"
    file.write_text("\n".join(TITLES))
    return file


def test_every_notebook_that_loads_a_model_is_told_by_its_user():
    """The runner hands a parameter to each notebook that has it."""
    asked = {b.name[:2] for b in notebooks.list_series() if "backbone_trust_remote_code" in notebooks.read_parameters(b)}
    loads = {
        b.name[:2]
        for b in notebooks.list_series()
        if re.search(r"backbone\.load|Encoder\.load|explorer\.open|open_study|Enquiry\.open", b.read_text())
    }
    assert asked == loads == {"02", "03", "05", "06", "07"}
