"""Labels on a map: each near its place, none over another, over as few points and trails as can be."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

INK, TIE = "#222222", "#7A7A7A"
REACH = 140  # points from its anchor that a label may stand
SWEEPS = 2  # times that each label looks for a place, the second time knowing where the later ones stand
# What a label's place costs, in tens of points from its anchor: chosen by eye, on maps of 40 to 5,800 items.
HIDDEN = 200  # if it hid all points
TRAIL = 6  # each trail under it
TANGLE = 15  # each label that its tie passes under, each tie that passes under it
CROSSING = 2  # each trail or tie that its tie crosses


def place(
    figure: Figure,
    ax: Axes,
    names: Sequence[str],
    anchors: Sequence[np.ndarray],
    colours: Sequence[str],
    avoid: np.ndarray,
    *,
    trails: Sequence[np.ndarray] = (),
) -> list[str]:
    """Write each name near its anchor (data units), none over another or past the axes; returns those that found no room.

    Each of `names`, of which several may be equal, has one of `anchors` (2,) and of `colours`. Of the places around its
    anchor a label takes the cheapest: one that hides few points of `avoid` (n, 2) and few of `trails` (a line (stages, 2)
    each), and is near. One that moved is tied to its anchor by a line, which passes under another label only where there is
    no other way. Those without room are named in the corner. Call it last: it settles the layout.
    """
    figure.canvas.draw()  # positions are known only once the layout is settled
    figure.set_layout_engine("none")
    pixels = ax.transData.transform
    page = _Page(ax.get_window_extent(), pixels(avoid), [pixels(t) for t in trails])
    texts = [
        ax.annotate(
            _wrapped(name, 24), tuple(anchor), xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=5.5,
            color=INK, zorder=6, bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": colour, "lw": 0.6, "alpha": 0.92},
            arrowprops={"arrowstyle": "-", "color": TIE, "lw": 0.4, "shrinkA": 0, "shrinkB": 1},
        )
        for name, anchor, colour in zip(names, anchors, colours, strict=True)
    ]  # fmt: skip
    for label in [*range(len(texts))] * SWEEPS:
        page.labels.pop(label, None)
        found = [
            (page.cost(box, tie) + radius / 10, offset, box, tie)
            for radius, offset, box in _places(figure, texts[label])
            for tie in [np.stack([pixels(anchors[label]), np.add(box.min, box.max) / 2])]
        ]
        cost, offset, box, tie = min(found, key=lambda one: one[0])
        if cost < np.inf:
            texts[label].set_position(offset)
            page.labels[label] = box, tie
    without = [label for label in range(len(texts)) if label not in page.labels]
    for label in without:
        texts[label].remove()
    if left_out := [names[label] for label in without]:
        ax.text(0.01, 0.01, f"no room for: {'; '.join(left_out)}", transform=ax.transAxes, fontsize=5, color="#444444")
    return left_out


@dataclass
class _Page:
    """What stands on the axes, in pixels: their frame, points (n, 2), trails (stages, 2), labels and their ties (2, 2)."""

    frame: Bbox
    points: np.ndarray
    trails: list[np.ndarray]
    labels: dict[int, tuple[Bbox, np.ndarray]] = field(default_factory=dict)

    def cost(self, box: Bbox, tie: np.ndarray) -> float:
        """Measure how much a label in `box`, tied to its anchor by `tie`, would hide; infinite where it may not stand."""
        others = self.labels.values()
        if not _inside(np.stack([box.min, box.max]), self.frame).all() or any(box.overlaps(b) for b, _ in others):
            return np.inf
        under = sum(_meets(trail, box) for trail in self.trails)
        tangled = sum(_meets(its, box) + _meets(tie, b) for b, its in others)
        crossed = sum(_cross(tie, line) for line in (*self.trails, *(its for _, its in others)))
        hidden = float(_inside(self.points, box).mean())
        return HIDDEN * hidden + TRAIL * under + TANGLE * tangled + CROSSING * crossed


def _places(figure: Figure, text: Any) -> Iterator[tuple[float, tuple[float, float], Bbox]]:
    """Where a label may stand, on rings around its anchor: radius and offset in points, and its box there in pixels."""
    assert isinstance(figure.canvas, FigureCanvasAgg)  # the one that measures texts
    renderer, pixels = figure.canvas.get_renderer(), figure.dpi / 72
    text.set_position((0, 0))
    text.update_positions(renderer)
    # Of the text alone: an annotation's own extent takes in its line.
    box = Text.get_window_extent(text, renderer).padded(2 * pixels)
    for radius, angle in [(0, 0), *((r, a) for r in range(8, REACH, 6) for a in np.arange(0, 2 * np.pi, np.pi / 8))]:
        offset = (radius * np.cos(angle), radius * np.sin(angle))
        yield radius, offset, box.translated(offset[0] * pixels, offset[1] * pixels)


def _wrapped(label: str, width: int) -> str:
    """`label` in lines of at most `width` characters, as even as their number allows; only a word that is longer is cut."""
    wrap = functools.partial(textwrap.wrap, label, break_on_hyphens=False)
    whole = wrap(width)
    tries = (wrap(w, break_long_words=False) for w in range(1, width))
    fits = (found for found in tries if len(found) <= len(whole) and max(map(len, found)) <= width)
    return "\n".join(next(fits, whole))


def _inside(points: np.ndarray, box: Bbox) -> np.ndarray:
    """Which of `points` (n, 2) lie in a box, bool (n,)."""
    inside: np.ndarray = np.all((points >= box.min) & (points <= box.max), axis=1)
    return inside


def _meets(line: np.ndarray, box: Bbox) -> bool:
    """Whether a line (m, 2) passes through a box, to three pixels."""
    parts = (np.linspace(a, b, 2 + int(np.linalg.norm(b - a) / 3)) for a, b in itertools.pairwise(line))
    return any(_inside(part, box).any() for part in parts)


def _cross(tie: np.ndarray, line: np.ndarray) -> bool:
    """Whether a tie (2, 2) crosses a line (m, 2) anywhere but at its own anchor, where trails end."""
    a, b = tie[0] + 0.1 * (tie[1] - tie[0]), tie[1]

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        sign: np.ndarray = np.sign((q - p)[..., 0] * (r - p)[..., 1] - (q - p)[..., 1] * (r - p)[..., 0])
        return sign

    c, d = line[:-1], line[1:]
    return bool(((side(a, b, c) != side(a, b, d)) & (side(c, d, a) != side(c, d, b))).any())
