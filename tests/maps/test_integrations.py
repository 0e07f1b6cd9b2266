"""Hand-over: what TensorBoard's projector reads; a missing program is named with the command that installs it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re

import numpy as np
import polars as pl
import pytest
import small_atlas

from llm2rec_kit.export import integrations, projector
from llm2rec_kit.runs import Run


@pytest.fixture
def atlas():
    return small_atlas.atlas()


def test_the_projector_s_files_agree(atlas, tmp_path):
    integrations.tensorboard(atlas, tmp_path)
    vectors = np.loadtxt(tmp_path / "csft.tsv", delimiter="\t")
    np.testing.assert_allclose(vectors, atlas.tables["csft"][1:], rtol=1e-5)
    table = pl.read_csv(tmp_path / "metadata.tsv", separator="\t", quote_char=None)
    assert table["title"].to_list() == atlas.corpus.titles
    assert set(table["cluster"]) == set(atlas.words["cluster"].values())
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 3
    assert 'tensor_path: "csft.tsv"' in config


def test_odd_names_and_texts_reach_the_projector_s_reader(tmp_path):
    """It splits at line feeds and tabs, and its configuration is protobuf's text format, whose strings are like JSON's."""
    texts = ['"Quoted" title', 'say "hi"', "tab\there", "line\u2028end", "back\\slash", "NA", "  spaces  "]
    table = pl.DataFrame({"title": texts, 'col\t"x"': texts, "n": range(7)})
    told = projector.write(tmp_path, {"t": ('run "a\\b"', np.eye(7))}, table)
    rows = [line.split("\t") for line in (tmp_path / "metadata.tsv").read_bytes().decode().removesuffix("\n").split("\n")]
    assert rows[0] == ["title", 'col "x"', "n"]
    wanted = [' "Quoted" title', 'say "hi"', "tab here", "line end", "back\\slash", " NA", "  spaces  "]
    assert rows[1:] == [[text, text, str(n)] for n, text in enumerate(wanted)]
    assert "4 with a tab, line break or other control character have a space" in told
    assert "4 that begin with a quote" in told
    names = re.findall(r"tensor_name: (.*)", (tmp_path / "projector_config.pbtxt").read_text())
    assert [json.loads(name) for name in names] == ['run "a\\b"']


def test_a_tab_in_a_title_shifts_no_column(atlas, tmp_path):
    broken = dataclasses.replace(atlas, items=atlas.items.with_columns(title=pl.lit("a\tb\nc")))
    integrations.tensorboard(broken, tmp_path)
    lines = (tmp_path / "metadata.tsv").read_bytes().decode().removesuffix("\n").split("\n")
    assert len(lines) == 41
    assert {line.count("\t") for line in lines} == {len(atlas.items.columns) - 1}


def test_a_frame_has_places_and_names(atlas):
    table = integrations.make_frame(atlas, "raw")
    assert table.select("x", "y").to_numpy() == pytest.approx(atlas.aligned["raw"])


@pytest.mark.parametrize("name", ["datamapplot", "jupyter_scatter", "embedding_atlas"])
def test_a_missing_program_is_named(name, atlas):
    module = {"jupyter_scatter": "jscatter"}.get(name, name)
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(ImportError, match="pip install " + name.replace("_", "-")):
        getattr(integrations, name)(atlas, "raw")


def test_advice_names_every_call(tmp_path):
    said = integrations.describe_programs(Run("r", tmp_path))
    assert all(f"integrations.{c}(" in said for c in ("datamapplot", "jupyter_scatter", "embedding_atlas"))
