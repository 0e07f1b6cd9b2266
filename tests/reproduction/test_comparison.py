"""Runs side by side: what differs in settings and metrics, by hand; and the figures of a page."""

from __future__ import annotations

import base64
import json
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_report_faults import PNG, evaluated, made

from llm2rec_kit import cli
from llm2rec_kit.figures import report_figures
from llm2rec_kit.reproduction.report import comparison, document


@pytest.fixture
def two(tmp_path):
    first, second = made(tmp_path, "first"), made(tmp_path, "second")
    second.make("csft", lambda folder: {"validation_loss": 2.0}, settings={"steps": 20, "tau": 1}, quiet=True)
    for seed, recall in ((1, 0.30), (2, 0.50)):
        evaluated(second, "games", "SASRec", "raw", seed, recall, inputs=("corpus", "csft"))
    return [first, second]


def test_settings_and_metrics_that_differ(two):
    target = comparison.write(two)
    page, text = target.read_text(), target.with_suffix(".md").read_text()
    assert target == two[0].path / "comparison-with-second.html"
    assert '<td>csft.steps</td><td class="word wrap">10</td><td class="word wrap">20</td>' in page
    assert "| csft.tau | none | 1 |" in text
    assert "hidden" not in text.split("## Results")[0]  # the same in both
    assert re.search(r"\| SASRec \| raw \| 0\.1500 ± 0\.0500 \| 0\.4000 ± 0\.1000 \| \+0\.2500 \| \+", text)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_a_difference_in_units_of_the_spread_over_seeds(two):
    rows = comparison.collect_results([document.collect(run) for run in two])["games"]
    raw = next(r for r in rows if r["embedding"] == "raw")
    cell = raw["cells"][1]["recall@10"]
    # population std of two seeds: raw .05 and .1, csft .1 twice (its recalls are twice raw's); times 2 unbiased
    pooled = math.sqrt((0.05**2 + 0.10**2 + 0.10**2 + 0.10**2) / 4 * 2)
    assert cell["difference"] == pytest.approx(0.25)
    assert cell["in_std"] == pytest.approx(0.25 / pooled)
    popularity = next(r for r in rows if r["recommender"] == "popularity")
    assert popularity["cells"][1]["recall@10"]["in_std"] is None
    assert raw["cells"][0]["recall@10"]["difference"] is None


def test_runs_are_compared_by_the_metrics_that_the_first_has(two):
    collected = [document.collect(run) for run in two]
    rows = comparison.collect_results([collected[0] | {"results": renamed(collected[0], "5")}, collected[1]])["games"]
    assert set(rows[0]["cells"][0]) == {"recall@5", "ndcg@5"}
    assert rows[0]["cells"][0]["recall@5"]["mean"] == pytest.approx(0.15)
    assert rows[0]["cells"][1]["recall@5"] is None  # evaluated at 10 and 20 alone


def renamed(results, cutoff):
    """The rows of results.json as of a run that was evaluated at another cutoff than 10."""
    return json.loads(json.dumps(results["results"]).replace("@10", f"@{cutoff}"))


def test_a_row_of_one_run_alone_is_shown_as_such(two):
    evaluated(two[1], "games", "GRU4Rec", "csft", 1, 0.2)
    rows = comparison.collect_results([document.collect(run) for run in two])["games"]
    (only,) = [r for r in rows if r["recommender"] == "GRU4Rec"]
    assert only["cells"][0]["recall@10"] is None
    assert only["cells"][1]["recall@10"]["difference"] is None
    comparison.write(two)


