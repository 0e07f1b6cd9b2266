"""The figures of notebook 04 say what they were given."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest

from llm2rec_kit.figures import report_figures, results_figures, training_figures

NAMES = ("raw", "csft", "id")


def rows_of(recommender, embeddings, seeds):
    out = []
    for k, name in enumerate(embeddings):
        row = {"domain": "games", "recommender": recommender, "embedding": name, "seeds": seeds}
        out.append(
            row | {"recall@10 mean": 0.1 + k / 50, "recall@10 std": 0.01, "recall@10 low": 0.05, "recall@10 high": 0.2}
        )
    return out


@pytest.fixture
def table():
    return pl.DataFrame(rows_of("SASRec", NAMES, 3) + rows_of("GRU4Rec", NAMES, 3) + rows_of("popularity", ["none"], 1))


def test_results(table, tmp_path):
    table = table.with_columns(place=pl.Series(["", "", "best", "tied for best", "", "", ""]))
    asked = {"recommenders": ["SASRec", "GRU4Rec"], "tested": "ndcg@10"}
    figure = results_figures.draw_results(table, "recall@10", **asked)
    assert "(Holm) of ndcg@10, among the rows of a panel" in figure.get_supxlabel()
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == list(NAMES)
    assert [t.get_text() for t in left.texts] == ["best"]
    assert [t.get_text() for t in right.texts] == ["tied for best"]
    drawn = [float(line.get_xdata()[0]) for line in left.lines if line.get_marker() in results_figures.MARKERS]
    assert sorted(drawn)[:3] == pytest.approx([0.1, 0.12, 0.14])
    training_figures.save(figure, tmp_path / "a")
    first = (tmp_path / "a.png").read_bytes()
    training_figures.save(results_figures.draw_results(table, "recall@10", **asked), tmp_path / "a")
    assert (tmp_path / "a.png").read_bytes() == first


STAGES = ("raw", "csft", "mntp", "contrastive", "id")
READ = ("raw", "raw-mean-causal", "raw-last-causal", "csft", "csft-last-causal", "mntp", "contrastive", "minilm", "id", "contrastive_add_id")  # fmt: skip


@pytest.mark.parametrize("asked", [STAGES, ("id", "csft", "minilm"), READ])
def test_the_report_and_notebook_04_draw_an_embedding_alike(asked):
    """Whatever else is evaluated; the report finds its records in an order of its own."""
    records = [
        {"domain": "games", "recommender": "SASRec", "embedding": e, "seed": 1, "losses": [2.0], "curve": [(2, 0.1), (4, 0.3)], "best_epoch": 4}
        for e in asked
    ]  # fmt: skip
    (reported,) = report_figures.draw_validation(sorted(records, key=lambda r: r["embedding"]), ["games"], "recall@20").axes
    drawn = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in reported.lines}
    drawn = {name: stroke for name, stroke in drawn.items() if not name.startswith("_")}
    assert len(set(drawn.values())) == len(asked)
    above = results_figures.draw_curves(records, metric="recall@20").axes[0]
    assert drawn == {line.get_label(): (line.get_color(), line.get_linestyle()) for line in above.lines}
    results = pl.DataFrame(rows_of("SASRec", asked, 3) + rows_of("popularity", ["none"], 1))
    (dots,) = results_figures.draw_results(results, "recall@10", recommenders=["SASRec"], tested="ndcg@10").axes
    assert [bars.lines[0].get_color() for bars in dots.containers] == [drawn[name][0] for name in asked]
    part = {"space": np.array([0.7, 0.3]), "adapter": np.array([0.6, 0.4]), "angles": np.array([10.0, 80.0])}
    text = {name: part for name in asked if "id" not in name}
    adapters = results_figures.draw_adapters(text, embeddings=asked).axes[0]
    assert {line.get_label(): (line.get_color(), line.get_linestyle()) for line in adapters.lines} == {
        n: drawn[n] for n in text
    }
    for name in set(asked) & set(STAGES):
        assert drawn[name] == (training_figures.PALETTE[STAGES.index(name)], "-")


def test_curves():
    records = [
        {"domain": "games", "recommender": r, "embedding": e, "seed": s, "losses": [3.0, 2.0, 1.5], "curve": [(1, 0.1), (3, 0.2)], "best_epoch": 3}
        for r, e, s in itertools.product(("SASRec", "GRU4Rec"), NAMES, (1, 2))
    ]  # fmt: skip
    figure = results_figures.draw_curves(records, metric="recall@20")
    losses, _, values, _ = figure.axes
    assert len(losses.lines) == 6
    assert losses.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.5]
    assert values.get_ylabel() == "validation recall@20"
    assert [t.get_text() for t in figure.legends[0].texts] == list(NAMES)


def test_the_legend_names_what_any_panel_shows_and_lies_on_none():
    """`late` is in the second panel alone; ten names beside two panels."""
    names = {"SASRec": [f"table-{k}" for k in range(9)], "GRU4Rec": ["late"]}
    records = [
        {"domain": "games", "recommender": r, "embedding": e, "seed": 1, "losses": [3.0, 2.0], "curve": [(1, 0.1), (3, 0.2)], "best_epoch": 3}
        for r, of in names.items() for e in of
    ]  # fmt: skip
    for figure in (
        results_figures.draw_curves(records, metric="m"),
        report_figures.draw_validation(records, ["games"], "m"),
    ):
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert {t.get_text() for t in legend.texts} == {*names["SASRec"], "late"}
        assert not any(ax.bbox.overlaps(legend.get_window_extent()) for ax in figure.axes)


def sliced(domain="games"):
    return pl.DataFrame(
        [
            {"domain": domain, "slice": "target", "label": label, "place": p, "samples": n, "recommender": "SASRec", "embedding": e,
             "mean": 0.1, "low": 0.05, "high": 0.2}
            for (p, label, n), e in itertools.product([(0, "repeat", 300), (1, "novel", 50), (2, "rare", 3)], NAMES)
        ]
    )  # fmt: skip


def test_slices_leave_out_labels_with_hardly_a_sample():
    figure = results_figures.draw_slices(sliced(), ["target"], metric="ndcg@10", title="t")
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["repeat\n300", "novel\n50"]
    assert "20 at least" in figure._supxlabel.get_text()


def test_gains_are_drawn_where_an_interval_lies_beside_its_mean_by_a_rounding():
    row = {"slice": "s", "label": "one user", "place": 0, "samples": 20, "difference": 0.1, "verdict": "same"}
    frame = pl.DataFrame([row | {"low": np.nextafter(0.1, 1), "high": np.nextafter(0.1, 1)}])
    assert results_figures.draw_gains({"a": frame}, before="id", after="csft", metric="mrr").axes


def test_gains_stand_at_their_own_label_in_every_panel():
    """One domain may lack a label that the other has; what stands beside a name must still be that name's."""

    def frame(places):
        return pl.DataFrame(
            [
                {"slice": "s", "label": f"l{p}", "place": p, "samples": 20 + p, "difference": p / 10, "low": -1.0, "high": 1.0, "verdict": "better" if p else "worse"}
                for p in places
            ]
        )  # fmt: skip

    figure = results_figures.draw_gains({"a": frame([0, 2]), "b": frame([0, 1, 2])}, before="id", after="csft", metric="mrr")
    for ax, places in zip(figure.axes, ([0, 2], [0, 1, 2]), strict=True):
        labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
        assert labels == ["s: l0", "s: l1", "s: l2"]
        dots = {
            round(float(line.get_xdata()[0]), 3): float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"
        }
        ticks = figure.axes[0].get_yticks()
        assert dots == {p / 10: ticks[p] for p in places}
        assert [t.get_text() for t in ax.texts] == [str(20 + p) for p in places]
    few = frame([0, 1, 2]).with_columns(samples=pl.Series([19, 20, 21]))
    (ax,) = results_figures.draw_gains({"a": few}, before="id", after="csft", metric="mrr").axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["s: l1", "s: l2"]
    assert [t.get_text() for t in ax.texts] == ["20", "21"]
    assert {t.get_position()[0] for t in ax.texts} == {1.01}  # beside the axes: within, a count lies on a whisker
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"] == [0.1, 0.2]


