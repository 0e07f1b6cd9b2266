"""The figures of notebook 06 say what they were given."""

from __future__ import annotations

import itertools

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


def written(axis) -> list[tuple[float, str]]:
    """Places in view that have a number, and the number."""
    low, high = axis.get_view_interval()
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return sorted((t.get_loc(), t.label1.get_text()) for t in ticks if low <= t.get_loc() <= high and t.label1.get_text())


@pytest.mark.parametrize(
    ("lengths", "numbers"),
    [
        ((24, 30, 44), ["30", "40"]),  # between two powers of ten
        ((43, 47), None),
        ((55, 175), ["60", "80", "100"]),
        ((1200, 25000), ["2,000", "5,000", "10,000", "20,000"]),
        ((1, 100), ["1", "10", "100"]),
        ((12, 30, 1400), ["10", "100", "1,000"]),
    ],
)
def test_an_axis_of_lengths_has_two_numbers_at_least_and_none_over_another(tmp_path, lengths, numbers):
    rows = [
        {"domain": "d", "recommender": r, "embedding": "raw", "start": "scaled", "form": f"length {n}", "length": float(n)}
        | {"recall@10 mean": 0.1, "recall@10 low": 0.09, "recall@10 high": 0.11}
        for r, n in itertools.product(("SASRec", "GRU4Rec"), lengths)
    ]
    figure = paper_figures.draw_lengths(pl.DataFrame(rows), "recall@10")
    training_figures.save(figure, tmp_path / "a")
    for ax in figure.axes:
        found = written(ax.xaxis)
        assert len(found) >= 2
        assert all(float(text.replace(",", "")) == pytest.approx(place) for place, text in found)
        assert numbers is None or [text for _, text in found] == numbers
        boxes = [t.label1.get_window_extent() for t in [*ax.xaxis.get_major_ticks(), *ax.xaxis.get_minor_ticks()]]
        boxes = sorted((b.x0, b.x1) for b in boxes if b.width > 1)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(boxes))
