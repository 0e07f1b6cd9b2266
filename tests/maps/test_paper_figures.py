"""The figures of notebook 06 say what they were given."""

from __future__ import annotations

import polars as pl
import pytest

from llm2rec_kit import paper
from llm2rec_kit.figures import paper_figures, training_figures


def test_backbones_stand_beside_the_papers(tmp_path):
    ours = pl.DataFrame(
        [
            {"domain": "games", "backbone": b, "model": m, "recall@10": 0.1, "low": 0.08, "high": 0.13}
            for b in ("tiny-48", "tiny-96")
            for m in ("LLM2Vec", "csft")
        ]
    )
    figure = paper_figures.draw_backbones(ours, paper.read_backbones())
    assert [ax.get_title() for ax in figure.axes] == ["ours: games", "paper: Games", "paper: Sports"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["tiny-48", "tiny-96"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["LLM2Vec", "csft", "LLMEmb", "contrastive"]
    training_figures.save(figure, tmp_path / "a")


def test_encoding_times_are_named(tmp_path):
    ours = pl.DataFrame({"model": ["raw", "LLM2Rec"], "seconds": [1.0, 1.1], "recall@10": [0.03, 0.05]})
    figure = paper_figures.draw_encoding_times(ours, paper.read_encoding_times())
    assert {t.get_text() for t in figure.axes[0].texts} == {"raw", "LLM2Rec"}
    assert len(figure.axes[1].texts) == 8
    training_figures.save(figure, tmp_path / "a")


def test_directions_are_marked_by_their_agreement(tmp_path):
    row = {
        "table": "Table 3",
        "recommender": "SASRec",
        "before": "raw",
        "after": "contrastive",
        "low": -0.01,
        "high": 0.03,
        "n": 1200,
    }
    found = pl.DataFrame(
        [
            row | {"domain": "games (in-domain)", "difference": 0.02, "agreement": "same way"},
            row | {"domain": "crafts (out-of-domain)", "difference": 0.01, "agreement": "no detectable difference"},
            row | {"domain": "games (in-domain)", "table": "Table 4", "difference": -0.01, "agreement": "the other way"},
        ]
    )
    figure = paper_figures.draw_directions(found)
    assert "within one display and domain; Figure 4's are single tests" in " ".join(figure.get_supxlabel().split())
    n = ", n = 1,200 users"
    assert [ax.get_title() for ax in figure.axes] == [f"games (in-domain){n}", f"crafts (out-of-domain){n}"]
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["Table 3, SASRec: raw to contrastive", "Table 4, SASRec: raw to contrastive"]
    points = [
        line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() in ("o", "X") and len(line.get_xdata())
    ]
    assert points == pytest.approx([0.02, -0.01])
    training_figures.save(figure, tmp_path / "a")