def test_adapters_and_top_lists():
    parts = {"raw": {"space": np.array([0.7, 0.3]), "adapter": np.array([0.6, 0.4]), "angles": np.array([10.0, 80.0])}}
    space, _, angles = results_figures.draw_adapters(parts, embeddings=["raw"]).axes
    assert space.lines[0].get_ydata().tolist() == pytest.approx([0.7, 1.0])
    assert angles.lines[0].get_ydata().tolist() == [10.0, 80.0]
    top = pl.DataFrame({"rank": [1, 2], "item": [7, 9], "title": ["Costs $5 and $6", "x" * 90], "score": [2.0, 1.0]})
    figure = results_figures.draw_top_lists({"raw": top}, 9, history=["a $ b"], went_on="x" * 90)
    assert f"went on to: {'x' * 90} (orange)" in figure.get_supxlabel()
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[0] == " 1  Costs $5 and $6"
    assert texts[2].endswith("…")
    figure.draw_without_rendering()
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert colours[0] != colours[1]
    figure = results_figures.draw_top_lists({"raw": top}, 8, history=["a $ b"], went_on="A lamp")
    assert "went on to: A lamp (in none of the lists)" in figure.get_supxlabel()
    assert len({bar.get_facecolor() for bar in figure.axes[0].patches}) == 1


NINE = [f"table {k}" for k in range(9)]


def test_nine_embeddings_have_nine_looks():
    looks = results_figures._look(NINE)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 9
    assert {look["color"] for look in list(looks.values())[:8]} == set(training_figures.PALETTE)
    many = results_figures._look([str(k) for k in range(64)])
    assert len({(look["color"], look["marker"]) for look in many.values()}) == 64


def test_nine_embeddings_are_told_apart_as_lines():
    part = {"space": np.array([0.7, 0.3]), "adapter": np.array([0.6, 0.4]), "angles": np.array([10.0, 80.0])}
    record = {"domain": "games", "recommender": "SASRec", "seed": 1, "losses": [3.0, 2.0], "curve": [(1, 0.1), (2, 0.2)]}
    curves = results_figures.draw_curves([record | {"embedding": n, "best_epoch": 2} for n in NINE], metric="recall@20")
    for ax in (results_figures.draw_adapters(dict.fromkeys(NINE, part), embeddings=NINE).axes[0], curves.axes[0]):
        assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 9
        assert [line.get_linestyle() for line in ax.lines][:8] == ["-"] * 8
