"""A model that comes with code of its own: through the encoder where its user trusts it, and a clear error where not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_corpus

from llm2rec_kit import backbone, export
from llm2rec_kit.backbone import BackboneError
from llm2rec_kit.encoder import Encoder
from llm2rec_kit.maps import explorer
from llm2rec_kit.runs import Run
from llm2rec_kit.settings import Backbone, Encoding

TITLES = make_corpus().titles[:4]
TRUSTED = Backbone(device="cpu", trust_remote_code=True)
CODE = """from transformers import Qwen2Config, Qwen2ForCausalLM

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
    (folder / "own_code.py").write_text(CODE)
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


@pytest.mark.parametrize("trusts", [True, False])
def test_export_and_explorer_trust_what_the_run_trusted(own, tmp_path, trusts):
    run = Run("r", tmp_path)
    settings = {"trust_remote_code": trusts}
    run.make("backbone", lambda folder: backbone.save(*backbone.load(own, TRUSTED), folder), settings=settings)
    how = {"stage": "raw", "encoder": "backbone", "attention": "causal", "pooling": "mean"}
    how |= {"normalise": "none", "max_tokens": 64}
    run.make("embeddings/raw", lambda folder: how, settings={"device": "cpu", **how}, inputs=["backbone"])
    encode = explorer.encoders(run, ["raw"])
    if trusts:
        expected = export.encoder_of(run, "raw").encode(TITLES[:1])[0]
        np.testing.assert_allclose(encode(TITLES[0])["raw"], expected, atol=1e-6)
        return
    with pytest.raises(BackboneError, match="trust_remote_code"):
        export.encoder_of(run, "raw")
    why = encode(TITLES[0])["raw"]  # the explorer goes on without this stage, and says why
    assert isinstance(why, str)
    assert "code of its own" in why
