"""Figures, the explorer's page and the hand-over's files on a full disk: what stood there stays, and nothing else is left."""

from __future__ import annotations

import pytest
import small_atlas
from conftest import held, no_room
from matplotlib.figure import Figure

from llm2rec_kit.export import integrations
from llm2rec_kit.figures import map_figures, training_figures
from llm2rec_kit.maps.atlas import Atlas
from llm2rec_kit.runs import Run
from llm2rec_kit.widgets import explorer_page


def figure() -> Figure:
    drawn = Figure(figsize=(1, 1))
    drawn.subplots().plot([0, 1])
    return drawn


WRITERS = {
    "figure": lambda folder: training_figures.save(figure(), folder / "drawn"),
    "map": lambda folder: map_figures.save(figure(), folder / "drawn"),
    "projector": lambda folder: integrations.tensorboard(small_atlas.atlas(), folder),
    "page": lambda folder: explorer_page.write_page(Run("r", folder / "runs"), folder / "page.html"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_what_stood_there(write, tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "load", lambda run: small_atlas.atlas())
    write(tmp_path)
    before = held(tmp_path)
    with no_room(), pytest.raises(OSError, match="File too large"):
        write(tmp_path)
    assert held(tmp_path) == before
    write(tmp_path)
    assert held(tmp_path) == before


def test_what_is_no_file_is_not_replaced_by_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "load", lambda run: pytest.fail("the atlas was read before the target was looked at"))
    run = Run("r", tmp_path / "runs")
    with pytest.raises(ValueError, match=r"r is a folder, and writing there would replace it"):
        explorer_page.write_page(run, run.path)


def test_a_page_replaces_a_page_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Atlas, "load", lambda run: small_atlas.atlas())
    run, other = Run("r", tmp_path / "runs"), tmp_path / "titles.csv"
    other.write_text("item,title\n1,Chess Set\n")
    with pytest.raises(ValueError, match=rf"{other} holds something else"):
        explorer_page.write_page(run, other)
    assert other.read_text() == "item,title\n1,Chess Set\n"
    for _ in range(2):  # the second over the first
        assert explorer_page.write_page(run, tmp_path / "page.html").read_text().startswith("<!doctype html>")
