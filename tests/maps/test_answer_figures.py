"""The figure of an answer shows every arm and every pair, fills what the tests allow, and says n."""

from __future__ import annotations

import itertools

import polars as pl
import pytest

from llm2rec_kit.figures import answer_figures, training_figures
from llm2rec_kit.settings import QUESTIONS


@pytest.fixture
def frames():
    arms = [
        {"recommender": r, "arm": a, "mean": m, "low": m - 0.01, "high": m + 0.02}
        for r in ("SASRec", "GRU4Rec")
        for a, m in (("a", 0.1), ("b", 0.2), ("c", 0.1))
    ]
    tests = [
        {"recommender": r, "before": x, "after": y, "difference": d, "low": d - 0.05, "high": d + 0.05, "verdict": v}
        for r in ("SASRec", "GRU4Rec")
        for x, y, d, v in (("a", "b", 0.1, "better"), ("a", "c", 0.0, "no detectable difference"))
    ]
    return pl.DataFrame(arms), pl.DataFrame(tests)


def test_answer(frames, tmp_path):
    figure = answer_figures.draw_answer(
        *frames, title="Is b better?", metric="ndcg@10", counted="ndcg@10, n = 7 users, 2 seeds"
    )
    assert len(figure.axes) == 4
    left, right = figure.axes[:2]
    assert [t.get_text() for t in left.get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text() for t in right.get_yticklabels()] == ["a → b", "a → c"]
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() != "white" for line in dots] == [True, False]
    assert "n = 7 users" in figure._supxlabel.get_text()
    training_figures.save(figure, tmp_path / "a")
    first = (tmp_path / "a.svg").read_bytes()
    training_figures.save(figure, tmp_path / "a")
    assert (tmp_path / "a.svg").read_bytes() == first


@pytest.mark.parametrize("scale", [1.0, 0.01, 0.003])
def test_numbers_under_an_axis_do_not_lie_over_one_another(frames, scale):
    arms, tests = (f.with_columns(pl.col(pl.Float64) * scale) for f in frames)
    figure = answer_figures.draw_answer(arms, tests, title="Is b better?", metric="ndcg@10", counted="n = 7 users")
    figure.draw_without_rendering()
    for ax in figure.axes[-2:]:  # those above share their numbers
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        inside = sorted((b.x0, b.x1) for b in boxes if ax.bbox.x0 <= (b.x0 + b.x1) / 2 <= ax.bbox.x1)
        assert len(inside) > 1
        assert all(left[1] < right[0] for left, right in itertools.pairwise(inside))


def test_learning_curves_have_a_line_a_table_over_the_users_learned_from():
    rows = [
        {"recommender": r, "embedding": e, "users": n, "mean": m * n / 1000, "low": m * n / 1100, "high": m * n / 900}
        for r in ("SASRec", "GRU4Rec")
        for e, m in (("id", 0.2), ("raw", 0.1))
        for n in (1000, 50)
    ]
    figure = answer_figures.draw_learning_curves(
        pl.DataFrame(rows), title="Few?", metric="ndcg@10", counted="ndcg@10, n = 7 users, 2 seeds"
    )
    assert [ax.get_title() for ax in figure.axes] == ["SASRec", "GRU4Rec"]
    ax = figure.axes[1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["50", "1,000"]
    lines = {box.get_label(): box.lines[0].get_xydata().tolist() for box in ax.containers}
    assert lines["id"] == [[50, pytest.approx(0.01)], [1000, pytest.approx(0.2)]]
    assert {"id", "raw"} == set(lines)
    assert "n = 7 users" in figure._supxlabel.get_text()


@pytest.mark.parametrize("recommenders", [["SASRec"], ["SASRec", "GRU4Rec"]])
def test_title_legend_and_caption_of_learning_curves_are_whole_and_apart(recommenders):
    rows = [
        {"recommender": r, "embedding": e, "users": u, "mean": 0.02, "low": 0.01, "high": 0.03}
        for r in recommenders
        for e in ("id", "raw", "contrastive", "contrastive_add_id")
        for u in (60, 200)
    ]
    how = {"title": QUESTIONS["users"], "metric": "ndcg@10", "counted": "ndcg@10, n = 200 users, 2 seeds"}
    figure = answer_figures.draw_learning_curves(pl.DataFrame(rows), **how)
    figure.canvas.draw()
    title, legend = (part.get_window_extent() for part in (figure._suptitle, figure.legends[0]))
    assert title.x0 >= 0
    assert title.x1 <= legend.x0
    assert figure._supxlabel.get_window_extent().x1 <= figure.bbox.x1
