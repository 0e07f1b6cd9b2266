"""Labels: off trails where there is room, in even lines, and named where there is none."""

from __future__ import annotations

import itertools

import numpy as np
import small_atlas
from matplotlib.text import Text

from llm2rec_kit.figures import labels, map_figures


def crossed_by(trails, boxes):
    """Pairs of a trail (points, 2), in pixels, and a box that it passes through."""
    fine = [np.concatenate([np.linspace(a, b, 500) for a, b in itertools.pairwise(t)]) for t in trails]
    return sum(((f > b.min) & (f < b.max)).all(1).any() for f in fine for b in boxes)


def test_labels_keep_off_trails_where_there_is_room():
    ends = {f"the end of trail {k}": np.array([0.7, 0.3 + 0.12 * k]) for k in range(4)}
    trails = [np.array([[0.1, 0.5 + 0.02 * k], [0.4, 0.5], end]) for k, end in enumerate(ends.values())]
    found = {}
    for kept_off in ((), trails):
        with map_figures.mpl.rc_context(map_figures.TEXT):
            figure, (ax,) = map_figures._panels(small_atlas.atlas(), ["raw"], 1)
            ax.set(xlim=(0, 1), ylim=(0, 1))
            labels.place(figure, ax, [*ends], [*ends.values()], "kkkk", np.concatenate(trails), trails=kept_off)
            figure.draw_without_rendering()
            boxes = [Text.get_window_extent(t) for t in ax.texts]
            found[len(kept_off)] = crossed_by([ax.transData.transform(t) for t in trails], boxes)
            ties = [
                np.stack([ax.transData.transform(t.xy), (b.min + b.max) / 2]) for t, b in zip(ax.texts, boxes, strict=True)
            ]
            assert not any(crossed_by([ties[k]], boxes[:k] + boxes[k + 1 :]) for k in range(4))
    assert found[4] == 0 < found[0]


def test_long_labels_break_into_even_lines():
    assert labels._wrapped("Iron Vale: Racing Wheel 8", 24) == "Iron Vale:\nRacing Wheel 8"
    assert labels._wrapped("hand-dyed merino", 12) == "hand-dyed\nmerino"
    assert labels._wrapped("short", 24) == "short"
    assert labels._wrapped("x" * 30, 24) == "x" * 24 + "\n" + "x" * 6


def test_labels_without_room_are_named():
    with map_figures.mpl.rc_context(map_figures.TEXT):
        figure, (ax,) = map_figures._panels(small_atlas.atlas(), ["raw"], 1)
        points = small_atlas.atlas().aligned["raw"]
        many = [f"a rather long label, number {k}" for k in range(60)]
        left_out = labels.place(figure, ax, many, [points[k % 40] for k in range(60)], ["k"] * 60, points)
    assert 0 < len(left_out) < 60
    assert ax.texts[-1].get_text().startswith("no room for: ")
