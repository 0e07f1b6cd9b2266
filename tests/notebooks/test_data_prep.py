"""Notebook 01 over raw reviews and over a mix: nothing but parameters changes, and what it shows is there."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_corpus

from llm2rec_kit.corpus import Corpus
from llm2rec_kit.reproduction.runner import notebooks
from llm2rec_kit.runs import Run, read_records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run `raw`: reviews as published, a broken line among them. Run `mix`: that and a corpus given as a folder."""
    place = tmp_path_factory.mktemp("data_prep")
    folder, outputs = place / "raw", str(place / "out")
    folder.mkdir()
    reviews = [
        {"user_id": f"u{u}", "parent_asin": f"b{(u + k) % 8}", "timestamp": 1_600_000_000_000 + 90_000 * k, "text": "fine"}
        for u in range(20)
        for k in range(6)
    ]
    lines = [*map(json.dumps, reviews), "broken"]
    (folder / "Gift_Cards.jsonl").write_text("\n".join(lines))
    (folder / "meta_Gift_Cards.jsonl").write_text(
        "\n".join(json.dumps({"parent_asin": f"b{k}", "title": f"Card &amp; {k}", "store": "Shop"}) for k in range(8))
    )
    profile = place / "p.yaml"
    profile.write_text("data_source: amazon\n")
    raw = {"data_split": "released", "data_text": "{title} by {brand}", "data_start": "2020-01"}
    notebooks.reproduce(str(profile), data=str(folder), overrides=raw, run="raw", only=["01"], outputs=outputs)
    store = make_corpus(max_history=10)
    replace(store, times=np.arange(len(store.sequence))).save(place / "store")
    here = os.getcwd()
    os.chdir(place)  # a folder in data_mix is told from where the command is given
    try:
        mix = {"data_source": "mix", "data_mix": ["raw", "./store"], "data_train_domains": ["toy"]}
        notebooks.reproduce(str(profile), overrides=mix, run="mix", only=["01"], outputs="out")
    finally:
        os.chdir(here)
    return outputs


def outputs_of(run: Run) -> list[dict]:
    cells = json.loads((run.path / "notebooks" / "01_data_prep.ipynb").read_text())["cells"]
    return [o for c in cells for o in c.get("outputs", [])]


def test_raw_reviews(finished):
    run = Run("raw", finished)
    corpus = Corpus.load(run.require("corpus")).check()
    assert corpus.domains == ["Gift_Cards"]
    assert corpus.titles[0] == "Card & 0 by Shop"
    assert corpus.facts["cleaning"][0]["step"] == "not JSON"
    assert list(run.manifest("corpus")["settings"]["files"]) == ["raw/Gift_Cards.jsonl", "raw/meta_Gift_Cards.jsonl"]
    text = json.dumps(outputs_of(run))
    assert "parent_asin" in text  # the raw lines
    assert "target tied in time with the item before" in text
    assert corpus.split_rules == {"Gift_Cards": "global_time"}
    assert "train until" in text
    assert sum("image/png" in o.get("data", {}) for o in outputs_of(run)) == 3


def test_a_mix_of_a_run_and_a_folder(finished):
    run = Run("mix", finished)
    corpus = Corpus.load(run.require("corpus")).check()
    assert corpus.domains == ["Gift_Cards", "toy"]
    assert corpus.train_domains == ["toy"]
    part = corpus.select(["Gift_Cards"])[0]
    original = Corpus.load(Run("raw", finished).require("corpus"))
    assert part.sequence.tolist() == original.sequence.tolist()
    assert part.splits.tolist() == original.splits.tolist()
    assert read_records(run.path / "notebooks" / "01_data_prep.ipynb")["corpus"]["interactions"] == len(corpus.sequence)
    assert sum("image/png" in o.get("data", {}) for o in outputs_of(run)) == 3