def test_the_command_takes_names_and_folders_of_two_or_three_runs(two, tmp_path, capsys):
    third = made(tmp_path / "elsewhere", "first")
    assert cli.main(["report", "first", "second", str(third.path), "--outputs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "side by side: " in out
    page = next(two[0].path.glob("comparison-with-*.html")).read_text()
    assert "elsewhere/first" in page
    assert page.count("<th>difference</th>") == 2 * 2 * 2  # two more runs, two metrics, two domains


def test_markdown_tables_have_as_many_cells_as_heads(two):
    lines = comparison.write(two).with_suffix(".md").read_text().splitlines()
    tables = [k for k, line in enumerate(lines) if re.fullmatch(r"\|[-:|]+\|", line)]
    assert len(tables) == 1 + 4 + 1 + 2
    for k in tables:
        body = lines[k - 1 : lines.index("", k) if "" in lines[k:] else None]
        assert {line.count("|") for line in body} == {lines[k].count("|")}


# -- figures ----------------------------------------------------------------------------------------------------------


def test_each_figure_is_shown_once(two):
    run = two[0]
    (run.path / "maps").mkdir()
    (run.path / "maps" / "stages.png").write_bytes(PNG)  # the picture that by_kind.png is, too
    (run.path / "figures" / "extra_one.png").write_bytes(PNG + b"other")
    assert [(caption, path.name) for caption, path in document.find_figures(run)] == [
        ("Maps of the embeddings, coloured by kind of item", "by_kind.png"),
        ("extra one", "extra_one.png"),
    ]
    document.write(run)
    text = (run.path / "report.md").read_text()
    assert text.count("by_kind.png") == 1
    assert "stages.png" not in text


def test_curves_are_drawn_from_the_runs_own_history(two):
    run = two[0]
    history = [{"step": 1, "loss": 3.0, "learning_rate": 0.1}, {"step": 2, "loss": 2.0}, {"step": 2, "validation_loss": 2.5}]
    run.make("csft", lambda f: (f / "history.json").write_text(json.dumps(history)) and {}, settings={}, quiet=True)
    (ax,) = report_figures.draw_losses(run).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn == {"loss": [[1, 3.0], [2, 2.0]], "validation": [[2, 2.5]]}
    run.make("contrastive", lambda f: (f / "history.json").write_text(json.dumps(history)) and {}, settings={}, quiet=True)
    _, contrast = report_figures.draw_losses(run).axes  # a batch has other negatives than the probe
    assert [line.get_label() for line in contrast.lines] == ["loss"]
    document.write(run)
    assert (run.path / "figures" / "losses.png").read_bytes().startswith(PNG[:4])
    assert "Losses of the training stages" in (run.path / "report.html").read_text()


def test_a_mean_curve_ends_where_the_first_seed_stopped():
    records = [
        {"domain": "games", "recommender": "SASRec", "embedding": "raw", "curve": curve}
        for curve in ([(2, 0.1), (4, 0.3)], [(2, 0.3), (4, 0.5), (6, 0.9)])
    ]
    (ax,) = report_figures.draw_validation(records, ["games"], "recall@20").axes
    assert np.allclose(ax.lines[-1].get_xydata(), [[2, 0.2], [4, 0.4]])
    assert "up to where the first seed stopped" in document.OWN["validation"]
    assert all(tick == round(tick) for tick in ax.get_xticks())
    assert report_figures.draw_validation([], ["games"], "recall@20") is None


def test_a_drawing_takes_the_pages_colour_and_repeats(two):
    def draw():
        figure = Figure()
        ax = figure.subplots()
        ax.plot([1, 2], [1, 2], color="#0072B2")
        ax.set_title("<b> & co")
        return report_figures.render_svg(figure)

    text = draw()
    assert text == draw()
    assert text.startswith("<svg ")
    assert "currentColor" in text
    assert not re.search(r"#ffffff|#000000|<metadata", text)
    assert "#0072b2" in text


def test_a_kept_figure_is_an_image_in_which_nothing_acts(tmp_path):
    """Whatever stands in the file; the browser test has it opened."""
    (tmp_path / "a.png").write_bytes(PNG)
    assert "data:image/png;base64," + base64.b64encode(PNG).decode() in report_figures.read_element(tmp_path / "a.png")
    drawn = '<svg xmlns="http://www.w3.org/2000/svg"><script>document.title = "acted"</script><path style="fill: #ffffff"/></svg>'
    (tmp_path / "a.svg").write_text(drawn)
    found = re.fullmatch(
        r'<img class="paper" src="data:image/svg\+xml;base64,([\w+/=]*)" alt="">',
        report_figures.read_element(tmp_path / "a.png"),
    )
    assert base64.b64decode(found[1]).decode() == drawn
